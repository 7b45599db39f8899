"""Every promise of the family times every layer of the case table. The numbers are those of docs/contract.md."""

from functools import cache, partial

import h5py
import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from hypothesis.extra.numpy import arrays

import keras_norm as kn
from support import checkpoints, exports
from support.backends import BACKEND, array, call, gradients, tensorflow_only, torch_only
from support.cases import (
    CASES,
    CHANNELS,
    EPSILON,
    OTHER_CONDITIONS,
    every_case,
    model_of_all,
    random_input,
    shapes_with_channels,
)
from support.reference import differences, spread

PLACES = [
    pytest.param(
        case,
        shape,
        axis,
        id=f"{case}-{'x'.join(map(str, shape))}-axis{axis}",
        marks=pytest.mark.quick if shape == (3, 2, 5, CHANNELS) else (),
    )
    for case in (*CASES, *OTHER_CONDITIONS)
    for shape, axis in shapes_with_channels()
    if case.applies(shape, axis) and (case in CASES or len(shape) == 4)
]


# 1. The definition


@pytest.mark.parametrize(("case", "shape", "axis"), PLACES)
def test_output_is_that_of_the_loop_over_the_sets(case, shape, axis):
    x = random_input(*shape)
    y = call(case.built(shape, axis), x.astype("float32"), training=True)
    np.testing.assert_allclose(y, case.expected(x, axis), rtol=1e-5, atol=2e-6)


@every_case(any_axis=True)
@pytest.mark.parametrize("axis", [-1, -2, 1, 2])
def test_an_axis_may_be_negative(case, axis):
    shape = (2, 6, 6)
    x = random_input(*shape)
    y = call(case.built(shape, axis), x.astype("float32"), training=True)
    np.testing.assert_allclose(y, case.expected(x, axis), rtol=1e-5, atol=2e-6)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("case", "shape"),
    [
        pytest.param(case, shape, id=f"{case}-rank{len(shape)}")
        for case in CASES
        for shape in [(3, 4, 2, CHANNELS), (2, 4, CHANNELS), (1, CHANNELS)]
        if case.applies(shape, len(shape) - 1)
    ],
)
def test_a_layer_built_for_one_rank_takes_another_whose_sizes_fit(case, shape):
    x = random_input(*shape)
    y = call(case.built((5, 4, CHANNELS)), x.astype("float32"), training=True)
    np.testing.assert_allclose(y, case.expected(x), rtol=1e-5, atol=2e-6)


@every_case(any_axis=True)
def test_another_rank_keeps_an_axis_that_is_counted_from_the_front(case):
    x = random_input(2, CHANNELS, 3, 2)
    y = call(case.built((5, CHANNELS, 4), axis=1), x.astype("float32"), training=True)
    np.testing.assert_allclose(y, case.expected(x, axis=1), rtol=1e-5, atol=2e-6)


