"""An API check, not a build: every name and signature that our code asks of TensorRT, against the real bindings'."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import trtbuild.backends.tensorrt
import trtbuild.stages.tensorrt_options as options_module
from tests import tensorrt_api
from tests.tensorrt_api import records
from tests.tensorrt_api.real_bindings import REAL, run
from tests.tensorrt_api.usage import Use, uses
from trtbuild.backends.tensorrt import configuration
from trtbuild.backends.tensorrt.element_types import _NUMPY
from trtbuild.core.dialects import dialect_of
from trtbuild.core.formats import Format
from trtbuild.core.legality import Legal, legality, target
from trtbuild.stages.tensorrt_options import TensorRTOptions

PACKAGE = Path(trtbuild.backends.tensorrt.__file__).parent
RECORDS = records()
NEWEST = RECORDS["11.4.0.106"]
USES = uses(PACKAGE)


def found(use: Use, record: dict) -> list[list[str]] | None:
    """The signatures of what is used (none for what is no function), or None where this version lacks it."""
    if use.owner == "":
        return record["functions"].get(use.name, []) if use.name in [*record["names"], "__version__"] else None
    if use.owner in record["enumerations"]:
        return [] if use.name in record["enumerations"][use.owner] else None
    if use.owner in record["classes"]:
        return record["classes"][use.owner].get(use.name)
    return None


def accepts(signature: list[str], positional: int, keywords: tuple[str, ...]) -> bool:
    names = [name.rstrip("=") for name in signature]
    given = names[:positional] + list(keywords)
    needed = [name for name in signature if not name.endswith("=")]
    return positional <= len(names) and set(given) <= set(names) and set(needed) <= set(given)


def test_the_code_asks_tensorrt_for_what_it_is_known_to_ask_for() -> None:
    asked = {f"{use.owner}.{use.name}" for use in USES}
    assert {"Builder.build_serialized_network", "IExecutionContext.execute_async_v3", ".Runtime"} <= asked
    assert len(asked) > 50


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.place} {use.owner}.{use.name}")
def test_what_the_code_asks_for_exists(use: Use) -> None:
    """In every version; what stands behind a `hasattr` in one at least."""
    lacking = [version for version, record in RECORDS.items() if found(use, record) is None]
    assert not lacking or (use.guarded and len(lacking) < len(RECORDS)), f"not in {lacking}"


@pytest.mark.parametrize(
    "use", [use for use in USES if use.arguments is not None], ids=lambda use: f"{use.place} {use.owner}.{use.name}"
)
def test_calls_fit_a_signature(use: Use) -> None:
    assert use.arguments is not None
    for version, record in RECORDS.items():
        overloads = found(use, record)
        if use.owner == "" and use.name in record["classes"]:
            overloads = record["classes"][use.name]["__init__"]
        if overloads:
            positional, keywords = use.arguments
            positional -= use.name == "__init__"  # `self`, given by hand
            assert any(accepts(one, positional, keywords) for one in overloads), f"{version}: {overloads}"


@pytest.mark.parametrize(
    ("enumeration", "names"),
    [
        ("BuilderFlag", [*configuration.FLAGS.values(), *filter(None, configuration.REFIT_FLAGS.values())]),
        ("MemoryPoolType", [name for name, _ in configuration.POOLS.values()]),
        ("TilingOptimizationLevel", configuration.TILING.values()),
        ("HardwareCompatibilityLevel", configuration.COMPATIBILITY.values()),
        ("ProfilingVerbosity", configuration.VERBOSITY.values()),
        ("DataType", _NUMPY),
    ],
)
def test_names_in_tables_are_members_in_the_newest_version(enumeration: str, names: list[str]) -> None:
    assert set(names) <= set(NEWEST["enumerations"][enumeration])


def test_properties_in_tables_are_properties_in_the_newest_version() -> None:
    assert set(configuration.NUMBERS.values()) <= set(NEWEST["classes"]["IBuilderConfig"])


def test_tactic_sources_exist_in_some_version() -> None:
    sources = {name for record in RECORDS.values() for name in record["enumerations"]["TacticSource"]}
    assert set(configuration.LIBRARIES) <= sources
    assert set(options_module.TacticSource.__args__) == sources


@pytest.mark.parametrize("version", RECORDS)
def test_each_dialect_names_flags_of_its_versions(version: str) -> None:
    dialect, record = dialect_of("tensorrt", version), RECORDS[version]
    assert set(dialect.network_flags) <= set(record["enumerations"]["NetworkDefinitionCreationFlag"])
    flags = configuration.precision_flags(dialect, None, frozenset({"fp16", "quantize"}))
    assert set(flags) <= set(record["enumerations"]["BuilderFlag"])
    has_int64 = "INT64" in record["enumerations"]["DataType"]
    assert dialect.int64 == has_int64


def test_options_that_say_not_in_8_6_are_those_that_8_6_lacks() -> None:
    old = RECORDS["8.6.0"]
    lacking = {option for option, name in configuration.FLAGS.items() if name not in old["enumerations"]["BuilderFlag"]}
    lacking |= {
        option for option, name in configuration.NUMBERS.items() if name not in old["classes"]["IBuilderConfig"]
    }
    lacking |= {
        option for option, (name, _) in configuration.POOLS.items() if name not in old["enumerations"]["MemoryPoolType"]
    }
    lacking |= {"tiling"} if "TilingOptimizationLevel" not in old["names"] else set()
    lacking |= {"refit"} if "REFIT_IDENTICAL" not in old["enumerations"]["BuilderFlag"] else set()
    said = {name for name, field in TensorRTOptions.model_fields.items() if "(not in 8.6" in (field.description or "")}
    assert said == lacking


def test_every_option_names_what_trtexec_and_polygraphy_call_it() -> None:
    for name, field in TensorRTOptions.model_fields.items():
        assert re.search(r"trtexec (`--|has none)", field.description or ""), name
        assert re.search(r"Polygraphy\s+(`|has none)", field.description or ""), name


def test_every_option_is_read_by_the_backend() -> None:
    read = {
        node.attr
        for file in PACKAGE.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "options"
    }
    read |= {*configuration.FLAGS, *configuration.NUMBERS, *configuration.POOLS}
    assert set(TensorRTOptions.model_fields) <= read


@pytest.mark.skipif(REAL is None, reason="needs the real bindings: pip install tensorrt-cu13-bindings==11.4.*")
class TestRealBindings:
    """The bindings that are installed here, imported over empty libraries."""

    def test_the_record_is_theirs(self, tmp_path: Path) -> None:
        record = json.loads(run(tmp_path, str(tensorrt_api.HERE / "record.py")))
        assert record == RECORDS[record["version"]]

    def test_our_classes_of_theirs_can_be_made(self, tmp_path: Path) -> None:
        code = """
