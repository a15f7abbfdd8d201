"""Quantized graphs written by hand: what any exporter may hand to a backend, without a plan or an insertion."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

E4M3, INT4 = ml_dtypes.float8_e4m3fn, ml_dtypes.int4
STORED = {"int8": np.int8, "int4": INT4, "fp8": E4M3}
GREATEST = {"int8": 127, "int4": 7, "fp8": 448}
LAYERS = {
    "float": None,
    "int8": ("int8", "channel", "int8"),
    "w8a16": ("int8", "channel", None),
    "fp8": ("fp8", "tensor", "fp8"),
    "fp8_pc_pt": ("fp8", "channel", "fp8"),
    "fp8_block": ("fp8", "block", None),
    "int4": ("int4", "block", None),
    "w4a8": ("int4", "block", "fp8"),
}
"""Weight type, granularity and activation type by name."""
BLOCK = 32


class Graph:
    """Nodes named `<module>/<operator>`; every method gives the name of a value."""

    def __init__(self, dtype=np.float32, seed=0):
        self.nodes, self.initializers, self.dtype = [], {}, dtype
        self.rng = np.random.default_rng(seed)

    def constant(self, name, array):
        self.initializers[name] = _tensor(name, np.asarray(array))
        return name

    def op(self, op_type, inputs, name, **attributes):
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def rounded(self, value, name, kind, amax):
        """A value through QuantizeLinear and DequantizeLinear, one scale for the tensor."""
        scale = self.constant(f"{name}.scale", np.asarray(amax / GREATEST[kind], self.dtype))
        zero = self.constant(f"{name}.zero", np.zeros((), STORED[kind]))
        codes = self.op("QuantizeLinear", [value, scale, zero], f"{name}/QuantizeLinear")
        return self.op("DequantizeLinear", [codes, scale, zero], f"{name}/DequantizeLinear")

    def weight(self, module, weight, kind, granularity, axis=1):
        """A weight as codes; `axis` is that of output channels, blocks lie along the other axis of a matrix."""
        weight = np.moveaxis(weight, axis, 0)
        flat = np.abs(weight).reshape(len(weight), -1)
        attributes = {}
        if granularity == "tensor":
            amax = full = flat.max()
        elif granularity == "channel":
            amax, attributes = flat.max(1), {"axis": axis}
            full = amax.reshape(-1, *[1] * (weight.ndim - 1))
        else:
            amax, attributes = flat.reshape(len(flat), -1, BLOCK).max(2), {"axis": 1 - axis, "block_size": BLOCK}
            full = np.repeat(amax, BLOCK, 1)
        scaled = weight / (full / GREATEST[kind])
        codes = np.moveaxis((scaled if kind == "fp8" else np.rint(scaled)).astype(STORED[kind]), 0, axis)
        scale = np.asarray(amax / GREATEST[kind], self.dtype)
        names = [
            self.constant(f"{module}.codes", codes),
            self.constant(f"{module}.weight_scale", scale.T if granularity == "block" and axis == 1 else scale),
        ]
        return self.op("DequantizeLinear", names, f"{module}/DequantizeLinear_weight", **attributes)

    def normal(self, *shape, scale=1.0):
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def linear(self, module, value, inputs, outputs, layer, operator="MatMul"):
        """A linear layer with a bias, in one of LAYERS."""
        matrix = self.normal(inputs, outputs, scale=inputs**-0.5)
        bias = self.constant(f"{module}.bias", self.normal(outputs).astype(self.dtype))
        axis = 0 if operator == "Gemm" else 1
        if LAYERS[layer] is None:
            stored = matrix if axis else matrix.T
            weight = self.constant(f"{module}.weight", np.ascontiguousarray(stored).astype(self.dtype))
        else:
            kind, granularity, activation = LAYERS[layer]
            weight = self.weight(module, matrix if axis else matrix.T, kind, granularity, axis)
            if activation:
                value = self.rounded(value, module, activation, 4.0)
        if operator == "Gemm":
            return self.op("Gemm", [value, weight, bias], f"{module}/Gemm", transB=1)
        return self.op("Add", [self.op("MatMul", [value, weight], f"{module}/MatMul"), bias], f"{module}/Add")

    def attention(self, module, q, k, v, kind):
        """Softmax(Q K^T) V, the four operands through `kind`; None leaves them alone."""
        k = self.op("Transpose", [k], f"{module}/Transpose", perm=[0, 2, 1])

        def operand(value, role, amax):
            return self.rounded(value, f"{module}/{role}", kind, amax) if kind else value

        q, k = operand(q, "query", 6.0), operand(k, "key", 6.0)
        scores = self.op("MatMul", [q, k], f"{module}/MatMul")
        half = self.constant(f"{module}.half", np.asarray(0.25, self.dtype))
        scores = self.op("Mul", [scores, half], f"{module}/Mul")
        weights = operand(self.op("Softmax", [scores], f"{module}/Softmax", axis=-1), "softmax", 1.0)
        return self.op("MatMul", [weights, operand(v, "value", 6.0)], f"{module}/MatMul_1")

    def convolution(self, module, value, channels, kind):
        """A 3 x 3 convolution with a bias that keeps its channels."""
        kernel = self.normal(channels, channels, 3, 3, scale=(9 * channels) ** -0.5)
        if kind:
            weight = self.weight(module, kernel, kind, "channel", axis=0)
            value = self.rounded(value, module, kind, 4.0)
        else:
            weight = self.constant(f"{module}.weight", kernel)
        bias = self.constant(f"{module}.bias", self.normal(channels))
        return self.op("Conv", [value, weight, bias], f"{module}/Conv", pads=[1, 1, 1, 1])

    def save(self, path, output, dims):
        """The model with one input `x` and one output, checked and written."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        model = helper.make_model(
            helper.make_graph(
                self.nodes,
                "graph",
                [helper.make_tensor_value_info("x", kind, dims)],
                [helper.make_tensor_value_info(output, kind, None)],
                list(self.initializers.values()),
            ),
            opset_imports=[helper.make_opsetid("", 21)],
            ir_version=10,
        )
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        onnx.checker.check_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        return path


def _tensor(name, array):
    if array.dtype == E4M3:
        return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, array.shape, array.tobytes(), raw=True)
    if array.dtype == INT4:
        codes = array.reshape(-1).astype(np.int8) & 15
        packed = (codes[0::2] | codes[1::2] << 4).astype(np.uint8)
        return helper.make_tensor(name, TensorProto.INT4, array.shape, packed.tobytes(), raw=True)
    return numpy_helper.from_array(array, name)
