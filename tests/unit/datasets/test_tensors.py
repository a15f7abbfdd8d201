"""Rows of stored arrays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.datasets.files import LFS_POINTER
from trtbuild.core.errors import DataError
from trtbuild.core.tensor_file import write_tensors
from trtbuild.datasets.tensors import files as generator


def made(files: list[Path], split: str = "calibration", count: int = 6, **arguments: Any) -> list[dict[str, Any]]:
    return list(generator(split, count, files, **{"batch": 4, **arguments}))


def arrays(rows: int = 40, seed: int = 0, width: int = 3) -> dict[str, np.ndarray]:
    x = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return {"x": x, "y": (1000 * x[:, 0]).astype(np.int64)}


def stored(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    else:
        write_tensors(path, tensors)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_rows_come_whole_in_their_dtype_and_say_where_they_came_from(tmp_path: Path, suffix: str) -> None:
    tensors = arrays()
    batches = made([stored(tmp_path / f"a{suffix}", tensors)])
    assert [batch["x"].shape for batch in batches] == [(4, 3), (2, 3)]
    for batch in batches:
        numbers = [int(source.removeprefix(f"a{suffix}:")) for source in batch["__ids__"]]
        np.testing.assert_array_equal(batch["x"], tensors["x"][numbers])
        np.testing.assert_array_equal(batch["y"], tensors["y"][numbers])
        assert batch["y"].dtype == np.int64


def test_the_choice_follows_from_the_content(tmp_path: Path) -> None:
    tensors = arrays()
    whole = stored(tmp_path / "whole.npz", tensors)
    parts = [
        stored(tmp_path / "b.safetensors", {name: array[25:] for name, array in tensors.items()}),
        stored(tmp_path / "a.npz", {name: array[29::-1] for name, array in tensors.items()}),  # 25..29 twice
    ]
    for split in ("calibration", "evaluation"):
        for one, other in zip(made([whole], split), made(parts, split), strict=True):
            np.testing.assert_array_equal(one["x"], other["x"])
    chosen = {
        split: {row.tobytes() for batch in made([whole], split) for row in batch["x"]}
        for split in ("calibration", "evaluation")
    }
    assert not chosen["calibration"] & chosen["evaluation"]
    with pytest.raises(DataError, match=r"has \d\d rows, 41 are wanted \(of 40 different"):
        made(parts, count=41)


def test_bfloat16_is_read_whatever_was_imported_before(tmp_path: Path) -> None:
    header = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes.fromhex("803f 0040"))
    asking = (
        "from trtbuild.datasets.tensors import files; from pathlib import Path;"
        f"(batch,) = files('calibration', 2, [Path({str(file)!r})], batch=2, held_out=1e-12);"
        "print(batch['x'].dtype, sorted(batch['x'].tolist()))"
    )
    told = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=True).stdout
    assert told == "bfloat16 [1.0, 2.0]\n"


def test_inputs_choose_and_rename(tmp_path: Path) -> None:
    file = stored(tmp_path / "a.npz", arrays())
    assert set(made([file], inputs=["x"])[0]) == {"x", "__ids__"}
    assert set(made([file], inputs={"pixels": "x"})[0]) == {"pixels", "__ids__"}
    with pytest.raises(DataError, match=r"a.npz has no array z") as caught:
        made([file], inputs=["z"])
    assert "it has x, y" in caught.value.hint


def test_rows_of_other_shapes_go_into_other_batches(tmp_path: Path) -> None:
    files = [stored(tmp_path / "a.npz", arrays()), stored(tmp_path / "b.npz", arrays(seed=1, width=5))]
    batches = made(files, count=20)
    assert sum(len(batch["x"]) for batch in batches) == 20
    assert {batch["x"].shape[1] for batch in batches} == {3, 5}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, r"same number of rows .* x \[3, 2\], y \[4\]"),
        ({"x": np.zeros((3, 2)), "y": np.array(1.0)}, "same number of rows"),
        ({}, "same number of rows"),
        ({"x": np.array([{}, {}], dtype=object)}, r"not a readable .npz file of plain arrays"),
    ],
)
def test_arrays_that_are_no_samples(tmp_path: Path, tensors: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "a.npz", **tensors)
    with pytest.raises(DataError, match=words):
        made([tmp_path / "a.npz"])


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LFS_POINTER)
    with pytest.raises(DataError, match=f"{name} is a Git LFS pointer"):
        made([tmp_path / name])
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=f"{name}.* not a readable"):
        made([tmp_path / name])
    np.save(tmp_path / "bare.npy", np.zeros(3))
    (tmp_path / "bare.npy").rename(tmp_path / "bare.npz")
    with pytest.raises(DataError, match=r"bare.npz is not a readable .* one array without a name"):
        made([tmp_path / "bare.npz"])
