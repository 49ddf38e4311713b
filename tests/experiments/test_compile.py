"""Reading compiled programs, the tables made of them, and the end of the command."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from experiments import compile as command_line
from experiments import flops, swe
from experiments.plans import sweep
from experiments.plans.chips import CHIPS, chip_of, count_chips
from experiments.plans.hlo import Trips, collective, executed, group_size, parse, size, trips
from experiments.plans.kernels import RATES, call
from experiments.plans.measure import Exchange, Memory, Work, refused, short, work
from experiments.plans.plan import Measured
from experiments.plans.steps import (
    Plan,
    Sampling,
    Training,
    bytes_per_device,
    pairs,
    seen_share,
)
from experiments.plans.table import exchange_table, memory_table, run_line, tables, time_table
from pivotrl_jax.errors import UserError
from pivotrl_jax.models import shapes
from pivotrl_jax.models.presets import PUBLISHED, QWEN_3_30B_A3B, published, shrink
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.trees import Tree, build_row

ROOT = Path(__file__).parents[2]
GIB = 2**30

# As libtpu prints programs, with all that does not matter here left out.
TEXT = """\
HloModule jit_update, is_scheduled=true

%inner_body (p: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %x = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %dot = bf16[8,128]{1,0} fusion(%x), kind=kOutput, calls=%product, metadata={op_name="jit(update)/while/body/transpose(jvp())/ffn/dot_general"}, backend_config={"window_config":{"estimated_cycles":"100"}}
  ROOT %t = (s32[], bf16[8,128]) tuple(%p, %dot)
}

