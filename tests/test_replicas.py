"""Several replicas against one device on the global batch. Each number of replicas runs in a separate process."""

from functools import cache
from typing import NamedTuple

import keras
import numpy as np
import pytest

import keras_norm as kn
from keras_norm.kernels.replicas import Replicas
from support import parts, processes, trainings
from support.backends import BACKEND, array, gradients, tensorflow_only
from support.wrapped_layers import WRAPPERS


class Run(NamedTuple):
    """A run of the backend's script: how many replicas it has, and what it does."""

    count: int
    way: str = "as it is"


TWO, TWO_COMPILED, TWO_SAVED = Run(2), Run(2, "as on a GPU"), Run(2, "checkpoints")
JAX, JAX_IN_TWO = Run(4), Run(4, "in two processes")
RUNS = {
    "tensorflow": [Run(1), TWO, TWO_COMPILED, Run(4)],
    "torch": [TWO, Run(3), Run(4)],
    "jax": [JAX, JAX_IN_TWO],
}[BACKEND]
MOVING = [
    kn.BatchNormalization,
    kn.BatchRenormalization,
    kn.BatchInstanceNormalization,
    kn.MeanOnlyBatchNormalization,
    kn.SwitchableNormalization,
]
QUICKEST = JAX if BACKEND == "jax" else TWO  # shows what there is to see
SCRIPT = {"tensorflow": "on_replicas.py", "torch": "on_torch_ranks.py", "jax": "on_jax_devices.py"}[BACKEND]
SIZES = {4: [parts.SAMPLES_ON_JAX]} if BACKEND == "jax" else parts.SIZES


def of_runs(runs, names="run", values=lambda run: [(run,)]):
    """Parametrizes a test. One test process waits for a run, and all runs but one are slow."""
    return pytest.mark.parametrize(
        names,
        [
            pytest.param(
                *value,
                id=f"{run.count} {run.way}{''.join(f' {v}' for v in value[1:])}",
                marks=[
                    pytest.mark.xdist_group(f"{run.count} {run.way}"),
                    *([] if run == QUICKEST else [pytest.mark.slow]),
                ],
            )
            for run in runs
            for value in values(run)
        ],
    )


every_run = of_runs(RUNS)
every_case = of_runs(RUNS, ("run", "sizes"), lambda run: [(run, sizes) for sizes in SIZES[run.count]])
two_replicas, two_replicas_compiled_or_not = of_runs([TWO]), of_runs([TWO, TWO_COMPILED])
PAIRS = [call for call in parts.CALLS if "pairs" in call]
OTHER_PAIRS = [call for call in PAIRS if "layer" in parts.CALLS[call]]
OTHERS = [call for call, kwargs in parts.CALLS.items() if "layer" in kwargs and "synchronized" in kwargs]
OTHERS = [call for call in OTHERS if call not in PAIRS]
with_replicas = pytest.mark.skipif(BACKEND == "jax", reason="on JAX a batch is one array on all devices")
SYNCHRONIZED = [
    call for call in parts.CALLS if call not in OTHERS + PAIRS and "offset" not in call and "plain" not in call
]
UNIT = {"mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    """`found(run)` is what the run found, by name."""
    folder = tmp_path_factory.mktemp("replicas")

    @cache
    def of(run):
        path = folder / f"{run.count} {run.way}.npz"
        for _ in range(5):
            if run == JAX_IN_TWO:
                processes.finish(processes.start_jax_processes(SCRIPT, run.count, path, run.way))
                return processes.results(path)
            if processes.finish_one(processes.start(SCRIPT, run.count, path, run.way)):
                return processes.results(path)
        raise AssertionError(f"{BACKEND} crashed five times with {run.count} replicas")

    return of


class Joined:
    """The batch of a case as one device has it, in the numbers that the call's dtype holds."""

    def __init__(self, sizes, call):
        dtype = "float16" if call == "mixed_float16" else "float32"
        self.parts = [x.astype(dtype).astype("float64") for x in parts.inputs(sizes, call)]
        if call == "mixed_bfloat16":
            self.parts = [bfloat16(x) for x in self.parts]
        self.masks = parts.masks(sizes, call)
        self.x = np.concatenate(self.parts)
        self.mask = None if self.masks is None else np.concatenate(self.masks)
        self.cotangents = [part.astype("float64") for part in parts.cotangents(sizes)]
        self.cotangent = np.concatenate(self.cotangents)

    def pairs(self):
        """Inputs, mask and cotangent of each two neighbors."""
        for k in range(0, len(self.parts), 2):
            mask = None if self.masks is None else np.concatenate(self.masks[k : k + 2])
            yield np.concatenate(self.parts[k : k + 2]), mask, np.concatenate(self.cotangents[k : k + 2])


def pair_slices(sizes):
    """Where in a batch each two neighbors have their samples."""
    ends = np.cumsum([0, *sizes])
    return [slice(ends[k], ends[k + 2]) for k in range(0, len(sizes), 2)]


def bfloat16(x):
    return keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(x, "bfloat16"), "float32")).astype("float64")


