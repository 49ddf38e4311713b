"""The tables of a plan, as Markdown."""

from collections.abc import Sequence

from experiments.plans.chips import Chip
from experiments.plans.plan import Measured
from experiments.reports.markdown import table
from pivotrl_jax.training.memory import GIB, USABLE


def tables(steps: Sequence[Measured], chip: Chip, chips: int, planned: int) -> str:
    """Memory, time, collectives, what takes most time, and what a run of `planned` training steps
    takes; at the end what the figures leave out."""
    parts = [
        memory_table(steps, chip),
        time_table(steps, chip, chips),
        exchange_table(steps, chip),
        *(slowest(step, chip) for step in steps if step.name == "update" and step.work),
        run_line(steps, planned, chips),
        notes(steps, chip),
    ]
    return "\n\n".join(part for part in parts if part)


def memory_table(steps: Sequence[Measured], chip: Chip) -> str:
    """GiB of a chip, whose devices are alike; what fits leaves a tenth free. `rows` are those that
    a device has a part of."""
    head = ["GiB per chip", "rows", "arguments", "temporaries", "outputs", "beside", "needed",
            "of", "room"]  # fmt: skip
    limit = USABLE * chip.memory * chip.devices

    def gib(count: float) -> str:
        return f"{count * chip.devices / GIB:.2f}"

    rows = []
    for step in steps:
        own = step.memory
        room = f"{limit - own.needed * chip.devices / GIB:.2f}" if own else ""
        kept = (own.arguments, own.temporaries, own.outputs, own.beside, own.needed) if own else ()
        cells = [*map(gib, kept)] or ["–"] * 4 + [f"{limit + float(gib(step.missing)):.2f}"]
        room = room or f"-{gib(step.missing)}"
        rows.append([step.name, step.rows, *cells, f"{limit:.2f}", room])
    return table(head, rows)


def time_table(steps: Sequence[Measured], chip: Chip, chips: int) -> str:
    """Seconds of one step."""
    head = ["estimate", "tokens", "model PFLOP", "XLA TFLOP", "XLA GiB", "compiler s", "kernels s",
            "links s", "sum s", "utilisation"]  # fmt: skip
    rows = [
        [
            step.name,
            f"{step.tokens:,}",
            f"{step.model_flops / 1e15:,.2f}",
            f"{step.flops / 1e12:,.2f}",
            f"{step.accessed / GIB:,.0f}",
            *(f"{x:.3f}" for x in (own.compiler, own.kernels, own.links, own.seconds)),
            f"{step.utilisation(chip, chips):.1%}",
        ]
        for step in steps
        if (own := step.work)
    ]
    return table(head, rows) if rows else ""


def exchange_table(steps: Sequence[Measured], chip: Chip) -> str:
    """Those in a loop that may end early are counted to its bound, in an unknown one once."""
    head = ["received per chip", "collective", "times", "GiB"]
    rows = [
        [step.name, x.kind, f"{x.count:,}{'' if x.exact else ' at most'}",
         f"{x.bytes * chip.devices / GIB:,.2f}"]
        for step in steps
        if step.work
        for x in step.work.exchanges
    ]  # fmt: skip
    return table(head, rows) if rows else ""


def run_line(steps: Sequence[Measured], planned: int, chips: int) -> str:
    """What training takes by the sums above, sampling included; "" where a step has none."""
    parts = [(step, step.calls * step.work.seconds) for step in steps if step.work and step.calls]
    if [step.name for step, _ in parts] != ["prefill", "decode", "update"]:
        return ""
    seconds = sum(each for _, each in parts)
    said = " + ".join(f"{step.calls} x {step.name}" for step, _ in parts)
    hours = planned * seconds / 3600
    return (
        f"A training step by estimate: {said} = {seconds:.1f} s, of which the update is "
        f"{parts[-1][1] / seconds:.0%}; {planned} steps take {hours:.1f} hours, "
        f"{hours * chips:,.0f} chip-hours, without verifiers, profiling and evaluation."
    )


def slowest(step: Measured, chip: Chip) -> str:
    assert step.work is not None
    head = [f"of the {step.name}", "seconds", "share"]
    rows = [
        [cost.name, f"{cost.seconds:.3f}", f"{cost.seconds / step.work.seconds:.0%}"]
        for cost in step.work.slowest
    ]
    return table(head, rows)


def notes(steps: Sequence[Measured], chip: Chip) -> str:
    """What a reader has to know of the figures above."""
    lines = [
        f"- `compiler` adds up what libtpu expects of every instruction at {chip.clock / 1e9:g} "
        f"GHz, loops by their trips; `kernels` takes Pallas kernels at the share of "
        f"{chip.peak / 1e12:g} TFLOP/s that their schedules allow, or at "
        f"{chip.bandwidth / 1e9:,.0f} GB/s where memory is slower; "
        f"`links` takes collectives at {chip.links / 1e9:g} GB/s. Nothing overlaps in the sum. "
        "Nobody has timed these programs.",
        "- XLA's own counts of FLOPs and bytes are of one device and have every loop once.",
    ]
    loops = sorted({name for step in steps if step.work for name in step.work.unknown_loops})
    kernels = sorted({name for step in steps if step.work for name in step.work.unknown_kernels})
    endless = sorted({name for step in steps if step.work for name in step.work.endless})
    if any(step.work.masked_products for step in steps if step.work):
        lines.append(
            "- libtpu multiplies experts' gradients with a mask and skips what it hides, which its "
            "estimate does not know: of it counts the share of blocks that belong to an expert."
        )
    if endless:
        lines.append(
            f"- libtpu has no estimate of these, which count nothing: {', '.join(endless)}."
        )
    if loops:
        lines.append(f"- Loops of unknown length, counted once: {', '.join(loops)}.")
    if kernels:
        lines.append(f"- Kernels whose FLOPs are not known, by their bytes: {', '.join(kernels)}.")
    return "\n".join(lines)