@every_case(OTHER_CONDITIONS)
@pytest.mark.parametrize(
    ("masked", "dtype"),
    [
        (False, "float64"),
        pytest.param(True, "float64", marks=pytest.mark.quick),
        (False, "float32"),
        (True, "float32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "masked" if value else "",
)
def test_gradients_are_those_of_finite_differences(case, masked, dtype):
    shape = (3, 4, CHANNELS)
    x, cotangent = random_input(*shape), random_input(*shape, seed=1)
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool) if masked else None
    layer = case.built(shape, dtype=dtype)
    dx, *found = gradients(layer, x.astype(dtype), cotangent.astype(dtype), training=True, mask=mask)
    axes = case.affine_axes(2)
    others = tuple(a for a in range(3) if a not in axes)
    tolerance = {"float64": 1e-9, "float32": 1e-5}[dtype]
    want = {"gamma": (cotangent * case.h(x, 2, mask)).sum(others), "beta": cotangent.sum(others)}
    for weight, gradient in zip(layer.trainable_weights, found, strict=True):
        if weight.name in want:  # the gate rho is Batch-Instance Normalization's own
            np.testing.assert_allclose(gradient, want[weight.name], rtol=tolerance, atol=tolerance)
    numeric = differences(lambda x: (cotangent * case.expected(x, mask=mask)).sum(), x)
    tolerance = {"float64": 1e-7, "float32": 1e-5}[dtype]
    np.testing.assert_allclose(dx, numeric, rtol=tolerance, atol=tolerance)


@tensorflow_only
@every_case(standardizes=True)  # the others are linear in x
@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.slow), True], ids=["", "masked"])
def test_gradients_of_gradients_are_those_of_finite_differences(case, masked):
    import tensorflow as tf

    shape = (3, 3, CHANNELS)
    x, cotangent = random_input(*shape), random_input(*shape, seed=1)
    mask = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1]], bool) if masked else None
    layer = case.built(shape, dtype="float64")

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
@every_case()
def test_gradients_in_inference_are_those_of_finite_differences(case):
    x, cotangent = random_input(2, 2, CHANNELS), random_input(2, 2, CHANNELS, seed=1)
    layer, exact = case.built(x.shape), case.built(x.shape, dtype="float64")
    dx = gradients(layer, x.astype("float32"), cotangent.astype("float32"), training=False)[0]
    numeric = differences(lambda x: (cotangent * call(exact, x)).sum(), x)
    np.testing.assert_allclose(dx, numeric, rtol=1e-4, atol=1e-5)


# 2. Precision


POLICIES = ["float16", "mixed_float16", "bfloat16", "mixed_bfloat16", "float32", "float64"]


@pytest.mark.quick
@every_case(OTHER_CONDITIONS)
@pytest.mark.parametrize("policy", POLICIES)
def test_weights_and_statistics_are_float32_or_wider(case, policy):
    layer = case.built((2, 4, CHANNELS), dtype=policy)
    wide = "float64" if policy == "float64" else "float32"
    assert {w.dtype for w in layer.weights if keras.backend.is_float_dtype(w.dtype)} == (
        {wide} if case.has_weights else set()
    )


@every_case(OTHER_CONDITIONS)
@pytest.mark.parametrize("policy", POLICIES)
def test_output_has_the_compute_dtype_and_its_accuracy(case, policy):
    x = random_input(4, 3, CHANNELS)
    layer = case.built(x.shape, dtype=policy)
    y = layer(keras.ops.convert_to_tensor(x, layer.compute_dtype), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    rounded = array(keras.ops.cast(keras.ops.convert_to_tensor(x, layer.compute_dtype), "float64"))
    unit = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5, "float64": 1e-12}[layer.compute_dtype]
    np.testing.assert_allclose(array(keras.ops.cast(y, "float64")), case.expected(rounded), rtol=unit, atol=unit)


@every_case(standardizes=True)  # the outputs of the others are as large as their inputs
@pytest.mark.parametrize("policy", ["float16", "mixed_float16"])
@pytest.mark.parametrize("training", [True, False])
def test_float32_inputs_above_the_float16_range_are_not_cut(case, policy, training):
    x = random_input(4, 3, CHANNELS) * 1e5
    layer = case.built(x.shape, dtype=policy, **({"momentum": 0.0} if case.over_batch else {}))
    y = call(layer, x.astype("float32"), training=True)
    np.testing.assert_allclose(y, case.expected(x), rtol=2e-3, atol=2e-3)
    y = call(layer, x.astype("float32"), training=training)
    assert np.isfinite(y).all()
    assert all(np.isfinite(array(w)).all() for w in layer.weights)


@every_case(OTHER_CONDITIONS)
def test_float64_stays_float64(case):
    x = random_input(3, 4, CHANNELS)
    y = call(case.built(x.shape, dtype="float64"), x, training=True)
    np.testing.assert_allclose(y, case.expected(x), rtol=1e-11, atol=1e-11)


# 3. Variance at an offset


