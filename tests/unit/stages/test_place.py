"""Placements against each other, with engines whose outputs and times are given: what is kept, and what never is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trtbuild.core.artifacts import Engine, Samples
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.placement import PLACEMENTS, PlacementChoice
from trtbuild.core.results import Coverage, LayerCoverage, LayerTime
from trtbuild.core.roles import Runner, Session
from trtbuild.core.sources import MetricSource
from trtbuild.core.stage import Workspace
from trtbuild.core.tensor_file import write_batches
from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec
from trtbuild.stages.attempt import Attempt
from trtbuild.stages.contest import PlaceOptions
from trtbuild.stages.judge import Bound
from trtbuild.stages.keep import keep
from trtbuild.stages.place import place

SHAPES = Shapes(
    inputs={"x": TensorSpec(dtype="float32", dims=["batch", 8])}, axes={"batch": AxisRange(min=1, opt=4, max=4)}
)
BLOCKS = ("layer.0", "layer.1")
LAYERS, ATTENTION, RESIDUAL, ALL = PLACEMENTS


class Scripted(Runner):
    """Engines are folders whose `engine.json` says how they answer and how long each block takes."""

    device = "script"

    def open(self, engine: Engine, threads: int) -> Session:
        return _Session(json.loads(engine.main.read_text()))

    def layer_times(self, engine, inputs, runs, threads):
        facts = json.loads(engine.main.read_text())
        if facts["one_region"]:
            modules = [f"{block}.{part}" for block in BLOCKS for part in ("query", "fc")]
            return [LayerTime(modules=modules, median_ms=sum(facts["blocks"]))]
        return [
            LayerTime(modules=[f"{block}.{part}"], median_ms=ms / 2)
            for block, ms in zip(BLOCKS, facts["blocks"], strict=True)
            for part in ("query", "fc")
        ]


class _Session(Session):
    def __init__(self, facts: dict) -> None:
        self._facts = facts

    def infer(self, inputs):
        noise = np.random.default_rng(1).standard_normal(inputs["x"].shape)
        return {"y": inputs["x"] + np.float32(self._facts["error"]) * noise.astype(np.float32)}

    def time(self, inputs, runs, warm_up, *, cuda_graph=False):
        return [sum(self._facts["blocks"])] * runs

    def close(self) -> None:
        pass


class Bench:
    """Engines by placement, and the stages on them."""

    def __init__(self, folder: Path, *, one_region: bool = False) -> None:
        self._folder, self._one_region = folder, one_region
        self.samples = Samples(folder / "samples")
        self.samples.path.mkdir()
        rng = np.random.default_rng(0)
        write_batches(self.samples.main, [{"x": rng.standard_normal((2, 8)).astype(np.float32)}])
        self.high = self.engine("high", (1.0, 1.0), error=0.0)

    def engine(self, name: str, blocks: tuple[float, float], error: float = 0.01) -> Engine:
        engine = Engine(self._folder / name)
        engine.path.mkdir()
        facts = {"name": name, "blocks": blocks, "error": error, "one_region": self._one_region}
        engine.main.write_text(json.dumps(facts))
        return engine

    def place(self, engines: list[Engine], failures: dict[int, str] | None = None, **options) -> PlacementChoice:
        attempts = [Attempt(failure=(failures or {}).get(number, "")) for number in range(len(engines))]
        return place(
            engines=engines,
            attempts=attempts,
            unquantized=self.high,
            calibration=self.samples,
            metric=MetricSource(),
            shapes=SHAPES,
            options=PlaceOptions(placements=[*PLACEMENTS], **options),
            runner=Scripted(),
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_fastest_is_kept_and_every_time_is_said(bench: Bench) -> None:
    times = [(0.9, 0.9), (0.8, 0.8), (0.6, 0.6), (0.7, 0.7)]
    choice = bench.place([bench.engine(f"e{n}", blocks) for n, blocks in enumerate(times)])
    assert (choice.kept, choice.best) == (RESIDUAL, RESIDUAL)
    assert choice.because == (
        "layers+residual is kept; layers+residual 1.200 ms (1.67 x), layers+attention+residual 1.400 ms (1.43 x), "
        "layers+attention 1.600 ms (1.25 x), layers 1.800 ms (1.11 x), high 2.000 ms (1.00 x)"
    )


def test_wrong_outputs_are_never_kept_however_fast(bench: Bench) -> None:
    engines = [bench.engine("right", (0.9, 0.9)), bench.engine("wrong", (0.1, 0.1), error=1.0)]
    engines += [bench.engine(f"slow{n}", (0.95, 0.95)) for n in range(2)]
    choice = bench.place(engines)
    assert choice.kept == LAYERS
    assert choice.tried[2].refused.startswith("is wrong: cosine_mean is ")
    strict = bench.place(engines, accuracy={"cosine_min": Bound(min=0.99999)})
    assert strict.kept == LAYERS, "none passes: the first one stays, for the verdict to fail"
    assert all(one.refused for one in strict.tried[1:])


def test_what_does_not_build_or_is_the_same_drops_out(bench: Bench) -> None:
    first = bench.engine("first", (0.9, 0.9))
    engines = [first, bench.engine("failed", (0.0, 0.0)), first, bench.engine("last", (0.8, 0.8))]
    choice = bench.place(engines, failures={1: "no kernel"})
    assert choice.kept == ALL
    assert [one.refused for one in choice.tried] == ["", "", "does not build: no kernel", "is the same as layers", ""]
    with pytest.raises(ModelError, match="no placement can be built: no kernel"):
        bench.place(engines, failures=dict.fromkeys(range(4), "no kernel"))


def test_blocks_that_differ_are_mixed(bench: Bench) -> None:
    times = [(0.5, 1.5), (0.8, 0.7), (0.9, 0.9), (0.9, 0.9)]
    engines = [bench.engine(f"e{n}", blocks) for n, blocks in enumerate(times)]
    choice = bench.place(engines)
    assert choice.kept == "mixed"
    assert choice.blocks == {"": ATTENTION, "layer.0": LAYERS, "layer.1": ATTENTION}
    assert choice.quantizes("layer.1.query", "attention")
    assert not choice.quantizes("layer.0", "attention")
    assert choice.quantizes("layer.10.query", "attention"), "no block of its own: as what lies outside"


def test_high_precision_wins_a_block_only_where_the_gate_wants_speed(bench: Bench) -> None:
    engines = [bench.engine(f"e{n}", (0.5, 1.5)) for n in range(4)]
    choice = bench.place(engines)
    assert choice.blocks["layer.1"] == "high"
    assert not choice.quantizes("layer.1.fc", "layers")
    assert bench.place(engines, high=False).kept == LAYERS


def test_where_high_precision_wins_every_block_the_best_placement_stays(bench: Bench) -> None:
    choice = bench.place([bench.engine(f"e{n}", (1.5 + n, 1.5)) for n in range(4)])
    assert (choice.kept, {*choice.blocks.values()}) == (LAYERS, {LAYERS})


def test_a_difference_in_the_noise_mixes_nothing(bench: Bench) -> None:
    times = [(0.80, 0.80), (0.79, 0.90), (0.9, 0.9), (0.9, 0.9)]
    assert bench.place([bench.engine(f"e{n}", blocks) for n, blocks in enumerate(times)]).kept == LAYERS


def test_blocks_in_one_region_are_chosen_together(tmp_path: Path) -> None:
    bench = Bench(tmp_path, one_region=True)
    times = [(0.5, 1.5), (0.8, 0.7), (0.9, 0.9), (0.9, 0.9)]
    choice = bench.place([bench.engine(f"e{n}", blocks) for n, blocks in enumerate(times)])
    assert (choice.kept, {*choice.blocks.values()}) == (ATTENTION, {ATTENTION})


def test_without_samples_nothing_is_compared(bench: Bench) -> None:
    write_batches(bench.samples.main, [])
    with pytest.raises(DataError, match="compares engines on calibration samples"):
        bench.place([bench.high] * 4)


@pytest.mark.parametrize(
    ("blocks", "error", "failure", "kept"),
    [
        ((0.5, 0.6), 0.01, "", "mixed"),
        ((0.9, 0.9), 0.01, "", ATTENTION),
        ((0.5, 0.6), 1.0, "", ATTENTION),
        ((0.5, 0.6), 0.01, "no kernel", ATTENTION),
    ],
)
def test_a_mixture_is_kept_where_it_is_right_and_faster(
    bench: Bench, tmp_path: Path, blocks: tuple[float, float], error: float, failure: str, kept: str
) -> None:
    engines = [bench.engine(f"e{n}", times) for n, times in enumerate([(0.5, 1.5), (0.8, 0.7), (0.9, 0.9), (1, 1)])]
    coverages = [Coverage(layers=[LayerCoverage(module=name, format="int8", inserted=True)]) for name in PLACEMENTS]
    work = Workspace(tmp_path / "work")
    work.path.mkdir()
    found = keep(
        engines=engines,
        coverages=coverages,
        mixture=bench.engine("mixture", blocks, error),
        mixture_coverage=Coverage(),
        mixture_attempt=Attempt(failure=failure),
        placement=bench.place(engines),
        unquantized=bench.high,
        calibration=bench.samples,
        metric=MetricSource(),
        shapes=SHAPES,
        options=PlaceOptions(placements=[*PLACEMENTS]),
        runner=Scripted(),
        work=work,
    )
    assert found.placement.kept == kept
    assert json.loads(found.engine.main.read_text())["name"] == ("mixture" if kept == "mixed" else "e1")
    assert found.coverage == (Coverage() if kept == "mixed" else coverages[1])
    assert found.placement.tried[-1].placement == "mixed"
    assert "mixed" in found.placement.because
    assert found.placement.blocks["layer.0"] == (LAYERS if kept == "mixed" else ATTENTION)
