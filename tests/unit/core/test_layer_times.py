"""Layers of two engines brought to the same parts, and what a slower engine is told of."""

from __future__ import annotations

import pytest

from trtbuild.core.layer_times import OUTSIDE, blocks_of, by_modules, parts, slower
from trtbuild.core.results import LayerTime


def layers(*times: tuple[str, float]) -> list[LayerTime]:
    """Layers by the modules they compute, several joined by spaces."""
    return [LayerTime(modules=modules.split(), median_ms=ms) for modules, ms in times]


@pytest.mark.parametrize(
    ("module", "block"),
    [
        ("encoder.layer.0.attention.query", "encoder.layer.0"),
        ("encoder.layer.10.output.dense", "encoder.layer.10"),
        ("layer1.0.downsample.0", "layer1.0"),
        ("stages.1.blocks.0.fc1", "stages.1.blocks.0"),
        ("stem.conv", OUTSIDE),
        ("features.3", OUTSIDE),
    ],
)
def test_a_block_is_the_longest_numbered_prefix_that_holds_several_modules(module: str, block: str) -> None:
    paths = [
        *(f"encoder.layer.{number}.{part}" for number in (0, 10) for part in ("attention.query", "output.dense")),
        *("layer1.0.conv1", "layer1.0.downsample.0", "stages.1.blocks.0.fc1", "stages.1.blocks.0.fc2"),
        *("stages.1.blocks.1.fc1", "stem.conv", "features.0", "features.3"),
    ]
    assert blocks_of(paths)[module] == block


def test_layers_of_the_same_modules_are_one() -> None:
    found = by_modules([(["a"], 1.0), (["a", "b", "a"], 2.0), ([], 0.5), (["a"], 0.25), (["a", "b"], 1.0)])
    assert found == layers(("a", 1.25), ("a b", 3.0), ("", 0.5))


def test_what_either_engine_fuses_is_one_part_of_both() -> None:
    one, other = layers(("a", 1.0), ("b", 2.0), ("c", 3.0), ("", 0.5)), layers(("a b", 2.5), ("c", 1.0))
    assert parts([one, other], lambda module: module) == [
        (("a", "b"), [3.0, 2.5]),
        (("c",), [3.0, 1.0]),
        ((), [0.5, 0.0]),
    ]


def test_a_slower_engine_is_told_by_block_then_by_module() -> None:
    reference = layers(*((f"layer.{n}.{part}", 1.0) for n in range(5) for part in ("query", "fc")), ("head", 1.0))
    engine = layers(
        *((f"layer.{n}.{part}", 1.0 + more) for n in range(5) for part, more in (("query", 0.1 * n), ("fc", 0.5))),
        ("head", 0.5),
        ("", 2.0),
    )
    assert slower(engine, reference) == [
        "layers that name no module, such as conversions: 2.000 ms against 0.000 ms",
        "layer.4: 2.900 ms against 2.000 ms: layer.4.fc +0.500 ms, layer.4.query +0.400 ms",
        "layer.3: 2.800 ms against 2.000 ms: layer.3.fc +0.500 ms, layer.3.query +0.300 ms",
        "3 more blocks together: +1.800 ms",
    ]


def test_one_region_over_all_says_that_nothing_inside_is_told() -> None:
    modules = " ".join(f"layer.{n}.{part}" for n in range(4) for part in ("query", "fc"))
    assert slower(layers((modules, 6.8)), layers((modules, 4.4))) == [
        "layer.0 to layer.3: 6.800 ms against 4.400 ms; "
        "the engine runs it as one fused region and tells no times inside"
    ]


@pytest.mark.parametrize(
    ("engine", "reference"), [([], [("a", 1.0)]), ([("a", 1.0)], []), ([("a", 1.0)], [("a", 1.0)])]
)
def test_nothing_is_said_where_nothing_is_known_or_slower(engine, reference) -> None:
    assert slower(layers(*engine), layers(*reference)) == []
