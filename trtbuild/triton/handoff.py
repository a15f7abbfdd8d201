"""What a model repository cannot say itself: the server's flags, and what load generators want to know."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from trtbuild.core.interface import DYNAMIC
from trtbuild.triton.model_folder import Servable
from trtbuild.triton.options import TritonOptions

RESPONSE_CACHE_BYTES = 64 << 20


def server_arguments(repository: Path, engines: Sequence[Servable], options: TritonOptions) -> list[str]:
    """The arguments `tritonserver` needs for these engines."""
    arguments = [f"--model-repository={repository}", "--model-control-mode=explicit", "--load-model=*"]
    if options.response_cache:
        arguments.append(f"--cache-config=local,size={RESPONSE_CACHE_BYTES}")
    plugins = sorted({plugin for engine in engines for plugin in engine.facts.get("plugins", [])})
    if plugins:
        arguments.append(f"--backend-config=tensorrt,plugins={';'.join(plugins)}")
    if any(engine.facts.get("version_compatible") for engine in engines):
        arguments.append("--backend-config=tensorrt,version-compatible=true")
    return arguments


def serve_env(repository: Path, engines: Sequence[Servable], options: TritonOptions) -> str:
    """A file for a shell to read: `. models.env && tritonserver $TRITON_ARGUMENTS`."""
    lines = [
        "# What the model repository cannot say itself. Read it, then start the server:",
        "#   . <this file> && eval tritonserver $TRITON_ARGUMENTS",
    ]
    if any(engine.facts.get("version_compatible") for engine in engines):
        lines.append("# version-compatible runs code that the plan carries: serve only plans that you trust.")
    arguments = " ".join(map(shlex.quote, server_arguments(repository, engines, options)))
    return "\n".join([*lines, f"TRITON_ARGUMENTS={shlex.quote(arguments)}", ""])


def perf_analyzer_arguments(model: str, engine: Servable, greatest_batch: int) -> str:
    """A command for NVIDIA's perf_analyzer at the usual shapes."""
    words = ["perf_analyzer", "-m", model, "-b", str(max(1, min(usual_batch(engine), greatest_batch or 1)))]
    for name, shape in usual_shapes(engine, batched=bool(greatest_batch)).items():
        if DYNAMIC in engine.interface.inputs[name].dims[bool(greatest_batch) :]:
            words += ["--shape", f"{name}:{','.join(map(str, shape or [1]))}"]
    return shlex.join([*words, "--concurrency-range", "1:8", "--percentile", "95"]) + "\n"


def model_analyzer(repository: Path, model: str, engine: Servable, options: TritonOptions) -> str:
    """A configuration for NVIDIA's Model Analyzer: which instance counts and batches to try."""
    batches = sorted({1, usual_batch(engine)})
    settings: dict[str, Any] = {
        "model_repository": str(repository),
        "profile_models": {
            model: {
                "parameters": {"batch_sizes": batches, "concurrency": [1, 2, 4, 8, 16]},
                "model_config_parameters": {
                    "instance_group": [{"count": sorted({1, 2, options.instances.count})}],
                    "dynamic_batching": {"max_queue_delay_microseconds": [0, 100, 500]},
                },
            }
        },
    }
    return yaml.safe_dump(settings, sort_keys=False)


def usual_batch(engine: Servable) -> int:
    """The usual batch of the first profile; 1 where there is no batch axis."""
    batches = engine.interface.batches()
    return batches[0][1] if batches else 1


def usual_shapes(engine: Servable, *, batched: bool) -> dict[str, list[int]]:
    """The usual shapes of the first profile, without the batch where the server adds it."""
    ranges = engine.interface.profiles[0].ranges
    return {name: usual[1:] if batched else usual for name, (_, usual, _) in ranges.items()}
