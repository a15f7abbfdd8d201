"""The search for the cheapest mix of formats, on a graph whose outlier layer is known."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from trtbuild.backends.onnxruntime.backend import OnnxRuntime
from trtbuild.backends.prober import TorchProber
from trtbuild.core.agreement import compare
from trtbuild.core.artifacts import OnnxModel, QuantizationPlan, Samples
from trtbuild.core.candidates import mixed, named
from trtbuild.core.culprits import smallest_set
from trtbuild.core.dialects import ONNX_RUNTIME
from trtbuild.core.errors import ModelError, RecipeError
from trtbuild.core.formats import FORMATS
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.core.roles import Interpreter, Loader
from trtbuild.core.sensitivity import Sensitivity
from trtbuild.core.sources import MetricSource, PythonSource
from trtbuild.core.stage import Workspace
from trtbuild.core.tensor_file import write_batches
from trtbuild.graph import document, inventory
from trtbuild.stages.insert import InsertOptions
from trtbuild.stages.judge import Bound, accuracy_of
from trtbuild.stages.search import Searched, SearchOptions, search
from trtbuild.stages.sensitivity import SensitivityOptions, sensitivity, sensitivity_onnx
from trtbuild.stages.trial import Trial

WIDTH, BLOCK = 32, 16
LAYERS = ["stem", "query", "key", "value", "outlier", "head"]


def weights() -> dict[str, np.ndarray]:
    """W [out, in] of each layer. The outlier's blocks have one great number each, which swallows its neighbours in
    4 bits, and which nothing uses: the channels that it multiplies are zero."""
    random = np.random.default_rng(0)
    found = {name: random.standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5 for name in LAYERS}
    for name in ("stem", "query", "value"):
        found[name][::BLOCK] = 0
    found["outlier"][:, ::BLOCK] *= 6
    return found


class Net(torch.nn.Module):
    """The graph's twin in torch."""

    def __init__(self) -> None:
        super().__init__()
        for name, weight in weights().items():
            layer = torch.nn.Linear(WIDTH, WIDTH, bias=False)
            layer.weight = torch.nn.Parameter(torch.from_numpy(weight))
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.query(x) * self.key(x) + self.value(x)
        answer: torch.Tensor = self.head(self.outlier(torch.tanh(x)))
        return answer


class Twin(Loader):
    def load(self, source: Any) -> Any:
        return Net().eval()


class Counting(OnnxRuntime):
    """Counts the graphs that it runs."""

    def __init__(self) -> None:
        self.runs = 0

    def interpret(self, model: OnnxModel, samples: Any) -> Iterator[Any]:
        self.runs += 1
        yield from super().interpret(model, samples)


def write_graph(folder: Path) -> OnnxModel:
    def node(op: str, inputs: str, output: str, name: str = "") -> Any:
        return helper.make_node(op, inputs.split(), [output], name=name or f"{op}_{output}")

    def product_of(layer: str, source: str) -> Any:
        return node("MatMul", f"{source} {layer}.weight", layer, f"{layer}/MatMul")

    nodes = [
        product_of("stem", "x"), node("Relu", "stem", "a"),
        product_of("query", "a"), product_of("key", "a"), product_of("value", "a"),
        node("Mul", "query key", "b"), node("Add", "a b", "c"), node("Add", "c value", "d"), node("Tanh", "d", "e"),
        product_of("outlier", "e"), node("MatMul", "outlier head.weight", "y", "head/MatMul"),
    ]  # fmt: skip
    shape = ["rows", WIDTH]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, shape)],
        [numpy_helper.from_array(np.ascontiguousarray(one.T), f"{name}.weight") for name, one in weights().items()],
    )
    folder.mkdir()
    model = OnnxModel(folder)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), model.main)
    return model


def numbers_of(weight: np.ndarray, form: str) -> ModuleQuantization:
    traits = FORMATS[form]
    blocks = np.abs(weight).reshape(WIDTH, -1, BLOCK).max(2) if traits.granularity == "block" else None
    amax = np.abs(weight).max(1) if blocks is None else blocks
    return ModuleQuantization(form, amax, np.float32(2.5) if traits.activation else None, block_size=BLOCK)


