"""What an engine was calibrated on, for its manifest."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from trtbuild.core.sources import SampleSource
from trtbuild.pipeline.plan import Plan
from trtbuild.pipeline.store import Action, Store


def calibration_record(
    plan: Plan, behind: Collection[str], actions: Mapping[str, Action], store: Store
) -> dict[str, Any] | None:
    """The generator with its arguments, how many samples were asked for, the digest of what it gave, and all that
    `samples.json` tells: the rows, each batch's shapes, each row's sha256 and where it came from.

    `behind` are the steps that lead to the engine. None where none of them reads calibration samples.
    """
    read = {ref for name in behind for ref in plan.steps[name].inputs.values() if ref.output == "calibration"}
    for ref in sorted(read, key=lambda ref: ref.step):
        source = plan.steps[ref.step].settings.get("source")
        if isinstance(source, SampleSource):
            digest = actions[ref.step].outputs[ref.output].digest
            samples: dict[str, Any] = json.loads((store.folder_of(digest) / "samples.json").read_text())
            return {
                "generator": source.python.entry,
                "arguments": source.python.arguments,
                "asked": source.calibration,
                "digest": digest,
                **samples,
            }
    return None