@every_case(standardizes=True, bare=True)
@pytest.mark.parametrize(("offset", "tolerance"), [(1e2, 1e-6), (1e3, 1e-5), (1e4, 1e-4)])
def test_variance_survives_an_offset(case, offset, tolerance):
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
every_mask = pytest.mark.parametrize(
    "mask",
    [
        pytest.param(mask, id=name, marks=pytest.mark.quick if name == "batch, time" else ())
        for name, mask in MASKS.items()
    ],
)


@every_case(masks=True)
@every_mask
@pytest.mark.parametrize("junk", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow), 1e30])
def test_masked_positions_belong_to_no_set_whatever_stands_there(case, mask, junk):
    x = random_input(3, 4, 2, CHANNELS)
    want = case.expected(x, mask=mask)
    x[~spread(mask, x.shape)] = junk
    layer = case.built(x.shape)
    y = call(layer, x.astype("float32"), training=True, mask=mask.astype(bool))
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=2e-6)
    assert all(np.isfinite(array(w)).all() for w in layer.weights)


@every_case(OTHER_CONDITIONS, masks=True)
@every_mask
def test_what_stands_in_masked_places_reaches_no_gradient(case, mask):
    x, cotangent = random_input(3, 4, 2, CHANNELS), random_input(3, 4, 2, CHANNELS, seed=1)
    mask = mask.astype(bool)
    layer = case.built(x.shape, dtype="float64")
    want = gradients(layer, x, cotangent, training=True, mask=mask)
    hidden = ~spread(mask, x.shape)
    x[hidden] = np.nan
    got = gradients(layer, x, cotangent, training=True, mask=mask)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-12)
    assert (got[0][hidden] == 0).all()


@pytest.mark.quick
@every_case(masks=True)
def test_a_fully_masked_set_gives_beta(case):
    x = random_input(2, 4, CHANNELS, dtype="float32")
    y = call(case.built(x.shape), x, training=True, mask=np.zeros((2, 4), bool))
    np.testing.assert_allclose(y, case.beta(x.shape), rtol=1e-6)


@every_case(masks=False)
def test_a_mask_changes_nothing_where_no_statistics_are_taken(case):
    x = random_input(2, 4, CHANNELS, dtype="float32")
    y = call(case.built(x.shape), x, training=True, mask=np.array([[1, 1, 0, 1], [0, 0, 0, 0]], bool))
    np.testing.assert_allclose(y, case.expected(x), rtol=1e-5, atol=2e-6)


