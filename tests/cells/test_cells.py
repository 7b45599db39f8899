"""The layer-normalized cells against loops over time in NumPy, wherever a cell of Keras runs."""

import inspect
import re

import keras
import numpy as np
import pytest

import keras_norm as kn
from support import exports, recurrences, reference
from support.backends import BACKEND, array, call, gradients
from support.cases import random_input

N, T, D, UNITS = 3, 4, 2, 5
LSTM, GRU, SIMPLE = kn.LayerNormLSTMCell, kn.LayerNormGRUCell, kn.LayerNormSimpleRNNCell
STEPS = {LSTM: recurrences.lstm, GRU: recurrences.gru, SIMPLE: recurrences.simple_rnn}
OF_KERAS = {LSTM: keras.layers.LSTMCell, GRU: keras.layers.GRUCell, SIMPLE: keras.layers.SimpleRNNCell}
every_cell = pytest.mark.parametrize("cell", STEPS, ids=lambda cell: cell.__name__)
quick = pytest.mark.quick


def randomized(layer, shape=(N, T, D)):
    """The layer, built, with random weights; gamma about 1."""
    layer.build(shape)
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(rng.normal(float("gamma" in weight.name), 0.5, weight.shape))
    return layer


def tanh(z):
    """In float64 too, for which Keras' own gives float32 on JAX."""
    return 2 * keras.ops.sigmoid(2 * z) - 1


def layer_of(cell, dtype=None, epsilon=1e-3, shape=(N, T, D), **kwargs):
    layer = cell(UNITS, tanh if dtype == "float64" else "tanh", epsilon=epsilon, dtype=dtype)
    return randomized(keras.layers.RNN(layer, dtype=dtype, **kwargs), shape)


def expected(cell, layer, x, **kwargs):
    return recurrences.run(STEPS[cell], x, [array(w) for w in layer.trainable_weights], **kwargs)


def assert_close(actual, desired, **kwargs):
    np.testing.assert_allclose(array(actual), desired, **{"rtol": 1e-4, "atol": 1e-5, **kwargs})


@quick
@every_cell
@pytest.mark.parametrize("epsilon", [1e-3, 0.5])
def test_outputs_and_states_are_those_of_the_loop_over_time(cell, epsilon):
    layer = layer_of(cell, epsilon=epsilon, return_sequences=True, return_state=True)
    x = random_input(N, T, D, dtype="float32")
    outputs, *states = layer(x)
    want, last = expected(cell, layer, x, epsilon=epsilon)
    assert_close(outputs, want)
    assert len(states) == len(last)
    for state, s in zip(states, last, strict=True):
        assert_close(state, s)


@quick
@every_cell
def test_float64_stays_float64(cell):
    layer = layer_of(cell, dtype="float64", return_sequences=True)
    x = random_input(N, T, D)
    assert {keras.backend.standardize_dtype(w.dtype) for w in layer.weights} == {"float64"}
    with_keras_tanh = keras.layers.RNN(cell(UNITS, dtype="float64"), dtype="float64")
    assert keras.backend.standardize_dtype(with_keras_tanh(x).dtype) == "float64"
    assert_close(call(layer, x), expected(cell, layer, x)[0], rtol=1e-12, atol=1e-12)


@quick
@every_cell
def test_gradients_are_float64_finite_differences(cell):
    layer = layer_of(cell, dtype="float64", shape=(2, 3, D), return_sequences=True)
    x, cotangent = random_input(2, 3, D), random_input(2, 3, UNITS, seed=1)
    values = [x, *layer.get_weights()]

    def loss(k, value):
        x, *weights = [*values[:k], value, *values[k + 1 :]]
        return (cotangent * recurrences.run(STEPS[cell], x, weights)[0]).sum()

    found = gradients(layer, x, cotangent)
    assert len(found) == len(values)
    for k, gradient in enumerate(found):
        want = reference.differences(lambda value, k=k: loss(k, value), values[k])
        np.testing.assert_allclose(gradient, want, rtol=1e-6, atol=1e-7)


