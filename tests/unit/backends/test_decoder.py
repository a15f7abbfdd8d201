"""Decoders of many families with a cache: exported once, run in every mode, right or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.decoders import (
    FAMILIES,
    POSITIONS,
    SHAPES,
    Rows,
    build,
    export,
    logits_of,
    teacher_forced,
    token_ids,
)
from trtbuild.backends.decoder.export import as_decoder
from trtbuild.backends.decoder.ranges import observe_ranges
from trtbuild.backends.huggingface import HuggingFace
from trtbuild.backends.pytorch import PyTorch
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.kv_cache import CacheFloat, CacheMode, KvCache, LayerRanges
from trtbuild.core.sources import HuggingFaceSource
from trtbuild.graph import document
from trtbuild.graph.kv_cache.attach import attach
from trtbuild.graph.kv_cache.operators import define
from trtbuild.graph.kv_cache.quantize import quantize_cache

CAPACITY = 32
IDS = token_ids(3, CAPACITY)

Attach = Callable[..., tuple[Path, KvCache]]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, np.ndarray]]:
    """Each family's graph without a cache, and what the module says; exported at the first use."""
    folder, made = tmp_path_factory.mktemp("decoders"), {}

    def of(family: str) -> tuple[Path, np.ndarray]:
        if family not in made:
            model = build(family)
            truth = logits_of(model, IDS)
            made[family] = export(model, folder / f"{family}.onnx"), truth
        return made[family]

    return of


@pytest.fixture
def with_cache(graphs: Callable[[str], tuple[Path, np.ndarray]], tmp_path: Path) -> Attach:
    def of(
        family: str, mode: CacheMode = "float", float_type: CacheFloat = "float32", **settings: Any
    ) -> tuple[Path, KvCache]:
        graph = document.load(graphs(family)[0])
        cache = quantize_cache(graph, attach(graph, CAPACITY, float_type), mode, **settings)
        ir.save(graph, tmp_path / "cached.onnx")
        onnx.checker.check_model(tmp_path / "cached.onnx", full_check=True)
        return tmp_path / "cached.onnx", cache

    return of


@pytest.fixture(scope="module")
def ranges() -> dict[int, LayerRanges]:
    return observe_ranges(build("llama"), [{"input_ids": IDS}], 99.99)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_its_module(family: str, graphs: Any, with_cache: Attach) -> None:
    path, cache = with_cache(family)
    assert teacher_forced(path, cache, IDS, graphs(family)[1]) <= 1e-4


@pytest.mark.parametrize(
    ("mode", "float_type", "limit"),
    [("float", "float16", 2e-3), ("int8", "float32", 0.05), ("int8_static", "float32", 0.1), ("fp8", "float32", 0.25)],
)
def test_every_mode_is_near(
    mode: Any, float_type: Any, limit: float, graphs: Any, with_cache: Attach, ranges: dict[int, LayerRanges]
) -> None:
    path, cache = with_cache("llama", mode, float_type, ranges=ranges)
    error = teacher_forced(path, cache, IDS, graphs("llama")[1])
    assert 1e-5 < error <= limit


def test_an_excluded_layer_stays_in_floating_point(graphs: Any, with_cache: Attach) -> None:
    truth = graphs("llama")[1]
    all_layers = teacher_forced(*with_cache("llama", "int8"), IDS, truth)
    path, cache = with_cache("llama", "int8", exclude=[1])
    assert (cache.dtypes, cache.excluded) == (["int8", "float32"], [1])
    assert teacher_forced(path, cache, IDS, truth) < all_layers
    path, cache = with_cache("llama", "int8", exclude=[0, 1])
    assert teacher_forced(path, cache, IDS, truth) <= 1e-4


