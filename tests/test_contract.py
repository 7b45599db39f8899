"""Every promise of the family times every layer of the case table. The numbers are those of docs/contract.md."""

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from backends import BACKEND, array, call, gradients, tensorflow_only
from cases import CASES, CHANNELS, random_input, shapes_with_channels
from hypothesis.extra.numpy import arrays
from reference import along, differences, spread

EPSILON = 1e-3
GAMMA = np.linspace(0.5, 2.0, CHANNELS)
BETA = np.linspace(-1.0, 1.0, CHANNELS)

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_shape = pytest.mark.parametrize(
    ("shape", "axis"),
    shapes_with_channels(),
    ids=lambda v: str(v).replace(" ", "") if isinstance(v, tuple) else f"axis{v}",
)


def affine(case, shape, axis):
    """Different gamma and beta for each place that they have."""
    axes = case.affine_axes(axis)
    sizes = [shape[a] for a in sorted(set(axes))]
    rng = np.random.default_rng(7)
    return rng.uniform(0.5, 2.0, sizes), rng.uniform(-1.0, 1.0, sizes), axes


def make(case, shape, axis=-1, **kwargs):
    """The layer, built, with gamma and beta that differ along their axes."""
    layer = case.make(axis=axis, **kwargs)
    layer.build(shape)
    gamma, beta, _ = affine(case, shape, axis % len(shape))
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    return layer


def expected(case, x, axis=-1, mask=None, epsilon=EPSILON):
    """gamma h + beta by the loop over S_i."""
    axis %= x.ndim
    gamma, beta, axes = affine(case, x.shape, axis)
    h = case.standardized(x, axis, epsilon, mask)
    return along(gamma, axes, x.ndim) * h + along(beta, axes, x.ndim)


def applies(case, shape, axis):
    """Whether the case has that axis: a fixed one needs the channels last, and a second axis must be another."""
    return case.any_axis or (axis == len(shape) - 1 and len(shape) > 2)


# 1. The definition


@every_case
@every_shape
def test_output_is_that_of_the_loop_over_the_sets(case, shape, axis):
    if not applies(case, shape, axis):
        pytest.skip("the case fixes its axes")
    x = random_input(*shape)
    y = call(make(case, shape, axis), x.astype("float32"), training=True)
    np.testing.assert_allclose(y, expected(case, x, axis), rtol=1e-5, atol=2e-6)


@every_case
@pytest.mark.parametrize("axis", [-1, -2, 1, 2])
def test_an_axis_may_be_negative(case, axis):
    shape = (2, 6, 6)
    if not case.any_axis:
        pytest.skip("the case fixes its axes")
    x = random_input(*shape)
    y = call(make(case, shape, axis), x.astype("float32"), training=True)
    np.testing.assert_allclose(y, expected(case, x, axis), rtol=1e-5, atol=2e-6)


