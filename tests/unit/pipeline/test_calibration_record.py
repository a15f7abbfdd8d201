"""What a manifest says of the calibration samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from trtbuild.core.sources import PythonSource
from trtbuild.core.stage import Workspace
from trtbuild.pipeline.calibration_record import calibration_record
from trtbuild.pipeline.plan import Plan
from trtbuild.pipeline.store import Action, Listing, Store, StoredOutput
from trtbuild.recipe.load import load
from trtbuild.recipe.sources import sample_source
from trtbuild.stages.calibrate import CalibrateOptions, calibrate
from trtbuild.stages.observe import observe
from trtbuild.stages.sample import sample


def test_the_record_tells_generator_arguments_rows_and_the_digest_in_the_store(tiny: Path, tmp_path: Path) -> None:
    loaded = load(tiny, ["data.arguments={scale: 2.0}"])
    source = sample_source(loaded)
    plan = Plan("tiny")
    samples = plan.add("sample", sample, source=source, shapes=loaded.recipe.shapes)
    model = PythonSource(entry="model:make", folder=tiny)
    parts = {"source": model, "loader": "factory"}
    plan.add("observe", observe, **parts, evaluation=samples["evaluation"], exporter="pytorch")
    options = CalibrateOptions(format="int8")
    plan.add(
        "calibrate", calibrate, **parts, calibration=samples["calibration"], options=options, calibrator="modelopt"
    )
    (tmp_path / "work").mkdir()
    calibration = sample(source, loaded.recipe.shapes, Workspace(tmp_path / "work")).calibration
    store, digest = Store(tmp_path / "store"), Listing.of(calibration.path).digest
    shutil.copytree(calibration.path, store.folder_of(digest))
    stored = StoredOutput(kind="Samples", digest=digest, size_bytes=1)
    action = Action(step="sample", ingredients={}, outputs={"calibration": stored}, elapsed_s=0, finished_at=0)

    record = calibration_record(plan, {"sample", "observe", "calibrate"}, {"sample": action}, store)
    assert record is not None
    assert (record["generator"], record["arguments"], record["asked"]) == ("generator:samples", {"scale": 2.0}, 8)
    assert record["digest"] == digest
    assert record["batches"] == [{"x": [4, 64]}] * 2
    assert record["rows"] == 8 == len(set(record["row_sha256"])) == len(record["sources"])
    assert json.dumps(record)
    assert calibration_record(plan, {"sample", "observe"}, {"sample": action}, store) is None
