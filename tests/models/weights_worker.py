"""Loads and saves a model as one of two processes with two devices each, for test_weights_hosts.py.

Arguments: number of the process, coordinator, the directory to load and the one to save to. Prints
the bytes that this process read, those of the parameters that its devices hold, and those of all.
"""

import sys
from pathlib import Path

import jax

from pivotrl_jax.models import huggingface, logical_axes, safetensors, shapes
from pivotrl_jax.parallel import MeshSettings, make_mesh, shardings

PROCESSES = 2


def main(process: int, coordinator: str, source: Path, target: Path) -> None:
    jax.distributed.initialize(coordinator, PROCESSES, process)
    cfg = huggingface.read_config(source)
    layout = shardings(shapes(cfg), logical_axes(cfg), make_mesh(MeshSettings(tensor=2)))
    read, tensor_read = [], safetensors.Tensor.read

    def recorded(tensor, part):
        found = tensor_read(tensor, part)
        read.append(found.nbytes)
        return found

    safetensors.Tensor.read = recorded
    params = huggingface.load(source, cfg, layout)
    huggingface.save(target, params, cfg, shard_bytes=60_000)
    held = 0
    for leaf in jax.tree.leaves(params):
        held += sum({str(x.index): x.data.nbytes for x in leaf.addressable_shards}.values())
    print(sum(read), held, sum(leaf.nbytes for leaf in jax.tree.leaves(params)))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
