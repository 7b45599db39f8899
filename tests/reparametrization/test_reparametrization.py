"""What all wrappers promise for every layer that they wrap."""

import copy
import gc
import pickle
from functools import cache

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from keras_norm.reparametrization import SpectralNormalization, WeightNormalization
from support import checkpoints, exports, trainings
from support.backends import BACKEND, array, call, tensorflow_only, torch_only
from support.wrapped_layers import (
    AT_START,
    BY_NAME,
    KINDS,
    VECTORS,
    WRAPPERS,
    built,
    inputs_of_all,
    model_of_all,
    weight_gradients,
)

every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
# A wrapper stays in one test process, where its models are trained once.
every_wrapper = pytest.mark.parametrize(
    "wrapper", [pytest.param(w, id=w.__name__, marks=pytest.mark.xdist_group(w.__name__)) for w in WRAPPERS]
)
X = BY_NAME["Dense"].inputs()
SEQUENCES = BY_NAME["LSTM"].inputs()
trained = cache(trainings.wrapped)


# Training


@every_wrapper
@every_kind
def test_fit_makes_the_loss_smaller_and_moves_every_weight(kind, wrapper):
    model, start, history = trained(wrapper)
    losses = history[f"{kind.name}_loss"]
    assert losses[2] < losses[0]
    moved = {w.path: np.abs(array(w) - old).max() for w, old in zip(model.weights, start, strict=True)}
    of_kind = {path: change for path, change in moved.items() if path.split("/")[0].endswith(f"_{kind.name}")}
    assert len(of_kind) >= 3 + (wrapper in VECTORS)  # kernel, the head's two, and the vector
    assert all(change > 0 for change in of_kind.values()), of_kind


@pytest.mark.slow
@every_wrapper
@pytest.mark.parametrize("way", ["in a graph", "by XLA"])
@pytest.mark.skipif(BACKEND == "torch", reason="Keras runs torch eagerly")
def test_fit_gives_the_same_weights_in_every_mode(way, wrapper):
    for compiled, plain in zip(trained(wrapper, way)[0].weights, trained(wrapper)[0].weights, strict=True):
        np.testing.assert_allclose(array(compiled), array(plain), rtol=1e-4, atol=1e-5, err_msg=plain.path)


@torch_only
@pytest.mark.slow
@every_wrapper
def test_kernels_of_different_ranks_are_trained_alike_under_torch_compile(wrapper):
    import torch

    torch.compiler.reset()  # or torch runs what it has traced eight times without tracing it
    x, trained = BY_NAME["Conv2D"].inputs(8), []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        hidden = [wrapper(layers.Conv2D(3, 2)), layers.Flatten(), wrapper(layers.Dense(4))]
        model = keras.Sequential([keras.Input(x.shape[1:]), *hidden, layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1e-4), "mse", jit_compile=jit_compile)
        model.fit(x, np.ones((8, 1)), batch_size=4, epochs=2, shuffle=False, verbose=0)
        trained.append(model)
    for plain, compiled in zip(*(model.weights for model in trained), strict=True):
        np.testing.assert_allclose(array(compiled), array(plain), rtol=1e-4, atol=1e-5, err_msg=plain.path)


def of_all(make):
    """`make(model, folder)` of the trained model of each wrapper, made once."""
    made = {}

    @pytest.fixture
    def fixture(wrapper, tmp_path):
        if wrapper not in made:
            made[wrapper] = make(trained(wrapper)[0], tmp_path)
        return made[wrapper]

    return fixture


@of_all
def predicted(model, folder):
    return model.predict(inputs_of_all(), verbose=0)


@of_all
def loaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras").predict(inputs_of_all(), verbose=0)


@of_all
def from_saved_model(model, folder):
    return exports.saved_model(model, inputs_of_all(), folder / "model")


@every_wrapper
@every_kind
def test_a_saved_model_predicts_the_same_bit_for_bit(kind, wrapper, predicted, loaded):
    np.testing.assert_array_equal(loaded[kind.name], predicted[kind.name])


