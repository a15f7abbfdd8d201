"""The inspector's JSON, in the spelling of each version, to the precision of each node.

The layers are written after NVIDIA's documented examples and the field names in the libraries; they are not the output
of a build.
"""

from __future__ import annotations

import json

import pytest

from trtbuild.backends.tensorrt.inspection import UNTOLD, layers_of, modules_of, precisions
from trtbuild.backends.tensorrt.nodes import Nodes
from trtbuild.core.errors import ModelError


def tensor(name: str, spelled: str, key: str = "Format/Datatype") -> dict:
    return {"Name": name, "Location": "Device", "Dimensions": [1, 8], key: spelled}


def ran(layers: list, nodes: Nodes):
    return precisions(json.dumps({"Layers": layers, "Bindings": ["x", "y"]}), nodes)


def conv(name: str, activations: str, weights: str) -> dict:
    return {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [tensor("x", activations)],
        "Outputs": [tensor("y", "Thirty-two wide channel vectorized row major Int8 format")],
        "ParameterType": "Convolution",
        "Weights": {"Type": weights, "Count": 4096},
        "Bias": {"Type": "Float", "Count": 64},
        "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
    }


@pytest.mark.parametrize(
    ("activations", "weights", "wanted"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format", "Int8", "int8"),
        ("Row major linear FP32", "Float", "float32"),
        ("Row major linear FP16 format", "Half", "float16"),
        ("Channel major FP16 format where channel % 8 == 0", "Half", "float16"),
        ("Row major linear FP16 format", "Int8", "int8 weights"),
        ("Row major linear BF16 format", "BFloat16", "bfloat16"),
        ("Row major linear FP8 format", "FP8", "fp8"),
        ("Row major linear FP8 format", "Int4", "int4 weights, fp8 activations"),
    ],
)
def test_weights_and_activations_decide(activations: str, weights: str, wanted: str) -> None:
    name = "layer1.conv/Conv"
    found = ran(
        [conv(f"layer1.conv.weight + layer1.conv/QuantizeLinear + {name} + layer1/Relu", activations, weights)],
        Nodes(weights=[name]),
    )
    assert found.layers == {name: wanted}


def test_layers_that_only_move_numbers_do_not_decide() -> None:
    name = "fc/MatMul"
    reformat = {
        "Name": f"Reformatting CopyNode for Input Tensor 0 to fc.weight + {name}",
        "LayerType": "Reformat",
        "Inputs": [tensor("x", "Row major linear FP32")],
    }
    matmul = {
        "Name": "anything",
        "Metadata": f"[ONNX Layer: {name}]\x1e[ONNX Layer: fc/Add]",
        "LayerType": "gemm",
        "Inputs": [tensor("x", "Int8"), tensor("w", "Int8")],
    }
    copied = {**reformat, "Name": f"{name}_clone_1", "LayerType": "NoOp"}
    for order in ([reformat, matmul, copied], [copied, matmul, reformat]):
        assert ran(order, Nodes(weights=[name])).layers == {name: "int8"}


def test_version_11_names_the_data_type_apart_from_the_format() -> None:
    name = "fc/MatMul"
    layer = {
        "Name": "__myl_MatMul_myl0_1",
        "Metadata": f"[ONNX Layer: {name}]",
        "LayerType": "gemm",
        "Inputs": [
            {"Name": "x", "Format": "Row major linear", "Datatype": "Half"},
            {"Name": "w", "Format": "Row major linear", "Datatype": "Int4"},
            {"Name": "s", "Format": "Row major linear", "Datatype": "Half"},
        ],
    }
    text = json.dumps({"Layers": [layer], "I/O Tensors": [{"Name": "x", "IOMode": "INPUT"}]})
    assert precisions(text, Nodes(weights=[name])).layers == {name: "int4 weights"}


def test_a_region_that_myelin_took_tells_no_precision() -> None:
    region = {
        "Name": "{ForeignNode[a/MatMul...b/Add]}",
        "LayerType": "Myelin",
        "Inputs": [tensor("x", "Row major linear FP16 format")],
    }
    nodes = Nodes(weights=["a/MatMul", "inside/MatMul"], attention={"a/Softmax": ("a/MatMul", "inside/MatMul")})
    found = ran([region], nodes)
    assert found.layers == {"a/MatMul": UNTOLD, "inside/MatMul": UNTOLD}
    assert found.attention == {"a/Softmax": UNTOLD}


def test_a_node_that_nobody_names_is_left_out_where_every_layer_tells() -> None:
    found = ran([conv("a/Conv", "Row major linear FP32", "Float")], Nodes(weights=["a/Conv", "gone/MatMul"]))
    assert found.layers == {"a/Conv": "float32"}


