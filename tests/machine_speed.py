"""How fast this machine starts Python just now: bars in seconds were set on one neither shared nor throttled."""

from __future__ import annotations

import resource
import subprocess
import sys

USUAL_S = 0.04
"""Processor time that an interpreter needs to import what every command imports: half of what it took where the bars
were set, since tests run beside each other."""


def slowness() -> float:
    """How many times longer it takes now, the best of five; at least 1."""
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", "import click, pydantic, yaml"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return max(1.0, min(spent) / USUAL_S)