def test_a_prompt_in_pieces_equals_a_prompt_at_once_in_every_bit_of_an_int8_cache(with_cache: Attach) -> None:
    path, cache = with_cache("mistral", "int8")
    whole, pieces = Rows(path, cache, 3), Rows(path, cache, 3)
    at_once = whole.read(IDS)
    parts = [pieces.read(IDS[:, start : start + 8]) for start in range(0, CAPACITY, 8)]
    assert np.allclose(np.concatenate(parts, 1), at_once, atol=1e-3)
    first = "cache.0.key"  # of the first layer, where rounding differences have not grown yet
    assert np.array_equal(whole.state[first], pieces.state[first])


def test_the_interface(with_cache: Attach) -> None:
    path, cache = with_cache("llama", "int8", exclude=[1])
    session = onnxruntime.InferenceSession(path)
    inputs = {entry.name: (entry.type, entry.shape) for entry in session.get_inputs()}
    block, scales = ["batch", 2, CAPACITY, 8], ["batch", 2, CAPACITY]
    assert list(inputs.items()) == [
        ("input_ids", ("tensor(int64)", ["batch", "tokens"])),
        ("lengths", ("tensor(int64)", ["batch"])),
        ("cache.0.key", ("tensor(int8)", block)),
        ("cache.0.value", ("tensor(int8)", block)),
        ("cache.0.key_scale", ("tensor(float16)", scales)),
        ("cache.0.value_scale", ("tensor(float16)", scales)),
        ("cache.1.key", ("tensor(float)", block)),
        ("cache.1.value", ("tensor(float)", block)),
    ]
    names = [entry.name for entry in session.get_outputs()]
    assert names == ["logits", *(f"{name}.out" for name in list(inputs)[2:])]
    cache.write(path.parent)
    assert KvCache.read(path.parent) == cache


def test_nodes_carry_their_module_path_and_every_attribute(with_cache: Attach) -> None:
    path, _ = with_cache("gemma3_text", "int8")
    model = onnx.load(path)
    nodes = {node.name: node for node in model.graph.node if node.domain == "trtbuild"}
    assert list(nodes) == [
        f"model.layers.{layer}.self_attn/{name}"
        for layer in range(2)
        for name in ("KVCacheAppendInt8PerToken", "CachedAttentionPerToken")
    ]
    bodies = {function.name: function for function in model.functions if function.domain == "trtbuild"}
    assert bodies.keys() == {node.op_type for node in nodes.values()}
    for node in nodes.values():
        found = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        assert found.keys() == set(bodies[node.op_type].attribute)
        assert (found["plugin_namespace"], found["plugin_version"], found["aot"]) == (b"trtbuild", b"1", 1)
    windows = [
        next(entry.i for entry in node.attribute if entry.name == "window")
        for node in nodes.values()
        if node.op_type == "CachedAttentionPerToken"
    ]
    assert windows == [7, 2**31 - 1]


def test_shapes_are_inferred_through_the_bodies(with_cache: Attach) -> None:
    path, _ = with_cache("llama", "int8")
    model = onnx.load(path)
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    types = {entry.name: entry.type.tensor_type for entry in [*inferred.graph.value_info, *inferred.graph.output]}
    attended = types["model.layers.0.self_attn/CachedAttentionPerToken:0"]
    assert attended.elem_type == onnx.TensorProto.FLOAT
    assert len(attended.shape.dim) == 4
    cache = types["cache.1.key.out"]
    assert cache.elem_type == onnx.TensorProto.INT8
    assert [dim.dim_value or dim.dim_param for dim in cache.shape.dim] == ["batch", 2, CAPACITY, 8]


def test_tied_embeddings_are_stored_once(with_cache: Attach) -> None:
    path, _ = with_cache("qwen2")
    model = build("qwen2")
    stored = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(path).graph.initializer)
    parameters = sum(tensor.nbytes for tensor in model.parameters())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert stored < parameters + model.lm_head.weight.nbytes


