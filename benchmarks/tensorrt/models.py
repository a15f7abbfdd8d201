"""Models with seeded random weights, written as ONNX with NumPy alone: no torch, no download, the same on any machine.

Shapes and operators are those of the published networks; weights are drawn so that activations neither grow nor
vanish. That is all that speed depends on. Opset 17, nodes named `<module path>/<operator>`, as trtbuild names them.

    PYTHONPATH=. python benchmarks/tensorrt/models.py benchmarks/tensorrt/recipes

writes them beside the recipes that build them with `trtbuild build`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Model:
    """A network to build: how to write it, what to feed it."""

    name: str
    title: str
    write: Callable[[], onnx.ModelProto]
    shapes: Shapes
    inputs: Callable[[np.random.Generator, int], dict[str, Array]]
    """Inputs of so many rows."""
    placements: tuple[tuple[str, ...], ...]
    """Where INT8 goes, beside linears and convolutions, one engine each: `attention`, `residual`."""


class Writer:
    """Nodes one after the other; every method gives the name of a value."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, array: Array) -> str:
        """An initializer."""
        self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def normal(self, name: str, shape: tuple[int, ...], deviation: float) -> str:
        """A weight of normal numbers."""
        return self.constant(name, self.rng.standard_normal(shape, np.float32) * np.float32(deviation))

    def op(self, module: str, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """A node; the name of its first output, `<node>:0`."""
        base, count, taken = f"{module}/{op_type}", 0, {node.name for node in self.nodes}
        name = base
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        values = [f"{name}:{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), values, name=name, **attributes))
        return values[0]

    def linear(self, module: str, x: str, inputs: int, outputs: int, gain: float = 1.0) -> str:
        """x W + b."""
        weight = self.normal(f"{module}.weight", (inputs, outputs), gain / np.sqrt(inputs))
        product = self.op(module, "MatMul", x, weight)
        return self.op(module, "Add", product, self.normal(f"{module}.bias", (outputs,), 0.02))

    def convolution(self, module: str, x: str, shape: tuple[int, int, int], stride: int, gain: float = 1.0) -> str:
        """A convolution [out, in, k, k] with a bias, as an exporter writes it after folding the batch norm."""
        outputs, inputs, kernel = shape
        deviation = gain * np.sqrt(2.0 / (inputs * kernel * kernel))  # He et al. 2015, equation 10
        weight = self.normal(f"{module}.weight", (outputs, inputs, kernel, kernel), deviation)
        bias = self.normal(f"{module}.bias", (outputs,), 0.02)
        sides = [kernel // 2] * 4
        return self.op(module, "Conv", x, weight, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=sides)

    def attention(self, module: str, x: str, width: int, heads: int) -> str:
        """Self-attention with its four linears; the scale is on the query, before the product."""
        split = self.constant(f"{module}.split", np.array([0, 0, heads, width // heads], np.int64))
        together = self.constant(f"{module}.together", np.array([0, 0, width], np.int64))
        query, key, value = (
            self.op(
                module,
                "Transpose",
                self.op(module, "Reshape", self.linear(f"{module}.{role}", x, width, width), split),
                perm=[0, 2, 3, 1] if role == "key" else [0, 2, 1, 3],
            )
            for role in ("query", "key", "value")
        )
        factor = self.constant(f"{module}.factor", np.float32((width / heads) ** -0.5) * np.ones((), np.float32))
        scores = self.op(module, "MatMul", self.op(module, "Mul", query, factor), key)
        context = self.op(module, "MatMul", self.op(module, "Softmax", scores, axis=-1), value)
        merged = self.op(module, "Reshape", self.op(module, "Transpose", context, perm=[0, 2, 1, 3]), together)
        return self.linear(f"{module}.out", merged, width, width)

    def gelu(self, module: str, x: str, *, tanh: bool = False) -> str:
        """GELU, exact or by tanh, written out: opset 17 has no operator for it."""

        def number(value: float) -> str:
            return self.constant(f"{module}.{value:.6f}", np.float32(value))

        if tanh:
            cube = self.op(module, "Mul", self.op(module, "Mul", x, x), x)
            inner = self.op(module, "Add", x, self.op(module, "Mul", cube, number(0.044715)))
            bent = self.op(module, "Tanh", self.op(module, "Mul", inner, number(np.sqrt(2 / np.pi))))
        else:
            bent = self.op(module, "Erf", self.op(module, "Div", x, number(np.sqrt(2.0))))
        half = self.op(module, "Mul", x, number(0.5))
        return self.op(module, "Mul", half, self.op(module, "Add", bent, number(1.0)))

    def norm(self, module: str, x: str, width: int) -> str:
        """A layer norm with a random affine part."""
        gamma = self.constant(f"{module}.weight", self.rng.uniform(0.8, 1.2, width).astype(np.float32))
        beta = self.normal(f"{module}.bias", (width,), 0.05)
        return self.op(module, "LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-5)

    def model(self, inputs: dict[str, list[int | str]], output: str, shape: list[int | str]) -> onnx.ModelProto:
        """The finished model; its output is `y`."""
        self.nodes.append(helper.make_node("Identity", [output], ["y"], name="Identity"))
        graph = helper.make_graph(
            self.nodes,
            "model",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            list(self.weights.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def resnet50() -> onnx.ModelProto:
    """ResNet-50 (He et al. 2016, table 1) at [batch, 3, 224, 224], strides in the 3 x 3 convolutions."""
    write = Writer(seed=50)
    x = write.op("stem", "Relu", write.convolution("stem", "x", (64, 3, 7), 2))
    x = write.op("stem", "MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            module, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            y = write.op(module, "Relu", write.convolution(f"{module}.conv1", x, (width, channels, 1), 1))
            y = write.op(module, "Relu", write.convolution(f"{module}.conv2", y, (width, width, 3), stride))
            y = write.convolution(f"{module}.conv3", y, (4 * width, width, 1), 1, gain=0.3)
            if block == 0:
                x = write.convolution(f"{module}.downsample", x, (4 * width, channels, 1), stride, gain=0.7)
            x = write.op(module, "Relu", write.op(module, "Add", y, x))
            channels = 4 * width
    x = write.op("head", "Flatten", write.op("head", "GlobalAveragePool", x), axis=1)
    weight = write.normal("fc.weight", (2048, 1000), 2048**-0.5)
    x = write.op("fc", "Gemm", x, weight, write.normal("fc.bias", (1000,), 0.02))
    return write.model({"x": ["batch", 3, 224, 224]}, x, ["batch", 1000])


def encoder(layers: int = 4, width: int = 1024, heads: int = 16, inner: int = 4096) -> onnx.ModelProto:
    """A BERT-like encoder, norms behind the residual additions, at [batch, tokens, width]."""
    write, x = Writer(seed=4), "x"
    for number in range(layers):
        layer = f"layer.{number}"
        attended = write.attention(f"{layer}.attention", x, width, heads)
        x = write.norm(f"{layer}.norm1", write.op(layer, "Add", attended, x), width)
        hidden = write.gelu(f"{layer}.gelu", write.linear(f"{layer}.fc1", x, width, inner))
        x = write.norm(
            f"{layer}.norm2", write.op(layer, "Add", write.linear(f"{layer}.fc2", hidden, inner, width), x), width
        )
    return write.model({"x": ["batch", "tokens", width]}, x, ["batch", "tokens", width])


def dit(width: int = 1152, heads: int = 16, tokens: int = 256) -> onnx.ModelProto:
    """One block of DiT-XL (Peebles and Xie 2023, figure 3, adaLN-Zero): tokens `x`, conditioning `c` [batch, width]."""
    write = Writer(seed=28)
    activated = write.op("block.modulation", "Mul", "c", write.op("block.modulation", "Sigmoid", "c"))
    modulation = write.linear("block.modulation", activated, width, 6 * width, gain=0.5)
    axis = write.constant("block.axis", np.array([1], np.int64))
    wide = write.op("block.modulation", "Unsqueeze", modulation, axis)
    first = write.op("block.modulation", "Split", wide, axis=2, outputs=6)
    shift, scale, gate, shift2, scale2, gate2 = (f"{first.rpartition(':')[0]}:{index}" for index in range(6))
    one, ones = write.constant("block.one", np.float32(1.0)), write.constant("block.ones", np.ones(width, np.float32))
    zeros = write.constant("block.zeros", np.zeros(width, np.float32))

    def modulated(module: str, x: str, shift: str, scale: str) -> str:
        normal = write.op(module, "LayerNormalization", x, ones, zeros, axis=-1, epsilon=1e-6)
        return write.op(module, "Add", write.op(module, "Mul", normal, write.op(module, "Add", scale, one)), shift)

    attended = write.attention("block.attention", modulated("block.norm1", "x", shift, scale), width, heads)
    x = write.op("block", "Add", "x", write.op("block", "Mul", attended, gate))
    hidden = write.linear("block.fc1", modulated("block.norm2", x, shift2, scale2), width, 4 * width)
    hidden = write.linear("block.fc2", write.gelu("block.gelu", hidden, tanh=True), 4 * width, width)
    x = write.op("block", "Add", x, write.op("block", "Mul", hidden, gate2))
    return write.model({"x": ["batch", tokens, width], "c": ["batch", width]}, x, ["batch", tokens, width])


def _shapes(axes: dict[str, tuple[int, int, int]], **inputs: list[int | str]) -> Shapes:
    return Shapes(
        inputs={name: TensorSpec(dtype="float32", dims=dims) for name, dims in inputs.items()},
        axes={name: AxisRange(min=least, opt=usual, max=most) for name, (least, usual, most) in axes.items()},
    )


def _normal(*shapes: tuple[str, tuple[int, ...]]) -> Callable[[np.random.Generator, int], dict[str, Array]]:
    def draw(rng: np.random.Generator, rows: int) -> dict[str, Array]:
        return {name: rng.standard_normal((rows, *shape), np.float32) for name, shape in shapes}

    return draw


MODELS = {
    model.name: model
    for model in (
        Model(
            "resnet50",
            "ResNet-50, batch 32 x 3 x 224 x 224",
            resnet50,
            _shapes({"batch": (1, 32, 32)}, x=["batch", 3, 224, 224]),
            _normal(("x", (3, 224, 224))),
            placements=((), ("residual",)),
        ),
        Model(
            "encoder",
            "Encoder, 4 layers, 1024 wide, batch 32 x 512 tokens",
            encoder,
            _shapes({"batch": (1, 32, 32), "tokens": (8, 512, 512)}, x=["batch", "tokens", 1024]),
            _normal(("x", (512, 1024))),
            placements=((), ("attention",), ("attention", "residual")),
        ),
        Model(
            "dit",
            "DiT-XL block, 1152 wide, batch 32 x 256 tokens",
            dit,
            _shapes({"batch": (1, 32, 32)}, x=["batch", 256, 1152], c=["batch", 1152]),
            _normal(("x", (256, 1152)), ("c", (1152,))),
            placements=((), ("attention",)),
        ),
    )
}
"""Every model by name."""


if __name__ == "__main__":
    for each in MODELS.values():
        target = Path(sys.argv[1]) / f"{each.name}.onnx"
        target.write_bytes(each.write().SerializeToString())
        print(target)
