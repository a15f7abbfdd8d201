"""What calibration found for a cache's scales travels in the plan."""

import json
from pathlib import Path

import pytest

from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.errors import DataError
from trtbuild.core.kv_cache import HeadRange, LayerRanges
from trtbuild.core.quantization import Plan

HEAD = HeadRange(amax=1.5, seen=2.0, saturated=3, elements=1000)
RANGES = {layer: LayerRanges(key=[HEAD, HEAD], value=[HEAD, HEAD]) for layer in range(12)}


def test_ranges_come_back_by_layer(tmp_path: Path) -> None:
    plan = QuantizationPlan(tmp_path)
    Plan(modules={}, cache=RANGES).write(plan)
    assert Plan.read(plan).cache == RANGES


def test_a_plan_without_them_has_none_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    plan = QuantizationPlan(tmp_path)
    Plan(modules={}, cache=RANGES).write(plan)
    facts = json.loads(plan.main.read_text())
    facts["cache"]["0"]["key"][0]["amax"] = -1
    plan.main.write_text(json.dumps(facts))
    with pytest.raises(DataError, match="not a quantization plan"):
        Plan.read(plan)
    del facts["cache"]
    plan.main.write_text(json.dumps(facts))
    assert Plan.read(plan).cache == {}
