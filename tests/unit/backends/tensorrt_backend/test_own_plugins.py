"""What a build hands to TensorRT of ours: what the graph uses, in a TensorRT that can take it, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import pytest

from trtbuild.backends.tensorrt import own_plugins
from trtbuild.core.gpu import Device

DEVICE = Device("NVIDIA H200", (9, 0), 132, 1 << 37, "580.95.05", "13.0")
NEW = SimpleNamespace(__version__="11.4.0.106", QuickPluginCreationRequest=object())
OLD = SimpleNamespace(__version__="8.6.0")


def graph(*operators: tuple[str, str]) -> ir.Graph:
    value = ir.Value(name="x")
    nodes = [ir.node(name, [value], domain=domain) for domain, name in operators]
    return ir.Graph([value], [], nodes=nodes)


CACHED = graph(("trtbuild", "KVCacheAppend"), ("", "Relu"), ("trtbuild", "KVCacheAppend"), ("trtbuild", "Unknown"))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(own_plugins, "quick_plugins", lambda: "tensorrt.plugin")
    monkeypatch.setattr(own_plugins.glue, "register", lambda *given, **named: calls.append((*given, named)))
    return calls


def test_what_the_graph_uses_is_registered_once(registered: list[tuple[Any, ...]]) -> None:
    assert own_plugins.register(NEW, CACHED, DEVICE, []) == ["KVCacheAppend"]
    assert registered == [("tensorrt.plugin", ["KVCacheAppend"], DEVICE, {"aliased": False})]


def test_aliases_are_declared_where_the_recipe_turns_the_feature_on(registered: list[tuple[Any, ...]]) -> None:
    own_plugins.register(NEW, CACHED, DEVICE, ["ALIASED_PLUGIN_IO_10_03"])
    assert registered[0][-1] == {"aliased": True}


@pytest.mark.parametrize("others", [graph(("", "KVCacheAppend")), graph(("elsewhere", "KVCacheAppend")), graph()])
def test_an_operator_of_another_domain_is_not_ours(others: ir.Graph, registered: list[tuple[Any, ...]]) -> None:
    assert own_plugins.register(NEW, others, DEVICE, []) == []
    assert not registered


def test_a_tensorrt_that_embeds_no_kernels_reads_the_bodies(
    registered: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert own_plugins.register(OLD, CACHED, DEVICE, []) == []
    assert not registered
    assert "8.6.0 embeds no kernels: KVCacheAppend as standard operators" in capsys.readouterr().out
