"""Clips of recorded sound, as a waveform or as its log-mel spectrogram: `generator: trtbuild.datasets.audio:clips`."""

from __future__ import annotations

import wave
from collections.abc import Iterator, Sequence
from math import ceil, gcd
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from trtbuild.core.errors import DataError
from trtbuild.core.sources import SAMPLE_IDS
from trtbuild.core.tensor_file import Array
from trtbuild.datasets.files import library, named
from trtbuild.datasets.log_mel import LogMel, spectrogram
from trtbuild.datasets.selection import HELD_OUT, batches, digest, one_of, take

FILTER_PERIODS = 64
"""Half the length of the resampling filter, in samples of the lower of the two rates."""
CUT_OFF = 0.95
"""Where that filter has fallen to one half, as a share of the lower Nyquist frequency. With a Kaiser window of
beta 9.6 (96 dB) its band ends reach from 0.90 to 1.00 of it (Kaiser 1974): flat below, aliases gone above."""
KAISER_BETA = 9.6


class Clip(NamedTuple):
    """What a file gives, before it is resampled."""

    name: str
    rate: int
    """Samples a second."""
    samples: Array
    """float64 [samples], in [-1, 1), channels averaged."""


def clips(
    split: str,
    count: int,
    files: Sequence[Path],
    *,
    input: str,  # noqa: A002 - the recipe's word
    sample_rate: int,
    seconds: float,
    batch: int,
    features: Literal["waveform", "log_mel"] = "waveform",
    normalize: bool = False,
    channel_axis: bool = False,
    log_mel: dict[str, Any] | None = None,
    held_out: float = HELD_OUT,
) -> Iterator[dict[str, Any]]:
    """Yield one clip a file, `count` of a split, in batches of `batch` rows, float32, under the name `input`.

    `files` are PCM .wav files of 8, 16, 24 or 32 bits. Of each, the first `seconds` count; a shorter one is filled
    with zeros at its end. Channels are averaged, other rates resampled to `sample_rate` (Hz). With `normalize`, the
    clip without its zeros is brought to mean 0 and variance 1, as wav2vec 2.0 takes it:
    `(x - mean) / sqrt(variance + 1e-7)`.

    `waveform` is [rows, samples]; `log_mel` is [rows, mels, frames], where `log_mel` holds the settings that
    `trtbuild.datasets.log_mel.LogMel` lists. `channel_axis` puts an axis of length 1 after the rows.

    Raises DataError where a file cannot be read or a split has too few clips, BackendMissing where a rate must be
    changed and scipy is not installed.
    """
    one_of("features", features, ("waveform", "log_mel"))
    settings = _settings(log_mel, sample_rate)
    sources = named(files, (".wav",))
    length = round(seconds * sample_rate)
    if length < 1:
        raise DataError(f"{seconds:g} seconds at {sample_rate} Hz are no sample", hint="set data.arguments.seconds")
    identities: dict[bytes, str] = {}
    for name, file in sources.items():
        identities.setdefault(_identity(_read(name, file, seconds, sample_rate)), name)
    ordered = ((identity, identities[identity]) for identity in sorted(identities))
    chosen = take(ordered, split, count, held_out=held_out, what="clips")
    for group in batches(chosen, batch):
        rows = []
        for name in group:
            row = _at_rate(_read(name, sources[name], seconds, sample_rate), sample_rate)[:length]
            if normalize:
                row = (row - row.mean()) / np.sqrt(row.var() + 1e-7)
            row = np.pad(row, (0, length - len(row)))
            rows.append((spectrogram(row, settings) if features == "log_mel" else row).astype(np.float32))
        stacked = np.stack(rows)
        yield {input: stacked[:, None] if channel_axis else stacked, SAMPLE_IDS: list(group)}


def _settings(given: dict[str, Any] | None, sample_rate: int) -> LogMel:
    try:
        return LogMel(sample_rate=sample_rate, **(given or {}))
    except (TypeError, ValueError) as error:
        raise DataError(f"data.arguments.log_mel: {error}") from error


def _identity(clip: Clip) -> bytes:
    """By what is heard: trailing silence is what padding adds anyway, and silence is the same at every rate."""
    heard = np.trim_zeros(clip.samples, "b").astype("<f4")
    return digest(heard.tobytes(), str(clip.rate if len(heard) else 0).encode())


def _read(name: str, file: Path, seconds: float, sample_rate: int) -> Clip:
    """The beginning of a file, with what the resampling filter reads behind the clip's end."""
    try:
        with wave.open(str(file), "rb") as stream:
            channels, width, rate = stream.getnchannels(), stream.getsampwidth(), stream.getframerate()
            behind = FILTER_PERIODS / min(rate, sample_rate) if rate != sample_rate else 0.0
            data = stream.readframes(ceil((seconds + behind) * rate) if behind else round(seconds * rate))
    except (wave.Error, EOFError, ZeroDivisionError) as error:
        raise DataError(
            f"{name} is not a PCM .wav file: {str(error) or 'it ends too early'}",
            hint=f"convert it: ffmpeg -i {name} -c:a pcm_s16le converted.wav",
        ) from error
    if width not in (1, 2, 3, 4):
        raise DataError(f"{name} has samples of {8 * width} bits; 8, 16, 24 and 32 can be read")
    frames = len(data) // (channels * width)
    if not frames:
        raise DataError(f"{name} holds no sound")
    return Clip(name, rate, _decoded(data[: frames * channels * width], width).reshape(frames, channels).mean(axis=1))


def _decoded(data: bytes, width: int) -> Array:
    """PCM as float64 in [-1, 1): 8 bits are unsigned, more are signed, little-endian (RIFF/WAVE, "Data Format")."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    if width == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float64) / 2**31
    return np.frombuffer(data, f"<i{width}").astype(np.float64) / 2.0 ** (8 * width - 1)


def _at_rate(clip: Clip, rate: int) -> Array:
    """The clip at another rate, by a polyphase filter with linear phase (Crochiere and Rabiner 1983, chapter 2)."""
    if clip.rate == rate:
        return clip.samples
    signal = library("scipy.signal", f"resampling {clip.name} from {clip.rate} to {rate} Hz")
    common = gcd(clip.rate, rate)
    up, down = rate // common, clip.rate // common
    greater = max(up, down)
    taps = signal.firwin(2 * FILTER_PERIODS * greater + 1, CUT_OFF / greater, window=("kaiser", KAISER_BETA))
    return np.asarray(signal.resample_poly(clip.samples, up, down, window=taps))