def close(got, want, call="synchronized"):
    """Within 2e-5 of the values' size in float32, or within the rounding of a narrower dtype."""
    unit = UNIT.get(call, 2e-5)
    np.testing.assert_allclose(got, want, rtol=unit, atol=unit * max(1.0, np.abs(want).max(initial=0.0)))


@every_case
@pytest.mark.parametrize("call", SYNCHRONIZED)
def test_a_synchronized_layer_equals_one_device_on_the_global_batch(found, run, sizes, call):
    one, got = Joined(sizes, call), found(run)
    close(got[f"{call} {sizes} y"], parts.batch_norm(one.x, one.mask), call)
    dx, dgamma, dbeta = parts.gradients(one.x, one.cotangent, one.mask)
    close(got[f"{call} {sizes} dx"], dx, call)
    close(got[f"{call} {sizes} dgamma"], dgamma, call)
    close(got[f"{call} {sizes} dbeta"], dbeta, call)
    mean, variance = parts.followed([one.x], [one.mask])
    for copy in range(run.count):
        close(got[f"{call} {sizes} moving_mean"][copy], mean)
        close(got[f"{call} {sizes} moving_variance"][copy], variance)


@every_case
@pytest.mark.parametrize("call", OTHERS)
def test_the_other_layers_over_the_batch_equal_themselves_on_one_device(found, run, sizes, call):
    one, layer = Joined(sizes, call), parts.made(call)
    y = array(layer(one.x.astype("float32"), training=True))
    close(found(run)[f"{call} {sizes} y"], y)
    again = parts.made(call)
    dx, dgamma, dbeta = gradients(again, one.x.astype("float32"), one.cotangent.astype("float32"), training=True)[:3]
    for name, want in {"dx": dx, "dgamma": dgamma, "dbeta": dbeta}.items():
        close(found(run)[f"{call} {sizes} {name}"], want)
    for name in ("moving_mean", "moving_variance"):
        close(found(run)[f"{call} {sizes} {name}"][0], array(getattr(layer, name)))


@with_replicas
@of_runs(RUNS[1:], ("run", "sizes"), lambda run: [(run, s) for s in SIZES[run.count] if 0 not in s])
def test_a_plain_layer_differs_from_the_global_batch_visibly(found, run, sizes):
    y = found(run)[f"plain {sizes} y"]
    assert np.abs(y - parts.batch_norm(Joined(sizes, "plain").x)).max() > 0.5


@with_replicas
@every_case
@pytest.mark.parametrize("call", ["plain", "plain, mask of inputs"])
def test_a_plain_layer_stores_the_mean_over_the_replicas_that_saw_a_channel(found, run, sizes, call):
    one, got = Joined(sizes, call), found(run)
    y = [parts.batch_norm(x, m) for x, m in zip(one.parts, one.masks or [None] * run.count, strict=True)]
    close(got[f"{call} {sizes} y"], np.concatenate(y))
    for name, want in zip(("moving_mean", "moving_variance"), parts.followed(one.parts, one.masks), strict=True):
        close(got[f"{call} {sizes} {name}"], np.broadcast_to(want, (run.count, parts.CHANNELS)))


@every_case
def test_runs_of_samples_lie_within_a_replica_and_statistics_follow_those_of_all(found, run, sizes):
    call = "plain, runs of 2"
    one, got = Joined(sizes, call), found(run)
    runs = [part[i : i + 2] for part in one.parts for i in range(0, len(part), 2)]
    close(got[f"{call} {sizes} y"], np.concatenate([parts.batch_norm(x) for x in runs]))
    for name, want in zip(("moving_mean", "moving_variance"), parts.followed(runs), strict=True):
        close(got[f"{call} {sizes} {name}"], np.broadcast_to(want, (run.count, parts.CHANNELS)))


