"""Write down what CosyVoice's networks are given while it speaks: what the recipes here calibrate and validate on.

Run it where CosyVoice runs (its repository on PYTHONPATH, its TensorRT off), with sentences of the kind you serve:

    python record.py --model /models/CosyVoice2-0.5B --texts sentences.txt --prompt prompt.wav \
        --prompt-text "what the prompt says" --output /data/recorded

A folder for each recipe: flow, hift, llm, speaker_encoder, speech_tokenizer; list its files under `data.files`.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HOP = 480
"""Samples a frame."""
NOISE = 9 * HOP
"""Random numbers a frame: nine harmonics, a number a sample."""
TEXT = 6566
"""What is added to a text token in the joint vocabulary of recipes/cosyvoice2/llm: 6,564 speech tokens come first,
and two that begin the text and the speech."""


class Recorder:
    """Listens to a CosyVoice2 or CosyVoice3 object and writes each call of a network as one .npz file."""

    def __init__(self, folder: Path, *, text: int = TEXT, marks: tuple[int, int] = (TEXT - 2, TEXT - 1)) -> None:
        self.folder, self.text, self.marks = folder, text, marks
        self.random = np.random.default_rng(0)
        self.calls: dict[str, int] = {}

    def listen(self, cosyvoice: Any) -> None:
        """From now on, until the object is gone."""
        model, frontend = cosyvoice.model, cosyvoice.frontend
        model.flow.decoder.estimator.register_forward_pre_hook(self._estimator)
        model.hift.inference = self._heard(model.hift.inference, self._vocoder)
        model.llm.inference = self._written(model.llm.inference)
        for recipe, session in (
            ("speaker_encoder", frontend.campplus_session),
            ("speech_tokenizer", frontend.speech_tokenizer_session),
        ):
            session.run = self._heard(session.run, functools.partial(self._session, recipe))

    def write(self, recipe: str, **arrays: Any) -> None:
        """One call's inputs, each [rows, ...]."""
        number = self.calls[recipe] = self.calls.get(recipe, 0) + 1
        (self.folder / recipe).mkdir(parents=True, exist_ok=True)
        np.savez_compressed(self.folder / recipe / f"{number:06}.npz", **arrays)

    def _heard(self, function: Callable[..., Any], listener: Callable[..., None]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            listener(*args, **kwargs)
            return function(*args, **kwargs)

        return call

    def _estimator(self, _module: Any, args: tuple[Any, ...]) -> None:
        names = ("x", "mask", "mu", "t", "spks", "cond")
        self.write("flow", **{name: _array(tensor) for name, tensor in zip(names, args, strict=True)})

    def _vocoder(self, speech_feat: Any, cache_source: Any = None, **_: Any) -> None:
        mel = _array(speech_feat)
        rows, _, frames = mel.shape
        cache, cached = np.zeros((rows, frames, HOP), np.float32), np.zeros((rows, frames, 1), np.float32)
        if cache_source is not None and (known := cache_source.shape[2] // HOP):
            cache[:, :known] = _array(cache_source)[:, 0, : known * HOP].reshape(rows, known, HOP)
            cached[:, :known] = 1
        noise = self.random.standard_normal((rows, frames, NOISE), np.float32)
        self.write("hift", mel=mel, noise=noise, cache=cache, cached=cached)

    def _session(self, recipe: str, _outputs: Any, feed: dict[str, Any]) -> None:
        self.write(recipe, **feed)

    def _written(self, inference: Callable[..., Iterator[int]]) -> Callable[..., Iterator[int]]:
        @functools.wraps(inference)
        def call(**given: Any) -> Iterator[int]:
            begin, speak = self.marks
            text = [_array(given[name]).ravel() + self.text for name in ("prompt_text", "text")]
            ids = [[begin], *text, [speak], _array(given["prompt_speech_token"]).ravel()]
            tokens: list[int] = []
            for token in inference(**given):
                tokens.append(int(token))
                yield token
            self.write("llm", input_ids=np.concatenate([*ids, tokens]).astype(np.int64)[None])

        return call


def _array(tensor: Any) -> Any:
    return tensor.detach().cpu().numpy()


def main() -> None:
    """Let CosyVoice speak every sentence, and listen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("model", "texts", "prompt", "prompt-text", "output"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    from cosyvoice.cli.cosyvoice import AutoModel

    cosyvoice = AutoModel(model_dir=given.model)
    third = type(cosyvoice).__name__ == "CosyVoice3"  # its marks are speech tokens, of which it has 197 more
    recorder = Recorder(Path(given.output), **({"text": 6761, "marks": (6561, 6563)} if third else {}))
    recorder.listen(cosyvoice)
    for line in Path(given.texts).read_text(encoding="utf-8").splitlines():
        if line.strip():
            for _ in cosyvoice.inference_zero_shot(line, given.prompt_text, given.prompt, stream=False):
                pass
    print(", ".join(f"{calls} of {recipe}" for recipe, calls in recorder.calls.items()))


if __name__ == "__main__":
    main()