@quick
@every_cell
def test_other_activations_and_no_bias(cell):
    names = {"activation": "relu"} if cell is SIMPLE else {"activation": "relu", "recurrent_activation": "tanh"}
    layer = randomized(keras.layers.RNN(cell(UNITS, use_bias=False, **names), return_sequences=True))
    x = random_input(N, T, D, dtype="float32")
    kernel, recurrent_kernel, *norms = layer.get_weights()
    options = {"activation": lambda z: np.maximum(z, 0)} | ({} if cell is SIMPLE else {"gate": np.tanh})
    want, _ = recurrences.run(STEPS[cell], x, [kernel, recurrent_kernel, 0.0, *norms], **options)
    assert_close(layer(x), want)


def gamma_and_beta_of(z):
    """With these the normalization of z with epsilon 0.1 is the identity."""
    return np.full(z.shape, np.sqrt(z.var() + 0.1)), np.full(z.shape, z.mean())


@quick
@every_cell
def test_it_is_the_cell_of_keras_where_the_normalizations_are_the_identity(cell):
    plain, ours = OF_KERAS[cell](UNITS), cell(UNITS, epsilon=0.1)
    kernel, recurrent_kernel, bias = randomized(plain, (1, D)).get_weights()
    x, h, c = random_input(1, D), random_input(1, UNITS, seed=1) / 9, random_input(1, UNITS, seed=2)
    u, v = (x @ kernel)[0], (h @ recurrent_kernel)[0]
    if cell is SIMPLE:
        gamma, beta = gamma_and_beta_of(u + v)
        weights = [kernel, recurrent_kernel, bias + beta, gamma]
    elif cell is GRU:
        weights = [kernel, recurrent_kernel, bias]
        for product in (u, v):
            parts = map(gamma_and_beta_of, np.split(product, [2 * UNITS]))
            weights += [np.concatenate(values) for values in zip(*parts, strict=True)]
    else:
        i, f, g, _ = np.split(u + v + bias, 4)
        new_c = recurrences.sigmoid(f) * c[0] + recurrences.sigmoid(i) * np.tanh(g)
        norms = [vector for z in (u, v, new_c) for vector in gamma_and_beta_of(z)]
        weights = [kernel, recurrent_kernel, bias, *norms]
    ours.build((1, D))
    ours.set_weights(weights)
    x, *states = (keras.ops.convert_to_tensor(z.astype("float32")) for z in ([x, h, c] if cell is LSTM else [x, h]))
    found, want = (keras.tree.flatten(layer(x, list(states))) for layer in (ours, plain))
    for a, b in zip(found, want, strict=True):
        assert_close(a, array(b))


@quick
def test_the_state_that_an_lstm_passes_on_is_the_normalized_one():
    layer = keras.layers.RNN(LSTM(64, epsilon=1e-6), return_state=True)
    _, _, c = layer(random_input(N, T, D, dtype="float32"))
    assert_close(array(c).mean(-1), np.zeros(N))
    assert_close(array(c).std(-1), np.ones(N), rtol=1e-3)


def tfa_lstm(x, states, w, epsilon):
    """A step of the cell of TensorFlow Addons, by the names of its weights."""
    z = recurrences.layer_norm(x @ w["kernel"], w["kernel_norm/gamma"], w["kernel_norm/beta"], epsilon)
    product = states[0] @ w["recurrent_kernel"]
    z = z + recurrences.layer_norm(product, w["recurrent_norm/gamma"], w["recurrent_norm/beta"], epsilon)
    i, f, g, o = np.split(z + w["bias"], 4, axis=1)
    c = recurrences.sigmoid(f) * states[1] + recurrences.sigmoid(i) * np.tanh(g)
    c = recurrences.layer_norm(c, w["state_norm/gamma"], w["state_norm/beta"], epsilon)
    return recurrences.sigmoid(o) * np.tanh(c), c


def tfa_simple_rnn(x, states, w, epsilon):
    net = x @ w["kernel"] + states[0] @ w["recurrent_kernel"]
    return (np.tanh(recurrences.layer_norm(net, w["layer_normalization/gamma"], 0, epsilon) + w["bias"]),)