def plan_of(form: str) -> Plan:
    return Plan({name: numbers_of(weight, form) for name, weight in weights().items()}, samples=8)


class Bench:
    """What the stages take, ready."""

    def __init__(self, folder: Path, *formats: str) -> None:
        self.folder, self.plans = folder, []
        self.model = write_graph(folder / "model")
        for form in formats:
            plan = QuantizationPlan(folder / form)
            plan.path.mkdir()
            plan_of(form).write(plan)
            self.plans.append(plan)
        self.samples = Samples(folder / "samples")
        self.samples.path.mkdir()
        random = np.random.default_rng(1)
        batches = [{"x": random.standard_normal((16, WIDTH)).astype(np.float32)} for _ in range(3)]
        write_batches(self.samples.main, batches)
        self.trial = Trial(
            self.model, batches, None, InsertOptions(), ONNX_RUNTIME, OnnxRuntime(), self.workspace("trials")
        )

    def workspace(self, name: str) -> Workspace:
        path = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        path.mkdir()
        return Workspace(path)

    def sensitivity(self, **options: Any) -> Sensitivity:
        source = PythonSource(entry="net:Net", folder=self.folder)
        return sensitivity(source, self.plans, self.samples, SensitivityOptions(**options), Twin(), TorchProber())

    def search(
        self,
        accuracy: dict[str, Bound],
        found: Sensitivity | None = None,
        metric: MetricSource | None = None,
        interpreter: Interpreter | None = None,
        others: list[QuantizationPlan] | None = None,
        **options: Any,
    ) -> Searched:
        return search(
            self.model,
            self.plans,
            others or [],
            found or self.sensitivity(),
            self.samples,
            metric,
            None,
            SearchOptions(accuracy=accuracy, **options),
            ONNX_RUNTIME,
            interpreter or OnnxRuntime(),
            self.workspace("search"),
        )

    def snr_db(self, plan: Plan) -> float:
        return accuracy_of(compare(self.trial.run(plan)[0], self.trial.truth))["snr_db"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), "int4", "w8a16")


def formats_of(found: Searched) -> dict[str, str]:
    return {module: numbers.format for module, numbers in Plan.read(found.plan).modules.items()}


def test_the_sensitivity_of_a_graph_is_what_the_torch_twin_predicts(bench: Bench) -> None:
    predicted = bench.sensitivity(probes=8)
    true = sensitivity_onnx(
        bench.model, bench.plans, bench.samples, SensitivityOptions(), ONNX_RUNTIME, OnnxRuntime(),
        bench.workspace("onnx"),
    )  # fmt: skip
    assert true.candidates == predicted.candidates == ["int4", "w8a16"]
    assert true.modules.keys() == set(LAYERS)
    assert true.unscored == {}
    assert true.samples == predicted.samples == 48
    for module, found in true.modules.items():
        assert found.weights == predicted.modules[module].weights == WIDTH**2
        for name, one in found.errors.items():
            guess = predicted.modules[module].errors[name].output_error
            assert guess == pytest.approx(one.output_error, rel=0.35)


@pytest.mark.parametrize("least", [12.0, 18.0, 24.0, 32.0, 38.0])
def test_no_mix_that_keeps_the_floor_is_cheaper(bench: Bench, least: float) -> None:
    """Against every mix there is, the modules that read one tensor always together."""
    found = bench.search({"snr_db": Bound(min=least)}, evaluations=24, margin=0.0)
    plans = named([Plan.read(plan) for plan in bench.plans])
    bits = {"int4": 4 + 16 / BLOCK, "w8a16": 8 + 16 / WIDTH, "high": 16}
    costs = []
    for choice in product([*plans, "high"], repeat=4):
        stem, together, outlier, head = choice
        by_module = dict(zip(LAYERS, [stem, *[together] * 3, outlier, head], strict=True))
        chosen = {module: name for module, name in by_module.items() if name != "high"}
        if bench.snr_db(mixed(plans, chosen, {})) >= least:
            costs.append(sum(bits[name] * WIDTH**2 / 8 for name in by_module.values()))
    assert bench.snr_db(Plan.read(found.plan)) >= least
    assert found.searched.cost == pytest.approx(min(costs))


