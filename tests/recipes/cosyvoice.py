"""Checkpoints, ONNX files and recordings of CosyVoice's parts, small and with weights made here."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

RECIPES = Path(__file__).parents[2] / "recipes"
FLOW = {"width": 32, "heads": 2, "head_width": 16, "blocks": 1, "middle": 1}
DIT = {"width": 64, "heads": 2, "depth": 2}
HIFT = {"width": 32, "pitch_width": 8, "kernels": [3], "dilations": [1]}


LLM = {"text": 50, "width": 128, "layers": 2, "heads": 2, "kv_heads": 1, "mlp": 192}


@contextmanager
def module_of(folder: str, name: str) -> Any:
    """A recipe's module, imported as a build imports it and forgotten afterwards."""
    sys.path.insert(0, str(RECIPES / folder))
    try:
        yield __import__(name)
    finally:
        sys.path.remove(str(RECIPES / folder))
        for known in [known for known in sys.modules if known.partition(".")[0] == name]:
            del sys.modules[known]


def randomized(module: Any, scale: float = 1.0) -> Any:
    """Weights that keep the size of what they multiply, and biases and norms that are no ones and zeros."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, scale * parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def flow_state(module: ModuleType, **changed: Any) -> dict[str, torch.Tensor]:
    """A flow.pt: the estimator under its prefix, and something of the token encoder beside it."""
    sizes = {"mels": 80, "chunk": 0, **FLOW, **changed}
    estimator = randomized(module.Estimator(**sizes))
    state = {f"decoder.estimator.{name}": tensor for name, tensor in estimator.state_dict().items()}
    return {**state, "input_embedding.weight": torch.zeros(4, 4), "encoder.after_norm.bias": torch.zeros(4)}


def dit_state(module: ModuleType) -> dict[str, torch.Tensor]:
    """A flow.pt of CosyVoice3."""
    estimator = randomized(module.Estimator(mels=80, mlp_ratio=2, chunk=0, **DIT))
    return {f"decoder.estimator.{name}": tensor for name, tensor in estimator.state_dict().items()}


def hift_state(module: ModuleType, *, causal: bool = False) -> dict[str, torch.Tensor]:
    """A hift.pt: weights normalized as `torch.nn.utils.parametrizations.weight_norm` saves them."""
    vocoder = randomized(module.Hift(causal=causal, **HIFT))
    with torch.no_grad():
        vocoder.f0_predictor.classifier.bias.fill_(150)  # Hz, so that there is voice
        vocoder.conv_post.weight.mul_(3)
    state: dict[str, torch.Tensor] = {}
    for name, tensor in vocoder.state_dict().items():
        if name.endswith(".weight") and tensor.ndim == 3 and "source_downs" not in name:
            path = name.removesuffix("weight")
            norm = tensor.norm(dim=(1, 2), keepdim=True)
            state[f"{path}parametrizations.weight.original0"] = norm
            state[f"{path}parametrizations.weight.original1"] = tensor / norm * 2
        else:
            state[name] = tensor
    return {f"generator.{name}": tensor for name, tensor in state.items()}


def llm_state(module: ModuleType) -> dict[str, torch.Tensor]:
    """A llm.pt: Qwen2 with its own head over text, three tables, and the head over speech."""
    config = module.AutoConfig.for_model(
        "qwen2",
        vocab_size=LLM["text"],
        hidden_size=LLM["width"],
        num_hidden_layers=LLM["layers"],
        num_attention_heads=LLM["heads"],
        num_key_value_heads=LLM["kv_heads"],
        intermediate_size=LLM["mlp"],
        tie_word_embeddings=True,
    )
    state: dict[str, torch.Tensor] = randomized(module.Original(config, 6564, marks=True, head_bias=True)).state_dict()
    return {**state, "llm_decoder.weight": 3 * state["llm_decoder.weight"]}


def record_speech(folder: Path, *, rows: int = 48) -> Path:
    """Sentences: a mark, text, a mark, speech tokens; in the joint vocabulary."""
    random = np.random.default_rng(0)
    text, speech = random.integers(6566, 6566 + LLM["text"], (rows, 8)), random.integers(0, 6561, (rows, 34))
    begin, speak = (np.full((rows, 1), mark) for mark in (6564, 6565))
    return _written(folder, input_ids=np.concatenate([begin, text, speak, speech], axis=1))


def record_flow(folder: Path, *, rows: int = 80, frames: int = 24, scale: float = 1.0) -> Path:
    """What an estimator was given: noise, tokens and prompts as smooth in time as spectrograms are."""
    random = np.random.default_rng(int(1000 * scale))

    def smooth(channels: int) -> Any:
        walk = random.standard_normal((rows, channels, frames)).cumsum(axis=2)
        return (scale * walk / np.sqrt(np.arange(1, frames + 1))).astype(np.float32)

    mask = np.ones((rows, 1, frames), np.float32)
    mask[::4, :, frames - 5 :] = 0
    return _written(
        folder,
        x=scale * random.standard_normal((rows, 80, frames)).astype(np.float32),
        mask=mask,
        mu=smooth(80),
        t=random.random(rows).astype(np.float32),
        spks=(scale * random.standard_normal((rows, 80))).astype(np.float32),
        cond=smooth(80),
    )


def record_hift(folder: Path, *, rows: int = 24, frames: int = 8) -> Path:
    """What a vocoder was given; every other row goes on from a chunk before."""
    random = np.random.default_rng(0)
    cached = np.zeros((rows, frames, 1), np.float32)
    cached[::2, :3] = 1
    cache = (cached * 0.1 * random.standard_normal((rows, frames, 480))).astype(np.float32)
    mel, noise = (
        random.standard_normal(shape).astype(np.float32) for shape in ((rows, 80, frames), (rows, frames, 4320))
    )
    return _written(folder, mel=mel, noise=noise, cache=cache, cached=cached)


def record_features(folder: Path, *, rows: int = 100, frames: int = 40) -> Path:
    """Filter banks of speech, without their mean."""
    features = np.random.default_rng(0).standard_normal((rows, frames, 80)).cumsum(axis=1) / 4
    return _written(folder, input=(features - features.mean(axis=1, keepdims=True)).astype(np.float32))


def record_spectrograms(folder: Path, *, rows: int = 100, frames: int = 64) -> Path:
    """Log-mel spectrograms of 128 bands, each with its length."""
    feats = np.random.default_rng(0).standard_normal((rows, 128, frames)).astype(np.float32)
    return _written(folder, feats=feats, feats_length=np.full((rows,), frames, np.int32))


def _written(folder: Path, **arrays: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "recorded.npz", **arrays)
    return folder / "recorded.npz"


def _weight(random: np.random.Generator, *shape: int) -> Any:
    return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def write_campplus(path: Path) -> Path:
    """A speaker encoder with campplus.onnx's input and output: convolutions over time, their mean, 192 numbers."""
    random = np.random.default_rng(0)
    shapes = {"conv1": (32, 80, 5), "conv2": (32, 32, 3), "conv3": (32, 32, 3)}
    nodes = [helper.make_node("Transpose", ["input"], ["read"], perm=[0, 2, 1], name="head/Transpose")]
    read = "read"
    for name, (_, _, kernel) in shapes.items():
        pads = [kernel // 2] * 2
        nodes.append(helper.make_node("Conv", [read, f"{name}.weight"], [name], name=f"xvector/{name}/Conv", pads=pads))
        nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"], name=f"xvector/{name}/Relu"))
        read = f"{name}.relu"
    nodes.append(helper.make_node("ReduceMean", [read, "time"], ["mean"], name="stats/ReduceMean", keepdims=0))
    nodes.append(helper.make_node("Gemm", ["mean", "dense.weight"], ["output"], name="dense/Gemm"))
    weights = {f"{name}.weight": _weight(random, *shape) for name, shape in shapes.items()}
    weights |= {"dense.weight": _weight(random, 32, 192), "time": np.array([2], np.int64)}
    return _saved(path, nodes, weights, {"input": (TensorProto.FLOAT, ["b", "t", 80])}, (TensorProto.FLOAT, ["b", 192]))


def write_speech_tokenizer(path: Path) -> Path:
    """A tokenizer with speech_tokenizer_v2.onnx's inputs and output: four frames to one token of 3^8 (FSQ)."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["feats", "conv1.weight"], ["a"], name="conv1/Conv", strides=[2], pads=[1, 1]),
        helper.make_node("Tanh", ["a"], ["b"], name="conv1/Tanh"),
        helper.make_node("Conv", ["b", "conv2.weight"], ["c"], name="conv2/Conv", strides=[2], pads=[1, 1]),
        helper.make_node("Transpose", ["c"], ["d"], perm=[0, 2, 1], name="Transpose"),
        helper.make_node("MatMul", ["d", "block.weight"], ["e"], name="block/MatMul"),
        helper.make_node("Add", ["d", "e"], ["f"], name="Add"),
        helper.make_node("MatMul", ["f", "fsq.weight"], ["g"], name="fsq/MatMul"),
        helper.make_node("Tanh", ["g"], ["h"], name="fsq/Tanh"),
        helper.make_node("Round", ["h"], ["i"], name="fsq/Round"),
        helper.make_node("Add", ["i", "one"], ["j"], name="fsq/Add"),
        helper.make_node("MatMul", ["j", "powers"], ["k"], name="digits/MatMul"),
        helper.make_node("Cast", ["k"], ["l"], to=TensorProto.INT32, name="Cast"),
        # What the length is for in the original: tokens behind it do not count.
        helper.make_node("Shape", ["l"], ["m"], start=1, end=2, name="Shape"),
        helper.make_node("Squeeze", ["m"], ["n"], name="Squeeze"),
        helper.make_node("Range", ["zero", "n", "step"], ["o"], name="Range"),
        helper.make_node("Cast", ["feats_length"], ["p"], to=TensorProto.INT64, name="length/Cast"),
        helper.make_node("Less", ["o", "p"], ["q"], name="Less"),
        helper.make_node("Cast", ["q"], ["r"], to=TensorProto.INT32, name="mask/Cast"),
        helper.make_node("Mul", ["l", "r"], ["indices"], name="Mul"),
    ]
    weights = {
        "conv1.weight": _weight(random, 32, 128, 3),
        "conv2.weight": _weight(random, 32, 32, 3),
        "block.weight": _weight(random, 32, 32),
        "fsq.weight": _weight(random, 32, 8),
        "powers": (3.0 ** np.arange(8)).astype(np.float32),
        "one": np.float32(1).reshape(()),
        "zero": np.int64(0).reshape(()),
        "step": np.int64(1).reshape(()),
    }
    inputs = {"feats": (TensorProto.FLOAT, [1, 128, "t"]), "feats_length": (TensorProto.INT32, [1])}
    return _saved(path, nodes, weights, inputs, (TensorProto.INT32, [1, "tokens"]), "indices")


def _saved(path: Path, nodes: Any, weights: Any, inputs: Any, output: Any, name: str = "output") -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value(each, *told) for each, told in inputs.items()],
        [value(name, *output)],
        [numpy_helper.from_array(np.asarray(array), each) for each, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