@pytest.mark.quick
@every_case(OTHER_CONDITIONS)
def test_padding_changes_nothing_and_the_automatic_mask_is_passed_on(case):
    tokens = np.array([[1, 2, 3, 4], [5, 6, 0, 0]])
    padded = np.pad(tokens, ((0, 0), (0, 0 if case.fixed_axes else 3)))
    embedding = keras.layers.Embedding(7, CHANNELS, mask_zero=True)
    layer = case.built((2, 4, CHANNELS))
    x = embedding(tokens)
    want = array(layer(x, training=True))
    np.testing.assert_allclose(want, case.expected(array(x).astype("float64"), mask=tokens != 0), rtol=1e-5, atol=1e-5)
    y = layer(embedding(padded), training=True)
    np.testing.assert_allclose(array(y)[:, :4], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(array(keras.src.backend.get_keras_mask(y)), padded != 0)


# 5. Empty batches


@pytest.mark.quick
@every_case(OTHER_CONDITIONS[: 1 if BACKEND == "tensorflow" else None])  # oneDNN convolves no empty map
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_gives_an_empty_output_and_leaves_the_weights(case, training):
    layer = case.built((2, 4, CHANNELS))
    before = [array(w) for w in layer.weights]
    y = call(layer, np.zeros((0, 4, CHANNELS), "float32"), training=training)
    assert y.shape == (0, 4, CHANNELS)
    for name, old, new in zip((w.name for w in layer.weights), before, layer.weights, strict=True):
        if name != "step":
            np.testing.assert_array_equal(array(new), old)


# 6. Unknown sizes


@pytest.mark.quick
@every_case(OTHER_CONDITIONS)
def test_batch_and_spatial_sizes_may_be_unknown(case):
    known = 5 if case.fixed_axes else None
    inputs = keras.Input((known, None, CHANNELS))
    model = keras.Model(inputs, case.built((None, known, None, CHANNELS))(inputs))
    for shape in ((2, 5, 3, CHANNELS), (3, 5, 2, CHANNELS)):
        x = random_input(*shape)
        assert model.output_shape == (None, known, None, CHANNELS)
        y = array(model(x.astype("float32"), training=True))
        np.testing.assert_allclose(y, case.expected(x), rtol=1e-5, atol=2e-6)


# 7. Configs and files


def batch_of(case, *sizes):
    """A model of inputs of these sizes, and a batch for it, of 5 samples of 3 x 4 positions."""
    inputs, x = keras.Input((*sizes, CHANNELS)), random_input(5, 3, 4, CHANNELS, dtype="float32")
    model = keras.Model(inputs, case.built(inputs.shape)(inputs))
    model(x, training=True)  # moves moving statistics
    return model, x


@pytest.mark.quick
@every_case(OTHER_CONDITIONS)
def test_config_is_what_the_user_wrote_before_and_after_build(case):
    given = {
        "epsilon": 0.01,
        "beta_initializer": "ones",
        "gamma_regularizer": keras.regularizers.L2(0.1),
        "gamma_constraint": "non_neg",
        "name": "norm",
        "dtype": "mixed_bfloat16",
    }
    layer = case.make(**{name: value for name, value in given.items() if case.takes(name)})
    before = case.config(layer)
    layer.build((2, 3, 4, CHANNELS))
    assert case.config(layer) == before
    if case.takes("epsilon"):
        assert case.inner(layer).get_config()["epsilon"] == 0.01
    again = type(layer).from_config(layer.get_config())
    assert case.config(again) == before


@pytest.fixture(scope="module")
def used_model():
    """The model of all cases after a call that has moved its moving statistics."""
    model = model_of_all()
    model(random_input(5, 3, 4, CHANNELS, dtype="float32"), training=True)
    return model


@pytest.fixture(scope="module")
def saved_and_loaded(used_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    used_model.save(path)
    return keras.models.load_model(path)


@pytest.mark.xdist_group("model of all")
@every_case()
def test_a_saved_model_predicts_the_same_bit_for_bit(case, used_model, saved_and_loaded):
    x, k = random_input(2, 3, 4, CHANNELS, dtype="float32"), CASES.index(case)
    np.testing.assert_array_equal(array(saved_and_loaded(x)[f"y{k}"]), array(used_model(x)[f"y{k}"]))
    old, new = (model.get_layer(f"case{k}").weights for model in (used_model, saved_and_loaded))
    for a, b in zip(new, old, strict=True):
        np.testing.assert_array_equal(array(a), array(b))


@every_case(OTHER_CONDITIONS)
def test_a_model_in_a_legacy_h5_file_is_the_same(case, tmp_path):
    model, x = batch_of(case, 3, 4)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    np.testing.assert_array_equal(array(loaded(x)), array(model(x)))
    assert case.config(loaded.layers[1]) == case.config(model.layers[1])


@pytest.mark.parametrize("axis", [None, [1, 2], (1, -1), [2], -2], ids=str)
def test_a_legacy_h5_file_keeps_the_axis_of_a_layer_without_weights(axis, tmp_path):
    x = random_input(2, 3, 4, CHANNELS, dtype="float32")
    layer = kn.LayerNormalization(axis, center=False, scale=False)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.save(tmp_path / "model.h5")
    np.testing.assert_array_equal(array(keras.models.load_model(tmp_path / "model.h5")(x)), array(model(x)))


def test_a_legacy_h5_file_of_an_earlier_release_that_does_not_say_the_axis_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((4, CHANNELS)), kn.LayerNormalization(None, name="norm")])
    model.save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace('"axis_in_h5": null, ', "")
    words = r"LayerNormalization: a \.h5 file must contain the axis\. Received: name='norm' without axis \(written by"
    with pytest.raises(ValueError, match=words):
        keras.models.load_model(tmp_path / "model.h5")