# In the order of `get_weights` there: the weights of a cell, then those of its sublayers.
TFA = [
    (
        LSTM,
        tfa_lstm,
        {
            "kernel": (D, 4 * UNITS),
            "recurrent_kernel": (UNITS, 4 * UNITS),
            "bias": 4 * UNITS,
            "kernel_norm/gamma": 4 * UNITS,
            "kernel_norm/beta": 4 * UNITS,
            "recurrent_norm/gamma": 4 * UNITS,
            "recurrent_norm/beta": 4 * UNITS,
            "state_norm/gamma": UNITS,
            "state_norm/beta": UNITS,
        },
    ),
    (
        SIMPLE,
        tfa_simple_rnn,
        {
            "kernel": (D, UNITS),
            "recurrent_kernel": (UNITS, UNITS),
            "bias": UNITS,
            "layer_normalization/gamma": UNITS,
        },
    ),
]


@quick
@pytest.mark.parametrize(("cell", "step", "shapes"), TFA, ids=["lstm", "simple_rnn"])
def test_weights_of_tensorflow_addons_load_in_their_order(cell, step, shapes):
    rng = np.random.default_rng(1)
    weights = {name: rng.normal(0.5, 0.5, shape) for name, shape in shapes.items()}
    layer = layer_of(cell, epsilon=1e-5, dtype="float64", return_sequences=True)
    layer.set_weights(list(weights.values()))
    x, states = random_input(N, T, D), (np.zeros((N, UNITS)), np.zeros((N, UNITS)))
    for t, y in enumerate(np.moveaxis(call(layer, x), 1, 0)):
        states = step(x[:, t], states, weights, 1e-5)
        assert_close(y, states[0], rtol=1e-10, atol=1e-12)


@quick
@every_cell
def test_the_weights_of_the_keras_cell_come_first(cell):
    ours, theirs = cell(UNITS), OF_KERAS[cell](UNITS)
    for layer in (ours, theirs):
        layer.build((N, D))
    for a, b in zip(ours.weights, theirs.weights, strict=False):
        assert (a.name, tuple(a.shape)) == (b.name, tuple(b.shape))
    np.testing.assert_array_equal(array(ours.bias), array(theirs.bias))  # 1 at the forget gate of an LSTM
    for weight in ours.weights[3:]:
        np.testing.assert_array_equal(array(weight), float("gamma" in weight.name))


@quick
@every_cell
@pytest.mark.parametrize("unroll", [False, True])
def test_a_masked_step_changes_nothing(cell, unroll):
    layer = layer_of(cell, return_sequences=True, return_state=True, unroll=unroll)
    x = random_input(N, T, D, dtype="float32")
    mask = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0]], bool)
    outputs, *states = layer(x, mask=keras.ops.convert_to_tensor(mask))
    want, last = expected(cell, layer, x, mask=mask)
    assert_close(outputs, want)
    assert_close(states[-1], last[-1])


@quick
@every_cell
def test_unrolled_and_backwards(cell):
    layer = layer_of(cell, return_sequences=True, unroll=True, go_backwards=True)
    x = random_input(N, T, D, dtype="float32")
    assert_close(layer(x), expected(cell, layer, x[:, ::-1])[0])


@quick
@every_cell
def test_a_stateful_layer_goes_on_where_it_was(cell):
    layer = layer_of(cell, stateful=True, return_sequences=True)
    x = random_input(N, 2 * T, D, dtype="float32")
    want, _ = expected(cell, layer, x)
    assert_close(call(layer, x[:, :T]), want[:, :T])
    assert_close(call(layer, x[:, T:]), want[:, T:])
    layer.reset_state()
    assert_close(call(layer, x[:, :T]), want[:, :T])


@quick
@every_cell
def test_an_initial_state_is_taken(cell):
    layer = layer_of(cell)
    x, states = random_input(N, T, D, dtype="float32"), [random_input(N, UNITS, seed=k) / 9 for k in (5, 6)]
    states = states[: len(layer.state_size)]
    given = [keras.ops.convert_to_tensor(s.astype("float32")) for s in states]
    assert_close(layer(x, initial_state=given), expected(cell, layer, x, states=states)[0][:, -1])


@quick
@every_cell
def test_both_directions(cell):
    layer = randomized(keras.layers.Bidirectional(keras.layers.RNN(cell(UNITS), return_sequences=True)))
    x = random_input(N, T, D, dtype="float32")
    forward = expected(cell, layer.forward_layer, x)[0]
    backward = expected(cell, layer.backward_layer, x[:, ::-1])[0][:, ::-1]
    assert_close(layer(x), np.concatenate([forward, backward], axis=-1))


