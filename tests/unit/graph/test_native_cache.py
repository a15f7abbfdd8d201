"""A float cache in ONNX's own operators gives what our functions give."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest

from tests.decoders import Rows, build, export, token_ids
from trtbuild.core.errors import ModelError
from trtbuild.core.kv_cache import CacheFloat, KvCache
from trtbuild.graph import canonical, document
from trtbuild.graph.kv_cache.attach import attach
from trtbuild.graph.kv_cache.native import native_cache
from trtbuild.graph.kv_cache.quantize import quantize_cache

CAPACITY = 24
IDS = token_ids(3, CAPACITY)
STEPS = [(0, 9), (9, 10), (10, 14), (14, 15)]
"""A prompt, a step, a piece of a prompt, a step."""

Written = Callable[..., tuple[Path, Path, KvCache]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, made = tmp_path_factory.mktemp("exported"), dict[str, Path]()

    def of(family: str) -> Path:
        if family not in made:
            made[family] = export(build(family), folder / f"{family}.onnx")
        return made[family]

    return of


@pytest.fixture
def written(exported: Callable[[str], Path], tmp_path: Path) -> Written:
    """One decoder with our functions, and with ONNX's operators."""

    def of(family: str, floats: CacheFloat) -> tuple[Path, Path, KvCache]:
        ours, native = document.load(exported(family)), document.load(exported(family))
        layout = attach(ours, CAPACITY, floats)
        native_cache(native, attach(native, CAPACITY, floats))
        canonical.canonicalize(native)
        for graph, name in ((ours, "ours"), (native, "native")):
            ir.save(graph, tmp_path / f"{name}.onnx")
            onnx.checker.check_model(tmp_path / f"{name}.onnx", full_check=True)
        return tmp_path / "ours.onnx", tmp_path / "native.onnx", layout

    return of


def empty(path: Path, layout: KvCache, offsets: list[int]) -> Rows:
    """Rows with caches of zeros, which have read `offsets` tokens already."""
    rows = Rows(path, layout, len(offsets))
    rows.state = {name: np.zeros_like(array) for name, array in rows.state.items()}
    for row, count in enumerate(offsets):
        if count:
            alone = Rows(path, layout, 1)
            alone.state = {name: np.zeros_like(array) for name, array in alone.state.items()}
            alone.read(IDS[row : row + 1, -count:])
            for name in rows.state:
                rows.state[name][row] = alone.state[name][0]
    rows.lengths = np.array(offsets)
    return rows


@pytest.mark.parametrize(("floats", "limit"), [("float32", 1e-5), ("float16", 2e-3)])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "gpt2"])
def test_logits_and_caches_are_those_of_our_functions(
    family: str, floats: CacheFloat, limit: float, written: Written
) -> None:
    ours, native, layout = written(family, floats)
    both = [empty(path, layout, [0, 3, 5]) for path in (ours, native)]
    for begin, end in STEPS:
        wanted, found = (rows.read(IDS[:, begin:end]) for rows in both)
        assert np.linalg.norm(found - wanted) <= limit * np.linalg.norm(wanted)
        assert np.isfinite(found).all()
    for name, cache in both[0].state.items():
        assert both[1].state[name].dtype == cache.dtype
        assert np.allclose(both[1].state[name], cache, atol=10 * limit)


def test_the_reference_of_onnx_says_the_same(written: Written) -> None:
    """So what runs here is what the standard means, not what one runtime does."""
    _, native, layout = written("mistral", "float32")
    rows = empty(native, layout, [0, 3, 5])
    feed = {"input_ids": IDS[:, :4], "lengths": rows.lengths, **rows.state}
    names = [value.name for value in onnx.load(native).graph.output]
    said = dict(zip(names, onnx.reference.ReferenceEvaluator(str(native)).run(None, feed), strict=True))
    logits = rows.read(IDS[:, :4])
    assert np.linalg.norm(said["logits"] - logits) <= 1e-5 * np.linalg.norm(logits)
    for name, cache in rows.state.items():
        assert np.allclose(said[f"{name}.out"], cache, atol=1e-5)


def test_a_cache_in_bf16(written: Written) -> None:
    """ONNX Runtime has no BF16 on CPUs; the standard's reference has."""
    _, single, layout = written("llama", "float32")
    rows = empty(single, layout, [0, 3, 5])
    feed = {"input_ids": IDS[:, :4], "lengths": rows.lengths}
    brain = {name: array.astype(ml_dtypes.bfloat16) for name, array in rows.state.items()}
    wanted = rows.read(IDS[:, :4])
    _, native, layout = written("llama", "bfloat16")
    assert layout.dtypes == ["bfloat16"] * 2
    found = onnx.reference.ReferenceEvaluator(str(native)).run(None, {**feed, **brain})
    assert np.linalg.norm(found[0] - wanted) <= 0.03 * np.linalg.norm(wanted)
    assert found[1].dtype == ml_dtypes.bfloat16


def test_no_operator_of_ours_is_left_and_a_mask_serves_all_layers_of_its_window(written: Written) -> None:
    ours, native, _ = written("gemma3_text", "float32")
    model = onnx.load(native)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 24)]
    assert not model.functions
    operators = Counter(node.op_type for node in model.graph.node)
    assert (operators["TensorScatter"], operators["Attention"]) == (4, 2)
    attentions = [node for node in model.graph.node if node.op_type == "Attention"]
    assert [node.name for node in attentions] == [f"model.layers.{layer}.self_attn/Attention" for layer in (0, 1)]
    assert len({node.input[3] for node in attentions}) == 2  # one layer has a window
    before = onnx.load(ours).graph
    assert (list(model.graph.input), list(model.graph.output)) == (list(before.input), list(before.output))
    assert all(len(node.input) == 4 and len(node.output) == 1 for node in attentions)  # what TensorRT's importer takes
    scatters = [node for node in model.graph.node if node.op_type == "TensorScatter"]
    inputs, outputs = ({value.name for value in values} for values in (model.graph.input, model.graph.output))
    for node in scatters:
        axis = next(entry.i for entry in node.attribute if entry.name == "axis")
        assert (node.input[0] in inputs, node.output[0] in outputs, axis) == (True, True, -2)


def test_quantized_caches_and_old_opsets_are_refused(exported: Callable[[str], Path]) -> None:
    model = document.load(exported("llama"))
    layout = attach(model, CAPACITY)
    model.opset_imports[""] = 20
    with pytest.raises(ModelError, match="has opset 20"):
        native_cache(model, layout)
    model.opset_imports[""] = 21
    layout = quantize_cache(model, layout, "int8")
    with pytest.raises(ModelError, match="the cache is int8 already"):
        native_cache(model, layout)
