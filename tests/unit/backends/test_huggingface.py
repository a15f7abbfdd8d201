import copy
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from trtbuild.backends.huggingface import HuggingFace
from trtbuild.core.errors import ModelError
from trtbuild.core.sources import HuggingFaceSource, OnnxSource

CONFIG = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**CONFIG)).half().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def load(folder: Path, outputs: tuple[str, ...] = ("last_hidden_state",), **settings: Any) -> Any:
    return HuggingFace().load(HuggingFaceSource(folder=folder, outputs=list(outputs), **settings))


INPUTS = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.tensor([[1, 1, 0]])}


def test_forward_returns_the_named_fields_in_order(folder: Path) -> None:
    module = load(folder, ("pooler_output", "last_hidden_state"))
    plain = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        pooled, hidden = module(**INPUTS)
        by_position = module(INPUTS["input_ids"], INPUTS["attention_mask"])[1]
        wanted = plain(**INPUTS)
    assert torch.equal(pooled, wanted.pooler_output)
    assert torch.equal(hidden, wanted.last_hidden_state)
    assert torch.equal(by_position, hidden)
    assert module.output_names == ("pooler_output", "last_hidden_state")


def test_module_paths_are_the_models_own_and_survive_a_copy(folder: Path) -> None:
    module = load(folder)
    assert "encoder.layer.0.attention.self.query" in dict(module.named_modules())
    assert isinstance(copy.deepcopy(module)(**INPUTS), tuple)


def test_it_loads_in_float32_eager_and_inference_mode(folder: Path) -> None:
    module = load(folder)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert module.config._attn_implementation == "eager"
    assert not module.training
    assert load(folder, load_options={"attn_implementation": "sdpa"}).config._attn_implementation == "sdpa"


def test_it_says_nothing_and_asks_no_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load(folder)
    assert capfd.readouterr() == ("", "")


def test_torch_weights_load_too(folder: Path) -> None:
    weights = load(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert torch.equal(load(folder).state_dict()["pooler.dense.weight"], weights["pooler.dense.weight"])


def test_an_unknown_class_gets_a_suggestion(folder: Path) -> None:
    with pytest.raises(ModelError, match="no model class 'AutoModle'") as error:
        load(folder, auto_class="AutoModle")
    assert error.value.hint == "did you mean AutoModel?"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere does not exist"):
        load(tmp_path / "nowhere")


def test_a_folder_without_config_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load(folder)


def test_a_folder_without_weights_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        load(folder)


def test_a_git_lfs_pointer_is_told_from_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ModelError, match="is a Git-LFS pointer") as error:
        load(folder)
    assert "git lfs pull" in error.value.hint


def test_missing_shards_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"lacks 1 of 2 weight shards, first model-00002-of-00002\.safetensors"):
        load(folder)


def test_a_broken_index_is_named(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match="is no index of weight shards"):
        load(folder)


def test_weights_that_would_be_random_are_an_error(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"has no weights for .* tensors of BertForMaskedLM"):
        load(folder, auto_class="AutoModelForMaskedLM")


def test_a_damaged_weight_file_is_one_sentence(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="AutoModel cannot load"):
        load(folder)


@pytest.mark.parametrize("option", ["trust_remote_code", "dtype"])
def test_what_trtbuild_decides_cannot_be_overridden(folder: Path, option: str) -> None:
    with pytest.raises(ModelError, match=f"cannot set '{option}'"):
        load(folder, load_options={option: True})


def test_a_missing_output_field_gets_a_suggestion(folder: Path) -> None:
    with pytest.raises(ModelError, match="output field 'last_hiden_state' is not there") as error:
        load(folder, ("last_hiden_state",))(**INPUTS)
    assert "did you mean last_hidden_state?" in error.value.hint


def test_an_output_field_must_be_a_tensor(folder: Path) -> None:
    module = load(folder, ("hidden_states",), load_options={"output_hidden_states": True})
    with pytest.raises(ModelError, match="'hidden_states' is a tuple, not a tensor"):
        module(**INPUTS)


def test_other_sources_are_refused() -> None:
    with pytest.raises(ModelError, match="not a source of kind 'onnx'"):
        HuggingFace().load(OnnxSource(file=Path("model.onnx")))