def test_an_engine_that_keeps_names_only_tells_no_precision() -> None:
    assert ran(["a/Conv + a/Relu"], Nodes(weights=["a/Conv"])).layers == {"a/Conv": UNTOLD}


def test_attention_is_told_product_by_product() -> None:
    def product(name: str, spelled: str) -> dict:
        return {"Name": name, "LayerType": "MatrixMultiply", "Inputs": [tensor("q", spelled), tensor("k", spelled)]}

    nodes = Nodes(attention={"s/Softmax": ("s/MatMul", "s/MatMul_1")})
    half, codes = "Row major linear FP16 format", "Row major linear Int8 format"
    assert ran([product("s/MatMul", codes), product("s/MatMul_1", codes)], nodes).attention == {"s/Softmax": "int8"}
    mixed = ran([product("s/MatMul", codes), product("s/MatMul_1", half)], nodes)
    assert mixed.attention == {"s/Softmax": "int8, then float16"}


def test_a_gathered_table_of_codes_says_so() -> None:
    gather = {
        "Name": "words/Gather",
        "LayerType": "Gather",
        "Inputs": [tensor("table", "Row major linear Int8 format")],
    }
    assert ran([gather], Nodes(tables=["words/Gather"])).layers == {"words/Gather": "int8 table"}


def test_int32_is_no_int3_and_indices_are_no_numbers_to_compute_with() -> None:
    (layer,) = layers_of(
        json.dumps(
            {
                "Layers": [
                    {
                        "Name": "n",
                        "LayerType": "Gather",
                        "Inputs": [tensor("i", "Row major linear INT32"), tensor("b", "Bool")],
                    }
                ]
            }
        )
    )
    assert layer.inputs == ()


@pytest.mark.parametrize("text", ["", "{}", "[]", "no JSON"])
def test_what_is_no_answer_of_the_inspector_is_an_error(text: str) -> None:
    with pytest.raises(ModelError, match="engine inspector"):
        layers_of(text)


@pytest.mark.parametrize(
    ("weights", "kernel", "wanted"),
    [
        ("Int8", "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw", "int8"),
        ("Int8", "trt_turing_int8_i8816cudnn_int8_256x64_ldg16_relu_singleBuffer_small_t1", "int8"),
        ("Int8", "", "int8 weights"),
        ("Half", "sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", "float16"),
        ("Int8", "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc", "int8 weights"),
    ],
)
def test_where_dynamic_shapes_hide_the_types_the_kernel_tells_them(weights: str, kernel: str, wanted: str) -> None:
    layer = {**conv("a/Conv", "N/A due to dynamic shapes", weights), "TacticName": kernel}
    assert ran([layer], Nodes(weights=["a/Conv"])).layers == {"a/Conv": wanted}


ORDER = [
    *("stem/Conv", "stem/Relu", "layer.0.query/QuantizeLinear", "layer.0.query/MatMul", "layer.0.fc/MatMul"),
    *("layer.0/Add", "layer.1.query/MatMul", "layer.1/Add", "last/Cast"),
]


@pytest.mark.parametrize(
    ("name", "metadata", "modules"),
    [
        ("stem.weight_to_quantize + stem/QuantizeLinear_weight + stem/Conv + stem/Relu", "", ["stem"]),
        ("layer.0.fc/MatMul + layer.0/Add", "", ["layer.0.fc", "layer.0"]),
        (
            "__myl_Fc_7",
            "[ONNX Layer: layer.0.query/MatMul]\x1e[ONNX Layer: layer.0.fc/MatMul]",
            ["layer.0.query", "layer.0.fc"],
        ),
        ("Reformatting CopyNode for Input Tensor 0 to stem/Conv + stem/Relu", "", ["stem"]),
        (
            "{ForeignNode[layer.0.query/QuantizeLinear...layer.1.query/MatMul]}",
            "",
            ["layer.0.query", "layer.0.fc", "layer.0", "layer.1.query"],
        ),
        (
            "{ForeignNode[layer.0.query.weight + (Unnamed Layer* 1) [Shuffle]...Identity]}",
            "",
            ["stem", "layer.0.query", "layer.0.fc", "layer.0", "layer.1.query", "layer.1", "last"],
        ),
        ("(Unnamed Layer* 3) [Shuffle]", "", []),
    ],
)
def test_a_layer_is_told_by_the_modules_of_its_nodes(name: str, metadata: str, modules: list[str]) -> None:
    """Names as TensorRT 8.6.0 gave them on an H200; ends of a region that no node has count as the graph's."""
    (layer,) = layers_of(json.dumps({"Layers": [{"Name": name, "LayerType": "Reformat", "Metadata": metadata}]}))
    assert modules_of(layer, ORDER) == modules
