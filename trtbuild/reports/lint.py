"""Lint findings as plain lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtbuild.graph.lint_rules import LintFinding

_SHOWN = 8
"""Nodes named for each rule; --json has all."""


def lint_lines(model: str, findings: Sequence[LintFinding]) -> Iterator[str]:
    """Findings by rule, each rule's remedy once, and how many there are."""
    for code in dict.fromkeys(finding.code for finding in findings):
        same = [finding for finding in findings if finding.code == code]
        yield f"{same[0].severity} {code}, {len(same)} x: {same[0].remedy}"
        for finding in same[:_SHOWN]:
            yield f"  {finding.node}: {finding.message}"
        if len(same) > _SHOWN:
            yield f"  and {len(same) - _SHOWN} more; --json lists all"
    errors = sum(finding.severity == "error" for finding in findings)
    yield f"{model}: {errors} errors, {len(findings) - errors} warnings" if findings else f"{model}: nothing to say"