def test_the_outlier_gets_more_bits_and_the_report_says_what_was_tried(bench: Bench) -> None:
    found = bench.search({"snr_db": Bound(min=14)})
    formats, report = formats_of(found), found.searched
    assert formats["outlier"] == "w8a16"
    assert "int4" in formats.values()
    assert report.choices.keys() == set(LAYERS)
    assert {module: choice.format for module, choice in report.choices.items()} == formats
    assert report.cost == pytest.approx(sum(choice.cost for choice in report.choices.values()))
    assert report.cost_high == len(LAYERS) * WIDTH**2 * 2
    assert report.evaluations[0].formats == {"high": 6}
    assert any(evaluation.misses for evaluation in report.evaluations)
    passed = [evaluation for evaluation in report.evaluations if not evaluation.misses]
    assert min(evaluation.cost for evaluation in passed) == report.cost
    assert "snr_db is" in next(one for evaluation in report.evaluations for one in evaluation.misses)
    assert report.rows == 48


def test_what_stays_high_has_its_reason_with_numbers(bench: Bench) -> None:
    plan = Plan.read(bench.search({"snr_db": Bound(min=60)}).plan)
    reason = plan.kept_high["outlier"]
    assert reason.startswith("auto: its predicted error of the model's output is too large: ")
    assert "% in int4, " in reason
    assert reason.endswith("% in w8a16")


def test_a_loose_floor_takes_the_cheapest_everywhere_in_two_evaluations(bench: Bench) -> None:
    found = bench.search({"cosine_min": Bound(min=0.1)})
    assert set(formats_of(found).values()) == {"int4"}
    assert len(found.searched.evaluations) == 2


def test_the_margin_is_kept_free(bench: Bench) -> None:
    found = bench.search({"cosine_mean": Bound(min=0.98), "snr_db": Bound(min=10)}, margin=0.5)
    assert found.searched.floors["cosine_mean"]["min"] == pytest.approx(0.99)
    assert found.searched.floors["snr_db"]["min"] == pytest.approx(16.02, abs=0.01)
    assert bench.snr_db(Plan.read(found.plan)) >= 16.02


def test_few_evaluations_still_give_a_plan_that_passes(bench: Bench) -> None:
    for evaluations in (2, 3, 5):
        counting = Counting()
        found = bench.search({"snr_db": Bound(min=20)}, evaluations=evaluations, interpreter=counting)
        assert len(found.searched.evaluations) <= evaluations
        assert counting.runs <= evaluations  # the first is the graph itself
        plan = Plan.read(found.plan)
        assert not plan.modules or bench.snr_db(plan) >= 20


def test_floors_out_of_reach_are_an_error_with_the_best_value(bench: Bench) -> None:
    with pytest.raises(ModelError, match=r"cosine_min is 1, at least 1.5 is wanted, with every module in high"):
        bench.search({"cosine_min": Bound(min=1.5)})


def test_no_floors_and_unknown_ones_are_errors(bench: Bench) -> None:
    with pytest.raises(RecipeError, match="asks for none"):
        bench.search({})
    with pytest.raises(RecipeError, match="nothing measured") as caught:
        bench.search({"cosine": Bound(min=0.9)})
    assert "cosine_mean" in caught.value.hint


def test_the_recipes_own_metric_decides(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "worst_row.py").write_text(
        "import numpy as np\n"
        "def worst(outputs, reference, inputs):\n"
        "    assert all(one['x'].shape == other['y'].shape for one, other in zip(inputs, outputs))\n"
        "    gaps = [np.linalg.norm(a['y'] - b['y'], axis=1) / np.linalg.norm(b['y'], axis=1)\n"
        "            for a, b in zip(outputs, reference)]\n"
        "    return {'worst_row': float(np.concatenate(gaps).max())}\n"
    )
    metric = MetricSource(python=PythonSource(entry="worst_row:worst", folder=tmp_path))
    found = bench.search({"worst_row": Bound(max=0.2)}, metric=metric)
    last = [evaluation for evaluation in found.searched.evaluations if not evaluation.misses][-1]
    assert last.metrics["worst_row"] <= 0.18  # a tenth of the room stays free
    assert "int4" in formats_of(found).values()
    assert found.searched.floors == {"worst_row": {"max": pytest.approx(0.18)}}


