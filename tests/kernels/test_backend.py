"""Who decides what runs: the devices of the mesh, not those of the process."""

import jax

from kernels.backend import choose, device


def test_the_devices_of_the_mesh_decide():
    tpu = jax.sharding.AbstractDevice(device_kind="TPU v5", num_cores=2, platform="tpu")
    mesh = jax.sharding.AbstractMesh((2,), ("data",), abstract_device=tpu)
    with jax.sharding.use_abstract_mesh(mesh):
        assert device() == ("tpu", "TPU v5")
        assert choose("tree_attention", "auto", interpret=False) == "pallas"
        inside = jax.jit(lambda x: x if device()[0] == "tpu" else -x)
        assert inside(1) == 1


def test_without_a_mesh_they_are_the_default_ones():
    assert device() == ("cpu", jax.devices()[0].device_kind)
    assert choose("tree_attention", "auto", interpret=False) == "xla"