@every_case
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_gradients_are_those_of_finite_differences(case, masked, dtype):
    shape = (3, 4, CHANNELS)
    x, cotangent = random_input(*shape), random_input(*shape, seed=1)
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool) if masked else None
    layer = make(case, shape, dtype=dtype)
    kwargs = {"training": True, "mask": mask}
    dx, dgamma, dbeta = gradients(layer, x.astype(dtype), cotangent.astype(dtype), **kwargs)[:3]
    h = case.standardized(x, 2, EPSILON, mask)
    axes = case.affine_axes(2)
    others = tuple(a for a in range(3) if a not in axes)
    tolerance = {"float64": 1e-9, "float32": 1e-5}[dtype]
    np.testing.assert_allclose(dgamma, (cotangent * h).sum(others), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(dbeta, cotangent.sum(others), rtol=tolerance, atol=tolerance)
    numeric = differences(lambda x: (cotangent * expected(case, x, mask=mask)).sum(), x)
    tolerance = {"float64": 1e-7, "float32": 1e-5}[dtype]
    np.testing.assert_allclose(dx, numeric, rtol=tolerance, atol=tolerance)


@tensorflow_only
@every_case
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_gradients_of_gradients_are_those_of_finite_differences(case, masked):
    import tensorflow as tf

    shape = (3, 4, CHANNELS)
    x, cotangent = random_input(*shape), random_input(*shape, seed=1)
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool) if masked else None
    layer = make(case, shape, dtype="float64")

    @tf.function
    def penalty(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
        return tf.reduce_sum(tape.gradient(y, x, cotangent) ** 2)

    variable = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        value = penalty(variable)
    numeric = differences(lambda x: float(penalty(tf.constant(x))), x)
    np.testing.assert_allclose(array(tape.gradient(value, variable)), numeric, rtol=1e-5, atol=1e-5)


@tensorflow_only
@every_case
def test_gradients_in_inference_are_those_of_finite_differences(case):
    x, cotangent = random_input(3, 4, CHANNELS), random_input(3, 4, CHANNELS, seed=1)
    layer, exact = make(case, x.shape), make(case, x.shape, dtype="float64")
    dx = gradients(layer, x.astype("float32"), cotangent.astype("float32"), training=False)[0]
    numeric = differences(lambda x: (cotangent * call(exact, x)).sum(), x)
    np.testing.assert_allclose(dx, numeric, rtol=1e-4, atol=1e-5)


# 2. Precision


POLICIES = ["float16", "mixed_float16", "bfloat16", "mixed_bfloat16", "float32", "float64"]


@every_case
@pytest.mark.parametrize("policy", POLICIES)
def test_weights_and_statistics_are_float32_or_wider(case, policy):
    layer = make(case, (2, 4, CHANNELS), dtype=policy)
    wide = "float64" if policy == "float64" else "float32"
    assert {w.dtype for w in layer.weights if keras.backend.is_float_dtype(w.dtype)} == {wide}


@every_case
@pytest.mark.parametrize("policy", POLICIES)
def test_output_has_the_compute_dtype_and_its_accuracy(case, policy):
    x = random_input(4, 3, CHANNELS)
    layer = make(case, x.shape, dtype=policy)
    y = layer(keras.ops.convert_to_tensor(x, layer.compute_dtype), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    rounded = array(keras.ops.cast(keras.ops.convert_to_tensor(x, layer.compute_dtype), "float64"))
    unit = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5, "float64": 1e-12}[layer.compute_dtype]
    np.testing.assert_allclose(array(keras.ops.cast(y, "float64")), expected(case, rounded), rtol=unit, atol=unit)


@every_case
@pytest.mark.parametrize("policy", ["float16", "mixed_float16"])
@pytest.mark.parametrize("training", [True, False])
def test_float32_inputs_above_the_float16_range_are_not_cut(case, policy, training):
    x = random_input(4, 3, CHANNELS) * 1e5
    layer = make(case, x.shape, dtype=policy, **({"momentum": 0.0} if case.over_batch else {}))
    y = call(layer, x.astype("float32"), training=True)
    np.testing.assert_allclose(y, expected(case, x), rtol=2e-3, atol=2e-3)
    y = call(layer, x.astype("float32"), training=training)
    assert np.isfinite(y).all()
    assert all(np.isfinite(array(w)).all() for w in layer.weights)


@every_case
def test_float64_stays_float64(case):
    x = random_input(3, 4, CHANNELS)
    y = call(make(case, x.shape, dtype="float64"), x, training=True)
    np.testing.assert_allclose(y, expected(case, x), rtol=1e-11, atol=1e-11)


# 3. Variance at an offset


@every_case
@pytest.mark.parametrize(("offset", "tolerance"), [(1e2, 1e-6), (1e3, 1e-5), (1e4, 1e-4)])
def test_variance_survives_an_offset(case, offset, tolerance):
    if case.mixed:
        pytest.skip("its output mixes two variances; `batch` and `instance` stand for it")
    shape = (4, 16, 17, CHANNELS)
    x = np.random.default_rng(0).normal(offset, 1.0, shape).astype("float32")
    layer = case.make(epsilon=1e-12, scale=False, center=False)
    y = call(layer, x, training=True).astype("float64")
    first = (0,) * len(shape)
    same = np.array([case.same(first, k, shape, 3) for k in np.ndindex(*shape)]).reshape(shape)
    inputs, outputs = x.astype("float64")[same], y[same]
    # y = (x - mean) / std within the set, so the slope of y on x is 1 / std
    slope = ((inputs - inputs.mean()) * outputs).sum() / ((inputs - inputs.mean()) ** 2).sum()
    assert abs(1 / slope**2 / inputs.var() - 1) <= tolerance


# 4. Masks


MASKS = {
    "batch": np.array([1, 0, 1]),
    "batch, time": np.array([[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1]]),
    "all but channels": np.random.default_rng(3).integers(0, 2, (3, 4, 2)),
    "input": np.random.default_rng(4).integers(0, 2, (3, 4, 2, CHANNELS)),
    "nothing": np.zeros((3, 4)),
}
every_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


@every_case
@every_mask
@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_masked_positions_belong_to_no_set_whatever_stands_there(case, mask, junk):
    x = random_input(3, 4, 2, CHANNELS)
    want = expected(case, x, mask=mask)
    x[~spread(mask, x.shape)] = junk
    layer = make(case, x.shape)
    y = call(layer, x.astype("float32"), training=True, mask=mask.astype(bool))
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=2e-6)
    assert all(np.isfinite(array(w)).all() for w in layer.weights)


