"""Our plugins in NVIDIA's own template, over the real bindings: what a build would be told. No engine is built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.tensorrt_api import real_bindings, records
from trtbuild.graph.kv_cache.operators import OPERATORS
from trtbuild.plugins.declaration import Operator
from trtbuild.plugins.expressions import evaluate
from trtbuild.plugins.glue import _AUTOTUNE_NAMES, DATA_TYPES
from trtbuild.plugins.kernels import Variant, operators, variants

NAMES = {element_type: name for name, element_type in DATA_TYPES.items()}
DEVICE = {"name": "H200", "sm": (9, 0), "multiprocessors": 132, "memory_bytes": 2**37, "driver": "580", "cuda": "13.0"}
ATTRIBUTES = {"scale": 0.08838834764, "window": 2**31 - 1}
DECODE = {"B": 64, "Hq": 32, "H": 8, "N": 1, "S": 4096, "C": 16}
DYNAMIC = {"B": -7, "Hq": 28, "H": 4, "N": -33, "S": 640, "C": -528}
"""Negative where calls decide."""

pytestmark = pytest.mark.skipif(
    real_bindings.REAL is None, reason="needs the real bindings: pip install tensorrt-cu13-bindings==11.4.*"
)


def fitting_sizes(variant: Variant, sizes: Mapping[str, int]) -> dict[str, int] | None:
    """The sizes with what the variant is for; None where another variant comes first, or it needs others."""
    given = {key: value for key, value in variant.given.items() if isinstance(value, int)}
    found = {"D": 128, **sizes, **given}
    fixed = {key: value for key, value in found.items() if value >= 0}
    types = types_of(variant)
    first = next(
        (one for one in variants() if one.kernel.operator == variant.kernel.operator and one.fits(types, fixed)), None
    )
    return found if first is variant else None


def types_of(variant: Variant) -> dict[str, str]:
    """Element types of all inputs: the variant's, and those that follow from them."""
    found: dict[str, str] = {}
    for role, tensor in operators()[variant.kernel.operator][1].inputs.items():
        twin = role.replace("value", "key")
        found[role] = str(variant.given.get(role, found.get(twin, tensor.types[0])))
    return found


CASES = [
    (variant, found, aliased)
    for variant in variants()
    for sizes in (DECODE, DYNAMIC)
    if (found := fitting_sizes(variant, sizes)) is not None
    for aliased in ((False, True) if sizes is DECODE else (False,))
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    asked = []
    for variant, sizes, aliased in CASES:
        declared = operators()[variant.kernel.operator][1]
        asked.append(
            {
                "operator": variant.kernel.operator,
                "device": DEVICE,
                "aliased": aliased,
                "types": [NAMES[name] for name in types_of(variant).values()],
                "shapes": [[sizes[letter] for letter in tensor.shape] for tensor in declared.inputs.values()],
                "attributes": ATTRIBUTES,
            }
        )
    folder = tmp_path_factory.mktemp("libraries")
    told = real_bindings.run(folder, "-m", "tests.tensorrt_api.quick_plugins", given=json.dumps(asked))
    return list(json.loads(told.splitlines()[-1]))


def outputs_of(declared: Operator, variant: Variant, sizes: dict[str, int]) -> tuple[list[str], list[list[int]]]:
    types, shapes = [], []
    for output in declared.outputs.values():
        if output.like is not None:
            types.append(types_of(variant)[output.like])
            shapes.append([sizes[letter] for letter in declared.inputs[output.like].shape])
        else:
            types.append(str(output.type))
            shapes.append([evaluate(axis, {**sizes, "multiprocessors": 132}) for axis in output.shape])
    return [NAMES[name] for name in types], shapes


def test_every_kernel_is_reached_by_a_case() -> None:
    assert {variant.name for variant, _, _ in CASES} == {variant.name for variant in variants()}


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{CASES[number][0].name}-{number}")
def test_a_build_is_told_what_is_declared(number: int, answers: list[dict[str, Any]]) -> None:
    (variant, sizes, aliased), answer = CASES[number], answers[number]
    declared = operators()[variant.kernel.operator][1]
    known = {letter: abs(size) for letter, size in sizes.items()}
    types, shapes = outputs_of(declared, variant, known)
    assert answer["output_types"] == types
    assert answer["output_shapes"] == shapes
    inputs = list(declared.inputs)
    assert answer["aliased"] == {
        str(index): inputs.index(str(output.like)) if aliased and output.same_address else -1
        for index, output in enumerate(declared.outputs.values())
    }
    assert answer["combination"] == [[NAMES[name], "LINEAR"] for name in types_of(variant).values()] + [
        [name, "LINEAR"] for name in types
    ]
    assert answer["tactics"] == [1]
    assert answer["entry"] == variant.name
    assert answer["ptx"] == hashlib.sha256(variant.ptx(variant.architecture(90) or 0).read_bytes()).hexdigest()


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{CASES[number][0].name}-{number}")
def test_symbolic_launches_are_the_launches_in_integers(number: int, answers: list[dict[str, Any]]) -> None:
    (variant, sizes, _), answer = CASES[number], answers[number]
    launch = variant.launch({letter: abs(size) for letter, size in sizes.items()}, ATTRIBUTES, 132)
    axes = [*(f"grid_{axis}" for axis in "xyz"), *(f"block_{axis}" for axis in "xyz"), "shared_mem"]
    numbers = [*launch.grid, *launch.block, launch.shared_bytes]
    assert answer["launch"] == dict(zip(axes, numbers, strict=True))
    assert answer["integers"] == list(launch.integers)


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{CASES[number][0].name}-{number}")
def test_the_plugin_takes_what_our_nodes_carry(number: int, answers: list[dict[str, Any]]) -> None:
    operator = OPERATORS[CASES[number][0].kernel.operator]
    assert tuple(answers[number]["inputs"]) == operator.inputs
    assert tuple(answers[number]["attributes"]) == operator.attributes


def test_type_names_are_tensorrts_and_enough_for_what_we_declare() -> None:
    newest = list(records().values())[-1]
    assert set(DATA_TYPES) <= set(newest["enumerations"]["DataType"])
    assert set(_AUTOTUNE_NAMES) <= set(DATA_TYPES)
    declared = {name for _, operator in operators().values() for one in operator.inputs.values() for name in one.types}
    assert declared <= set(DATA_TYPES.values())
