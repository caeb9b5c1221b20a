"""What methods do where weights are split among processes (PyTorch's `fully_shard`), on two processes of gloo:

    torchrun --nproc_per_node 2 -m tests.training.sharding [METHOD ...]

prints, for each method on a tiny encoder without dropout, how far loss and gradients are from those of whole weights.
"""

from __future__ import annotations

import sys

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from mtrobust.perturb import METHODS
from tests.perturb.cells import batch_of, spec, step_of, tiny_mlm


def compare(name: str, mesh) -> str:
    """A line on one method."""
    batch = batch_of("bert", "Classification")
    whole, split = (step_of("bert", "Classification", [spec(name)], dropout=0.0) for _ in range(2))
    loss = whole(batch).loss
    loss.backward()
    for layer in split.model.encoder.layer_list:
        fully_shard(layer, mesh=mesh)
    fully_shard(split, mesh=mesh)
    try:
        other = split(batch).loss
        other.backward()
    except RuntimeError as error:
        return f"{name}: {str(error).partition(chr(10))[0][:120]}"
    grads = {name: p.grad.full_tensor() for name, p in split.named_parameters() if p.grad is not None}
    pairs = [(p.grad, grads[name]) for name, p in whole.named_parameters() if p.grad is not None]
    worst = max((a - b).abs().max().item() for a, b in pairs)
    return f"{name}: loss {(loss - other).abs().item():.1g}, gradients {worst:.1g}"


def main() -> None:
    """One line a method."""
    tiny_mlm()  # each process its own: once they know of each other, transformers writes in the first alone
    distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    for name in sys.argv[1:] or METHODS:
        line = compare(name, mesh)
        if distributed.get_rank() == 0:
            print(line, flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