@pytest.mark.slow
@every_wrapper
def test_a_model_in_a_legacy_h5_file_predicts_the_same(wrapper, tmp_path):
    model, _, _ = trained(wrapper)
    model.save(tmp_path / "model.h5")
    loaded, want = keras.models.load_model(tmp_path / "model.h5", compile=False), model(inputs_of_all())
    for name, y in loaded(inputs_of_all()).items():
        np.testing.assert_array_equal(array(y), array(want[name]), err_msg=name)


@every_wrapper
def test_a_legacy_h5_file_keeps_several_axes(wrapper, tmp_path):
    kind = BY_NAME["Conv1D"]
    model = keras.Sequential([keras.Input(kind.shape), wrapper(kind.make(), axis=(1, 2))])
    model.save(tmp_path / "model.h5")
    loaded, x = keras.models.load_model(tmp_path / "model.h5"), kind.inputs()
    np.testing.assert_array_equal(array(loaded(x)), array(model(x)))


@every_wrapper
def test_weights_are_saved_once(wrapper, tmp_path):
    model, _, _ = trained(wrapper)
    model.save_weights(tmp_path / "model.weights.h5")
    sizes = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file["layers"].visititems(
            lambda name, node: sizes.append(node.size) if isinstance(node, h5py.Dataset) else None
        )
    assert sum(sizes) == model.count_params()
    assert len({id(weight) for weight in model.weights}) == len(model.weights)


@tensorflow_only
@every_wrapper
@pytest.mark.parametrize("compiled", [False, True], ids=["", "compiled"])
def test_a_checkpoint_of_tensorflow_restores_weights_and_predictions(compiled, wrapper, tmp_path):
    model, _, _ = trained(wrapper)
    if not compiled:  # an optimizer would bring the weights that it trains into the checkpoint
        model = keras.models.clone_model(model)
    before, after = checkpoints.through(model, inputs_of_all(), tmp_path / "checkpoint")
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old)


@tensorflow_only
@every_wrapper
def test_a_checkpoint_of_tensorflow_fits_a_model_that_is_made_anew(wrapper, tmp_path):
    import tensorflow as tf

    model, _, _ = trained(wrapper)
    path = tf.train.Checkpoint(model).write(str(tmp_path / "checkpoint"))
    other = model_of_all(wrapper)
    tf.train.Checkpoint(other).read(path).assert_existing_objects_matched()
    for new, old in zip(other.weights, model.weights, strict=True):
        np.testing.assert_array_equal(array(new), array(old), err_msg=old.path)


@every_wrapper
def test_clone_model_makes_the_same_layers(wrapper):
    model, _, _ = trained(wrapper)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    want = model(inputs_of_all())
    for name, y in clone(inputs_of_all()).items():
        np.testing.assert_array_equal(array(y), array(want[name]), err_msg=name)


@tensorflow_only
@pytest.mark.slow
@every_wrapper
@every_kind
def test_an_exported_saved_model_gives_equal_outputs(kind, wrapper, predicted, from_saved_model):
    np.testing.assert_allclose(from_saved_model[kind.name], predicted[kind.name], rtol=1e-5, atol=1e-5)


@tensorflow_only
@pytest.mark.slow
@every_wrapper
def test_a_model_exported_to_litert_gives_equal_outputs(wrapper, tmp_path):
    model = model_of_all(wrapper, unroll=True)
    model.set_weights(trained(wrapper)[0].get_weights())
    got, _ = exports.litert(model, inputs_of_all(batch=1), tmp_path / "model.tflite")
    want = model(inputs_of_all(batch=1))
    assert got.keys() == want.keys()
    for name, y in got.items():
        np.testing.assert_allclose(y, array(want[name]), rtol=1e-5, atol=1e-5, err_msg=name)


# Keras itself fails there, with the bare layer.
NOT_FROM_TORCH = [("Conv3D", "onnx"), ("SimpleRNN", "torch.export")]
FROM_TORCH = [
    pytest.param(kind, way, id=f"{kind}-{way}")
    for kind in KINDS
    for way in exports.ON_TORCH
    if (kind.name, way) not in NOT_FROM_TORCH
]


