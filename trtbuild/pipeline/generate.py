"""Text from a built decoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.core.kv_cache import KvCache
from trtbuild.core.values import Result
from trtbuild.pipeline.inspect import check_digests
from trtbuild.pipeline.job import load_backend
from trtbuild.pipeline.release import MANIFEST_FILE, read_manifest

if TYPE_CHECKING:
    from trtbuild.core.roles import Session
    from trtbuild.decoding.sampling import Sampling


class Text(Result):
    """What was written behind one prompt."""

    prompt: str
    text: str
    tokens: list[int]
    """The new tokens, without the stop token."""
    ending: str
    """`stop`: the model ended it; `length`: as many tokens as asked for; `capacity`: the cache is full."""


class GenerationReport(Result):
    """What `trtbuild generate --json` prints."""

    engine: str
    device: str
    cache: str
    """How the cache is kept: float, int8, int8_static or fp8."""
    texts: list[Text]
    prompt_tokens: int
    new_tokens: int
    first_token_ms: float
    decode_tokens_per_s: float
    cache_bytes: int
    cache_bytes_fp16: int


def generate(
    folder: Path,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
    stop_tokens: Sequence[int] = (),
    tokenizer: str | None = None,
    threads: int = 0,
    show: Callable[[int, str], None] = lambda row, text: None,
) -> GenerationReport:
    """Continue prompts as one batch with the engine, or the `model.onnx`, in `folder`; `cache.json` lies beside it.

    `show(row, text)` is called with each piece of text as it comes. `stop_tokens` are added to those that the model's
    own configuration names. Raises ModelError where the folder holds no decoder, DataError where a prompt does not fit
    or there is no tokenizer, StoreError where the engine's bytes are not the ones that were built.
    """
    from trtbuild.decoding.decoder import Decoder
    from trtbuild.decoding.generation import Generation
    from trtbuild.decoding.tokenizer import TextStream, stop_tokens_of, tokenizer_of

    layout = KvCache.read(folder)
    words = tokenizer_of(folder, tokenizer)
    session, device = _session(folder, threads)
    try:
        generation = Generation(
            Decoder(session, layout),
            [words.encode(prompt) for prompt in prompts],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_tokens=[*stop_tokens_of(folder), *stop_tokens],
        )
        streams = [TextStream(words) for _ in prompts]
        texts = [""] * len(prompts)

        def add(row: int, piece: str) -> None:
            if piece:
                texts[row] += piece
                show(row, piece)

        for row, token in generation:
            add(row, streams[row].take(token))
        for row, stream in enumerate(streams):
            add(row, stream.end())
    finally:
        session.close()
    written = zip(prompts, texts, generation.rows, generation.endings, strict=True)
    return GenerationReport(
        engine=str(folder),
        device=device,
        cache=layout.mode,
        texts=[Text(prompt=each[0], text=each[1], tokens=each[2], ending=str(each[3])) for each in written],
        **generation.speed().model_dump(),
    )


def _session(folder: Path, threads: int) -> tuple[Session, str]:
    """The decoder of a folder, loaded, and what it runs on; an engine's digests are checked before."""
    if (folder / Engine.file).is_file():
        if (folder / MANIFEST_FILE).is_file():
            check_digests(folder, read_manifest(folder))
        runner = load_backend(_backend_of(folder / Engine.file))
        return runner.open(Engine(folder), threads), runner.device
    if (folder / OnnxModel.file).is_file():
        runner = load_backend("onnxruntime")
        return runner.open_model(OnnxModel(folder), threads), runner.device
    raise ModelError(
        f"{folder} holds neither {Engine.file} nor {OnnxModel.file}",
        hint="name an engine folder, or a folder that a decoder was exported to",
    )


def _backend_of(file: Path) -> str:
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
        return str(facts["backend"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} does not say which backend built it: {error!r}", hint="build it again") from error
