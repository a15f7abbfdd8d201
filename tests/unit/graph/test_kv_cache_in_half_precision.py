"""Decoders lowered to FP16: near the FP32 module, right at every position, safe from outliers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from tests.decoders import Rows, build, export, logits_of, lower, teacher_forced, token_ids
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.graph import document
from trtbuild.graph.always_float32 import always_float32
from trtbuild.graph.kv_cache.attach import attach
from trtbuild.graph.kv_cache.stand_in import reveal
from trtbuild.graph.non_finite import float_outputs, write_magnitudes

CAPACITY = 32
IDS = token_ids(3, CAPACITY)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, made = tmp_path_factory.mktemp("exported"), dict[str, Path]()

    def of(family: str) -> Path:
        if family not in made:
            made[family] = export(build(family), folder / f"{family}.onnx")
        return made[family]

    return of


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "gpt2"])
def test_a_lowered_decoder_is_near_its_module(family: str, exported: Callable[[str], Path], tmp_path: Path) -> None:
    path, cache = lower(exported(family), tmp_path / "fp16", CAPACITY)
    assert set(cache.dtypes) == {"float16"}
    model = onnx.load(path)
    assert {initializer.data_type for initializer in model.graph.initializer if "proj.weight" in initializer.name} <= {
        onnx.TensorProto.FLOAT16
    }
    assert not any("stand_in" in name for node in model.graph.node for name in (node.name, *node.input, *node.output))
    error = teacher_forced(path, cache, IDS, logits_of(build(family), IDS))
    assert 1e-5 < error <= 0.01


def test_attention_takes_and_gives_what_the_cache_has(exported: Callable[[str], Path], tmp_path: Path) -> None:
    path, _ = lower(exported("llama"), tmp_path / "fp16", CAPACITY)
    graph = document.load(path).graph
    attended = [node for node in graph if node.op_type == "CachedAttention"]
    assert {str(value.dtype) for node in attended for value in (*node.inputs[:3], node.outputs[0])} == {"FLOAT16"}
    interface = [value.name for value in graph.inputs]
    original = document.load(exported("llama"))
    attach(original, CAPACITY)
    assert interface == [value.name for value in original.graph.inputs]


def test_what_16_bits_would_break_is_angles_and_root_mean_squares(exported: Callable[[str], Path]) -> None:
    kept = always_float32(document.load(exported("llama")).graph)
    rotary = [name.partition("/")[2] for name in kept if name.startswith("model.rotary_emb/")]
    assert rotary == ["Cast", "Mul", "Concat", "Cos", "Sin"]
    norms = {name.partition("/")[0]: [] for name in kept if not name.startswith("model.rotary_emb/")}
    for name in kept:
        if (module := name.partition("/")[0]) in norms:
            norms[module].append(name.partition("/")[2])
    layers = [f"model.layers.{layer}.{norm}_layernorm" for layer in (0, 1) for norm in ("input", "post_attention")]
    assert list(norms) == [*layers, "model.norm"]
    assert set(map(tuple, norms.values())) == {("Pow", "ReduceMean", "Add", "Sqrt", "Reciprocal", "Mul")}
    assert always_float32(document.load(exported("gpt2")).graph) == []  # learned positions, LayerNormalization


def angles(path: Path, positions: list[int]) -> np.ndarray[Any, Any]:
    """Cosines and sines of the rotary embedding at those positions, as the graph computes them."""
    graph = document.load(path)
    wanted = [node.outputs[0] for node in graph.graph if node.op_type in ("Cos", "Sin")]
    graph.graph.outputs.extend(wanted)
    model = ir.to_proto(graph)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feed = {"input_ids": np.zeros((len(positions), 1), np.int64), "lengths": np.array(positions, np.int64)}
    for entry in session.get_inputs():
        if entry.name not in feed:
            dtype = np.float16 if entry.type == "tensor(float16)" else np.float32
            feed[entry.name] = np.zeros((len(positions), *entry.shape[1:]), dtype)
    return np.stack([np.asarray(x, np.float32) for x in session.run([value.name for value in wanted], feed)])


@pytest.mark.parametrize("keep", [True, False])
def test_positions_beyond_the_integers_of_fp16_stay_right(keep: bool, tmp_path: Path) -> None:
    """And without the nodes kept in FP32 they are wrong, or this would prove nothing."""
    model = build("llama", max_position_embeddings=1 << 17)
    plain = export(model, tmp_path / "llama.onnx")
    path, _ = lower(plain, tmp_path / "fp16", CAPACITY, keep=keep)
    positions = [0, 1, 2047, 2049, 4097, 65_521, 131_071]
    frequency = model.model.rotary_emb.inv_freq.double().numpy()
    angle = np.outer(positions, np.concatenate([frequency, frequency]))[:, None]
    error = np.abs(angles(path, positions) - np.stack([np.cos(angle), np.sin(angle)])).max()
    assert (error < 1e-2) == keep


def test_a_row_at_a_high_position_says_what_it_says_at_a_low_one(tmp_path: Path) -> None:
    """Rotary attention depends on distances alone: the same text, begun 4000 positions later, has the same logits.

    The row's length starts at 4000 over an empty cache of which a window hides all that was not written.
    """
    model = build("mistral", max_position_embeddings=1 << 13, sliding_window=7)
    path, cache = lower(export(model, tmp_path / "mistral.onnx"), tmp_path / "fp16", 4096)
    rows = Rows(path, cache, 2)
    rows.state = {name: np.zeros_like(array) for name, array in rows.state.items()}
    rows.lengths = np.array([0, 4001])
    found = rows.read(np.stack([IDS[0], IDS[0]]))
    for name in rows.state:  # keys and values of what the second row never read are zeros, as the first row's are none
        assert np.isfinite(rows.state[name]).all()
    late = found[1, 20:]  # the zeros before the text have left every layer's window
    early = found[0, 20:]
    assert np.linalg.norm(late - early) <= 0.01 * np.linalg.norm(early)


def non_finite(folder: Path) -> list[str]:
    """FP16 tensors of a lowered decoder that a strongly typed engine would find infinite, reading `IDS`."""
    (folder / "cached.onnx").replace(folder / "model.onnx")
    limited = OnnxModel(folder / "limited")
    limited.path.mkdir()
    graph = document.load(folder / "model.onnx").graph
    asked = write_magnitudes(OnnxModel(folder), float_outputs(graph), limited)
    session = onnxruntime.InferenceSession(limited.main)
    feed = {"input_ids": IDS, "lengths": np.zeros(3, np.int64)}
    for entry in session.get_inputs():
        if entry.name not in feed:
            feed[entry.name] = np.zeros((3, *entry.shape[1:]), np.float16)
    found = session.run(list(asked.values()), feed)
    return [name for name, magnitude in zip(asked, found, strict=True) if not np.isfinite(magnitude)]


def test_an_outlier_that_squared_leaves_fp16_does_no_harm(tmp_path: Path) -> None:
    """As in large decoders, whose residual stream has channels in the thousands, after some tokens only: nothing that
    AutoCast tries shows them."""
    model = build("llama")
    model.model.embed_tokens.weight.data[IDS[0, 0], 5] = 3000.0
    truth = logits_of(model, IDS)
    path, cache = lower(export(model, tmp_path / "llama.onnx"), tmp_path / "fp16", CAPACITY)
    assert teacher_forced(path, cache, IDS, truth) <= 0.01
    assert non_finite(path.parent) == []
    naive, _ = lower(tmp_path / "llama.onnx", tmp_path / "naive", CAPACITY, keep=False)
    assert any("norm/Pow" in name for name in non_finite(naive.parent))  # or all this would prove nothing


def test_a_stand_in_that_is_gone_is_an_error(exported: Callable[[str], Path]) -> None:
    original = document.load(exported("llama"))
    cache = attach(original, CAPACITY)
    with pytest.raises(ModelError, match="layer 0 did not survive"):
        reveal(document.load(exported("llama")), original, cache)