%inner_cond (p: (s32[], bf16[8,128])) -> pred[] {
  %n = s32[]{:T(128)} constant(6)
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%body (p: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %p = (s32[], bf16[8,128]{1,0}) parameter(0)
  %w = bf16[8,128]{1,0} get-tuple-element(%p), index=1
  %all-gather.1 = bf16[32,128]{1,0:T(8,128)(2,1)} all-gather(%w), channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={0}
  %fusion.1 = bf16[8,128]{1,0} fusion(%all-gather.1), kind=kCustom, calls=%all-reduce-scatter
  ROOT %while.1 = (s32[], bf16[8,128]{1,0}) while(%p), condition=%inner_cond, body=%inner_body
}

%cond (p: (s32[], bf16[8,128])) -> pred[] {
  %n = s32[] constant(10)
  %p = (s32[], bf16[8,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %more = pred[] get-tuple-element(%p), index=2
  %lt = pred[] compare(%i, %n), direction=LT
  ROOT %and = pred[] and(%lt, %more)
}

%all-reduce-scatter (input: bf16[32,128]) -> bf16[8,128] {
  %input = bf16[32,128]{1,0} parameter(0)
  %all-reduce.9 = bf16[32,128]{1,0} all-reduce(%input), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %dynamic-slice = bf16[8,128]{1,0} dynamic-slice(%all-reduce.9)
}

%cheap (p: bf16[8,128]) -> bf16[8,128] {
  ROOT %a = bf16[8,128]{1,0} fusion(%p), calls=%product, backend_config={"estimated_cycles":"7"}
}

%dear (p: bf16[8,128]) -> bf16[8,128] {
  ROOT %b = bf16[8,128]{1,0} fusion(%p), calls=%product, backend_config={"estimated_cycles":"1000"}
}

ENTRY %main (a: (s32[], bf16[8,128])) -> bf16[8,128] {
  %a = (s32[], bf16[8,128]{1,0}) parameter(0)
  %while.2 = (s32[], bf16[8,128]{1,0}) while(%a), condition=%cond, body=%body
  %x = bf16[8,128]{1,0} get-tuple-element(%while.2), index=1
  %permute = (bf16[8,128]{1,0}, bf16[8,128]{1,0}, u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  ROOT %conditional = bf16[8,128]{1,0} conditional(%i, %x, %x), branch_computations={%cheap, %dear}
}
"""  # noqa: E501
SHARD = 8 * 128 * 2


def test_loops_multiply_what_is_inside():
    program = parse(TEXT)
    cycles = sum(x.times * x.instruction.cycles for x in executed(program))
    assert cycles == 10 * 6 * 100 + 1000  # of the conditional's branches the dearer one


@pytest.mark.parametrize(
    ("bounds", "mode"),
    [('"4","1","2","1","50"', "ITERATION_INDICES"), ('"1","4","1","1","50"', "GROUP_STARTS")],
)
def test_a_masked_product_does_the_blocks_of_its_groups(bounds: str, mode: str):
    """As libtpu prints the gradient of experts on v5p and on v6e: of 50 blocks of rows for each of
    four experts 53 are inside of one, three of them of two."""
    config = (
        f'"window_config":{{"estimated_cycles":"4000","iteration_bounds":[{bounds}]}},'
        f'"mask_aggregator_config":{{"iteration_skipper_mode":"ITERATION_SKIPPER_MODE_{mode}"}}'
    )
    text = TEXT.replace('"estimated_cycles":"1000"', config)
    text = text.replace("%b = bf16[8,128]", "%b = bf16[4,2,128]")
    (masked,) = (x.instruction for x in executed(parse(text)) if x.instruction.inside)
    assert (masked.name, masked.cycles) == ("b", 4000 * 53 / 200)
    assert work(text, CHIPS["v5p"], seen=1.0).masked_products == 1


def test_a_condition_that_asks_for_more_gives_a_bound_only():
    program = parse(TEXT)
    whole = {x.instruction.name: x for x in executed(program)}
    assert trips(program, whole["while.2"].instruction) == Trips(10, exact=False)
    assert trips(program, whole["while.1"].instruction) == Trips(6)
    assert not whole["dot"].exact
    assert whole["permute"].exact


def test_collectives_by_kind_count_what_one_device_receives():
    found = work(TEXT, CHIPS["v5p"], seen=1.0)
    assert [(x.kind, x.count, x.bytes) for x in found.exchanges] == [
        ("all-gather", 10, 10 * 3 * SHARD),
        ("collective-permute", 1, SHARD),
        ("reduce-scatter", 10, 10 * 3 * SHARD),
    ]
    assert found.links == pytest.approx(61 * SHARD / CHIPS["v5p"].links)
    assert found.compiler == pytest.approx(7000 / 1.75e9)
    assert found.slowest[0].name == "backward ffn dot_general"


@pytest.mark.parametrize(
    ("printed", "devices"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, x", 4),
        ("replica_groups=[16,8]<=[128], dimensions={0}", 8),
        ("replica_groups=[16,8]<=[8,16]T(1,0), dimensions={0}", 8),
        ("replica_groups=mesh['a'=4,'b'=2,'c'=16] {'a','c'}, dimensions={1}", 64),
    ],
)
def test_replica_groups_are_printed_in_three_ways(printed: str, devices: int):
    assert group_size(printed) == devices


def test_bytes_of_a_printed_shape():
    assert size("bf16[4,512]{1,0:T(8,128)(2,1)}") == 4096
    assert size("(f32[2,3]{1,0}, pred[7]{0}, s32[]{:T(128)}, s4[8]{0})") == 24 + 7 + 4 + 4


def test_a_compiled_program_has_the_collectives_that_it_was_written_with():
    """Five sums over four devices, and what one all-gather at the end brings."""
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("x",))

    def local(x: jax.Array) -> jax.Array:
        x = jax.lax.fori_loop(0, 5, lambda i, x: jax.lax.psum(jnp.sin(x), "x"), x)
        return jax.lax.all_gather(x, "x")

    spec = PartitionSpec("x")
    run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    program = parse(run.lower(jnp.zeros(4 * 256)).compile().as_text())
    found = {}
    for x in executed(program):
        if one := collective(program, x.instruction):
            assert x.exact
            found[one.kind] = (x.times, one.bytes, one.devices)
    assert found == {
        "all-reduce": (5, 2 * 1024 * 3 / 4, 4),
        "all-gather": (1, 4 * 1024 * 3 / 4, 4),
    }


def test_what_a_sparse_core_does_counts():
    """v7x gathers there."""
    text = """
%called (p: f32[256]) -> f32[1024] {
  %p = f32[256]{0} parameter(0)
  ROOT %all-gather.1 = f32[1024]{0} all-gather(%p), replica_groups={{0,1,2,3}}, dimensions={0}
}

ENTRY %main (a: f32[256]) -> f32[1024] {
  %a = f32[256]{0} parameter(0)
  %start = ((f32[256]{0}), f32[1024]{0}, u32[]{:S(8)}) call-start(%a), \
async_execution_thread="sparsecore", to_apply=%called
  ROOT %done = f32[1024]{0} call-done(%start)
}
"""
    (found,) = work(text, CHIPS["7x"], seen=1.0).exchanges
    assert (found.kind, found.count, found.bytes) == ("all-gather", 1, 3 * 1024)


def kernel(name: str, operands: str, result: str) -> str:
    return (
        f"ENTRY %main (a: f32[]) -> f32[] {{\n  ROOT %{name}.3 = {result} custom-call(%a), "
        'custom_call_target="tpu_custom_call", '
        f"operand_layout_constraints={{{operands}}}, frontend_attributes={{}}\n}}\n"
    )


@pytest.mark.parametrize(
    ("name", "operands", "result", "flops"),
    [
        ("linear_logprob", "bf16[512,64]{1,0}, bf16[1000,64]{1,0}, s32[1,512]{1,0}", "f32[2,1,512]",
         2 * 512 * 1000 * 64),
        ("tree_attention_attend", "s32[1,4]{1,0}, s32[1,4,4]{2,1,0}, s32[1,1,4,2048]{3,2,1,0}, "
         "bf16[1,8,2,2048,128]{4,3,2,1,0}, bf16[1,8,8192,128]{3,2,1,0}, "
         "bf16[1,8,8192,128]{3,2,1,0}", "bf16[1,8,2,128,2048]", 4 * 16 * 2048 * 8192 * 128 / 4),
        ("tree_decode", "s32[4]{0}, s32[4,1,32,1]{3,2,1,0}, bf16[4,8,32,128]{3,2,1,0}, "
         "bf16[4,8,128,4096]{3,2,1,0}, bf16[4,8,4096,128]{3,2,1,0}", "f32[4,8,32,128]",
         4 * 4 * 8 * 32 * 4096 * 128),
    ],
)  # fmt: skip
def test_kernels_by_their_operands(name: str, operands: str, result: str, flops: float):
    (instruction,) = parse(kernel(name, operands, result)).computations["main"].values()
    found = call(instruction, seen=0.25)
    assert found is not None
    assert (found.kernel, found.flops) == (name, flops)
    chip = CHIPS["7x"]
    rate = {"tree_decode": 0.80}.get(name) or RATES[name][4]
    by_flops, by_bytes = flops / (rate * chip.peak), found.bytes / chip.bandwidth
    # A device of this chip is half of it.
    assert found.seconds(chip) == pytest.approx(2 * max(by_flops, by_bytes))


def test_what_has_no_estimate_counts_nothing_and_is_named():
    """libtpu then prints the largest number there is."""
    text = """
ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %b = f32[8]{0} negate(%a), backend_config={"estimated_cycles":"175"}
  ROOT %c = f32[8]{0} sine(%b), backend_config={"estimated_cycles":"9223372036854775807"}
}
"""
    found = work(text, CHIPS["v5p"], seen=1.0)
    assert found.compiler == pytest.approx(175 / 1.75e9)
    assert found.endless == ["sine f32[8]{0}"]


def test_a_kernel_that_is_not_known_is_named():
    text = kernel("gmm", "bf16[128,128]{1,0}", "bf16[128,128]")
    assert work(text, CHIPS["v5e"], seen=1.0).unknown_kernels == ["gmm"]


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 113.33G of 95.74G hbm. "
         "Exceeded hbm capacity by 17.59G.", 113.33),
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
         "temporaries (640.00G) exceeds available HBM (15.75G).", 640.0),
        ("RESOURCE_EXHAUSTED: something else", None),
    ],
)  # fmt: skip
def test_what_a_refused_program_would_need(message: str, gib: float | None):
    found = refused(message)
    assert found == (None if gib is None else pytest.approx(gib * GIB))


def test_scopes_of_jax_are_left_out():
    path = (
        "jit(update)/while/body/closed_call/transpose(jvp(loss))/cond/branch_3_fun/shard_map/psum"
    )
    assert short(path) == "backward loss psum"
    assert short("jit(update)/jvp()/while/body/checkpoint/rematted_computation/ffn/dot") == (
        "again ffn dot"
    )


def test_slices_are_named_as_google_does():
    assert chip_of("7x:4x4x4") is CHIPS["7x"]
    assert count_chips("v6e:16x16") == 256
    for wrong in ("v3:4x4", "v5p", "v5p:4xx4"):
        with pytest.raises(UserError, match="names no TPU slice"):
            chip_of(wrong)
    with pytest.raises(UserError, match="1024 chips; 512 is the most"):
        chip_of("v5p:8x8x16")


def test_the_pod_presets_model_is_known_without_its_files():
    name = swe.PRESETS["pod"]().model.name
    assert published(name, "bfloat16") == dataclasses.replace(QWEN_3_30B_A3B, dtype="bfloat16")
    for cfg in PUBLISHED:
        assert published(f"hub:owner/{cfg.name}", cfg.dtype) == cfg
    with pytest.raises(UserError, match="'hub:a/Unheard-7B' is not known"):
        published("hub:a/Unheard-7B", "float32")


@pytest.mark.parametrize(
    ("name", "billions"),
    [("Qwen3-1.7B", 1.72), ("Qwen3-8B", 8.19), ("Qwen3-32B", 32.8), ("Qwen3-30B-A3B", 30.5)],
)
def test_published_architectures_have_their_published_size(name: str, billions: float):
    leaves = jax.tree.leaves(shapes(published(name, "bfloat16")))
    assert sum(x.size for x in leaves) / 1e9 == pytest.approx(billions, rel=0.005)


def tiny_plan(**train: int) -> Plan:
    settings = swe.PRESETS["smoke"]()
    own = dataclasses.replace(settings.train, row_multiple=128, **train)
    settings = dataclasses.replace(settings, train=own)
    mesh = make_mesh(MeshSettings(fsdp=2), jax.devices()[:2])
    return Plan(settings, published("SmolLM2-135M", "float32"), mesh, history=200, action=50)


def test_an_updates_batch_is_as_full_as_it_can_be():
    plan = tiny_plan(rows=3, pivots_per_row=2, samples=4)
    batch = Training(plan).batch
    real = batch.tree.segments >= 0
    assert real.sum() == 3 * (200 + 2 * 4 * 50)
    assert batch.weight.sum() == 3 * 2 * 4 * 50
    # Three trees of 600 tokens in two rows, one for each device.
    assert batch.tree.shape == (2, 1280)
    assert Training(plan).rows == 1


def test_model_flops_count_what_tokens_see():
    """Against a mask: pairs, and FLOPs with two per multiply-add written out."""
    cfg = published("Qwen3-0.6B", "float32")
    row = build_row([Tree(np.arange(9), [(4, np.arange(3)), (9, np.arange(2))])], 16)
    assert pairs(row) == 45 + (5 + 6 + 7) + (10 + 11)
    per_layer = 1024 * (2 * 2048 + 2 * 1024 + 3 * 3072)
    norms = cfg.layers * (2 * 1024 + 2 * 128)
    expected = 2 * (cfg.layers * per_layer + norms) * 14 + 2 * 5 * 151936 * 1024
    expected += 4 * cfg.layers * 2048 * pairs(row)
    assert flops.forward(cfg, 14, 5, pairs(row)) == expected


def test_seen_blocks_of_a_causal_row():
    cfg = published("Qwen3-0.6B", "float32")
    row = build_row([Tree(np.zeros(2048, int))], 2048)
    # Of 4 x 4 blocks of 512 those on and under the diagonal.
    assert seen_share(row, cfg, "TPU v5", devices=1) == 10 / 16


WORK = Work(
    compiler=2.0, kernels=0.5, links=1.5,
    exchanges=[Exchange("all-gather", 96, 3 * GIB, True), Exchange("all-reduce", 1, GIB, False)],
    slowest=[], unknown_loops=[], unknown_kernels=["gmm"],
)  # fmt: skip
FITS = Measured(
    "update", rows=1, tokens=1000, model_flops=2 * 4 * 459e12 * 2.0, calls=1, missing=0.0,
    memory=Memory(10 * GIB, 20 * GIB, 0, 4 * GIB), work=WORK, flops=1e12, accessed=5 * GIB,
)  # fmt: skip
REFUSED = Measured("decode", rows=2, tokens=10, model_flops=1.0, calls=8, missing=1.5 * GIB)


def cells(markdown: str, row: int) -> list[str]:
    return [cell.strip() for cell in markdown.splitlines()[row + 2].strip("| ").split("|")]


def test_tables_are_of_a_chip():
    """Whose two devices have the same each, as on 7x."""
    chip = dataclasses.replace(CHIPS["v5p"], devices=2, memory=50.0)
    assert cells(memory_table([FITS, REFUSED], chip), 0) == [
        "update", "1", "20.00", "40.00", "0.00", "8.00", "68.00", "90.00", "22.00",
    ]  # fmt: skip
    assert cells(memory_table([FITS, REFUSED], chip), 1) == [
        "decode", "2", "–", "–", "–", "–", "93.00", "90.00", "-3.00",
    ]  # fmt: skip
    assert cells(exchange_table([FITS], chip), 0)[2:] == ["96", "6.00"]
    assert cells(exchange_table([FITS], chip), 1)[2:] == ["1 at most", "2.00"]


def test_utilisation_is_of_all_chips_and_the_whole_estimate():
    """Twice what four chips do in two seconds, in an estimate of four."""
    assert FITS.utilisation(CHIPS["v5p"], 4) == pytest.approx(1.0)
    assert cells(time_table([FITS], CHIPS["v5p"], 8), 0)[-2:] == ["4.000", "50.0%"]
    assert "not known, by their bytes: gmm." in tables([FITS], CHIPS["v5p"], 4, planned=10)


def test_a_run_is_its_steps_calls():
    """Eight chunks of decoding, a prefill and an update, four seconds each."""
    decode = dataclasses.replace(FITS, name="decode", calls=8)
    prefill, score = (
        dataclasses.replace(FITS, name=n, calls=c) for n, c in (("prefill", 1), ("score", 0))
    )
    said = run_line([prefill, decode, score, FITS], planned=90, chips=64)
    assert "1 x prefill + 8 x decode + 1 x update = 40.0 s, of which the update is 10%" in said
    assert "90 steps take 1.0 hours, 64 chip-hours" in said
    assert run_line([prefill, REFUSED, FITS], planned=90, chips=64) == ""


def test_a_step_that_does_not_fit_ends_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
):
    plan = tiny_plan()
    monkeypatch.setattr(command_line, "plan_of", lambda *_: plan)
    monkeypatch.setattr(command_line, "set_flags", lambda environ: None)
    monkeypatch.setattr(command_line, "measure", lambda *_: iter([FITS, REFUSED]))
    file = tmp_path / "plan.json"
    arguments = ["compile", "--topology=v5p:2x2x1", f"--json={file}"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        command_line.friendly(command_line.main)
    assert "decode lacks 1.50 GiB per device; lower engine.slots" in str(ended.value.code)
    assert "| update" in capsys.readouterr().out
    steps = json.loads(file.read_text())["steps"]
    assert [step["name"] for step in steps] == ["update", "decode"]
    assert steps[0]["utilisation"] == pytest.approx(1.0)


def test_a_sweep_tries_meshes_first_and_then_what_else_there_is():
    shapes = sweep.meshes(published("Qwen3-30B-A3B", "bfloat16"), 64, 16)
    assert {(m.fsdp, m.expert, m.context, m.tensor) for m in shapes} == {
        (16 // expert, expert, 4 // tensor, tensor)
        for expert in (1, 2, 4, 8)
        for tensor in (1, 2, 4)
    }
    few = sweep.meshes(published("Qwen3-8B", "bfloat16"), 64, 2)
    assert {(m.fsdp, m.context, m.tensor) for m in few} == {(2, 8, 4), (2, 4, 8)}
    odd = sweep.meshes(published("Qwen3-8B", "bfloat16"), 64, 10)
    assert {(m.fsdp, m.context, m.tensor) for m in odd} == {(8, 1, 8)}
    # One row is too little for 128 devices: then the mesh with fewest idle ones.
    one = sweep.meshes(published("Qwen3-8B", "bfloat16"), 128, 1)
    assert {(m.fsdp, m.context, m.tensor) for m in one} == {(2, 8, 8)}
    tried = []

    def run(trial: sweep.Trial) -> sweep.Outcome:
        tried.append(trial)
        reason = "lacks 3 GiB" if trial.mesh.expert == 1 else ""
        return sweep.Outcome(trial, trial.rows or 1, GIB, 1.0, 0.5 / trial.mesh.expert, reason)

    settings = swe.PRESETS["pod"]()
    settings = dataclasses.replace(settings, train=dataclasses.replace(settings.train, rows=64))
    shapes = [mesh for mesh in shapes if mesh.tensor == 4]
    found = list(sweep.search(shapes, settings, run))
    assert [(t.mesh.expert, t.remat, t.rows) for t in tried] == [
        *((n, "full", None) for n in (1, 2, 4, 8)),
        (2, "dots", None), (2, "full", 2), (2, "full", 4),
    ]  # fmt: skip
    assert "Best: `--config.mesh.data=1 --config.mesh.fsdp=8" in sweep.report(found)


def test_a_child_is_told_all_but_what_is_its_parents():
    given = [
        "--sweep",
        "--json",
        "F",
        "--config=c",
        "--steps=decode",
        "--rows_per_device",
        "2",
        "-v",
    ]
    assert sweep.without(sweep.OWN, given) == ["--config=c", "-v"]


@pytest.mark.parametrize(
    ("part", "fields", "words"),
    [("lora", {"rank": 4}, r"lora\.rank=0"), ("train", {"replay_routes": True}, "replay_routes=F")],
)
def test_what_a_plan_has_no_room_for_is_refused(part, fields, words):
    settings = swe.pod()
    changed = dataclasses.replace(getattr(settings, part), **fields)
    with pytest.raises(UserError, match=words):
        command_line.plan_of(dataclasses.replace(settings, **{part: changed}), "v5p:2x2x1", 16)


def test_all_steps_of_a_training_step_are_lowered():
    """Of a tiny model with experts, for the fake devices of this process."""
    plan = tiny_plan(rows=2, pivots_per_row=1, samples=2)
    sizes = {"vocab": 64, "width": 16, "layers": 2, "kv_heads": 2, "head_dim": 8, "ffn": 16}
    plan = dataclasses.replace(plan, cfg=shrink(QWEN_3_30B_A3B, **sizes))
    with jax.sharding.use_abstract_mesh(plan.mesh.abstract_mesh):
        sampling, training = Sampling(plan), Training(plan)
        slots, layers = sampling.idle(), sampling.layers()
        lowered = {
            "load_trunks": sampling.prefill(slots),
            "advance": sampling.decode(slots, layers),
            "token_logprobs": training.score(1),
            "update": training.update(1),
        }
    for name, program in lowered.items():
        assert f"@jit_{name}" in program.as_text()
    # Half of the experts, whole; of the optimizer's two moments half of each.
    assert bytes_per_device(layers[0].expert_gate) == 4 * 8 // 2 * 16 * 16
    whole = sum(x.size for x in jax.tree.leaves(shapes(plan.cfg)))
    assert bytes_per_device(training.state) == pytest.approx(3 * 4 * whole / 2, rel=0.1)
