"""`trtbuild generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtbuild.cli.options import json_option

if TYPE_CHECKING:
    from trtbuild.pipeline.generate import GenerationReport


@click.command()
@click.argument("engine", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--prompt", "-p", "prompts", multiple=True, required=True, help="What to continue (repeatable: a batch).")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Stop after these.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-k", type=int, default=0, help="Draw from this many of the likeliest tokens; 0 means all.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw from the likeliest that sum to this.")
@click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal texts.")
@click.option("--stop-token", "stop_tokens", multiple=True, type=int, metavar="ID", help="One more token that ends.")
@click.option("--tokenizer", metavar="FILE", help="A tokenizer.json; `bytes` needs none. Default: the engine's own.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads for one call; 0 means all cores.")
@json_option
def generate(
    engine: Path,
    prompts: tuple[str, ...],
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stop_tokens: tuple[int, ...],
    tokenizer: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Continue prompts with ENGINE, the folder of a built or an exported decoder."""
    from trtbuild.decoding.sampling import Sampling
    from trtbuild.pipeline.generate import generate as run

    streams = len(prompts) == 1 and not as_json
    shown = False

    def show(row: int, piece: str) -> None:
        nonlocal shown
        if streams:
            click.echo(piece if shown else prompts[row] + piece, nl=False)
            shown = True

    report = run(
        engine,
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
        stop_tokens=stop_tokens,
        tokenizer=tokenizer,
        threads=threads,
        show=show,
    )
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    if streams:
        click.echo("" if shown else prompts[0])
    else:
        for number, text in enumerate(report.texts, start=1):
            click.echo(f"--- {number}\n{text.prompt}{text.text}")
    click.echo(_statistics(report), err=True)


def _statistics(report: GenerationReport) -> str:
    from trtbuild.reports.console import size

    endings = ", ".join(sorted({text.ending for text in report.texts}))
    return (
        f"{report.prompt_tokens} tokens read, {report.new_tokens} written (ended by {endings}); "
        f"first token after {report.first_token_ms:.0f} ms, then {report.decode_tokens_per_s:.1f} tokens/s\n"
        f"cache {report.cache}: {size(report.cache_bytes)}, "
        f"{report.cache_bytes / report.cache_bytes_fp16:.3f} x FP16; {report.device}"
    )