@every_case
@pytest.mark.parametrize(("call", "tolerance"), [("offset 1e3", 1e-5), ("offset 1e4", 1e-4)])
def test_the_global_variance_survives_an_offset(found, run, sizes, call, tolerance):
    _, variance, _ = parts.statistics(Joined(sizes, call).x)
    np.testing.assert_allclose(found(run)[f"{call} {sizes} moving_variance"][0], variance, rtol=tolerance)


@with_replicas
@of_runs(RUNS, ("run", "call"), lambda run: [(run, call) for call in parts.calls(run.count)])
def test_a_step_takes_two_collectives_three_for_groups_one_for_a_plain_layer_and_none_on_one_replica(found, run, call):
    first = SIZES[run.count][0]
    per_layer = 0 if run.count == 1 else 1 if "plain" in call else 3 if "pairs" in call else 2
    assert found(run)[f"{call} {first} collectives"] == per_layer
    assert found(run)[f"{call} {first} collectives of inference"] == 0


@of_runs(
    [run for run in RUNS if run.count == 4],
    ("run", "sizes"),
    lambda run: [(run, sizes) for sizes in SIZES[run.count]],
)
class TestPairs:
    """Layers with `synchronized=2` on four replicas."""

    @pytest.mark.parametrize("call", [call for call in PAIRS if call not in OTHER_PAIRS])
    def test_each_pair_equals_one_device_on_its_own_batch(self, found, run, sizes, call):
        one, got = Joined(sizes, call), found(run)
        pairs = list(one.pairs())
        close(got[f"{call} {sizes} y"], np.concatenate([parts.batch_norm(x, mask) for x, mask, _ in pairs]))
        dx, dgamma, dbeta = zip(*(parts.gradients(x, cotangent, mask) for x, mask, cotangent in pairs), strict=True)
        close(got[f"{call} {sizes} dx"], np.concatenate(dx))
        close(got[f"{call} {sizes} dgamma"], sum(dgamma))
        close(got[f"{call} {sizes} dbeta"], sum(dbeta))

    @pytest.mark.parametrize("call", OTHER_PAIRS)
    def test_the_other_layers_equal_themselves_on_one_device_with_the_batch_of_a_pair(self, found, run, sizes, call):
        for at, (x, _, cotangent) in zip(pair_slices(sizes), Joined(sizes, call).pairs(), strict=True):
            x, cotangent = x.astype("float32"), cotangent.astype("float32")
            close(found(run)[f"{call} {sizes} y"][at], array(parts.made(call)(x, training=True)))
            dx = gradients(parts.made(call), x, cotangent, training=True)[0]
            close(found(run)[f"{call} {sizes} dx"][at], dx)

    @pytest.mark.parametrize("call", PAIRS)
    def test_every_replica_stores_the_mean_over_the_pairs_that_saw_a_channel(self, found, run, sizes, call):
        xs, masks, _ = zip(*Joined(sizes, call).pairs(), strict=True)
        mean, variance = parts.followed(xs, masks)
        if "renorm" in call:  # it follows the deviation
            _, of_batch = parts.followed(xs, masks, momentum=0.0)
            deviation = parts.MOMENTUM * np.sqrt(1.0 + parts.EPSILON)
            deviation += (1.0 - parts.MOMENTUM) * np.sqrt(of_batch + parts.EPSILON)
            variance = deviation**2 - parts.EPSILON
        for name, want in (("mean", mean), ("variance", variance)):
            got = found(run)[f"{call} {sizes} moving_{name}"]
            close(got, np.broadcast_to(want, (run.count, parts.CHANNELS)))


@of_runs([run for run in RUNS if run != JAX_IN_TWO])
def test_groups_that_do_not_divide_the_replicas_are_refused(found, run):
    said, divisors = str(found(run)["error of groups of 3"]), {2: "1, 2", 4: "1, 2, 4"}.get(run.count)
    if divisors is None:  # one replica has no others to join, and three are a group of 3
        assert said == ""
    else:
        assert (
            "BatchNormalization: synchronized must divide the number of replicas. "
            f"Received: synchronized=3 on {run.count} replicas (divisors: {divisors})."
        ) in said