def test_without_a_cache_the_graph_reads_whole_texts(graphs: Any, tmp_path: Path) -> None:
    path, truth = graphs("mistral")
    graph = document.load(path)
    define(graph)
    ir.save(graph, tmp_path / "plain.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "plain.onnx")
    found = session.run(None, {"input_ids": IDS, "lengths": np.zeros(3, np.int64)})[0]
    assert np.allclose(found, truth, rtol=1e-4, atol=1e-4)


def test_the_last_logits_only(tmp_path: Path) -> None:
    model = build("llama")
    truth = logits_of(model, IDS)
    graph = document.load(export(model, tmp_path / "last.onnx", logits="last"))
    cache = attach(graph, CAPACITY)
    ir.save(graph, tmp_path / "cached.onnx")
    found = Rows(tmp_path / "cached.onnx", cache, 3).read(IDS[:, :9])
    assert found.shape == (3, 1, truth.shape[-1])
    assert np.allclose(found[:, 0], truth[:, 8], rtol=1e-4, atol=1e-4)


def test_the_module_itself_still_runs_and_nothing_stays_registered() -> None:
    model = build("llama")
    before = (list(ALL_ATTENTION_FUNCTIONS), list(ALL_MASK_ATTENTION_FUNCTIONS), model.config._attn_implementation)
    truth = logits_of(model, IDS)
    decoder = as_decoder(model)
    observe_ranges(decoder, [{"input_ids": IDS, "lengths": np.zeros(3, np.int64)}])
    with pytest.raises(ModelError):
        PyTorch().export(as_decoder(build("gemma2")), SHAPES, 21, Path("never.onnx"))
    (found,) = PyTorch().observe(decoder, [{"input_ids": IDS, "lengths": np.zeros(3, np.int64)}])
    assert np.array_equal(found["logits"], truth)
    with pytest.raises(DataError, match="no cache"):
        decoder(torch.from_numpy(IDS), torch.ones(3, dtype=torch.int64))
    after = (list(ALL_ATTENTION_FUNCTIONS), list(ALL_MASK_ATTENTION_FUNCTIONS), model.config._attn_implementation)
    assert after == before


def test_a_model_folder_loads_as_a_decoder(tmp_path: Path) -> None:
    model = build("llama")
    model.save_pretrained(tmp_path / "llama")
    source = HuggingFaceSource(folder=tmp_path / "llama", auto_class="AutoModelForCausalLM", outputs=["logits"])
    loaded = HuggingFace().load(source)
    graph = document.load(export(loaded, tmp_path / "loaded.onnx"))
    cache = attach(graph, CAPACITY)
    ir.save(graph, tmp_path / "cached.onnx")
    assert teacher_forced(tmp_path / "cached.onnx", cache, IDS, logits_of(model, IDS)) <= 1e-4


def cached_heads(ids: np.ndarray) -> dict[tuple[int, str], torch.Tensor]:
    """Keys and values by layer, [batch, heads, tokens, size], as transformers' own cache has them."""
    with torch.inference_mode():
        own = build("llama")(input_ids=torch.from_numpy(ids), use_cache=True).past_key_values
    return {
        (number, role): getattr(layer, f"{role}s").abs()
        for number, layer in enumerate(own.layers)
        for role in ("key", "value")
    }


def test_ranges_are_those_of_what_the_cache_holds() -> None:
    found = observe_ranges(build("llama"), [{"input_ids": IDS[:2]}, {"input_ids": IDS[2:]}], 100)
    for (layer, role), heads in cached_heads(IDS).items():
        for number, head in enumerate(getattr(found[layer], role)):
            assert head.amax == pytest.approx(float(heads[:, number].max()), rel=1e-5)
            assert (head.saturated, head.elements) == (0, heads[:, number].numel())


def test_a_percentile_clips_and_counts_what_it_clips() -> None:
    found = observe_ranges(build("llama"), [{"input_ids": IDS}], 99)
    for (layer, role), heads in cached_heads(IDS).items():
        for number, head in enumerate(getattr(found[layer], role)):
            beyond = int((heads[:, number] > head.amax).sum())
            assert abs(head.saturated - beyond) <= 1  # a value on a bin's edge counts on either side
            assert 0 < head.saturated <= 0.01 * head.elements
            assert head.amax < head.seen == pytest.approx(float(heads[:, number].max()))


def test_padding_does_not_count() -> None:
    mask = np.ones_like(IDS)
    mask[1, 20:] = 0
    found = observe_ranges(build("llama"), [{"input_ids": IDS, "attention_mask": mask}], 100)
    assert found[0].key[0].elements == int(mask.sum()) * 8


def test_no_samples_are_an_error() -> None:
    with pytest.raises(DataError, match="no samples"):
        observe_ranges(build("llama"), [])


NO_HEADS = LayerRanges(key=[], value=[])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"capacity": POSITIONS + 1}, "65 tokens does not fit a model of 64 positions"),
        ({"capacity": 0}, "0 tokens"),
        ({"exclude": [2]}, "no layer 2 to exclude"),
        ({"mode": "int8_static"}, "needs the range of every layer's keys and values"),
        (
            {"mode": "int8_static", "ranges": {0: NO_HEADS}},
            r"ranges of layers \[0\], the graph a cache of layers 0 to 1",
        ),
        ({"mode": "fp8", "ranges": {0: NO_HEADS, 1: NO_HEADS}}, "2 key heads, its ranges are of 0"),
    ],
)
def test_impossible_caches_are_refused(settings: dict[str, Any], message: str, graphs: Any) -> None:
    graph = document.load(graphs("llama")[0])
    with pytest.raises(ModelError, match=message):
        quantize_cache(graph, attach(graph, settings.pop("capacity", CAPACITY)), **{"mode": "int8", **settings})