@tensorflow_only
@pytest.mark.parametrize("trained", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "trained"])
def test_a_checkpoint_of_tensorflow_restores_weights_and_predictions(trained, tmp_path):
    model, x = model_of_all(), random_input(5, 3, 4, CHANNELS, dtype="float32")
    if trained:
        model.compile("adam", dict.fromkeys(model.output, "mse"))
        model.fit(x, dict.fromkeys(model.output, x), verbose=0)
    before, after = checkpoints.through(model, x, tmp_path / "checkpoint")
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.quick
@every_case(OTHER_CONDITIONS)
def test_clone_model_makes_the_same_layer(case):
    inputs = keras.Input((3, 4, CHANNELS))
    model = keras.Model(inputs, case.built((None, 3, 4, CHANNELS))(inputs))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    x = random_input(2, 3, 4, CHANNELS, dtype="float32")
    np.testing.assert_array_equal(array(clone(x)), array(model(x)))


# 8. Modes of execution


MODES = {  # Keras runs torch eagerly
    "tensorflow": ["graph", pytest.param("xla", marks=pytest.mark.slow)],
    "jax": ["jit"],
    "torch": [],
}[BACKEND]


@every_case(OTHER_CONDITIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.quick), True], ids=["", "masked"])
def test_every_mode_of_execution_gives_the_same_numbers(case, mode, masked):
    x = random_input(3, 4, 5, CHANNELS, dtype="float32")
    mask = np.random.default_rng(5).integers(0, 2, (3, 4)).astype(bool) if masked else None
    kwargs = {} if mask is None else {"mask": mask}
    eager, other = case.built(x.shape), case.built(x.shape)
    want = call(eager, x, training=True, **kwargs)
    if BACKEND == "tensorflow":
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