@pytest.mark.skipif(BACKEND != "torch", reason="torch differentiates operation by operation")
@every_case
@pytest.mark.parametrize("call", ["synchronized", "mask of inputs"])
def test_the_gradient_of_a_gradient_equals_that_of_one_device(found, run, sizes, call):
    import torch

    one, layer = Joined(sizes, call), parts.made(call)
    x = torch.tensor(one.x.astype("float32"), requires_grad=True)
    mask = None if one.mask is None else torch.tensor(one.mask)
    loss = (layer(x, training=True, mask=mask) * torch.tensor(one.cotangent.astype("float32"))).sum()
    (dx,) = torch.autograd.grad(loss, [x], create_graph=True)
    (ddx,) = torch.autograd.grad((dx**3).sum(), [x])
    close(found(run)[f"{call} {sizes} ddx"], array(ddx))


@pytest.mark.skipif(BACKEND != "torch", reason="its subject is torch.distributed")
@every_run
def test_a_rank_infers_alone_and_a_model_is_made_without_collectives(found, run):
    assert found(run)["alone"] == 0


# fit, evaluate and predict


@pytest.fixture(scope="module")
def one_device():
    return trainings.trained(trainings.convolutional())


@with_replicas
@every_run
def test_training_on_replicas_equals_training_on_one_device(found, one_device, run):
    of_a_loop = ("weight", "predict")
    wanted = {k: v for k, v in one_device.items() if BACKEND != "torch" or k.startswith(of_a_loop)}
    for name, want in wanted.items():
        np.testing.assert_allclose(found(run)[f"training True {name}"], want, rtol=2e-5, atol=2e-5, err_msg=name)
    if run.count > 1:
        control = {name: found(run)[f"training False {name}"] for name in ("history loss", "predict") if name in wanted}
        assert all(np.abs(value - one_device[name]).max() > 0.01 for name, value in control.items())


@with_replicas
@every_run
@pytest.mark.parametrize("synchronized", [True, False])
def test_all_replicas_hold_the_same_weights_after_training(found, run, synchronized):
    copies = {k: v for k, v in found(run).items() if k.startswith(f"training {synchronized} copies")}
    assert any("moving_variance" in name for name in copies)
    for name, values in copies.items():
        np.testing.assert_array_equal(values, np.broadcast_to(values[0], values.shape), err_msg=name)


@tensorflow_only
@every_run
@pytest.mark.parametrize("synchronized", [True, False])
def test_a_saved_model_predicts_as_the_live_one(found, run, synchronized):
    live = found(run)[f"training {synchronized} predict"]
    np.testing.assert_allclose(found(run)[f"training {synchronized} loaded predict"], live, rtol=1e-5, atol=1e-6)


@tensorflow_only
@two_replicas_compiled_or_not
def test_uneven_batches_and_an_empty_part_equal_one_device_with_keras_scale_of_the_loss(found, run):
    # Keras takes the mean over a replica's samples and divides it by the number of replicas.
    x, y = trainings.images(11)
    scale = np.concatenate([[n / (2 * part)] * part for n, part in ((5, 3), (5, 2), (5, 3), (5, 2), (1, 1))])
    model = trainings.dense()
    model.fit(x, y, sample_weight=scale, batch_size=5, epochs=2, shuffle=False, verbose=0)
    want = trainings.weights(model) | {
        "evaluate": model.evaluate(x, y, verbose=0),
        "predict": model.predict(x, verbose=0),
    }
    for name, value in want.items():
        np.testing.assert_allclose(found(run)[f"uneven True {name}"], value, rtol=2e-5, atol=2e-5, err_msg=name)


@tensorflow_only
@two_replicas_compiled_or_not
def test_a_plain_layer_stays_finite_when_a_replica_goes_empty(found, run):
    values = {k: v for k, v in found(run).items() if k.startswith("uneven False")}
    assert len(values) > 8
    assert all(np.isfinite(value).all() for value in values.values())


@tensorflow_only
@two_replicas_compiled_or_not
def test_keras_cannot_build_from_an_uneven_first_batch(found, run):
    assert "must have the same size and shape" in str(found(run)["uneven error of keras.Model"])


# Recalibration and re-parametrization


