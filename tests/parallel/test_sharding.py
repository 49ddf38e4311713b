import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import Params, logical_axes, shapes
from pivotrl_jax.models.presets import SMOLLM2_135M
from pivotrl_jax.parallel import (
    AXES,
    MeshSettings,
    constrain,
    make_mesh,
    merged,
    rows,
    shardings,
    spec,
    unmerged,
)

WIDTH = ("fsdp", "context")


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        (MeshSettings(), (1, 8, 1, 1, 1)),
        (MeshSettings(data=-1, fsdp=1), (8, 1, 1, 1, 1)),
        (MeshSettings(data=2, fsdp=-1, tensor=2), (2, 2, 1, 1, 2)),
        (MeshSettings(data=1, fsdp=2, tensor=4), (1, 2, 1, 1, 4)),
        (MeshSettings(data=2, fsdp=4, tensor=-1), (2, 4, 1, 1, 1)),
        (MeshSettings(data=2, fsdp=1, tensor=2, expert=-1), (2, 1, 2, 1, 2)),
        (MeshSettings(fsdp=2, context=-1), (1, 2, 1, 4, 1)),
    ],
)
def test_every_device_has_a_place(settings, shape):
    mesh = make_mesh(settings)
    assert tuple(mesh.shape.items()) == tuple(zip(AXES, shape, strict=True))
    assert sorted(d.id for d in mesh.devices.flat) == sorted(d.id for d in jax.devices())


@pytest.mark.parametrize(
    "settings",
    [
        MeshSettings(data=3),
        MeshSettings(data=-1, fsdp=-1),
        MeshSettings(data=0),
        MeshSettings(data=-2, fsdp=1, tensor=-4),
        MeshSettings(data=16, fsdp=1),
    ],
)
def test_sizes_that_do_not_divide_the_devices_are_refused(settings):
    with pytest.raises(UserError, match=r"does not divide 8 devices; change mesh"):
        make_mesh(settings)


def test_idle_devices_are_refused():
    with pytest.raises(UserError, match=r"uses 2 of 8 devices; set one of .* to -1"):
        make_mesh(MeshSettings(data=2, fsdp=1, tensor=1))


def test_one_device_is_a_mesh_too():
    assert make_mesh(MeshSettings(), jax.devices()[:1]).size == 1


def test_a_dimension_that_does_not_divide_is_replicated():
    mesh = make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))
    axes = ("layers", "width", "kv_heads", None)
    assert spec(axes, (30, 576, 4, 64), mesh) == PartitionSpec(None, WIDTH, ("tensor",), None)
    # SmolLM2 has 3 key/value heads.
    assert spec(axes, (30, 576, 3, 64), mesh) == PartitionSpec(None, WIDTH, None, None)
    assert rows(mesh, (8, 5)).spec == PartitionSpec(("data", "fsdp", "expert"), None)
    assert rows(mesh, (6, 5)).spec == PartitionSpec(None, None)
    assert rows(mesh, (3, 4), axis=1).spec == PartitionSpec(None, ("data", "fsdp", "expert"))


@pytest.mark.parametrize("axes", [("ffn", "vocab"), ("rows", "width"), ("width", "width")])
def test_a_mesh_axis_used_twice_is_an_error(axes):
    mesh = make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))
    with pytest.raises(ValueError, match="use a mesh axis twice"):
        spec(axes, (8, 8), mesh)


def test_an_unknown_logical_axis_is_an_error():
    with pytest.raises(KeyError, match="widht"):
        spec(("widht",), (8,), make_mesh(MeshSettings()))


def test_every_large_matrix_of_a_published_model_is_split():
    mesh = make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))
    layout = shardings(shapes(SMOLLM2_135M), logical_axes(SMOLLM2_135M), mesh)
    assert isinstance(layout, Params)
    for leaf, sharding in zip(
        jax.tree.leaves(shapes(SMOLLM2_135M)), jax.tree.leaves(layout), strict=True
    ):
        shard = jnp.prod(jnp.array(sharding.shard_shape(leaf.shape)))
        # Both axes, or fsdp alone where only the 3 key/value heads could go to tensor.
        assert leaf.size / shard in (2, 4)


def test_activations_are_pinned_inside_jit():
    mesh = make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        pinned = jax.jit(lambda x: constrain(x, "rows", None))(jnp.zeros((8, 3)))
    assert pinned.sharding.is_equivalent_to(rows(mesh, (8, 3)), 2)
    assert constrain(jnp.zeros((8, 3)), "rows", None).sharding.num_devices == 1


def test_rows_are_merged_where_they_lie():
    """Two rows a device along fsdp, and their places in four parts: nothing has to travel."""
    mesh = make_mesh(MeshSettings(fsdp=2, context=4))
    x = jnp.arange(4 * 8 * 3.0).reshape(4, 8, 3)

    def there_and_back(x):
        flat = constrain(merged(constrain(x, "rows", "places", None)), "tokens", None)
        return flat, constrain(unmerged(flat, x.shape[:2]), "rows", "places", None)

    with jax.set_mesh(mesh):
        placed = jax.device_put(
            x, jax.NamedSharding(mesh, spec(("rows", "places", None), x.shape, mesh))
        )
        run = jax.jit(there_and_back).lower(placed).compile()
        flat, back = run(placed)
    assert (back == x).all()
    text = run.as_text()
    assert not any(name in text for name in ("all-to-all", "all-gather", "collective-permute"))
    for device, own in enumerate(flat.addressable_shards):
        row, place = divmod(device, 4)
        assert (own.data.reshape(2, 2, 3) == x[2 * row :][:2, 2 * place :][:, :2]).all()


def test_what_does_not_divide_is_merged_row_by_row():
    x = jnp.arange(4 * 6.0).reshape(4, 6)
    with jax.set_mesh(make_mesh(MeshSettings(fsdp=2, context=4))):
        flat = merged(x)
        assert (flat == x.reshape(-1)).all()
        assert (unmerged(flat, (4, 6)) == x).all()
    assert (merged(x) == x.reshape(-1)).all()