@quick
def test_cells_of_all_kinds_in_a_stack():
    layer = randomized(keras.layers.RNN([cell(UNITS, dropout=0.5) for cell in STEPS], return_sequences=True))
    x = random_input(N, T, D, dtype="float32")
    want = x
    for cell in layer.cell.cells:
        want, _ = expected(type(cell), cell, want)
    assert_close(layer(x), want)
    assert np.abs(call(layer, x, training=True) - want).max() > 0.01


@quick
@every_cell
def test_in_training_one_mask_for_all_gates_and_steps_drops_inputs_and_one_the_former_output(cell):
    layer = randomized(cell(20, dropout=0.4, recurrent_dropout=0.3), (N, 9))
    x, steps = random_input(N, T, 9, dtype="float32"), []
    states = layer.get_initial_state(N)
    for t in range(T):
        output, states = layer(keras.ops.convert_to_tensor(x[:, t]), states, training=True)
        steps.append(array(output))
    mask, recurrent_mask = array(layer.get_dropout_mask(x[:, 0])), array(layer.get_recurrent_dropout_mask(states[0]))
    for m, rate in ((mask, 0.4), (recurrent_mask, 0.3)):
        assert (m == 0).any()
        assert_close(m[m != 0], 1 / (1 - rate))
    assert_close(np.stack(steps, 1), expected(cell, layer, x * mask[:, None], kept=recurrent_mask)[0])


@quick
@every_cell
@pytest.mark.parametrize("rates", [{"dropout": 0.5}, {"recurrent_dropout": 0.5}], ids=lambda rates: next(iter(rates)))
def test_dropout_is_for_training_and_differs_from_batch_to_batch(cell, rates):
    layer = randomized(keras.layers.RNN(cell(UNITS, **rates, seed=1)))
    x = random_input(N, T, D, dtype="float32")
    want = expected(cell, layer, x)[0][:, -1]
    outputs = [call(layer, x, training=True) for _ in range(6)]
    assert len({y.tobytes() for y in outputs}) > 1
    assert_close(layer(x), want)
    assert_close(layer(x, training=False), want)


def keras_drops_everything():
    """Whether Keras takes a rate of 1. On TensorFlow Keras 3.13 does not, in its own cells neither."""
    try:
        keras.random.dropout(keras.ops.ones(1), 1.0)
    except ValueError:
        return False
    return True


@quick
@pytest.mark.skipif(not keras_drops_everything(), reason="this Keras takes no rate of 1")
@every_cell
def test_everything_may_be_dropped(cell):
    layer = randomized(cell(UNITS, dropout=1.0, recurrent_dropout=1.0), (N, D))
    x, states = random_input(N, D, dtype="float32"), layer.get_initial_state(N)
    states[0] = states[0] + 1.0
    want = STEPS[cell](0 * x, [array(s) for s in states], layer.get_weights(), kept=0.0)
    assert_close(layer(keras.ops.convert_to_tensor(x), states, training=True)[0], want[0])


# Slow are compilation on torch, and on JAX a loop that is not compiled.
COMPILE = [
    pytest.param(False, marks=pytest.mark.slow if BACKEND == "jax" else ()),
    pytest.param(True, marks=pytest.mark.slow if BACKEND == "torch" else ()),
]