@tensorflow_only
@two_replicas
@pytest.mark.parametrize("library", ["ours", "keras"])
@pytest.mark.parametrize("synchronized", [True, False])
def test_recalibration_on_two_replicas_equals_one_device(found, run, library, synchronized):
    prefix = f"recalibrated {library} {synchronized} "
    results = {name: value for name, value in found(run).items() if name.startswith(prefix)}
    assert len(results) == 4
    for name, (got, want) in results.items():
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=name)


@tensorflow_only
@of_runs([TWO_SAVED])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_training_wrapped_layers_on_two_replicas_equals_training_on_one_device(found, run, wrapper):
    model, _, _ = trainings.wrapped(wrapper)
    for name, value in trainings.weights(model).items():
        got = found(run)[f"wrapped {wrapper.__name__} {name}"]
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-5, err_msg=name)


@tensorflow_only
@of_runs([TWO_SAVED])
@pytest.mark.parametrize("name", ["layers", *(wrapper.__name__ for wrapper in WRAPPERS)])
def test_a_checkpoint_restores_weights_and_predictions_on_every_replica(found, run, name):
    results = {key: values for key, values in found(run).items() if key.startswith(f"checkpoint of {name} ")}
    assert len(results) > 40
    for key, values in results.items():
        np.testing.assert_array_equal(values, np.broadcast_to(values[0], values.shape), err_msg=key)


# Without replicas


@pytest.mark.quick
def test_nothing_is_summed_without_a_strategy():
    tensors = (keras.ops.ones(3), keras.ops.ones((1, 2)))
    assert Replicas()(tensors) is tensors


@pytest.mark.quick
def test_a_single_replica_is_a_group_of_any_size():
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    close(array(kn.BatchNormalization(synchronized=3)(x, training=True)), (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3))


@pytest.mark.quick
@pytest.mark.parametrize("synchronized", [True, False, 1, 2])
@pytest.mark.parametrize("layer", MOVING)
def test_a_config_keeps_what_was_given_for_synchronized(layer, synchronized):
    kept = layer.from_config(layer(synchronized=synchronized).get_config()).synchronized
    assert (kept, type(kept)) == (synchronized, type(synchronized))


# On JAX

on_jax = pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution.DataParallel is for JAX")


@on_jax
@of_runs(RUNS)
@pytest.mark.parametrize("synchronized", [True, False])
def test_training_on_four_devices_equals_one_device_with_or_without_synchronized(found, one_device, run, synchronized):
    assert found(run)["devices"] == run.count
    for name, want in one_device.items():
        if name == "predict" and run == JAX_IN_TWO:
            continue  # Keras does not predict in several processes
        got = found(run)[f"training {synchronized} {name}"]
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=name)


@on_jax
@of_runs([JAX_IN_TWO])
def test_keras_still_cannot_predict_in_several_processes(found, run):
    assert "non-addressable" in str(found(run)["error of predict"])


@on_jax
@of_runs(RUNS)
def test_fit_on_jax_takes_the_statistics_of_pairs(found, one_device, run):
    losses = found(run)["history of pairs"]
    assert np.isfinite(losses).all()
    assert np.abs(losses - one_device["history loss"]).max() > 0.01


@on_jax
@of_runs([JAX])
def test_mean_only_takes_the_mean_of_pairs(found, run):
    x = np.arange(8.0) ** 2  # one device has two samples
    close(found(run)["mean only"][:, 0], np.concatenate([x[:4] - x[:4].mean(), x[4:] - x[4:].mean()]))


@on_jax
@of_runs([JAX])
def test_the_replicas_of_a_mesh_are_those_along_its_batch_axis(found, run):
    assert "Received: synchronized=3 on 2 replicas" in str(found(run)["error on a mesh of 2 by 2"])


@on_jax
@of_runs([JAX])
def test_a_layer_of_pairs_is_built_with_any_number_of_samples(found, run):
    assert found(run)["built while training"] == 3


@on_jax
@of_runs([JAX])
@pytest.mark.parametrize(("wrong", "words"), [("7 samples", "7 samples, 2 groups of replicas"), ("axis 0", "axis=0")])
def test_samples_that_do_not_fall_into_groups_are_refused(found, run, wrong, words):
    said = str(found(run)[f"error of {wrong}"])
    assert "with an integer for synchronized the samples on axis 0 must split evenly into groups. Received: " in said
    assert words in said
