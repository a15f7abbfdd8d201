"""Small models, exported as the product exports them, and plans computed by a NumPy reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.formats import FORMATS, Format
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

    def operand(self, role, x):
        """What a product reads; tests replace it to quantize there."""
        return x

    def forward(self, x):
        def split(y):
            return y.view(x.shape[0], x.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = self.operand("query", q) @ self.operand("key", k).transpose(-1, -2)
        p = torch.softmax(scores / 3.0, -1)
        return self.out(
            (self.operand("softmax", p) @ self.operand("value", v))
            .transpose(1, 2)
            .reshape(x.shape[0], x.shape[1], WIDTH)
        )


class PostNorm(torch.nn.Module):
    """BERT-like: a residual around each part, then the norm; all scales fold."""

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


class GeluMlp(torch.nn.Module):
    """A scale before each linear; those behind a GELU have nothing but the GELU to go into."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.up, self.middle = torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.down = torch.nn.Linear(2 * WIDTH, WIDTH)
        self.exact, self.tanh = torch.nn.GELU(), torch.nn.GELU("tanh")

    def forward(self, x):
        return self.down(self.tanh(self.middle(self.exact(self.up(self.norm(x))))))


class Cnn(torch.nn.Module):
    """Plain, grouped and transposed convolutions; the exporter folds the batch norms into weights."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(16)
        self.grouped, self.second = torch.nn.Conv2d(16, 16, 3, 1, 1, groups=4), torch.nn.BatchNorm2d(16)
        self.up = torch.nn.ConvTranspose2d(16, 8, 2, 2)
        self.head = torch.nn.Linear(8, 5)
        for norm in (self.first, self.second):
            torch.nn.init.uniform_(norm.weight, -2, 2)
            torch.nn.init.uniform_(norm.running_var, 0.2, 3)

    def forward(self, x):
        x = torch.relu(self.first(self.stem(x)))
        x = torch.relu(self.second(self.grouped(x)))
        return self.head(torch.relu(self.up(x)).mean((2, 3)))

    def folded(self):
        """The same network as the exporter writes it."""
        fuse = torch.nn.utils.fusion.fuse_conv_bn_eval
        self.stem, self.first = fuse(self.stem, self.first), torch.nn.Identity()
        self.grouped, self.second = fuse(self.grouped, self.second), torch.nn.Identity()
        return self


class Words(torch.nn.Module):
    """A table large enough to be worth INT8."""

    def __init__(self):
        super().__init__()
        self.table, self.head = torch.nn.Embedding(10000, WIDTH), torch.nn.Linear(WIDTH, 4)

    def forward(self, ids):
        return self.head(self.table(ids))


MODELS = {"postnorm": PostNorm, "prenorm": PreNorm, "mlp": Mlp, "gelu": GeluMlp, "cnn": Cnn, "words": Words}


def sample(name):
    rng = np.random.default_rng(1)
    if name == "words":
        return rng.integers(0, 10000, (2, 5))
    if name == "cnn":
        return rng.standard_normal((24, 3, 6, 6)).astype(np.float32)
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
    """Module -> (name of the input tensor, weight [out, in, ...] float32)."""
    found = {}
    for module, nodes in products(document.load(path).graph).items():
        tensor = constant(nodes[0].inputs[1])
        if tensor is not None:
            weight = np.moveaxis(tensor.numpy().astype(np.float32), output_axis(nodes[0]), 0)
            found[module] = (nodes[0].inputs[0].name, weight)
    return found


def activations(path: Path, x):
    proto = onnx.load(path)
    names = sorted({name for name, _ in linears(path).values()} - {value.name for value in proto.graph.input})
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return {"x": x, **dict(zip(names, run(proto, x, names), strict=True))}


def attention_ranges(path: Path, x):
    """Greatest magnitude of every operand of a product of two computed tensors, as calibration observes it."""
    proto = onnx.load(path)
    constants = {tensor.name for tensor in proto.graph.initializer}
    operands = {
        f"{node.name}:{index}": name
        for node in proto.graph.node
        if node.op_type == "MatMul" and not constants & set(node.input)
        for index, name in enumerate(node.input)
    }
    names = sorted(set(operands.values()))
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    found = dict(zip(names, run(proto, x, names), strict=True))
    return {key: float(np.abs(found[name]).max()) for key, name in operands.items()}


BLOCK = 16


def make_plan(path: Path, x, form: Format) -> Plan:
    """The reference calibration: amax of every input and weight; SmoothQuant with alpha 0.5, AWQ with x^0.5."""
    tensors, modules = activations(path, x), {}
    for module, (name, weight) in linears(path).items():
        tensor = np.abs(tensors[name].astype(np.float32))
        matrix = weight.ndim == 2
        channel = tensor.reshape(-1, weight.shape[1]).max(0) if matrix else tensor.max(axis=(0, 2, 3))
        modules[module] = quantization(form, weight, channel, smooth=matrix)
    return Plan(modules, kept_high={"nothing": "asked for"}, samples=2)


def quantization(form: Format, weight, channel, smooth=True) -> ModuleQuantization:
    """One module's numbers. GPTQ is stood in for by codes that rounding to nearest would not give."""
    traits, scale, codes = FORMATS[form], None, None
    if smooth and traits.algorithm == "smoothquant":
        scale = np.sqrt(np.abs(weight).max(0) / np.maximum(channel, 1e-4)).astype(np.float32)
    if smooth and traits.algorithm == "awq":
        scale = (1 / np.sqrt(np.maximum(channel, 1e-2) * np.abs(weight).mean(0))).astype(np.float32)
    divided = weight if scale is None else weight / scale
    block = {"block": traits.block or BLOCK, "tile": traits.block}.get(traits.granularity, 0)
    amax = amax_of(divided, traits.granularity, block)
    if traits.algorithm == "gptq":
        ratio = weight / np.repeat(amax / 7, block, 1)[:, : weight.shape[1]]
        codes = np.clip(np.floor(ratio + 0.3), -7, 7).astype(np.int8)
    reached = channel if scale is None else channel * scale
    return ModuleQuantization(
        form,
        amax,
        reached.max() if traits.activation else None,
        scale,
        channel,
        codes,
        BLOCK if block == BLOCK else block,
    )


def amax_of(weight, granularity, block):
    magnitude = np.abs(weight)
    if granularity == "tensor":
        return magnitude.max()
    if granularity == "channel":
        return magnitude.reshape(len(weight), -1).max(1)
    rows = block if granularity == "tile" else 1
    out, inputs = weight.shape
    return np.array(
        [
            [
                magnitude[row // rows * rows : (row // rows + 1) * rows, at : at + block].max()
                for at in range(0, inputs, block)
            ]
            for row in range(out)
        ],
        np.float32,
    )
