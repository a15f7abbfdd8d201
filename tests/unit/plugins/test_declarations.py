"""What `plugin.yaml` declares is what the graph's operators are, and every operator is declared."""

from typing import Any

import onnx
import pytest
import yaml

from tests.unit.plugins.single_node import PLUGINS
from trtbuild.graph.kv_cache.operators import CAUSAL, DOMAIN, OPERATORS

DECLARED: dict[str, Any] = {
    name: {**operator, "plugin": declaration}
    for file in sorted(PLUGINS.glob("*/plugin.yaml"))
    for declaration in [yaml.safe_load(file.read_text())]
    for name, operator in declaration["operators"].items()
}


def test_every_operator_but_the_one_without_a_cache_is_declared() -> None:
    assert DECLARED.keys() == OPERATORS.keys() - {CAUSAL.name}


@pytest.mark.parametrize("name", DECLARED)
def test_a_declaration_agrees_with_the_operator(name: str) -> None:
    declared, operator = DECLARED[name], OPERATORS[name]
    assert tuple(declared["inputs"]) == operator.inputs
    assert tuple(declared["outputs"]) == operator.outputs
    assert tuple(declared["attributes"]) == operator.attributes
    for output in declared["outputs"].values():
        assert output["like"] in declared["inputs"] if "like" in output else output.keys() >= {"type", "shape"}
    assert (declared["plugin"]["namespace"], declared["plugin"]["version"]) == (DOMAIN, "1")


@pytest.mark.parametrize("file", sorted(PLUGINS.glob("*/plugin.yaml")), ids=lambda file: file.parent.name)
def test_a_plugin_folder_holds_what_it_says(file: Any) -> None:
    declaration = yaml.safe_load(file.read_text())
    assert declaration["name"] == file.parent.name
    assert (file.parent / declaration["reference"]).is_file()
    text = (file.parent / "README.md").read_text()
    assert all(f"`{name}`" in text for name in declaration["operators"])


@pytest.mark.parametrize("opset", [18, 21, 24])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_body_is_valid_in_every_opset(name: str, opset: int) -> None:
    function = OPERATORS[name].function(opset)
    known = {*function.input}
    for node in function.node:
        assert onnx.defs.has(node.op_type, opset, "")
        assert known.issuperset(node.input)
        known.update(node.output)
    assert known.issuperset(function.output)


def test_no_name_is_a_builtin_operators() -> None:
    """TensorRT's parser knows builtins by their bare names and would take them first."""
    builtin = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert not builtin & OPERATORS.keys()