def test_modules_that_read_one_tensor_share_a_format(bench: Bench) -> None:
    groups = inventory.together(document.load(bench.model.main).graph)
    assert sorted(map(sorted, groups)) == [["head"], ["key", "query", "value"], ["outlier"], ["stem"]]
    for least in (16, 20, 26):
        formats = formats_of(bench.search({"snr_db": Bound(min=least)}))
        assert len({formats.get(name) for name in ("query", "key", "value")}) == 1


def test_excluded_modules_are_not_searched(bench: Bench) -> None:
    found = bench.search({"cosine_min": Bound(min=0.1)}, insert=InsertOptions(exclude=["value"]))
    assert found.searched.choices.keys() == {"stem", "query", "key", "outlier", "head"}
    assert "excluded" in Plan.read(found.plan).kept_high["value"]


def test_latency_wants_quantized_activations(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "w8a16", "int8")
    loose = {"cosine_min": Bound(min=0.5)}
    found = bench.search(loose, objective="latency")
    assert set(formats_of(found).values()) == {"int8"}
    assert (found.searched.cost, found.searched.cost_high) == (pytest.approx(0.5), pytest.approx(1.0))
    measured = bench.search(loose, objective="latency", relative_time={"int8": 1.2, "w8a16": 0.7})
    assert set(formats_of(measured).values()) == {"w8a16"}


def test_two_plans_of_one_format_are_told_apart(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "int4")
    coarse = QuantizationPlan(tmp_path / "coarse")
    coarse.path.mkdir()
    modules = {name: numbers_of(weight * 4, "int4") for name, weight in weights().items()}
    Plan(modules).write(coarse)
    bench.plans.insert(0, coarse)
    found = bench.search({"snr_db": Bound(min=10)})
    assert bench.sensitivity().candidates == ["int4", "int4#2"]
    assert {choice.candidate for choice in found.searched.choices.values()} <= {"int4#2", "high"}


def test_repair_finds_exactly_the_outlier(bench: Bench) -> None:
    plans = {"int4": plan_of("int4")}
    found = bench.sensitivity()
    order = sorted(LAYERS, key=lambda module: -found.modules[module].errors["int4"].output_error)
    floor = bench.snr_db(mixed(plans, {name: "int4" for name in LAYERS if name != "outlier"}, {})) - 0.1

    def passes(aside: frozenset[str]) -> bool:
        return bench.snr_db(mixed(plans, {name: "int4" for name in LAYERS if name not in aside}, {})) >= floor

    for suspects in (order, order[::-1]):
        assert smallest_set(suspects, passes) == {"outlier"}


def test_overrides_are_part_of_what_is_tried_and_not_up_for_choice(bench: Bench) -> None:
    free = formats_of(bench.search({"cosine_min": Bound(min=0.1)}))
    found = bench.search({"cosine_min": Bound(min=0.1)}, overrides={"stem": "w8a16", "hea*": "high"})
    assert formats_of(found) == {**{name: form for name, form in free.items() if name != "head"}, "stem": "w8a16"}
    assert not {"stem", "head"} & found.searched.choices.keys()
    assert all(tried.formats["w8a16"] >= 1 for tried in found.searched.evaluations)
    plan = Plan.read(found.plan)
    assert plan.kept_high["head"] == "overrides: high for 'hea*'"


def test_with_everything_overridden_nothing_is_left_to_decide(bench: Bench) -> None:
    with pytest.raises(RecipeError, match=r"nothing to decide: .*overrides: high for"):
        bench.search({"cosine_min": Bound(min=0.1)}, overrides={"*": "high"})


def test_a_module_that_is_included_may_still_be_left_high(bench: Bench) -> None:
    insert = InsertOptions(include=["head"])
    found = bench.search({"snr_db": Bound(min=60)}, insert=insert)  # so high that nothing passes but high precision
    assert "head" not in Plan.read(found.plan).modules