import types
import tensorrt_bindings as trt
from trtbuild.backends.tensorrt.library import Messages, listening_logger
from trtbuild.backends.tensorrt.progress import watch
from trtbuild.backends.tensorrt.sessions import _output_allocator
from trtbuild.backends.tensorrt.timing import layer_profiler
messages = Messages()
listening_logger(trt, messages).log(trt.ILogger.ERROR, "broken")
assert messages.errors == ["broken"]
config = types.SimpleNamespace()
monitor = watch(trt, config)
assert config.progress_monitor is monitor
monitor.phase_start("Building", None, 2)
assert monitor.step_complete("Building", 0) is True
monitor.phase_finish("Building")
_output_allocator(trt).notify_shape("y", trt.Dims((2, 3)))
times = {}
layer_profiler(trt, times).report_layer_time("a", 2.0)
assert times == {"a": [2.0]}
"""
        assert "Building: 2 steps" in run(tmp_path, "-c", code)


@pytest.mark.parametrize("version", RECORDS)
@pytest.mark.parametrize(("form", "number", "scale"), [("nvfp4", "FP4", "FP8"), ("mxfp8", "FP8", "E8M0")])
def test_formats_in_blocks_are_legal_where_the_types_of_their_layer_exist(
    version: str, form: Format, number: str, scale: str
) -> None:
    record = RECORDS[version]
    types = record["enumerations"]["DataType"]
    has_layer = "add_dynamic_quantize" in record["classes"]["INetworkDefinition"]
    legal = isinstance(legality(form, "linear", target("tensorrt", version, (10, 0))), Legal)
    assert legal == (has_layer and {number, scale} <= set(types))
