"""Names as short as they can be and still differ."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from trtbuild.core.file_names import distinct_names

PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda parts: Path("/", *parts))


def test_a_bare_name_where_it_is_enough() -> None:
    files = [Path("/x/a/one.txt"), Path("/x/b/two.txt"), Path("/x/b/one.txt"), Path("/y/b/one.txt")]
    assert list(distinct_names(files).values()) == ["two.txt", "a/one.txt", "x/b/one.txt", "y/b/one.txt"]
    assert distinct_names([Path("/x/one.txt")], taken=["one.txt"]) == {Path("/x/one.txt"): "x/one.txt"}


@given(st.sets(PATHS, max_size=8), st.sets(st.sampled_from(["a", "b", "a/b"])))
def test_every_file_has_a_name_of_its_own_whatever_the_order(files: set[Path], taken: set[str]) -> None:
    names = distinct_names(sorted(files), taken)
    assert set(names) == files
    assert len(set(names.values())) == len(files)
    assert not taken & set(names.values())
    assert names == distinct_names(sorted(files, reverse=True), taken)