@every_case()
@pytest.mark.parametrize(
    ("scope", "compiled"),
    [
        pytest.param({"mode": "list_of_layers", "layer_names": ["norm"]}, False, marks=pytest.mark.slow),
        pytest.param({"mode": "larger_than", "output_size_threshold": 10}, False, marks=pytest.mark.slow),
        ({"mode": "full"}, False),
        *([] if BACKEND == "torch" else [({"mode": "full"}, True)]),
    ],
    ids=lambda value: value["mode"] if isinstance(value, dict) else "compiled" if value else "eager",
)
def test_a_remat_scope_changes_no_number_and_moves_statistics_once(case, scope, compiled):
    x, cotangent = random_input(3, 4, 5, CHANNELS, dtype="float32"), random_input(3, 4, 5, CHANNELS, seed=1)
    with keras.RematScope(**scope):
        layer = case.built(x.shape, name="norm")
    plain = case.built(x.shape, name="norm")
    want = gradients(plain, x, cotangent, compiled=compiled, training=True)
    for got, gradient in zip(gradients(layer, x, cotangent, compiled=compiled, training=True), want, strict=True):
        np.testing.assert_allclose(got, gradient, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(call(layer, x, training=True), call(plain, x, training=True), rtol=1e-5, atol=2e-6)
    for a, b in zip(layer.weights, plain.weights, strict=True):
        np.testing.assert_allclose(array(a), array(b), rtol=1e-5, atol=1e-6)


@cache
def fitted(jit_compile):
    """The losses of each case in `fit` and `evaluate`, and its predictions, by a model with a head for each."""
    x = random_input(8, 3, 4, CHANNELS, dtype="float32")
    inputs, outputs = keras.Input(x.shape[1:]), {}
    for k, case in enumerate(CASES):
        pooled = keras.layers.GlobalAveragePooling2D()(case.make()(inputs))
        outputs[f"y{k}"] = keras.layers.Dense(1, name=f"head{k}")(pooled)
    model, y = keras.Model(inputs, outputs), dict.fromkeys(outputs, x.mean((1, 2, 3)))
    model.compile(keras.optimizers.SGD(0.01), dict.fromkeys(outputs, "mse"), jit_compile=jit_compile)
    history = model.fit(x, y, batch_size=4, epochs=3, verbose=0).history
    return history, model.evaluate(x, y, verbose=0, return_dict=True), model.predict(x, verbose=0)


@pytest.mark.xdist_group("model of all")
@every_case()
@pytest.mark.parametrize(
    "jit_compile",
    [False, *([] if BACKEND == "torch" else [pytest.param(True, marks=pytest.mark.slow)])],  # torch: see below
)
def test_fit_evaluate_and_predict_work(case, jit_compile):
    history, evaluated, predicted = fitted(jit_compile)
    name = f"y{CASES.index(case)}"
    losses = history[f"{name}_loss"]
    assert losses[-1] < losses[0]
    assert np.isfinite(evaluated[f"{name}_loss"])
    assert predicted[name].shape == (8, 1)
    assert np.isfinite(predicted[name]).all()


@torch_only
@pytest.mark.slow
@pytest.mark.parametrize("cases", [CASES[:5], CASES[5:9], CASES[9:]], ids=lambda cases: "|".join(map(str, cases)))
def test_fit_gives_the_same_weights_under_torch_compile(cases, monkeypatch):
    import torch

    # Traced as always, but run by torch's own kernels: to have them made by a compiler takes a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    x, trained = random_input(8, 3, 4, CHANNELS, dtype="float32"), []
    for jit_compile in (False, True):
        by_case = model_of_all(cases)
        model = keras.Model(by_case.inputs, keras.ops.concatenate(by_case.outputs, -1))  # one loss: traced once
        model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=jit_compile)
        model.fit(x, np.tile(x, (1, 1, 1, len(cases))), batch_size=4, epochs=2, shuffle=False, verbose=0)
        trained.append(model)
    for plain, compiled in zip(*(model.weights for model in trained), strict=True):
        np.testing.assert_allclose(array(compiled), array(plain), rtol=1e-4, atol=1e-5, err_msg=plain.path)


# 9. Export


@pytest.fixture(scope="module")
def exported(used_model):
    """The model; inputs; what it predicts for them."""
    x = random_input(2, 3, 4, CHANNELS, dtype="float32")
    return used_model, x, {name: array(y) for name, y in used_model(x).items()}


@pytest.fixture(scope="module")
def from_saved_model(exported, tmp_path_factory):
    model, x, _ = exported
    return exports.saved_model(model, x, tmp_path_factory.mktemp("saved_model"))


@pytest.fixture(scope="module")
def from_litert(exported, tmp_path_factory):
    model, x, _ = exported
    return exports.litert(model, x, tmp_path_factory.mktemp("litert") / "model.tflite")


@pytest.fixture(scope="module")
def from_onnx(exported, tmp_path_factory):
    model, x, _ = exported
    return exports.onnx(model, x, tmp_path_factory.mktemp("onnx") / "model.onnx")


@tensorflow_only
@pytest.mark.xdist_group("model of all")
@every_case()
@pytest.mark.parametrize("file_format", ["saved_model", pytest.param("litert", marks=pytest.mark.slow), "onnx"])
def test_an_exported_model_gives_equal_outputs(case, file_format, exported, request):
    got = request.getfixturevalue(f"from_{file_format}")
    outputs = got[0] if file_format == "litert" else got
    name = f"y{CASES.index(case)}"
    np.testing.assert_allclose(outputs[name], exported[2][name], rtol=1e-5, atol=1e-5)


@tensorflow_only
@pytest.mark.slow
@pytest.mark.xdist_group("model of all")
def test_a_litert_model_with_static_shapes_asks_for_no_shape(from_litert):
    _, operations = from_litert
    assert "SHAPE" not in operations


