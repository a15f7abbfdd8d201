"""Checkpoints load by name, run nothing, and name what differs."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trtbuild.checkpoints import load_checkpoint, open_checkpoint
from trtbuild.core.errors import ModelError


class Small(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, width), nn.Conv1d(width, 2, 3)
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("table", torch.ones(2), persistent=False)


def weights(width: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn_like(tensor) for name, tensor in Small(width).state_dict().items()}


def check(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, state[name])


def test_one_file_of_each_kind(tmp_path: Path) -> None:
    state = weights()
    save_file(state, tmp_path / "m.safetensors")
    torch.save(state, tmp_path / "m.pt")
    torch.save({"epoch": 3, "generator": {"ema": state}}, tmp_path / "nested.pth")
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for file, inside in (("m.safetensors", ""), ("m.pt", ""), ("nested.pth", "generator.ema"), ("old.bin", "")):
        check(load_checkpoint(Small(), tmp_path / file, inside=inside), state)


def test_shards_with_an_index(tmp_path: Path) -> None:
    state = weights()
    names = sorted(state)
    for number, part in enumerate((names[:2], names[2:])):
        save_file({name: state[name] for name in part}, tmp_path / f"part{number}.safetensors")
    place = {name: f"part{number}.safetensors" for number, part in enumerate((names[:2], names[2:])) for name in part}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": place}))
    check(load_checkpoint(Small(), tmp_path), state)
    (tmp_path / "part1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"there is no checkpoint .*part1"):
        load_checkpoint(Small(), tmp_path)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "../outside.safetensors")}))
    with pytest.raises(ModelError, match="lies outside its folder"):
        load_checkpoint(Small(), tmp_path)


def test_a_module_without_weights_takes_the_checkpoints_own(tmp_path: Path) -> None:
    state = weights()
    save_file(state, tmp_path / "m.safetensors")
    with torch.device("meta"):
        module = Small()
    module.table = torch.ones(2)
    check(load_checkpoint(module, tmp_path / "m.safetensors"), state)
    assert module.first.weight.device.type == "cpu"


def test_names_are_mapped_ignored_and_optional(tmp_path: Path) -> None:
    state = weights()
    saved = {f"net.{name}": tensor for name, tensor in state.items() if name != "scale"} | {"ema.x": torch.ones(1)}
    save_file(saved, tmp_path / "m.safetensors")
    module = load_checkpoint(
        Small(),
        tmp_path / "m.safetensors",
        rename=lambda name: name.removeprefix("net."),
        ignore=["ema.*"],
        optional=["scale"],
    )
    check(module, state | {"scale": torch.ones(2)})


@pytest.mark.parametrize("kind", ["old", "new"])
def test_weight_normalization_becomes_a_plain_weight(tmp_path: Path, kind: str) -> None:
    module = Small()
    normed = Small()
    wrap = nn.utils.weight_norm if kind == "old" else nn.utils.parametrizations.weight_norm
    normed.second = wrap(normed.second)
    for parameter in normed.second.parameters():
        nn.init.normal_(parameter)
    normed.second(torch.zeros(1, 4, 3))  # the old kind computes its weight in the call
    expected = normed.second.weight.detach().clone()
    torch.save(normed.state_dict(), tmp_path / "m.pt")
    load_checkpoint(module, tmp_path / "m.pt")
    torch.testing.assert_close(module.second.weight, expected)


def test_the_first_ten_differences_are_named(tmp_path: Path) -> None:
    state = weights()
    wrong = {name: tensor for name, tensor in state.items() if name != "first.bias"}
    wrong |= {f"extra{number:02d}": torch.ones(1) for number in range(12)}
    save_file(wrong, tmp_path / "m.safetensors")
    with pytest.raises(ModelError) as raised:
        load_checkpoint(Small(), tmp_path / "m.safetensors")
    message = raised.value.message
    assert "missing first.bias; extra extra00; " in message
    assert message.endswith("extra extra08, and 3 more")


def test_another_size_names_both_shapes(tmp_path: Path) -> None:
    save_file(weights(5), tmp_path / "m.safetensors")
    before = Small()
    kept = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    with pytest.raises(ModelError, match=r"first\.weight is \(5, 3\), the module has \(4, 3\)"):
        load_checkpoint(before, tmp_path / "m.safetensors")
    check(before, kept)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("evil-was-here",)


def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"x": Evil()}))
    torch.save({"x": Evil()}, tmp_path / "zip.pt")
    for name in ("plain.pt", "zip.pt"):
        with pytest.raises(ModelError, match="holds more than weights, or is damaged"):
            open_checkpoint(tmp_path / name)
    assert not (tmp_path / "evil-was-here").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git-LFS pointer"),
        (b"", "damaged"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00garbage", "damaged"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes, says: str) -> None:
    for name in ("m.safetensors", "m.pt"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=says):
            open_checkpoint(tmp_path / name)


def test_entries_and_folders_that_are_not_there(tmp_path: Path) -> None:
    torch.save({"model": weights()}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match="holds no tensors by name, but model"):
        open_checkpoint(tmp_path / "m.pt")
    with pytest.raises(ModelError, match="has no entry 'ema'"):
        open_checkpoint(tmp_path / "m.pt", inside="ema")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="should hold one checkpoint"):
        open_checkpoint(tmp_path / "empty")
