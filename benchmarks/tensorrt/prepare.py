"""The half that needs torch and ModelOpt: MiniLM exported, calibrated in INT8 and SmoothQuant, and packed to carry.

    python benchmarks/tensorrt/prepare.py --parts .rig

writes `minilm-00`, `minilm-01`, ... of at most 60 MB. Where a GPU is, without either:

    cat minilm-* | tar -x && python benchmarks/tensorrt/run.py --minilm minilm

The other models of the benchmark are written where they run, from seeds (`models.py`), and travel not at all.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from trtbuild.core.events import Listener
from trtbuild.pipeline.file_digests import FileDigests
from trtbuild.pipeline.job import RESULT_FILE
from trtbuild.pipeline.plan import Ref
from trtbuild.pipeline.run import Limits, walk
from trtbuild.pipeline.shared_steps import SharedSteps
from trtbuild.pipeline.store import Store
from trtbuild.recipe.load import load
from trtbuild.stages.calibrate import CalibrateOptions
from trtbuild.stages.calibrate import calibrate as calibrate_stage
from trtbuild.stages.observe import observe_ranges

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "minilm"
ALPHA = 0.8
"""SmoothQuant's alpha of the recipe."""
PART_BYTES = 60_000_000


def main() -> None:
    """Make the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, default=Path(".rig"), help="folder for the parts")
    parser.add_argument("--store", type=Path, default=Path.home() / ".cache" / "trtbuild")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "minilm"
        collect(given.store, folder)
        packed = Path(scratch) / "minilm.tar"
        with tarfile.open(packed, "w") as archive:
            archive.add(folder, "minilm")
        for part in split(packed, given.parts):
            print(part, part.stat().st_size)


def collect(store_path: Path, folder: Path) -> None:
    """Run the steps that need torch, as `trtbuild build` would, and copy what they gave into `folder`."""
    shared = SharedSteps(load(RECIPE))
    model, evaluation, truth = shared.exported(), shared.evaluation, shared.truth()
    plans = {}
    for form, options in (
        ("int8", CalibrateOptions(format="int8")),
        ("int8_sq", CalibrateOptions(format="int8_sq", alpha=ALPHA)),
    ):
        step = shared.plan.add(
            f"calibrate-{form}",
            calibrate_stage,
            source=shared.source,
            calibration=shared.calibration,
            options=options,
            loader=shared.loader,
            calibrator="modelopt",
        )
        plans[f"plan-{form}"] = step["quantizationplan"]
    ranges = shared.plan.add(
        "ranges", observe_ranges, model=model, calibration=shared.calibration, interpreter="onnxruntime"
    )["operandranges"]
    store = Store(store_path)
    done = walk(shared.plan, store, FileDigests(store_path / "digests.sqlite"), Listener(), Limits())

    def stored(ref: Ref) -> Path:
        return store.folder_of(done.actions[ref.step].outputs[ref.output].digest)

    for name, ref in {"model": model, "evaluation": evaluation, "truth": truth, **plans}.items():
        shutil.copytree(stored(ref), folder / name)
    amax = json.loads((stored(ranges) / RESULT_FILE).read_text())["amax"]
    (folder / "ranges.json").write_text(json.dumps(amax, indent=1, sort_keys=True) + "\n")


def split(packed: Path, folder: Path) -> list[Path]:
    """The file's bytes in parts, in order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("minilm-*"):
        old.unlink()
    parts = []
    with packed.open("rb") as source:
        while chunk := source.read(PART_BYTES):
            parts.append(folder / f"minilm-{len(parts):02}")
            parts[-1].write_bytes(chunk)
    return parts


if __name__ == "__main__":
    main()