@every_case
@every_mask
def test_what_stands_in_masked_places_reaches_no_gradient(case, mask):
    x, cotangent = random_input(3, 4, 2, CHANNELS), random_input(3, 4, 2, CHANNELS, seed=1)
    mask = mask.astype(bool)
    layer = make(case, x.shape, dtype="float64")
    want = gradients(layer, x, cotangent, training=True, mask=mask)
    hidden = ~spread(mask, x.shape)
    x[hidden] = np.nan
    got = gradients(layer, x, cotangent, training=True, mask=mask)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-12)
    assert (got[0][hidden] == 0).all()


@every_case
def test_a_fully_masked_set_gives_beta(case):
    x = random_input(2, 4, CHANNELS, dtype="float32")
    _, beta, axes = affine(case, x.shape, 2)
    y = call(make(case, x.shape), x, training=True, mask=np.zeros((2, 4), bool))
    np.testing.assert_allclose(y, np.broadcast_to(along(beta, axes, 3), x.shape), rtol=1e-6)


@every_case
def test_padding_changes_nothing_and_the_automatic_mask_is_passed_on(case):
    tokens = np.array([[1, 2, 3, 4], [5, 6, 0, 0]])
    padded = np.pad(tokens, ((0, 0), (0, 0 if "1, axis" in case.name else 3)))
    embedding = keras.layers.Embedding(7, CHANNELS, mask_zero=True)
    layer = make(case, (2, 4, CHANNELS))
    x = embedding(tokens)
    want = array(layer(x, training=True))
    np.testing.assert_allclose(want, expected(case, array(x).astype("float64"), mask=tokens != 0), rtol=1e-5, atol=1e-5)
    y = layer(embedding(padded), training=True)
    np.testing.assert_allclose(array(y)[:, :4], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(array(keras.src.backend.get_keras_mask(y)), padded != 0)


# 5. Empty batches


@every_case
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_gives_an_empty_output_and_leaves_the_weights(case, training):
    layer = make(case, (2, 4, CHANNELS))
    before = [array(w) for w in layer.weights]
    y = call(layer, np.zeros((0, 4, CHANNELS), "float32"), training=training)
    assert y.shape == (0, 4, CHANNELS)
    for name, old, new in zip((w.name for w in layer.weights), before, layer.weights, strict=True):
        if name != "step":
            np.testing.assert_array_equal(array(new), old)


# 6. Unknown sizes


@every_case
def test_batch_and_spatial_sizes_may_be_unknown(case):
    known = 5 if "1, axis" in case.name else None
    inputs = keras.Input((known, None, CHANNELS))
    layer = case.make()
    model = keras.Model(inputs, layer(inputs))
    for shape in ((2, 5, 3, CHANNELS), (3, 5, 2, CHANNELS)):
        x = random_input(*shape)
        assert model.output_shape == (None, known, None, CHANNELS)
        y = array(model(x.astype("float32"), training=True))
        np.testing.assert_allclose(y, case.standardized(x, 3, EPSILON, None), rtol=1e-5, atol=2e-6)


# 7. Configs and files


@every_case
def test_config_is_what_the_user_wrote_before_and_after_build(case):
    layer = case.make(
        epsilon=0.01,
        beta_initializer="ones",
        gamma_regularizer=keras.regularizers.L2(0.1),
        gamma_constraint="non_neg",
        name="norm",
        dtype="mixed_bfloat16",
    )
    before = layer.get_config()
    layer.build((2, 3, 4, CHANNELS))
    assert layer.get_config() == before
    assert before["epsilon"] == 0.01
    again = type(layer).from_config(before)
    assert again.get_config() == before


@every_case
def test_a_saved_model_predicts_the_same_bit_for_bit(case, tmp_path):
    inputs = keras.Input((3, 4, CHANNELS))
    layer = case.make(gamma_initializer="glorot_normal" if case.name == "layer(1, axis)" else "random_normal")
    model = keras.Sequential([inputs, layer, keras.layers.Flatten(), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    x = random_input(5, 3, 4, CHANNELS, dtype="float32")
    model.fit(x, np.ones((5, 2)), epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert [array(w).tolist() for w in loaded.weights] == [array(w).tolist() for w in model.weights]


@every_case
def test_clone_model_makes_the_same_layer(case):
    inputs = keras.Input((3, 4, CHANNELS))
    model = keras.Model(inputs, case.make()(inputs))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    x = random_input(2, 3, 4, CHANNELS, dtype="float32")
    np.testing.assert_array_equal(array(clone(x)), array(model(x)))


# 8. Modes of execution


@every_case
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("mode", ["graph", "xla", "remat"])
def test_every_mode_of_execution_gives_the_same_numbers(case, masked, mode):
    if mode != "remat" and BACKEND == "torch":
        pytest.skip("Keras runs torch eagerly")
    x = random_input(3, 4, 5, CHANNELS, dtype="float32")
    mask = np.random.default_rng(5).integers(0, 2, (3, 4)).astype(bool) if masked else None
    kwargs = {} if mask is None else {"mask": mask}
    eager, other = make(case, x.shape), make(case, x.shape)
    want = call(eager, x, training=True, **kwargs)
    if mode == "remat":
        with keras.RematScope(mode="activations"):
            other = make(case, x.shape)
            got = call(other, x, training=True, **kwargs)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        got = array(tf.function(other, jit_compile=mode == "xla")(tf.constant(x), training=True, **kwargs))
    else:
        import jax

        step = jax.jit(lambda t, n, x: other.stateless_call(t, n, x, training=True, **kwargs))
        got, state = step(
            [w.value for w in other.trainable_variables], [w.value for w in other.non_trainable_variables], x
        )
        for variable, value in zip(other.non_trainable_variables, state, strict=True):
            variable.assign(value)
    np.testing.assert_allclose(array(got), want, rtol=1e-5, atol=2e-6)
    for a, b in zip(other.weights, eager.weights, strict=True):
        np.testing.assert_allclose(array(a), array(b), rtol=1e-5, atol=1e-6)


@every_case
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_evaluate_and_predict_work(case, jit_compile):
    if BACKEND == "torch" and jit_compile:
        pytest.skip("torch.compile is not a promise")
    x = random_input(8, 3, 4, CHANNELS, dtype="float32")
    model = keras.Sequential([case.make(), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=jit_compile)
    losses = model.fit(x, x.mean((1, 2, 3)), batch_size=4, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert np.isfinite(model.evaluate(x, x.mean((1, 2, 3)), verbose=0))
    assert model.predict(x, verbose=0).shape == (8, 1)


# 9. Export


@tensorflow_only
@every_case
@pytest.mark.parametrize("file_format", ["tf_saved_model", "litert"])
def test_an_exported_model_gives_equal_outputs(case, file_format, tmp_path):
    import tensorflow as tf

    inputs = keras.Input((3, 4, CHANNELS))
    model = keras.Model(inputs, case.make()(inputs))
    x = random_input(2, 3, 4, CHANNELS, dtype="float32")
    model(x, training=True)
    if file_format == "tf_saved_model":
        model.export(tmp_path / "model", format=file_format, verbose=False)
        loaded = tf.saved_model.load(str(tmp_path / "model"))
        got = array(loaded.serve(x))
    else:
        model.export(tmp_path / "model.tflite", format=file_format, verbose=False)
        runner = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
        index = runner.get_input_details()[0]["index"]
        runner.resize_tensor_input(index, x.shape)
        runner.allocate_tensors()
        runner.set_tensor(index, x)
        runner.invoke()
        got = runner.get_tensor(runner.get_output_details()[0]["index"])
    np.testing.assert_allclose(got, array(model(x)), rtol=1e-5, atol=1e-5)


@tensorflow_only
@every_case
def test_an_export_with_static_shapes_asks_for_no_shape(case, tmp_path):
    import tensorflow as tf

    inputs = keras.Input((8, 6, CHANNELS))  # and the one unknown size that every model has, the batch
    model = keras.Model(inputs, case.make()(inputs))
    model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    runner = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    assert "SHAPE" not in {op["op_name"] for op in runner._get_ops_details()}


@tensorflow_only
@every_case
def test_an_exported_onnx_model_gives_equal_outputs(case, tmp_path):
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    inputs = keras.Input((3, 4, CHANNELS))
    model = keras.Model(inputs, case.make()(inputs))
    x = random_input(2, 3, 4, CHANNELS, dtype="float32")
    want = array(model(x))
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    (got,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


# Stateless calls


@every_case
def test_a_stateless_call_returns_the_new_statistics_and_changes_no_weight(case):
    x = random_input(3, 4, CHANNELS, dtype="float32")
    layer, other = make(case, x.shape), make(case, x.shape)
    before = [array(w) for w in layer.weights]
    trainable, rest = ([array(v) for v in vs] for vs in (layer.trainable_variables, layer.non_trainable_variables))
    convert = keras.ops.convert_to_tensor
    y, state = layer.stateless_call([convert(v) for v in trainable], [convert(v) for v in rest], x, training=True)
    np.testing.assert_allclose(array(y), call(other, x, training=True), rtol=1e-6)
    for new, variable in zip(state, other.non_trainable_variables, strict=True):
        np.testing.assert_allclose(array(new), array(variable), rtol=1e-6)
    for old, weight in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(array(weight), old)


# Extremes


@every_case
def test_a_constant_input_gives_beta(case):
    x = np.full((3, 4, 5, CHANNELS), 7.0, "float32")
    _, beta, axes = affine(case, x.shape, 3)
    y = call(make(case, x.shape), x, training=True)
    np.testing.assert_allclose(y, np.broadcast_to(along(beta, axes, 4), x.shape), rtol=1e-5, atol=1e-5)


@every_case
@pytest.mark.parametrize("scale", [1e-30, 1e17])
def test_tiny_and_huge_inputs_follow_the_definition(case, scale):
    x = random_input(3, 4, 5, CHANNELS) * scale
    y = call(make(case, x.shape), x.astype("float32"), training=True)
    np.testing.assert_allclose(y, expected(case, x), rtol=1e-5, atol=1e-5)


@every_case
def test_a_variance_beyond_float32_leaves_outputs_and_weights_finite(case):
    x = random_input(3, 4, 5, CHANNELS) * 1e30
    layer = make(case, x.shape)
    for training in (True, True, False):
        assert np.isfinite(call(layer, x.astype("float32"), training=training)).all()
    assert all(np.isfinite(array(w)).all() for w in layer.weights)


@every_case
def test_gradients_stay_finite_up_to_that_variance(case):
    x, cotangent = random_input(3, 4, 5, CHANNELS) * 1e17, random_input(3, 4, 5, CHANNELS, dtype="float32")
    for gradient in gradients(make(case, x.shape), x.astype("float32"), cotangent, training=True):
        assert np.isfinite(gradient).all()


@every_case
def test_one_infinite_sample_leaves_the_others_untouched_where_samples_are_apart(case):
    if case.over_batch:
        pytest.skip("its sets run through the batch")
    x = random_input(3, 4, 5, CHANNELS, dtype="float32")
    layer = make(case, x.shape)
    want = call(layer, x)
    x[1, 2, 3, 4] = np.inf
    np.testing.assert_array_equal(call(layer, x)[[0, 2]], want[[0, 2]])


# Shapes, axes, groups, masks and dtypes as they come


@st.composite
def problems(draw):
    """A layer, an input and a mask that fit together."""
    rank = draw(st.integers(2, 4))
    axis = draw(st.integers(1, rank - 1))
    shape = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    shape[axis] = draw(st.integers(1, 6))
    case = draw(st.sampled_from([case for case in CASES if case.any_axis]))
    if case.name.startswith("group("):
        groups = int(case.name[6:-1])
        hypothesis.assume(groups == -1 or shape[axis] % groups == 0)
    masked = draw(st.integers(0, rank))
    mask = draw(arrays(bool, shape[:masked])) if masked else None
    dtype = draw(st.sampled_from(["float16", "float32", "float64"]))
    elements = st.floats(-100, 100, width=16)
    return case, axis - draw(st.sampled_from([0, rank])), draw(arrays(dtype, shape, elements=elements)), mask


@hypothesis.given(problems())
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_any_layer_on_any_input_is_the_loop_over_the_sets(problem):
    case, axis, x, mask = problem
    layer = case.make(axis=axis, dtype=str(x.dtype))
    y = call(layer, x, training=True, mask=mask)
    want = case.standardized(x, axis % x.ndim, EPSILON, mask)
    tolerance = {"float16": 2e-3, "float32": 1e-4, "float64": 1e-9}[str(x.dtype)]
    np.testing.assert_allclose(y, want, rtol=tolerance, atol=tolerance)
