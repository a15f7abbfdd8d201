"""Generation over a decoder's engine: `<name>_step` is the engine, `<name>` a Python model that loops over it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from trtbuild.core.errors import ModelError
from trtbuild.core.kv_cache import KvCache
from trtbuild.triton.options import TritonOptions

TOKENIZER = "tokenizer.json"
SETTINGS = {"max_new_tokens": pb.TYPE_INT32, "temperature": pb.TYPE_FP32, "top_k": pb.TYPE_INT32, "seed": pb.TYPE_INT64}
"""What a request may say beside its prompt."""


def generation_config(name: str, engine: Path, options: TritonOptions) -> pb.ModelConfig:
    """The model that clients ask: text, or token ids where the engine's folder has no tokenizer, to a stream."""
    text = (engine / TOKENIZER).is_file()
    prompt = (
        pb.ModelInput(name="prompt", data_type=pb.TYPE_STRING, dims=[1])
        if text
        else pb.ModelInput(name="input_ids", data_type=pb.TYPE_INT64, dims=[-1])
    )
    config = pb.ModelConfig(
        name=name,
        backend="python",
        default_model_filename="model.py",
        input=[
            prompt,
            *(pb.ModelInput(name=each, data_type=kind, dims=[1], optional=True) for each, kind in SETTINGS.items()),
        ],
        output=[pb.ModelOutput(name="token", data_type=pb.TYPE_INT64, dims=[1])],
    )
    if text:
        config.output.add(name="text", data_type=pb.TYPE_STRING, dims=[1])
    config.model_transaction_policy.decoupled = True
    config.version_policy.latest.num_versions = options.versions
    config.instance_group.add(count=options.instances.count, kind=pb.ModelInstanceGroup.KIND_CPU)
    config.parameters["step_model"].string_value = f"{name}_step"
    return config


def write_generation(engine: Path, stop_tokens: Sequence[int], folder: Path) -> None:
    """Fill a version folder: the loop, the cache's description, the tokenizer.

    Raises ModelError where the cache has a type that Triton cannot carry.
    """
    layout = KvCache.read(engine)
    cache = {}
    for layer in range(layout.layers):
        for tensor in layout.tensors(layer):
            if tensor.dtype == "float8e4m3fn":
                raise ModelError(
                    f"{engine}: its cache is FP8, which Triton cannot carry between calls", hint="serve an INT8 cache"
                )
            cache[tensor.name] = [tensor.dtype, [*tensor.row_shape]]
    facts = {"capacity": layout.capacity, "stop_tokens": [*stop_tokens], "cache": cache}
    (folder / "decoder.json").write_text(json.dumps(facts, indent=1) + "\n")
    if (engine / TOKENIZER).is_file():
        shutil.copyfile(engine / TOKENIZER, folder / TOKENIZER)
    model = resources.files("trtbuild.triton") / "python_models" / "decoder_model.py"
    (folder / "model.py").write_text(model.read_text())
