"""Results for a person at a terminal. Pure: a value in, something that rich can print out."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from trtbuild.core.placement import MIXED
from trtbuild.core.report import BenchReport, BuildReport, DoctorReport, VariantReport

NAMED = 4
"""Modules that a line names; --json and `inspect --layers` name them all."""


def show(picture: RenderableType) -> None:
    """Print to standard output: as wide as the terminal, and where there is none as wide as a table needs."""
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=160)
    console.print(picture)


def size(size_bytes: float) -> str:
    """Bytes in the largest unit that leaves a number above 1; decimal, as disks and registries count."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def build_table(report: BuildReport) -> RenderableType:
    """The variants side by side, why some failed, and which to ship."""
    metrics = list(dict.fromkeys(name for variant in report.variants for name in variant.accuracy))
    shown = metrics[:3]  # the task's own come first; --json has all
    table = Table(
        title=f"{report.recipe} on {report.backend}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    table.add_column("variant", no_wrap=True)
    for heading in (*_costs(report.variants[0]), f"speed / {report.reference}"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right", min_width=6)
    table.add_column("coverage", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for variant in report.variants:
        table.add_row(*_row(variant, shown, ship=variant.name == report.recommended))
    lines: list[RenderableType] = [table]
    for variant in report.variants:
        lines += [Text.from_markup(f"[red]{variant.name} failed:[/] {escape(reason)}") for reason in variant.reasons]
        lines += [Text(f"{variant.name}: {remark}", "yellow") for remark in variant.remarks]
    lines += [Text(f"{it.name} approximates {it.approximates}", "yellow") for it in report.variants if it.approximates]
    lines += [Text(line, "dim") for line in placements(report.variants)]
    lines += [Text(line, "dim") for line in left_high(report.variants)]
    lines += _repair_lines(report)
    if report.recommended:
        best = next(variant for variant in report.variants if variant.name == report.recommended)
        lines.append(
            Text.from_markup(f"[bold green]ship {best.name}[/]: {report.recommended_because}  [dim]{best.engine}[/]")
        )
    else:
        lines.append(Text.from_markup(f"[bold red]ship none[/]: {report.recommended_because}"))
    lines.append(
        Text(
            f"{report.device}; latency at the opt shapes, in turns with the reference; coverage is asked/inserted/ran; "
            f"{report.steps_run} steps ran, {report.steps_reused} reused, {report.elapsed_s:.1f} s",
            "dim",
        )
    )
    return Group(*lines)


def placements(variants: list[VariantReport]) -> Iterator[str]:
    """A line for each variant whose placement was searched: what is kept and why, and where blocks differ."""
    for variant in variants:
        if (found := variant.placement) is None:
            continue
        if "pays" not in variant.failed:  # that gate's reasons say it already
            yield f"{variant.name}: placement {found.because}"
        if found.kept == MIXED:
            by_choice: dict[str, list[str]] = {}
            for block, choice in found.blocks.items():
                by_choice.setdefault(choice, []).append(block or "outside the blocks")
            parts = [f"{choice} in {', '.join(blocks[:NAMED])}{_more(blocks)}" for choice, blocks in by_choice.items()]
            yield f"{variant.name}: {'; '.join(parts)}"


def _more(names: list[str]) -> str:
    return f" and {len(names) - NAMED} more" if len(names) > NAMED else ""


def left_high(variants: list[VariantReport]) -> Iterator[str]:
    """A line for each reason that left modules in high precision unasked: the variants, the modules, the reason."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for variant in variants:
        by_reason: dict[str, list[str]] = {}
        for module, reason in variant.kept_high.items():
            by_reason.setdefault(reason, []).append(module)
        for reason, modules in by_reason.items():
            found.setdefault((reason, tuple(modules)), []).append(variant.name)
    quantizing = sum(variant.coverage.asked > 0 for variant in variants)
    for (reason, left), names in found.items():
        where = "every quantized variant" if len(names) == quantizing > 1 else ", ".join(names)
        yield f"left in high precision in {where}: {', '.join(left[:NAMED])}{_more([*left])}; {reason}"


def _repair_lines(report: BuildReport) -> list[RenderableType]:
    """What was repaired and what was not, then the patch."""
    colours = {"repaired": "green", "failed": "red", "impossible": "yellow"}
    titles = {"repaired": "repaired", "failed": "not repaired", "impossible": "cannot be repaired"}
    lines: list[RenderableType] = []
    for repair in report.repairs:
        head = f"[{colours[repair.outcome]}]{repair.variant} {titles[repair.outcome]}:[/]"
        lines.append(Text.from_markup(f"{head} {escape(repair.because)}"))
        reasons = {**repair.keep_fp32, **repair.high}
        lines += [Text.from_markup(f"  {escape(what)}: [dim]{escape(why)}[/]") for what, why in reasons.items()]
    if report.patch is None:
        return lines
    if report.patch.note:
        lines.append(Text(report.patch.note, "yellow"))
    if not report.patch.file:
        lines.append(Text(report.patch.lines))
    elif report.patch.written:
        lines.append(Text(f"the recipe says so now; the change is {report.patch.file}"))
    else:
        lines.append(Text(f"to keep the repairs: {report.patch.command}"))
    return lines


def bench_table(report: BenchReport) -> RenderableType:
    """Engines side by side, the first being the measure."""
    table = Table(title=f"{report.threads} threads, {report.shapes}", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("engine", "median", "p95", "noise", "vs first"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    first = next(iter(report.engines.values()))
    for name, latency in report.engines.items():
        table.add_row(
            name,
            _ms(latency.median),
            _ms(latency.p95),
            f"{latency.noise:.1%}",
            f"{first.median / latency.median:.2f} x",
        )
    return Group(table, Text(report.device, "dim"))


def doctor_table(report: DoctorReport) -> RenderableType:
    """What this machine can do, and how to get the rest."""
    table = Table(
        title=f"{report.processor}, {report.cores} cores, Python {report.python}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("can", "", "detail"):
        table.add_column(heading, overflow="fold")
    for capability in report.capabilities:
        mark = Text("yes", "green") if capability.available else Text("no", "yellow")
        table.add_row(capability.name, mark, escape(capability.detail))
    return Group(table, Text(f"store: {report.store}", "dim"))


def _row(variant: VariantReport, shown: list[str], *, ship: bool) -> list[RenderableType]:
    coverage = variant.coverage
    untold = f" ({coverage.untold}?)" if coverage.untold else ""
    passed = variant.verdict == "passed"
    return [
        Text(variant.name, "bold green" if ship else ""),
        *_costs(variant).values(),
        f"{variant.speedup_vs_reference:.2f} x",
        *(f"{variant.accuracy[name]:.4f}" if name in variant.accuracy else "" for name in shown),
        f"{coverage.asked}/{coverage.inserted}/{coverage.ran}{untold}" if coverage.asked else "-",
        Text(variant.verdict, "green" if passed else "red"),
    ]


def _costs(variant: VariantReport) -> dict[str, str]:
    """What a variant takes, by column: a decoder's time is that of a step, and of a prompt before it."""
    latency = variant.latency_ms
    median = f"{'~' if latency.noise > 0.05 else ''}{_ms(latency.median)}"
    if latency.first_token is None or latency.tokens_per_s is None:
        return {"size": size(variant.size_bytes), "median": median, "p95": _ms(latency.p95)}
    return {
        "size": size(variant.size_bytes),
        "cache": size(variant.cache_bytes),
        "first token": _ms(latency.first_token),
        "step": median,
        "tokens/s": f"{latency.tokens_per_s:.0f}",
    }


def _ms(value: float) -> str:
    """Three digits that say something: 142.1 ms, 9.41 ms, 0.618 ms."""
    return f"{value:.{1 if value >= 10 else 2 if value >= 1 else 3}f} ms"