@torch_only
@every_wrapper
@pytest.mark.parametrize(("kind", "way"), FROM_TORCH)
def test_a_model_exported_from_torch_gives_equal_outputs_for_another_batch_size(kind, way, wrapper, tmp_path):
    model, x = kind.model(wrapper), kind.inputs(5)
    want = array(model(x))
    np.testing.assert_allclose(exports.ON_TORCH[way](model, x, tmp_path / "model.onnx"), want, rtol=1e-5, atol=1e-5)


# What the wrapped layer does besides


@every_wrapper
def test_an_activity_loss_counts_once_in_the_loss_of_fit(wrapper):
    inputs = keras.Input((5,))
    dense = layers.Dense(
        3, activity_regularizer=keras.regularizers.L2(0.1), bias_regularizer=keras.regularizers.L1(0.3)
    )
    model = keras.Model(inputs, wrapper(dense)(inputs))
    dense.bias.assign([1.0, -2.0, 3.0])
    y = array(model(X))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    loss = model.evaluate(X, y * 0, verbose=0)
    np.testing.assert_allclose(loss, (y**2).mean() + 0.1 * (y**2).sum() / len(X) + 0.3 * 6.0, rtol=1e-4)
    loss = model.fit(X, y * 0, verbose=0).history["loss"][0]
    y = array(model(X))
    np.testing.assert_allclose(loss, (y**2).mean() + 0.1 * (y**2).sum() / len(X) + 0.3 * 6.0, rtol=1e-4)


@every_wrapper
def test_a_loss_of_a_sublayer_counts_once_too(wrapper):
    first = layers.Dense(4, activity_regularizer=keras.regularizers.L2(0.1))
    inputs = keras.Input((5,))
    wrapped = wrapper(keras.Sequential([first, layers.Dense(3)]))
    model = keras.Model(inputs, wrapped(inputs))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    hidden = call(wrapped.fold().layers[0], X)
    loss = model.evaluate(X, array(model(X)), verbose=0)
    np.testing.assert_allclose(loss, 0.1 * (hidden**2).sum() / len(X), rtol=1e-4)


@every_wrapper
def test_statistics_that_move_inside_the_wrapped_layer_are_kept(wrapper):
    norm = layers.BatchNormalization(momentum=0.0)
    layer = wrapper(keras.Sequential([keras.Input((5,)), norm, layers.Dense(3)]))
    call(layer, X, training=True)
    np.testing.assert_allclose(array(norm.moving_mean), X.mean(0), rtol=1e-5)
    model = keras.Sequential([keras.Input((5,)), layer])
    model.compile("sgd", "mse")
    model.fit(X + 3.0, np.ones((4, 3)), verbose=0)
    np.testing.assert_allclose(array(norm.moving_mean), X.mean(0) + 3.0, rtol=1e-5)


@every_wrapper
def test_dropout_inside_the_wrapped_layer_draws_anew_in_each_call_of_training(wrapper):
    layer = wrapper(layers.LSTM(3, dropout=0.5))
    first, second, inference, again = (call(layer, SEQUENCES, training=t) for t in (True, True, False, False))
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(inference, again)