@torch_only
@every_case(OTHER_CONDITIONS)
@pytest.mark.parametrize("way", exports.ON_TORCH)
def test_a_model_exported_from_torch_gives_equal_outputs_for_another_batch_size(case, way, tmp_path):
    model, x = batch_of(case, 3, 4)
    got = exports.ON_TORCH[way](model, x, tmp_path / "model.onnx")
    np.testing.assert_allclose(got, array(model(x)), rtol=1e-5, atol=1e-5)


@torch_only
@every_case(fixed_axes=())
def test_spatial_sizes_may_be_unknown_in_onnx_from_torch(case, tmp_path):
    model, x = batch_of(case, None, None)
    got = exports.onnx(model, x, tmp_path / "model.onnx")
    np.testing.assert_allclose(got, array(model(x)), rtol=1e-5, atol=1e-5)


# Stateless calls


@every_case()
def test_a_stateless_call_returns_the_new_statistics_and_changes_no_weight(case):
    x = random_input(3, 4, CHANNELS, dtype="float32")
    layer, other = case.built(x.shape), case.built(x.shape)
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


@pytest.mark.quick
@every_case(masks=True, centered=True)  # those that take a mean of their input
def test_a_constant_input_gives_beta(case):
    x = np.full((3, 4, 5, CHANNELS), 7.0, "float32")
    y = call(case.built(x.shape), x, training=True)
    # torch's kernels compute x scale + (beta - mean scale), which rounds x as if it had one bit less. gamma is up to 2.
    unit = 2.0 * np.spacing(x.max()) / EPSILON**0.5 if BACKEND == "torch" else 1e-5
    np.testing.assert_allclose(y, case.beta(x.shape), rtol=1e-5, atol=unit)


@every_case(standardizes=True)
@pytest.mark.parametrize("scale", [1e-30, 1e17])
def test_tiny_and_huge_inputs_follow_the_definition(case, scale):
    x = random_input(3, 4, 5, CHANNELS) * scale
    y = call(case.built(x.shape), x.astype("float32"), training=True)
    np.testing.assert_allclose(y, case.expected(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if BACKEND != "torch" or case.over_batch or not case.masks],
    ids=str,
)  # torch's kernels for sets within a sample overflow
def test_a_variance_beyond_float32_leaves_outputs_and_weights_finite(case):
    x = random_input(3, 4, 5, CHANNELS) * 1e30
    layer = case.built(x.shape)
    for training in (True, True, False):
        assert np.isfinite(call(layer, x.astype("float32"), training=training)).all()
    assert all(np.isfinite(array(w)).all() for w in layer.weights)


@every_case()
def test_gradients_stay_finite_up_to_that_variance(case):
    x, cotangent = random_input(3, 4, 5, CHANNELS) * 1e17, random_input(3, 4, 5, CHANNELS, dtype="float32")
    for gradient in gradients(case.built(x.shape), x.astype("float32"), cotangent, training=True):
        assert np.isfinite(gradient).all()


@every_case(over_batch=False)
def test_one_infinite_sample_leaves_the_others_untouched_where_no_set_spans_samples(case):
    x = random_input(3, 4, 5, CHANNELS, dtype="float32")
    layer = case.built(x.shape)
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
    hypothesis.assume(shape[axis] % case.groups == 0)
    masked = draw(st.integers(0, rank))
    mask = draw(arrays(bool, shape[:masked])) if masked else None
    dtype = draw(st.sampled_from(["float16", "float32", "float64"]))
    elements = st.floats(-100, 100, width=16)
    return case, axis - draw(st.sampled_from([0, rank])), draw(arrays(dtype, shape, elements=elements)), mask


@hypothesis.given(problems())
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_any_layer_on_any_input_is_the_loop_over_the_sets(problem):
    case, axis, x, mask = problem
    y = call(case.built(x.shape, axis, dtype=str(x.dtype)), x, training=True, mask=mask)
    tolerance = {"float16": 2e-3, "float32": 1e-4, "float64": 1e-9}[str(x.dtype)]
    np.testing.assert_allclose(y, case.expected(x, axis, mask), rtol=tolerance, atol=tolerance)