@every_cell
@pytest.mark.parametrize("jit_compile", COMPILE)
def test_a_compiled_model_predicts_the_same_and_learns(cell, jit_compile):
    layer = keras.layers.RNN(cell(UNITS, dropout=0.1, recurrent_dropout=0.1))
    model = keras.Sequential([keras.Input((T, D)), layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=jit_compile)
    x = random_input(32, T, D, dtype="float32")
    y = x.sum((1, 2))[:, None] / 10
    want = expected(cell, layer, x)[0][:, -1] @ model.layers[-1].get_weights()[0]
    assert_close(model.predict(x, verbose=0), want)
    losses = model.fit(x, y, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    want = expected(cell, layer, x)[0][:, -1] @ array(model.layers[-1].kernel) + array(model.layers[-1].bias)
    assert_close(model.predict(x, verbose=0), want)


@quick
@every_cell
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_gamma_beta_and_moments_are_float32_under_every_policy(cell, policy):
    # There are no orthogonal float16 matrices on JAX and torch.
    layer = keras.layers.RNN(cell(UNITS, recurrent_initializer="zeros", dtype=policy), True, dtype=policy)
    x = random_input(N, T, D, dtype="float32")
    y = randomized(layer)(x)
    assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
    vectors = [w for w in layer.weights if w.name.endswith(("gamma", "beta"))]
    assert vectors and {keras.backend.standardize_dtype(w.dtype) for w in vectors} == {"float32"}
    coarse = 0.15 if policy == "mixed_bfloat16" else 0.02
    assert_close(keras.ops.cast(y, "float32"), expected(cell, layer, x)[0], rtol=coarse, atol=coarse)


@quick
@every_cell
def test_products_whose_squares_exceed_float16_are_normalized(cell):
    layer = layer_of(cell, dtype="mixed_float16", return_sequences=True)
    layer.cell.kernel.assign(array(layer.cell.kernel) * 500)
    x = random_input(N, T, D, dtype="float32")
    want = expected(cell, layer, x)[0]
    assert np.isfinite(want).all()
    assert_close(keras.ops.cast(layer(x), "float32"), want, rtol=0.02, atol=0.03)


@quick
@every_cell
def test_a_gamma_beyond_float16_is_not_read_as_infinite(cell):
    layer = layer_of(cell, dtype="mixed_float16")
    for weight in layer.weights:
        if weight.name.endswith("gamma"):
            weight.assign(np.full(weight.shape, 1e5))
    assert np.isfinite(call(layer, np.zeros((N, 1, D), "float32"))).all()  # 0 times infinity is NaN


@quick
@every_cell
def test_files_give_the_same_model_bit_for_bit(cell, tmp_path):
    def make():
        return keras.Sequential([keras.Input((T, D)), keras.layers.RNN(cell(UNITS, epsilon=0.1, dropout=0.2))])

    model, x = make(), random_input(N, T, D, dtype="float32")
    randomized(model.layers[0])
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded, filled = keras.models.load_model(tmp_path / "model.keras"), make()
    filled.load_weights(tmp_path / "model.weights.h5")
    for other in (loaded, filled):
        np.testing.assert_array_equal(other.predict(x, verbose=0), model.predict(x, verbose=0))
    assert loaded.layers[0].cell.get_config() == model.layers[0].cell.get_config()


@quick
@every_cell
def test_integers_are_taken(cell):
    layer = layer_of(cell, return_sequences=True)
    x = np.arange(N * T * D).reshape(N, T, D) % 3
    assert_close(call(layer, x), expected(cell, layer, x)[0])


def arguments_of(cell):
    parameters = inspect.signature(cell).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}


@quick
@every_cell
def test_the_signature_is_that_of_the_keras_cell_and_then_of_the_normalizations(cell):
    ours, theirs = list(arguments_of(cell).items()), arguments_of(OF_KERAS[cell])
    keras_arguments = [name for name in theirs if name not in arguments_of(keras.layers.Layer)]
    assert [name for name, _ in ours[: len(keras_arguments)]] == keras_arguments
    assert ours[1 : len(keras_arguments)] == [(name, theirs[name]) for name in keras_arguments[1:]]
    added = {"epsilon", "gamma_initializer", "gamma_regularizer", "gamma_constraint"}
    if cell is not SIMPLE:
        added |= {"beta_initializer", "beta_regularizer", "beta_constraint"}
    assert {name for name, _ in ours[len(keras_arguments) :]} == added
    block = re.search(r"^Args:\n((?:    .*\n)+)", cell.__doc__, re.MULTILINE).group(1)
    told = {name.strip() for line in re.findall(r"^    (\S[^:]*):", block, re.MULTILINE) for name in line.split(",")}
    assert told == {name for name, _ in ours} | {"**kwargs"}


@quick
@every_cell
def test_config_holds_the_arguments_and_gives_the_same_cell(cell):
    given = {
        name: {"initializer": "he_uniform", "regularizer": "l2", "constraint": "non_neg"}[name.rpartition("_")[2]]
        for name in arguments_of(cell)
        if name.endswith(("_initializer", "_regularizer", "_constraint"))
    }
    given |= {"gamma_initializer": keras.initializers.Constant(0.5), "seed": 3, "epsilon": 0.1, "use_bias": False}
    layer = cell(UNITS, "relu", dropout=0.25, recurrent_dropout=0.5, name="cell", **given)
    config = layer.get_config()
    assert config.keys() - {"name", "trainable", "dtype"} == arguments_of(cell).keys()
    layer.build((N, D))
    assert layer.get_config() == config
    again = cell.from_config(config)
    assert again.get_config() == config
    assert (again.units, again.epsilon, again.dropout, again.gamma_initializer.value) == (UNITS, 0.1, 0.25, 0.5)
    assert type(again.gamma_regularizer) is keras.regularizers.L2


@quick
@every_cell
def test_regularizers_and_constraints_act_on_gamma_and_beta(cell):
    regularizer, constraint = keras.regularizers.L2(0.5), keras.constraints.NonNeg()
    arguments = {"gamma_regularizer": regularizer, "gamma_constraint": constraint}
    if cell is not SIMPLE:
        arguments |= {"beta_regularizer": regularizer, "beta_constraint": constraint, "beta_initializer": "ones"}
    layer = cell(UNITS, **arguments)
    layer.build((N, D))
    vectors = layer.weights[3:]
    assert all(w.constraint is constraint for w in vectors)
    assert_close(sum(layer.losses), 0.5 * sum(np.prod(w.shape) for w in vectors))


TO_FILES = {
    "saved_model": exports.saved_model,
    "litert": lambda *given: exports.litert(*given)[0],
    "onnx": exports.onnx,
}
WAYS = {"tensorflow": TO_FILES, "torch": exports.ON_TORCH, "jax": {}}[BACKEND]


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_an_exported_layer_gives_equal_outputs_for_another_batch_size(way, unroll, tmp_path):
    if not unroll and way in ("litert", "torch.export"):
        pytest.skip("the loop over time of Keras' own cells does not run there either")
    layer = layer_of(LSTM, return_sequences=True, unroll=unroll)
    model, x = keras.Sequential([keras.Input((T, D)), layer]), random_input(N, T, D, dtype="float32")
    model(x[:1])  # the export to ONNX asks for a call
    assert_close(WAYS[way](model, x, tmp_path / "model.tflite"), expected(LSTM, layer, x)[0])


BROKEN = [
    (lambda cell: cell(0), ValueError, "units must be positive. Received: units=0."),
    (lambda cell: cell(-3), ValueError, "units must be positive. Received: units=-3."),
    (lambda cell: cell(2.5), TypeError, "units must be an integer. Received: units=2.5 (float)."),
    (lambda cell: cell("5"), TypeError, "units must be an integer. Received: units='5' (str)."),
    (lambda cell: cell(5, epsilon=0), ValueError, "epsilon must be positive. Received: epsilon=0"),
    (lambda cell: cell(5, epsilon="1"), TypeError, "epsilon must be a number. Received: epsilon='1' (str)"),
    (lambda cell: cell(5, dropout=1.5), ValueError, "dropout must lie in [0, 1]. Received: dropout=1.5."),
    (lambda cell: cell(5, recurrent_dropout=-0.1), ValueError, "recurrent_dropout must lie in [0, 1]. Received: "),
    (lambda cell: cell(5, dropout=None), TypeError, "dropout must be a number. Received: dropout=None (NoneType)."),
]


@quick
@every_cell
@pytest.mark.parametrize(("broken", "error", "words"), BROKEN, ids=[words for *_, words in BROKEN])
def test_bad_input_is_told_the_rule_and_what_was_received(cell, broken, error, words):
    with pytest.raises(error, match=re.escape(f"{cell.__name__}: {words}")):
        broken(cell)


@quick
def test_dropout_is_checked_by_position_too():
    with pytest.raises(ValueError, match=r"LayerNormSimpleRNNCell: dropout must lie in \[0, 1\]. Received: dropout=2"):
        SIMPLE(5, "tanh", True, "zeros", "zeros", "zeros", None, None, None, None, None, None, 2)


@quick
def test_a_gru_resets_after_the_product_only():
    with pytest.raises(ValueError, match=r"LayerNormGRUCell: reset_after must be True\. Received: reset_after=False"):
        GRU(5, reset_after=False)


@quick
def test_the_bias_of_a_simple_cell_is_its_only_beta():
    with pytest.raises(ValueError, match="LayerNormSimpleRNNCell: beta_initializer is not an argument of this layer"):
        SIMPLE(5, beta_initializer="ones")