@every_wrapper
def test_the_training_argument_of_a_model_reaches_the_wrapped_layer(wrapper):
    model = keras.Sequential([keras.Input((4, 5)), wrapper(layers.GRU(3, dropout=0.5))])
    first, second = (array(model(SEQUENCES, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


@every_wrapper
def test_the_training_argument_of_a_stateless_call_reaches_the_wrapped_layer(wrapper):
    layer = wrapper(layers.GRU(3, dropout=0.9))
    layer.build(SEQUENCES.shape)
    state = [[w.value for w in kind] for kind in (layer.trainable_variables, layer.non_trainable_variables)]
    x = keras.ops.convert_to_tensor(SEQUENCES)
    training, inference = (array(layer.stateless_call(*state, x, training=t)[0]) for t in (True, False))
    assert np.abs(training - inference).max() > 1e-2


@pytest.mark.filterwarnings("ignore:Layer .* does not support masking:UserWarning")
@every_wrapper
@pytest.mark.parametrize("name", ["Dense", "Conv1D", "EinsumDense", "SimpleRNN", "GRU"])
def test_a_mask_is_passed_on_if_and_only_if_the_wrapped_layer_does(name, wrapper):
    kind, masked = BY_NAME[name], layers.Masking()(keras.Input((4, 5)))
    plain, wrapped = (keras.src.backend.get_keras_mask(layer(masked)) for layer in (kind.make(), wrapper(kind.make())))
    assert (plain is None) == (wrapped is None)


@every_wrapper
def test_a_mask_reaches_the_wrapped_layer_and_what_follows(wrapper):
    tokens = np.array([[1, 2, 0, 0], [3, 4, 5, 0]])
    inputs = keras.Input((None,), dtype="int32")
    embedded = wrapper(layers.Embedding(7, 3, mask_zero=True))(inputs)
    sequences = wrapper(layers.SimpleRNN(4, return_sequences=True))(embedded)
    model = keras.Model(inputs, wrapper(layers.GRU(2))(sequences))
    np.testing.assert_allclose(array(model(tokens))[0], array(model(tokens[:1, :2]))[0], rtol=1e-5, atol=1e-6)


@every_wrapper
def test_a_mask_may_be_given_as_an_argument(wrapper):
    layer = wrapper(layers.GRU(3))
    mask = np.array([[True, True, False, False]] * 4)
    np.testing.assert_allclose(
        call(layer, SEQUENCES, mask=keras.ops.convert_to_tensor(mask)),
        call(layer, SEQUENCES[:, :2]),
        rtol=1e-5,
        atol=1e-6,
    )


@every_wrapper
def test_states_go_in_and_out_of_a_wrapped_rnn(wrapper):
    layer = wrapper(layers.LSTM(3, return_sequences=True, return_state=True))
    whole, h, c = (array(t) for t in layer(keras.ops.convert_to_tensor(SEQUENCES)))
    first, *states = layer(keras.ops.convert_to_tensor(SEQUENCES[:, :2]))
    second, *states = layer(keras.ops.convert_to_tensor(SEQUENCES[:, 2:]), initial_state=states)
    np.testing.assert_allclose(np.concatenate([array(first), array(second)], 1), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([array(s) for s in states], [h, c], rtol=1e-5, atol=1e-6)


@every_wrapper
def test_a_stateful_rnn_keeps_its_state_between_calls(wrapper):
    layer = wrapper(layers.LSTM(3, stateful=True))
    call(layer, SEQUENCES[:, :2])
    second = call(layer, SEQUENCES[:, 2:])
    layer.layer.reset_state()
    np.testing.assert_allclose(call(layer, SEQUENCES), second, rtol=1e-5, atol=1e-6)


@every_wrapper
def test_a_frozen_wrapper_trains_nothing(wrapper):
    model = BY_NAME["Dense"].model(wrapper)
    model.layers[0].trainable = False
    before = model.layers[0].get_weights()
    model.compile("sgd", "mse")
    model.fit(X, np.ones(4), verbose=0)
    for old, new in zip(before, model.layers[0].get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@every_wrapper
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("name", ["Dense", "Conv2D", "Embedding", "LSTM"])
def test_the_output_has_the_dtype_of_the_wrapped_layer(name, policy, wrapper):
    kind = BY_NAME[name]
    layer = wrapper(kind.make(dtype=policy))
    inputs = keras.Input(kind.shape, dtype="int32" if kind.of_integers else "float32")
    want = keras.dtype_policies.get(policy).compute_dtype
    assert keras.backend.standardize_dtype(layer(inputs).dtype) == want
    assert keras.backend.standardize_dtype(layer(keras.ops.convert_to_tensor(kind.inputs())).dtype) == want


@every_wrapper
def test_the_kernel_is_read_as_wide_as_it_is_stored_inside_a_layer_of_a_mixed_policy(wrapper):
    class Mixed(keras.layers.Layer):
        def call(self, inputs):
            return layer(keras.ops.cast(inputs, "float32"))

    layer, x = built(BY_NAME["Dense"], wrapper, dtype="float32"), np.arange(20.0, dtype="float32").reshape(4, 5)
    np.testing.assert_array_equal(call(Mixed(dtype="mixed_bfloat16"), x), call(layer, x))


@every_wrapper
def test_the_kernel_is_read_as_wide_as_it_is_stored_under_a_mixed_global_policy(wrapper):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = built(BY_NAME["Dense"], wrapper, dtype="float32")
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_allclose(call(layer, X), call(layer.fold(), X), rtol=1e-6)


# Which weights


@every_wrapper
def test_several_weights_may_be_named(wrapper):
    layer = wrapper(layers.LSTM(3), weight_name=["kernel", "recurrent_kernel"])
    layer.build((None, 4, 5))
    own, inner = ([weight.name for weight in part.weights] for part in (layer, layer.layer))
    vectors = [f"{name}_{VECTORS[wrapper]}" for name in ("kernel", "recurrent_kernel") if wrapper in VECTORS]
    assert sorted(own) == sorted(vectors + inner)
    assert layer.get_config()["weight_name"] == ["kernel", "recurrent_kernel"]


@every_wrapper
def test_weights_of_sublayers_are_found(wrapper):
    layer = wrapper(layers.Bidirectional(layers.GRU(3)))
    y = call(layer, SEQUENCES)
    assert len(layer._kernels) == 2
    np.testing.assert_allclose(call(layer.fold(), SEQUENCES), y, rtol=1e-5, atol=1e-6)


@every_wrapper
def test_a_wrapper_may_stand_in_another_of_keras(wrapper):
    dense = wrapper(layers.Dense(3))
    layer = layers.TimeDistributed(dense)
    np.testing.assert_allclose(call(layer, SEQUENCES)[:, 1], call(dense, SEQUENCES[:, 1]), rtol=1e-5, atol=1e-6)


# Several inputs, and layers that build a layer inside


@every_wrapper
@pytest.mark.parametrize("way", ["eager", "symbolic", "keyword"])
def test_attention_runs_with_the_kernels_of_the_formula(way, wrapper, tmp_path):
    query, value = SEQUENCES, SEQUENCES[:, :3] + 1.0
    layer = wrapper(layers.MultiHeadAttention(2, 3), weight_name="kernel")
    if way == "symbolic":
        inputs = [keras.Input(x.shape[1:]) for x in (query, value)]
        model = keras.Model(inputs, layer(*inputs))
        y = array(model([query, value]))
        model.save(tmp_path / "model.keras")
        np.testing.assert_array_equal(array(keras.models.load_model(tmp_path / "model.keras")([query, value])), y)
    else:
        query, value = (keras.ops.convert_to_tensor(x) for x in (query, value))
        y = array(layer(query, value) if way == "eager" else layer(query, value=value))
    kernels = {weight.path: weight for weight in layer.layer.weights if weight.name == "kernel"}
    assert len(layer._kernels) == len(kernels) == 4
    plain = layers.MultiHeadAttention(2, 3)
    plain.build(query.shape, value.shape)
    for new, old in zip(plain.weights, layer.layer.weights, strict=True):
        new.assign(array(old))
        if new.name == "kernel":
            # heads and their size are units of the first three kernels; the last one contracts them
            units = 1 if "attention_output" in new.path else 2
            matrix = array(old).reshape(np.prod(new.shape[:-units]), -1)
            new.assign(AT_START[wrapper](matrix).reshape(new.shape))
    np.testing.assert_allclose(y, array(plain(query, value)), rtol=0.02, atol=0.02)


# Config


@pytest.mark.quick
@every_wrapper
def test_config_is_what_the_user_wrote_before_and_after_build(wrapper):
    def config_of(layer):
        # Keras adds to an inner layer's config the shape that it was built for.
        return {**layer.get_config(), "layer": layer.get_config()["layer"]["config"]}

    layer = wrapper(
        layers.Dense(3, dtype="mixed_bfloat16"), weight_name="kernel", axis=-1, name="norm", trainable=False
    )
    before = config_of(layer)
    layer.build((None, 5))
    assert config_of(layer) == before
    assert (before["weight_name"], before["axis"], before["name"], before["trainable"]) == ("kernel", -1, "norm", False)
    again = wrapper.from_config(layer.get_config())
    assert config_of(again) == before
    assert again.layer.dtype_policy.name == "mixed_bfloat16"


def test_power_iterations_are_in_the_config():
    layer = SpectralNormalization(layers.Dense(3), power_iterations=3)
    assert SpectralNormalization.from_config(layer.get_config()).power_iterations == 3


# One layer in two places, one weight in two wrappers


@every_wrapper
def test_a_wrapper_called_in_two_places_is_one_layer_after_loading_too(wrapper, tmp_path):
    left, right = keras.Input((5,)), keras.Input((5,))
    shared = wrapper(layers.Dense(3))
    model = keras.Model([left, right], shared(left) - 2.0 * shared(right))
    model.compile("sgd", "mse")
    data = [X, X + 1.0]
    model.fit(data, np.ones((4, 3)), epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == len(model.weights) == 2 + (wrapper in VECTORS)
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), model.predict(data, verbose=0))
    dense = shared.fold()
    np.testing.assert_allclose(array(model(data)), call(dense, X) - 2.0 * call(dense, X + 1.0), rtol=1e-4, atol=1e-5)


@every_wrapper
def test_a_layer_in_two_wrappers_is_refused(wrapper):
    dense = layers.Dense(3, name="shared")
    first, unbuilt = wrapper(dense, name="first"), WeightNormalization(dense)
    call(first, X)
    words = r"layer must be in one wrapper only\. Received: layer='shared', wrapped by 'first'"
    with pytest.raises(ValueError, match=words):
        SpectralNormalization(dense)
    with pytest.raises(ValueError, match=words):
        call(unbuilt, X)


@every_wrapper
def test_a_layer_may_be_wrapped_again_when_its_wrapper_is_gone(wrapper):
    dense = layers.Dense(3)
    wrapper(dense)
    assert call(wrapper(dense), X).shape == (4, 3)


@pytest.mark.quick
@every_wrapper
def test_a_wrapper_that_is_not_built_leaves_the_layer_free(wrapper):
    dense = layers.Dense(3)
    with pytest.raises(ValueError, match="power_iterations must be positive") as caught:
        SpectralNormalization(dense, power_iterations=0)
    assert call(wrapper(dense), X).shape == (4, 3)
    assert caught.tb  # in a notebook, too, the traceback keeps the refused wrapper alive


@pytest.mark.quick
@every_wrapper
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_in_memory_computes_the_same_and_is_a_layer_of_its_own(copied, wrapper):
    layer = built(BY_NAME["Dense"], wrapper)
    model = keras.Sequential([keras.Input((5,)), layer])
    y = call(model, X)
    twin = copied(model)
    np.testing.assert_array_equal(call(twin, X), y)
    twin.layers[0].layer.kernel.assign(array(layer.layer.kernel) + 1.0)
    np.testing.assert_array_equal(call(model, X), y)
    with pytest.raises(ValueError, match="layer must be in one wrapper only"):
        wrapper(twin.layers[0].layer)


@pytest.mark.parametrize("outer", WRAPPERS)
@every_wrapper
def test_a_weight_is_re_parametrized_once(wrapper, outer):
    nested = outer(wrapper(layers.Dense(3), name="inner"))
    with pytest.raises(
        ValueError, match=r"must be re-parametrized only once\. Received: weight_name='kernel', which 'inner'"
    ):
        call(nested, X)


@pytest.mark.parametrize("outer", WRAPPERS)
@every_wrapper
def test_nested_wrappers_may_share_a_layer_between_its_weights(wrapper, outer, tmp_path):
    model = keras.Sequential([keras.Input((4, 5)), outer(wrapper(layers.SimpleRNN(3)), weight_name="kernel")])
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(SEQUENCES, np.ones((4, 3)), verbose=0)
    plain = model.layers[0].fold().fold()
    assert type(plain) is layers.SimpleRNN
    y = model.predict(SEQUENCES, verbose=0)
    np.testing.assert_allclose(call(plain, SEQUENCES), y, rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras").predict(SEQUENCES, verbose=0), y)


# fold


@pytest.mark.quick
@every_wrapper
@every_kind
def test_the_folded_layer_is_plain_and_gives_the_same_output(kind, wrapper):
    layer, x = built(kind, wrapper), kind.inputs()
    folded = layer.fold()
    assert type(folded) is type(layer.layer)
    assert folded.name == layer.layer.name
    np.testing.assert_allclose(call(folded, x), call(layer, x), rtol=1e-5, atol=1e-6)


@every_wrapper
def test_a_folded_layer_can_be_quantized(wrapper):
    layer = built(BY_NAME["Dense"], wrapper)
    folded = layer.fold()
    folded.quantize("int8")
    np.testing.assert_allclose(call(folded, X), call(layer, X), atol=0.1)


# Gradients of calls that overlap


@every_wrapper
def test_a_gradient_may_be_taken_after_a_later_call_has_moved_the_vectors(wrapper):
    layer, cotangent = built(BY_NAME["Dense"], wrapper), np.ones((4, 3), "float32")
    want = weight_gradients(layer, X, cotangent)

    class Twice(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = layer

        def call(self, x):
            first = layer(x, training=False)
            layer(x + 1.0, training=True)
            return first

    twice = Twice()
    twice.built = True
    for path, gradient in weight_gradients(twice, X, cotangent).items():
        np.testing.assert_allclose(gradient, want[path], rtol=1e-4, atol=1e-5)


# What is refused


def with_lora():
    dense = layers.Dense(3, name="dense")
    dense.build((None, 5))
    dense.enable_lora(2)
    return dense


NO_SUCH_WEIGHT = "weight_name must name weights of the wrapped layer. Received: weight_name="
NOT_PLAIN = "the wrapped layer must have a plain kernel. Received: layer='dense' with quantization_mode="
NO_SUCH_AXIS = "axis must name axes of the kernel, each once. Received: axis="
REFUSED = [
    (lambda: "dense", {}, TypeError, "layer must be a Keras layer. Received: layer='dense'"),
    (lambda: layers.Dense(3), {"dtype": "float16"}, ValueError, "the dtype is the wrapped layer's. Received: dtype="),
    (lambda: layers.ReLU(name="relu"), {}, ValueError, NO_SUCH_WEIGHT + "None, layer='relu' (ReLU) with weights []"),
    (lambda: layers.Dense(3), {"weight_name": "weights"}, ValueError, NO_SUCH_WEIGHT + "'weights'"),
    (lambda: layers.Dense(3), {"weight_name": ["kernel", "g"]}, ValueError, NO_SUCH_WEIGHT + "['kernel', 'g']"),
    (lambda: layers.Dense(3), {"axis": 2}, ValueError, NO_SUCH_AXIS + "2, kernel of shape (5, 3)"),
    (lambda: layers.Dense(3), {"axis": [1, -1]}, ValueError, NO_SUCH_AXIS + "[1, -1]"),
    (lambda: layers.Dense(3), {"axis": []}, ValueError, NO_SUCH_AXIS + "[]"),
    (lambda: layers.Dense(3), {"axis": 1.0}, TypeError, "axis must be an integer. Received: axis=1.0 (float)"),
    (lambda: layers.Dense(3), {"axis": "last"}, TypeError, "axis must be an integer. Received: axis='last' (str)"),
    (with_lora, {}, ValueError, NOT_PLAIN + "None, lora_enabled=True (fold() the wrapper first"),
    (lambda: layers.Dense(3, name="dense", lora_rank=2), {}, ValueError, NOT_PLAIN + "None, lora_enabled=True"),
    (lambda: layers.Dense(3, name="dense", dtype="int8_from_float32"), {}, ValueError, NOT_PLAIN + "'int8'"),
]


@pytest.mark.quick
@every_wrapper
@pytest.mark.parametrize(("layer", "arguments", "error", "words"), REFUSED, ids=[words for *_, words in REFUSED])
def test_bad_input_is_told_the_rule_and_what_was_received(layer, arguments, error, words, wrapper):
    with pytest.raises(error) as caught:
        wrapper(layer(), **arguments)(X)
    assert str(caught.value).startswith(wrapper.__name__ + ": ")
    assert words in str(caught.value)


@every_wrapper
@pytest.mark.parametrize(
    ("outer", "inner"),
    [("Bidirectional", layers.LSTM), ("RNN", layers.LSTMCell), ("RNN", layers.GRUCell)],
    ids=["Bidirectional(LSTM)", "RNN(LSTMCell)", "RNN(GRUCell)"],
)
def test_a_wrapper_in_a_layer_that_has_to_be_inside_is_told_so_and_works_around_it(outer, inner, wrapper):
    make = getattr(layers, outer)
    words = rf"{wrapper.__name__}: the wrapper must be outside {outer}, not inside\. Received: {outer} of a wrapped "
    with pytest.raises(ValueError, match=words + rf"layer='inner' \(write {wrapper.__name__}\({outer}\(\.\.\.\)\)"):
        make(wrapper(inner(3, name="inner")))
    layer = wrapper(make(inner(3)))
    y = call(layer, SEQUENCES)
    np.testing.assert_allclose(call(layer.fold(), SEQUENCES), y, rtol=1e-5, atol=1e-6)
    assert not hasattr(layer, "state_size")


@every_wrapper
def test_a_layer_that_is_not_built_is_not_folded(wrapper):
    words = rf"{wrapper.__name__}: fold needs a built layer\. Received: 'norm' \(call it once before\)"
    with pytest.raises(ValueError, match=words):
        wrapper(layers.Dense(3), name="norm").fold()


@every_wrapper
def test_lora_of_a_layer_that_is_wrapped_already_is_refused_in_the_next_call(wrapper):
    layer = built(BY_NAME["Dense"], wrapper)
    layer.layer.enable_lora(2)
    with pytest.raises(ValueError, match="the wrapped layer must have a plain kernel"):
        call(layer, X)
    with pytest.raises(ValueError, match="the wrapped layer must have a plain kernel"):
        layer.fold()


NOT_QUANTIZED = r"a wrapped layer is not quantized\. Received: 'inner' in 'outer' \(quantize "


@every_wrapper
def test_quantization_of_a_wrapped_layer_is_refused_and_changes_nothing(wrapper):
    layer = wrapper(layers.Dense(3, name="inner"), name="outer")
    y = call(layer, X)
    with pytest.raises(NotImplementedError, match=wrapper.__name__ + ": " + NOT_QUANTIZED):
        layer.layer.quantize("int8")
    np.testing.assert_array_equal(call(layer, X), y)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
@every_wrapper
def test_quantization_of_a_model_leaves_wrapped_layers_as_they_are_and_warns(wrapper):
    inner = wrapper(layers.Dense(3, name="inner"), name="outer")
    model = keras.Sequential([keras.Input((5,)), layers.Dense(5), inner, layers.Dense(2)])
    y = array(model(X))
    with pytest.warns(UserWarning, match=NOT_QUANTIZED):
        model.quantize("int8")
    assert [layer.quantization_mode for layer in (model.layers[0], inner.layer, model.layers[2])] == [
        "int8",
        None,
        "int8",
    ]
    np.testing.assert_allclose(array(model(X)), y, atol=0.2)


def test_a_layer_can_be_wrapped_again_or_quantized_when_a_built_wrapper_is_gone():
    dense = layers.Dense(3)
    for wrapper in WRAPPERS:
        call(wrapper(dense), X)
        gc.collect()
    dense.quantize("int8")
    assert dense.quantization_mode == "int8"
