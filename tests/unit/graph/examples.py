"""Small models, exported as the product exports them, and plans computed by a NumPy reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.graph import document
from trtbuild.graph.initializers import constant
from trtbuild.graph.linear import output_axis, products

torch = pytest.importorskip("torch")

WIDTH, HEADS = 32, 4


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        def split(y):
            return y.view(x.shape[0], x.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        p = torch.softmax(q @ k.transpose(-1, -2) / 3.0, -1)
        return self.out((p @ v).transpose(1, 2).reshape(x.shape[0], x.shape[1], WIDTH))


class PostNorm(torch.nn.Module):
    """BERT-like: a residual around each part, then the norm. 5 of 6 scales fold; after GELU one stays."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = (torch.nn.LayerNorm(WIDTH) for _ in range(3))
        self.attention = Attention()
        self.up, self.down = torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        x = self.first(x)
        x = self.norm(x + self.attention(x))
        return self.last(x + self.down(torch.nn.functional.gelu(self.up(x))))


class Rms(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class PreNorm(torch.nn.Module):
    """Llama-like: RMSNorm and a gated MLP; all scales fold."""

    def __init__(self):
        super().__init__()
        self.norm, self.norm2, self.attention = Rms(), Rms(), Attention()
        self.gate, self.up = (torch.nn.Linear(WIDTH, 2 * WIDTH, bias=False) for _ in range(2))
        self.down = torch.nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        x = x + self.attention(self.norm(x))
        y = self.norm2(x)
        return x + self.down(torch.nn.functional.silu(self.gate(y)) * self.up(y))


class Mlp(torch.nn.Module):
    """2-D input, hence Gemm; the second scale folds through the ReLU into the first linear."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.Linear(2 * WIDTH, 8)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


class Words(torch.nn.Module):
    """A table large enough to be worth INT8."""

    def __init__(self):
        super().__init__()
        self.table, self.head = torch.nn.Embedding(10000, WIDTH), torch.nn.Linear(WIDTH, 4)

    def forward(self, ids):
        return self.head(self.table(ids))


MODELS = {"postnorm": PostNorm, "prenorm": PreNorm, "mlp": Mlp, "words": Words}


def sample(name):
    rng = np.random.default_rng(1)
    if name == "words":
        return rng.integers(0, 10000, (2, 5))
    x = rng.standard_normal((24, WIDTH) if name == "mlp" else (24, 5, WIDTH)).astype(np.float32)
    return x * np.linspace(0.2, 4, WIDTH, dtype=np.float32)


def run(path: Path | onnx.ModelProto, x, outputs=None, feed="x"):
    options = ort.SessionOptions()
    # Unfused float arithmetic on Q/DQ values: the numerics that the graph spells, not a kernel's.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = path.SerializeToString() if isinstance(path, onnx.ModelProto) else path
    return ort.InferenceSession(source, options).run(outputs, {feed: x})


def run_model(model, x, folder: Path):
    folder.mkdir(exist_ok=True)
    document.save(model, OnnxModel(folder))
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    return run(folder / "model.onnx", x)[0]


def linears(path: Path):
    """Module -> (name of the input tensor, weight [out, in] float32)."""
    found = {}
    for module, nodes in products(document.load(path).graph).items():
        tensor = constant(nodes[0].inputs[1])
        if tensor is not None:
            weight = tensor.numpy().astype(np.float32)
            found[module] = (nodes[0].inputs[0].name, weight if output_axis(nodes[0]) == 0 else weight.T)
    return found


def activations(path: Path, x):
    proto = onnx.load(path)
    names = sorted({name for name, _ in linears(path).values()} - {value.name for value in proto.graph.input})
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return {"x": x, **dict(zip(names, run(proto, x, names), strict=True))}


def make_plan(path: Path, x, form: str) -> Plan:
    """The reference calibration: amax of every input and weight, SmoothQuant with alpha 0.5."""
    tensors, modules = activations(path, x), {}
    for module, (name, weight) in linears(path).items():
        channel = np.abs(tensors[name].astype(np.float32)).reshape(-1, weight.shape[1]).max(0)
        if form == "int8_sq":
            scale = np.sqrt(np.abs(weight).max(0) / np.maximum(channel, 1e-4)).astype(np.float32)
            modules[module] = ModuleQuantization(
                form, np.abs(weight / scale).max(1), (channel * scale).max(), scale, channel
            )
        else:
            modules[module] = ModuleQuantization(
                form, np.abs(weight).max(1), channel.max() if form == "int8" else None, None, channel
            )
    return Plan(modules, kept_high={"lm_head": "asked for"}, samples=2)
