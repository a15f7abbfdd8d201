"""Every file's content counts, whatever it is called."""

from __future__ import annotations

from pathlib import Path

from trtbuild.core.disk import sha256_of
from trtbuild.pipeline.file_digests import FileDigests


def test_files_of_one_name_in_many_folders_all_count(tmp_path: Path) -> None:
    root = tmp_path / "recipe"
    files = [root / "one.txt", *(tmp_path / "data" / name / "one.txt" for name in "ab"), tmp_path / "data" / "two.txt"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(file))
    found = FileDigests(tmp_path / "digests.sqlite").of_all(files, root)
    assert found == {
        "one.txt": sha256_of(files[0]),
        "a/one.txt": sha256_of(files[1]),
        "b/one.txt": sha256_of(files[2]),
        "two.txt": sha256_of(files[3]),
    }
