"""python on_torch_ranks.py COUNT OUT WAY: what the tests ask of COUNT ranks of torch.distributed, on the CPU by gloo.

Keras is imported once for all ranks, which are forked before anything runs on torch.
"""

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import torch
import torch.distributed as dist

import keras_norm as kn
from support import parts, trainings

COUNT, OUT = int(sys.argv[1]), Path(sys.argv[2])  # there is one way on torch
RENDEZVOUS = Path(tempfile.mkdtemp()) / "file"


class Collectives:
    """Counts the sums over all ranks that are asked for inside of it."""

    def __enter__(self):
        self.count, self._original = 0, dist.all_reduce
        dist.all_reduce = self._counted
        return self

    def __exit__(self, *error):
        dist.all_reduce = self._original

    def _counted(self, *args, **kwargs):
        self.count += 1
        return self._original(*args, **kwargs)


def array(tensor):
    return tensor.detach().float().numpy().copy()


def one_call(call, sizes, rank):
    """Output, gradients and the gradient of a gradient, on this rank's part."""
    layer = parts.made(call)
    x = torch.tensor(parts.inputs(sizes, call)[rank]).to(getattr(torch, layer.compute_dtype)).requires_grad_()
    cotangent, masks = torch.tensor(parts.cotangents(sizes)[rank]), parts.masks(sizes, call)
    mask = None if masks is None else torch.tensor(masks[rank])
    with Collectives() as of_training:
        y = layer(x, training=True, mask=mask)
    loss, sources = (y.float() * cotangent).sum(), [x, layer.gamma.value, layer.beta.value]
    dx, dgamma, dbeta = torch.autograd.grad(loss, sources, create_graph=True)
    (ddx,) = torch.autograd.grad((dx.float() ** 3).sum(), [x])
    with Collectives() as of_inference:
        layer(x, mask=mask)
    tensors = {"y": y, "dx": dx, "ddx": ddx, "dgamma": dgamma, "dbeta": dbeta}
    tensors |= {"moving_mean": layer.moving_mean.value, "moving_variance": layer.moving_variance.value}
    return {
        **{f"{call} {sizes} {name}": array(tensor) for name, tensor in tensors.items()},
        f"{call} {sizes} collectives": of_training.count,
        f"{call} {sizes} collectives of inference": of_inference.count,
    }


def trained(rank, synchronized):
    """The training of `trainings.trained` by DistributedDataParallel, each rank on its part of every batch."""
    model = trainings.convolutional(synchronized=synchronized)
    replica = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(replica.parameters(), 0.02, momentum=0.9)
    x, y = (torch.tensor(values) for values in trainings.images())
    for _ in range(trainings.EPOCHS):
        for batch in torch.arange(len(x)).split(trainings.BATCH):
            part = batch.tensor_split(COUNT)[rank]
            squares = (replica(x[part], training=True) - y[part]) ** 2
            optimizer.zero_grad()
            (COUNT * squares.sum() / len(batch)).backward()  # DDP divides by COUNT
            optimizer.step()
    copies = {f"copies {w.path.split('/')[-1]}": array(w.value) for w in model.weights}
    found = {**trainings.weights(model), **copies, "predict": array(model(torch.tensor(trainings.images(32)[0])))}
    return {f"training {synchronized} {name}": value for name, value in found.items()}


def alone(rank):
    """How many collectives it takes to build a layer that always trains, and on rank 0 to infer with it."""
    layer = kn.BatchNormalization(synchronized=True)
    with Collectives() as collectives:
        layer(keras.Input((4,)), training=True)
        if rank == 0:
            layer(torch.ones(2, 4))
    return {"alone": collectives.count}


def groups_of_3():
    return trainings.error_of(lambda: kn.BatchNormalization(synchronized=3)(torch.ones(2, 4), training=True))


def run(rank):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{RENDEZVOUS}", rank=rank, world_size=COUNT)
    found = {"error of groups of 3": groups_of_3(), **alone(rank)}
    for sizes in parts.SIZES[COUNT]:
        for call in parts.calls(COUNT):
            found |= one_call(call, sizes, rank)
    found |= {**trained(rank, True), **trained(rank, False)}
    np.savez(f"{OUT}.{rank}.npz", **found)
    dist.destroy_process_group()


def together(name, values):
    """What the ranks found, as one: parts of a batch, parts of a sum, copies, or the same on all of them."""
    last = name.split()[-1]
    if last in ("y", "dx", "ddx"):
        return np.concatenate(values)
    if last in ("dgamma", "dbeta"):
        return np.sum(values, 0)
    if "copies" in name or (last.startswith("moving") and "training" not in name):
        return np.array(values)
    return values[0]


if __name__ == "__main__":
    # Where one fails the others are ended.
    torch.multiprocessing.start_processes(run, nprocs=COUNT, start_method="fork")
    results = [np.load(f"{OUT}.{rank}.npz") for rank in range(COUNT)]
    np.savez(OUT, **{name: together(name, [result[name] for result in results]) for name in results[0]})
