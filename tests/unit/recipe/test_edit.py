"""Values added to a recipe's text."""

from __future__ import annotations

import pytest
import yaml

from trtbuild.recipe.edit import Addition, NotEditable, as_lines, edited, unified_diff

HIGH = Addition(("variants", "int8", "quantize", "overrides"), "blocks.0", "high", "int8: 18% of the output")
PIN = Addition(("variants", "fp16", "keep_fp32"), "", "wide", "too large")


def changes(before: str, *additions: Addition) -> list[str]:
    """The lines of a patch that take away or add."""
    patch = unified_diff(before, edited(before, additions), "recipe.yaml")
    return [line for line in patch.splitlines()[2:] if line[0] in "+-"]


def test_lines_are_added_to_a_mapping_in_lines_and_nothing_else_changes() -> None:
    text = """\
gates: {accuracy: {cosine_min:   {min: 0.9}}}   # odd   spaces
variants:
    # four columns
    int8:
        quantize:   # why
            format: "int8"
            exclude: [a,
                      b]

    # of the next
    fp16: {}
"""
    assert changes(text, HIGH) == [
        "+            overrides:",
        "+                blocks.0: high  # int8: 18% of the output",
    ]


def test_an_entry_on_one_line_is_opened_and_keeps_its_comment() -> None:
    text = "variants:\n  fp16: {}  # plain\n  int8: {quantize: {format: 'int8', alpha: 0.5}}   # small\n  x: {}\n"
    assert changes(text, HIGH) == [
        "-  int8: {quantize: {format: 'int8', alpha: 0.5}}   # small",
        "+  int8:  # small",
        "+    quantize:",
        "+      format: 'int8'",
        "+      alpha: 0.5",
        "+      overrides:",
        "+        blocks.0: high  # int8: 18% of the output",
    ]


def test_several_additions_share_what_the_first_made() -> None:
    text = "variants:\n  fp16: {keep_fp32: [a, '0']}\n"
    second = Addition(PIN.path, "", "*.norm", "reads it")
    assert yaml.safe_load(edited(text, [PIN, second])) == {
        "variants": {"fp16": {"keep_fp32": ["a", "0", "wide", "*.norm"]}}
    }


def test_a_variant_that_another_recipe_spells_is_added_over_it() -> None:
    assert edited("recipe: child\nextends: base.yaml\n# end", [PIN]) == (
        "recipe: child\nextends: base.yaml\nvariants:\n  fp16:\n    keep_fp32:\n      - wide  # too large\n# end"
    )


@pytest.mark.parametrize("key", ["0", "yes", "*.dense", "1e3", "a: b", "# no"])
def test_keys_that_yaml_would_misread_are_quoted(key: str) -> None:
    addition = Addition(HIGH.path, key, "high", "why")
    read = yaml.safe_load(edited("variants: {int8: {quantize: {}}}\n", [addition]))
    assert read == {"variants": {"int8": {"quantize": {"overrides": {key: "high"}}}}}


def test_line_ends_stay_what_they_are() -> None:
    assert edited("variants:\r\n  fp16: {}\r\n", [PIN]) == (
        "variants:\r\n  fp16:\r\n    keep_fp32:\r\n      - wide  # too large\r\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "a: &shared\n  quantize: {format: int8}\nvariants:\n  int8: *shared\n",
        "variants:\n  base: &base\n    quantize: {format: int8}\n  int8:\n    <<: *base\n",
        "{variants: {int8: {quantize: {}}}}\n",
    ],
    ids=["alias", "merge key", "JSON"],
)
def test_what_cannot_be_edited_safely_is_refused(text: str) -> None:
    with pytest.raises(NotEditable):
        edited(text, [HIGH])


def test_what_to_write_by_hand_is_yaml() -> None:
    assert yaml.safe_load(as_lines([HIGH, PIN])) == {
        "variants": {"int8": {"quantize": {"overrides": {"blocks.0": "high"}}}, "fp16": {"keep_fp32": ["wide"]}}
    }


def test_a_file_without_a_last_line_end_gives_a_patch_that_says_so() -> None:
    text = "variants:\n  fp16: {}"
    assert unified_diff(text, edited(text, [PIN]), "r.yaml").count("\\ No newline at end of file\n") == 1
