"""Subclassed models are converted where their layers are, in a copy or in place."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_norm as kn
from keras_norm import models
from keras_norm.layers.frozen import FrozenBatchNormalization
from keras_norm.models.predicates import is_frozen
from keras_norm.walk import all_layers
from support.backends import array, tensorflow_only
from support.networks import assert_untouched, mixed, part, randomized, sequential, weights
from support.own_classes import FEATURES, Block, Detector, Everywhere, Guessed, Plain, Scale, Stack, built

CONVERSIONS = {
    "replace": (lambda m, **k: models.replace_normalization(m, kn.GroupNormalization(2), **k), kn.GroupNormalization),
    "synchronize": (models.synchronize_batch_normalization, kn.BatchNormalization),
    "freeze": (models.freeze_batch_normalization, FrozenBatchNormalization),
    "unfreeze": (models.unfreeze_batch_normalization, kl.BatchNormalization),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*a .keras file of the result will not load"),
    # Classes as users write them leave `build` to Keras.
    pytest.mark.filterwarnings(r"ignore:`build\(\)` was called on layer:UserWarning"),
]


@pytest.fixture(
    params=[pytest.param(name, marks=() if name == "replace" else pytest.mark.slow) for name in CONVERSIONS]
)
def conversion(request):
    convert, kind = CONVERSIONS[request.param]
    if request.param != "unfreeze":
        return convert, kind, lambda model: model
    return convert, kind, lambda model: models.freeze_batch_normalization(model, in_place=True)


def x_of(samples=6):
    return np.random.default_rng(0).normal(2, 3, (samples, 3, FEATURES)).astype("float32")


def predict(model, **kwargs):
    return [array(y) for y in keras.tree.flatten(model(keras.ops.convert_to_tensor(x_of()), **kwargs))]


def converted_layers(model, kind):
    return [layer for layer in model._flatten_layers(include_self=False) if type(layer) is kind]


@pytest.mark.parametrize("in_place", [False, True])
def test_every_place_that_holds_a_layer_holds_the_new_one(conversion, in_place):
    convert, kind, prepare = conversion
    model = prepare(built(Everywhere))
    new = convert(model, in_place=in_place)
    assert (type(new), new is model) == (Everywhere, in_place)
    held = [
        new.norm, new.again, new.in_list[1], new.in_dict["norms"]["one"], new.in_tuple[0], new.in_both["deep"][0][0],
        new.model_inside.layers[1], new.block.path_layers[1], new.over_time.layer,
        new.by_function.__closure__[0].cell_contents,
    ]  # fmt: skip
    assert {type(layer) for layer in held} == {kind}
    assert new.norm is new.again is held[-1]
    assert len(converted_layers(new, kind)) == Everywhere.COUNT
    assert {id(layer) for layer in held} == {id(layer) for layer in converted_layers(new, kind)}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("make", [Everywhere, Detector, Plain, Stack])
def test_predictions_stay_where_they_must(conversion, make, in_place):
    convert, kind, prepare = conversion
    model = prepare(built(make))
    want = predict(model)
    got = predict(convert(model, in_place=in_place))
    for y, expected in zip(got, want, strict=True):
        if kind is not kn.GroupNormalization:
            np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
        assert np.isfinite(y).all()


def test_the_original_is_untouched_bit_for_bit_when_its_copy_is_trained(conversion):
    convert, _, prepare = conversion
    model = prepare(built(Everywhere))
    before, kinds, want = weights(model), [type(layer) for layer in model._flatten_layers()], predict(model)
    new = convert(model)
    new.compile("sgd", "mse", run_eagerly=True)
    new.fit(x_of(), x_of(), verbose=0)
    assert_untouched(model, before)
    assert [type(layer) for layer in model._flatten_layers()] == kinds
    np.testing.assert_array_equal(predict(model), want)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("make", [Everywhere, Detector])
def test_gradients_reach_every_converted_layer(make, in_place):
    new = models.replace_normalization(built(make), kn.GroupNormalization(2), in_place=in_place)
    layers = converted_layers(new, kn.GroupNormalization)
    before = [array(layer.beta) for layer in layers]
    if make is Detector:
        new.compile(box_loss=keras.losses.MeanSquaredError(), optimizer="sgd", run_eagerly=True)
    else:
        new.compile("sgd", "mse", run_eagerly=True)
    new.fit(x_of(), x_of(), verbose=0)
    assert all(np.abs(array(layer.beta) - old).max() > 0 for layer, old in zip(layers, before, strict=True))


def test_a_functional_class_with_a_constructor_stays_that_class_with_its_own_step_and_arguments_of_compile(conversion):
    convert, kind, prepare = conversion
    new = convert(prepare(built(Detector)))
    assert type(new) is Detector
    assert type(new.last_block) is Block
    assert type(new.get_layer("first")) is kind
    assert list(new.pyramid_outputs) == ["P3"]
    calls = []

    def box_loss(y, prediction):
        calls.append(prediction.shape)
        return keras.ops.mean(keras.ops.square(y - prediction))

    new.compile(box_loss=box_loss, optimizer="sgd", run_eagerly=True)
    new.fit(x_of(), x_of(), verbose=0)
    assert calls


def test_values_given_to_the_constructor_are_kept(conversion):
    convert, _, prepare = conversion
    assert convert(prepare(built(Everywhere, factor=3.0))).factor == 3.0


def test_a_class_inside_a_functional_model_stays(conversion):
    convert, kind, prepare = conversion
    x = keras.Input((3, FEATURES))
    model = prepare(keras.Model(x, built(Detector)(built(Everywhere)(x))["boxes"]))
    new = convert(model)
    assert [type(layer) for layer in new.layers[1:]] == [Everywhere, Detector]
    assert len(converted_layers(new, kind)) == Everywhere.COUNT + 2


def test_normalizations_inside_wrappers_and_layers_are_converted(conversion):
    convert, kind, prepare = conversion
    model = prepare(sequential(kl.TimeDistributed(kl.BatchNormalization(name="hidden"), name="outer"), Block(4),
                               shape=(3, FEATURES)))  # fmt: skip
    new = convert(model)
    assert (type(new.layers[0].layer), type(new.layers[1].path_layers[1])) == (kind, kind)


def test_a_layer_of_another_kind_that_holds_normalizations_is_copied_with_them():
    model = sequential(kl.TimeDistributed(kl.BatchNormalization()), kl.LayerNormalization(), shape=(3, FEATURES))
    where = lambda layer: isinstance(layer, kl.LayerNormalization)  # noqa: E731
    new = models.replace_normalization(model, kl.RMSNormalization(), where)
    assert [type(layer) for layer in new.layers] == [kl.TimeDistributed, kl.RMSNormalization]
    assert type(new.layers[0].layer) is kl.BatchNormalization


def test_conversions_of_a_class_that_builds_its_layers_add_up():
    model = built(Everywhere)
    new = models.replace_normalization(model, kn.InstanceNormalization(axis=-1), lambda layer: layer is model.norm)
    new = models.synchronize_batch_normalization(new)
    new = models.freeze_batch_normalization(new)
    assert type(new.norm) is kn.InstanceNormalization
    inner = [layer.layer for layer in converted_layers(new, FrozenBatchNormalization)]
    assert len(inner) == Everywhere.COUNT - 1
    assert all(layer.synchronized for layer in inner)
    new = models.unfreeze_batch_normalization(new)
    assert type(new.again) is kn.InstanceNormalization
    assert len([layer for layer in converted_layers(new, kn.BatchNormalization) if layer.synchronized]) == 7


def test_the_arguments_of_an_earlier_conversion_to_the_same_class_are_kept():
    model = models.replace_normalization(built(Plain), kl.BatchNormalization(epsilon=0.5))
    other = models.replace_normalization(model, kl.LayerNormalization(), lambda layer: False)
    assert (type(other.norm), other.norm.epsilon) == (kl.BatchNormalization, 0.5)


def test_what_is_trained_is_kept_layer_by_layer_and_weight_by_weight(conversion):
    convert, kind, prepare = conversion
    model = prepare(built(Everywhere))
    model.block.trainable = False
    model.in_list[0].kernel.trainable = False
    new = convert(model)
    assert not new.block.trainable
    assert not new.block.path_layers[1].trainable
    assert not new.in_list[0].kernel.trainable
    assert new.in_list[0].bias.trainable
    if kind is kn.BatchNormalization:
        assert [w.trainable for w in new.weights] == [w.trainable for w in model.weights]


def test_names_of_layers_are_kept(conversion):
    convert, _, prepare = conversion
    model = prepare(built(Everywhere))
    names = [layer.name for layer in all_layers(model, is_frozen)]
    assert [layer.name for layer in all_layers(convert(model), is_frozen)] == names


def test_paths_of_weights_are_kept_in_place(conversion):
    convert, _, prepare = conversion
    model = prepare(built(Detector))
    path = model.last_block.path_layers[1].path
    convert(model, in_place=True)
    new = model.last_block.path_layers[1]
    assert new.path == path
    assert all(weight.path.startswith(path + "/") for weight in new.weights)


def test_in_place_a_functional_model_stays_one_that_can_be_saved(conversion, tmp_path):
    convert, kind, prepare = conversion
    model = prepare(mixed())
    assert convert(model, in_place=True) is model
    assert type(part(model, "inner_norm")) is kind
    assert part(model, "shared_norm") is model.get_layer("shared_norm")
    assert len(model.get_layer("shared_norm")._inbound_nodes) == 2
    x = [np.ones((2, *size.shape[1:]), "float32") for size in model.inputs]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(part(loaded, "shared_norm")) in (kind, kn.BatchNormalization)
    np.testing.assert_array_equal(array(loaded(x)), array(model(x)))


def test_in_place_models_of_the_same_tensors_are_converted_too():
    model = sequential(kl.Dense(FEATURES), kl.BatchNormalization(), kl.ReLU(), shape=(3, FEATURES))
    features = keras.Model(model.inputs[0], model.layers[1].output)
    models.replace_normalization(model, kn.GroupNormalization(2), in_place=True)
    assert type(features.layers[-1]) is kn.GroupNormalization
    again = keras.Model(model.inputs[0], model.layers[1].output)
    np.testing.assert_array_equal(array(again(x_of())), array(features(x_of())))


def test_in_place_what_was_compiled_before_is_forgotten(conversion):
    convert, _, prepare = conversion
    model = prepare(built(Everywhere))
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    model.predict(x_of(), verbose=0)
    convert(model, in_place=True)
    for weight in model.weights:
        if weight.name == "beta":
            weight.assign(array(weight) + 1)
    (want,) = predict(model)
    np.testing.assert_allclose(model.predict(x_of(), verbose=0), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    assert not model.compiled
    assert not hasattr(model, "optimizer")
    with pytest.raises(ValueError, match="You must call `compile"):
        model.fit(x_of(), x_of(), verbose=0)
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(x_of(), x_of(), verbose=0)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_class_that_compiles_itself_or_was_compiled_is_compiled_again_by_its_user(in_place):
    class Compiled(Plain):
        def __init__(self):
            super().__init__()
            self.compile("sgd", "mse")

    assert not models.freeze_batch_normalization(built(Compiled), in_place=in_place).compiled


def test_in_place_an_error_changes_nothing():
    model = built(Everywhere)
    before, kinds = weights(model), [type(layer) for layer in model._flatten_layers()]

    def to(layer):
        if layer is model.over_time.layer:
            raise RuntimeError("the last")
        return kn.GroupNormalization(2)

    with pytest.raises(RuntimeError, match="the last"):
        models.replace_normalization(model, to, in_place=True)
    assert [type(layer) for layer in model._flatten_layers()] == kinds
    assert_untouched(model, before)


@pytest.mark.filterwarnings("ignore:replace_normalization. groups=32 do not divide")
def test_a_layer_that_was_never_called_is_converted_before_it_is_built():
    for in_place in (False, True):
        new = models.replace_normalization(built(Plain), kn.GroupNormalization(32), in_place=in_place)
        assert (type(new.spare), new.spare.groups, new.spare.built) == (kn.GroupNormalization, 32, False)


@pytest.mark.quick
@pytest.mark.filterwarnings("ignore:[\\s\\S]*does not support masking:UserWarning")
def test_a_mask_that_the_new_layer_does_not_take_is_not_passed_to_it():
    class Unmasked(kl.Layer):
        def call(self, inputs):
            return 2 * inputs

    tokens = keras.Input((None,), dtype="int32")
    h = kl.Embedding(9, FEATURES, mask_zero=True)(tokens)
    model = keras.Model(tokens, kl.BatchNormalization()(h))
    new = models.replace_normalization(model, lambda old: Unmasked())
    np.testing.assert_allclose(array(new(np.array([[1, 2, 0]]))), 2 * array(model.layers[1](np.array([[1, 2, 0]]))))


def test_torch_lists_the_parameters_of_the_new_layers():
    if keras.backend.backend() != "torch":
        pytest.skip("its subject is torch's alone")
    model = built(Everywhere)
    models.replace_normalization(model, kn.GroupNormalization(2), in_place=True)
    listed = {id(parameter) for parameter in model.parameters()}
    assert listed == {id(weight.value) for weight in model.variables}


@tensorflow_only
@pytest.mark.parametrize("in_place", [False, True])
def test_a_checkpoint_of_tensorflow_saves_and_restores_the_converted_layers(in_place, tmp_path):
    import tensorflow as tf

    # Keras itself gives layers in lists and dicts to no checkpoint of TensorFlow.
    model, other = (
        models.replace_normalization(built(Plain), kn.GroupNormalization(2), in_place=in_place) for _ in range(2)
    )
    for weight in model.norm.weights:
        weight.assign(array(weight) + 1)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(model=other).restore(path).assert_existing_objects_matched()
    np.testing.assert_array_equal(array(other.norm.beta), array(model.norm.beta))
    assert not {"moving_mean", "moving_variance"} & {name.split("/")[-3] for name, _ in tf.train.list_variables(path)
                                                     if name.startswith("model/norm")}  # fmt: skip


@tensorflow_only
def test_variables_are_made_under_the_strategy_of_the_model():
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["cpu:0"])
    with strategy.scope():
        model = built(Plain)
    for new in (models.synchronize_batch_normalization(model), models.freeze_batch_normalization(model, in_place=True)):
        assert all(isinstance(w.value, tf.distribute.DistributedValues) for w in new.weights)


def test_a_model_whose_arguments_keras_guesses_is_not_copied_and_is_converted_in_place():
    model = built(Guessed, rate=0.25)
    words = r"freeze_batch_normalization: model must be one that .* Received: model='\w+' of Guessed: Guessed has no "
    with pytest.raises(ValueError, match=words + r"get_config that gives rate \(in_place=True converts the model"):
        models.freeze_batch_normalization(model)
    want = predict(model)
    frozen = models.freeze_batch_normalization(model, in_place=True)
    assert type(frozen.norm) is FrozenBatchNormalization
    np.testing.assert_allclose(predict(frozen), want, rtol=1e-5)


def test_sharing_that_a_copy_would_lose_is_refused_and_kept_in_place():
    dense = kl.Dense(FEATURES, name="shared")
    model = sequential(kl.TimeDistributed(dense), dense, kl.BatchNormalization(), shape=(3, FEATURES))
    with pytest.raises(ValueError, match="'shared' is held by several layers, which would not share it in a copy"):
        models.freeze_batch_normalization(model)
    models.freeze_batch_normalization(model, in_place=True)
    assert model.layers[0].layer is model.layers[1]


def test_a_class_without_a_config_whose_arguments_are_not_known_is_not_copied():
    class Popped(Plain):
        def __init__(self, **kwargs):
            super().__init__()
            self.rate = kwargs.pop("rate", 0.5)

    with pytest.raises(ValueError, match="Popped has no get_config that gives kwargs"):
        models.freeze_batch_normalization(built(Popped, rate=0.25))


def test_a_class_that_cannot_be_made_again_says_so():
    class Needs(keras.Sequential):
        def __init__(self, first, second):
            super().__init__([keras.Input((3, FEATURES)), first, second])

    model = Needs(kl.Dense(FEATURES), kl.BatchNormalization())
    with pytest.raises(ValueError, match=r"Needs has no get_config that gives first, second \(in_place=True"):
        models.synchronize_batch_normalization(model)
    assert models.synchronize_batch_normalization(model, in_place=True).layers[1].synchronized


def test_a_new_layer_that_holds_the_old_one_is_refused():
    words = r"a new layer must not hold the old one\. Received: 'norm' with 'norm' inside \(give it a copy"
    model = sequential(kl.BatchNormalization(name="norm"))
    with pytest.raises(ValueError, match=words):
        models.replace_normalization(model, lambda old: FrozenBatchNormalization(old))


def test_one_new_layer_for_several_is_refused():
    model = sequential(kl.BatchNormalization(name="a"), kl.BatchNormalization(name="b"))
    one = kn.GroupNormalization(3, name="one")
    with pytest.raises(ValueError, match=r"each layer must have its own replacement\. Received: 'one' for 'a' and for"):
        models.replace_normalization(model, lambda old: one)


@pytest.mark.parametrize("model", ["resnet", kl.Dense(3)])
def test_what_is_no_keras_model_is_refused(conversion, model):
    with pytest.raises(TypeError, match=r"model must be a Keras model\. Received: model="):
        conversion[0](model)


def test_a_model_of_tf_keras_is_called_by_that_name(conversion):
    class Functional:
        __module__ = "tf_keras.src.engine.functional"

    with pytest.raises(TypeError, match=r"of tf_keras\..*Functional \(tf_keras is Keras 2"):
        conversion[0](Functional())


def test_in_place_must_be_a_boolean(conversion):
    with pytest.raises(TypeError, match="in_place must be True or False"):
        conversion[0](built(Plain), in_place="yes")


def test_a_lambda_layer_is_copied():
    model = sequential(kl.Lambda(lambda x: 2 * x), kl.BatchNormalization(), shape=(3, FEATURES))
    np.testing.assert_allclose(predict(models.freeze_batch_normalization(model)), predict(model))


@pytest.mark.filterwarnings("error:.*a .keras file of the result will not load")
@pytest.mark.parametrize("in_place", [False, True])
def test_files_of_models_that_build_their_layers_are_warned_of_once(conversion, in_place):
    convert, kind, prepare = conversion
    if kind is kl.BatchNormalization:
        with pytest.warns(UserWarning, match="will not load"):
            model = prepare(built(Everywhere))
        convert(model, in_place=in_place)  # it is again what its class builds
        return
    model = built(Everywhere)
    words = "a .keras file of the result will not load, .* of Everywhere, with 8 converted layers"
    with pytest.warns(UserWarning, match=words) as caught:
        convert(model, in_place=in_place)
    (one,) = [w for w in caught if "keras file" in str(w.message)]
    assert one.filename == __file__


@pytest.mark.filterwarnings("error:.*a .keras file of the result will not load")
def test_files_of_graphs_and_wrappers_are_not_warned_of(conversion):
    convert, _, prepare = conversion
    convert(prepare(mixed()))
    convert(prepare(sequential(kl.TimeDistributed(kl.BatchNormalization()), shape=(3, FEATURES))))


def test_weights_of_a_converted_class_are_loaded_after_it_is_built_and_converted_alike(conversion, tmp_path):
    convert, _, prepare = conversion
    new = convert(prepare(built(Everywhere)))
    new.save_weights(tmp_path / "model.weights.h5")

    model = built(Everywhere)  # lines of the documentation: build, convert, load
    model = convert(prepare(model))
    for weight in model.weights:
        weight.assign(array(weight) * 0)
    model.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(predict(model), predict(new))


def test_arguments_that_a_config_leaves_out_and_changes_of_layers_are_copied():
    class Forgets(keras.Model):
        def __init__(self, rate=0.5, **kwargs):
            super().__init__(**kwargs)
            self.dropout, self.norm = kl.Dropout(rate), kl.BatchNormalization()
            self.dense = kl.Dense(FEATURES)

        def call(self, x):
            return self.dense(self.norm(self.dropout(x)))

        def get_config(self):
            return {"name": self.name}

    model = built(Forgets, rate=0.25)
    model.dense.activation = keras.activations.tanh
    new = models.freeze_batch_normalization(model)
    assert (new.dropout.rate, new.dense.activation) == (0.25, keras.activations.tanh)
    np.testing.assert_allclose(predict(new), predict(model), rtol=1e-5, atol=1e-5)


def test_a_class_that_is_called_with_several_inputs_is_copied():
    class Sum(Plain):
        def call(self, x, y):
            return self.norm(x) + y

    model, x = Sum(), keras.ops.convert_to_tensor(x_of())
    model(x, x)
    new = models.freeze_batch_normalization(randomized(model))
    np.testing.assert_allclose(array(new(x, x)), array(model(x, x)), rtol=1e-5, atol=1e-5)


def test_classes_of_the_same_name_are_not_confused():
    def named(factor):
        class Same(kl.Layer):
            def call(self, x):
                return factor * x

        return Same()

    model = sequential(named(2.0), named(3.0), kl.BatchNormalization(), shape=(3, FEATURES))
    np.testing.assert_allclose(predict(models.freeze_batch_normalization(model)), predict(model), rtol=1e-5)


def test_a_copy_of_other_shapes_or_arguments_is_refused():
    class Forgets(keras.Model):
        def __init__(self, width=4, by=1.0, **kwargs):
            super().__init__(**kwargs)
            self.scale, self.wide, self.norm = Scale(by, name="scale"), Block(width), kl.BatchNormalization()

        def call(self, x):
            return self.norm(self.wide(self.scale(x)))

        def get_config(self):
            return {"name": self.name}

    with pytest.raises(ValueError, match=r"'scale' \(Scale\) has another class or arguments in a copy \(in_place"):
        models.freeze_batch_normalization(built(Forgets, by=2.0))
    with pytest.raises(
        ValueError, match=r"Received: model='\w+' of Forgets: '\w+' has weights of other shapes in a copy"
    ):
        models.freeze_batch_normalization(built(Forgets, width=8))
