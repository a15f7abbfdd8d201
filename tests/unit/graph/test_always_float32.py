"""What transformers computes in FP32 whatever the model's type, found in graphs that no longer say so."""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir
import pytest

from trtbuild.graph.always_float32 import always_float32

NORM = {
    "reciprocal": "r = Sqrt (e) i = Reciprocal (r) n = Mul (x, i)",
    "power": "half = Constant <value_float = -0.5> () i = Pow (e, half) n = Mul (x, i)",
    "quotient": "r = Sqrt (e) n = Div (x, r)",
}


def graph(body: str) -> ir.Graph:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> main (float[2, 8] x, int64[2] p) => (float[2, 8] y)'
        f"<float[8] gamma = {{1, 1, 1, 1, 1, 1, 1, 1}}> {{ {body} }}"
    )
    for node in model.graph.node:
        node.name = node.output[0]
    return ir.from_proto(model).graph


@pytest.mark.parametrize("spelled", NORM)
def test_the_mean_of_squares_and_what_divides_by_it(spelled: str) -> None:
    found = always_float32(
        graph(
            "two = Constant <value_float = 2.0> () eps = Constant <value_float = 1e-6> () s = Pow (x, two)"
            f" m = ReduceMean (s) e = Add (m, eps) {NORM[spelled]} y = Mul (n, gamma)"
        )
    )
    assert {"s", "m", "e", "n"} <= set(found)
    assert "y" not in found  # gamma times what is near one


def test_a_product_with_itself_is_a_square_and_with_another_is_none() -> None:
    rest = "m = ReduceMean (s) e = Sqrt (m) y = Div (x, e)"
    assert always_float32(graph(f"s = Mul (x, x) {rest}")) == ["s", "m", "e", "y"]
    assert always_float32(graph(f"s = Mul (x, gamma) {rest}")) == []


def test_angles_and_what_they_are_computed_of() -> None:
    found = always_float32(
        graph(
            "f = Cast <to = 1> (p) one = Constant <value_ints = [1]> () u = Unsqueeze (f, one) a = Mul (u, gamma)"
            " c = Cos (a) y = Mul (x, c)"
        )
    )
    assert found == ["f", "u", "a", "c"]