def test_a_second_cache_is_refused(with_cache: Attach) -> None:
    with pytest.raises(ModelError, match="no attention that a cache could serve"):
        attach(document.load(with_cache("llama")[0]), CAPACITY)
    path, cache = with_cache("llama", "int8")
    with pytest.raises(ModelError, match="the cache is int8 already"):
        quantize_cache(document.load(path), cache, "fp8")


def test_a_description_of_another_cache_is_refused(with_cache: Attach) -> None:
    path, cache = with_cache("llama")
    for layers, message in ((3, "no float cache of layer 2"), (1, "caches of more than 1 layers")):
        other = cache.model_copy(update={"layers": layers, "dtypes": ["float32"] * layers})
        with pytest.raises(ModelError, match=message):
            quantize_cache(document.load(path), other, "int8")


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("bloom", {"n_head": 4, "n_layer": 1}, "computes attention by itself"),
        ("falcon", {"alibi": True}, "adds ALiBi"),
        ("gpt2", {"add_cross_attention": True}, "attends an encoder's output"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "type dynamic"),
        ("qwen3_next", {"num_key_value_heads": 2, "layer_types": ["linear_attention"] * 2}, "linear_attention"),
    ],
)
def test_models_that_no_cache_fits_are_refused_before_the_export(
    family: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        as_decoder(build(family, **settings))


def test_a_model_without_logits_is_refused() -> None:
    with pytest.raises(ModelError, match="no Hugging Face model with logits"):
        as_decoder(torch.nn.Linear(2, 2))
    with pytest.raises(ModelError, match="no Hugging Face model with logits"):
        as_decoder(build("llama").model)


def _without_number(model: Any) -> None:
    del model.model.layers[1].self_attn.layer_idx


def _looking_ahead(model: Any) -> None:
    model.model.layers[1].self_attn.is_causal = False


def _crossing(model: Any) -> None:
    model.model.layers[0].self_attn.is_cross_attention = True


def _one_layer_twice(model: Any) -> None:
    model.model.layers[1].self_attn.layer_idx = 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_number, "LlamaAttention has no layer_idx"),
        (_looking_ahead, "layer 1 .* also attends later positions"),
        (_crossing, "layer 0 .* is cross-attention"),
        (_one_layer_twice, r"attention of layers \[0, 0\] only"),
    ],
)
def test_layers_that_no_cache_fits_are_refused(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    model = build("llama")
    change(model)
    with pytest.raises(ModelError, match=message):
        export(model, tmp_path / "refused.onnx")


def test_capped_scores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="caps its scores"):
        export(build("gemma2", num_key_value_heads=2, head_dim=16), tmp_path / "refused.onnx")
