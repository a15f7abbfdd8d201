"""Files of torch.save that hold data, and those that would do something."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from trtbuild.core.errors import DataError
from trtbuild.core.plain_pickle import check_plain


class Runs:
    """Unpickling it would write a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    "content",
    [
        {"speaker": {"embedding": torch.randn(1, 192), "tokens": torch.arange(3), "name": "one", "rate": 24000}},
        OrderedDict(weight=torch.nn.Parameter(torch.zeros(2, 2)), half=torch.zeros(2, dtype=torch.bfloat16)),
        [torch.zeros(2, dtype=torch.float16).bool(), (1, 2.5, None, True), torch.Size([2]), torch.float32],
    ],
)
def test_tensors_in_plain_containers_are_data(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "data.pt")
    check_plain(tmp_path / "data.pt")
    torch.load(tmp_path / "data.pt", weights_only=True)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "content", [Runs(), {"deep": [{"inside": Runs()}]}, {"module": torch.nn.Linear(2, 2)}, {"f": eval}]
)
def test_what_names_anything_else_is_refused_and_not_run(
    content: Any, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "code.pt", pickle_protocol=protocol)
    with pytest.raises(DataError, match="holds more than data: it names "):
        check_plain(tmp_path / "code.pt")
    assert not Path("ran").exists()


def test_what_is_no_file_of_torch_save_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(DataError, match=r"old\.pt is no file of torch\.save"):
        check_plain(tmp_path / "old.pt")
