"""How far two waveforms are apart, as hearing has it and sample by sample."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trtbuild.core.agreement import SNR_OF_EQUALS_DB, snr_db
from trtbuild.core.errors import DataError
from trtbuild.core.tensor_file import Array, Tensors
from trtbuild.datasets.log_mel import LogMel, spectrogram

Predictor = Callable[[Array, int], Sequence[float]]
"""`function(waveforms [rows, samples] float32, sample_rate in Hz)` gives a mean opinion score of each row, 1 to 5."""

WINDOW = {"n_fft": 1024, "hop": 256, "mels": 80}
"""Windows and bands of the spectrogram where the recipe says no others: HiFi-GAN's (Kong et al. 2020)."""


def waveforms(
    outputs: Sequence[Tensors],
    reference_outputs: Sequence[Tensors],
    inputs: Sequence[Tensors],
    *,
    output: str,
    sample_rate: int,
    log_mel: dict[str, Any] | None = None,
    predictor: str | None = None,
) -> dict[str, float]:
    """Compare waveforms `output` [rows, samples] at `sample_rate` Hz with the reference's, row by row.

    Returns `log_mel_distance_db` and `si_sdr_db` as means, and the worst row's as `log_mel_distance_db_max` and
    `si_sdr_db_min`. `log_mel` holds settings of `trtbuild.datasets.log_mel.LogMel`.

    `predictor` is `module:function`, a predictor of mean opinion scores (see `Predictor`); the recipe lists its file
    under `metric.files`. It adds `mos`, and `mos_drop`: how much lower that is than the reference's.

    Raises DataError where the settings or the predictor's answers do not fit.
    """
    del inputs
    settings = _settings(sample_rate, log_mel)
    pairs = [(mine[output], theirs[output]) for mine, theirs in zip(outputs, reference_outputs, strict=True)]
    rows = [pair for mine, theirs in pairs for pair in zip(mine, theirs, strict=True)]
    distances = [log_mel_distance_db(*pair, settings) for pair in rows]
    ratios = [si_sdr_db(*pair) for pair in rows]
    found = {
        "log_mel_distance_db": float(np.mean(distances)),
        "log_mel_distance_db_max": max(distances),
        "si_sdr_db": float(np.mean(ratios)),
        "si_sdr_db_min": min(ratios),
    }
    if predictor is None:
        return found
    mine, theirs = (
        np.mean([score for pair in pairs for score in _scores(predictor, pair[k], sample_rate)]) for k in (0, 1)
    )
    return {**found, "mos": float(mine), "mos_drop": float(theirs - mine)}


def log_mel_distance_db(waveform: Array, reference: Array, settings: LogMel) -> float:
    """The log-spectral distance of two clips [samples], in mel bands: 0 where they are the same.

    The root of the mean over bands of (10 log10(P / P'))^2, mean over frames (Gray and Markel 1976, d_2); P and P' are
    the bands' powers, at least 1e-10. Phases do not count.
    """
    mine, theirs = spectrogram(waveform, settings), spectrogram(reference, settings)
    return float(10 / math.log(10) * np.sqrt(np.square(mine - theirs).mean(axis=0)).mean())


def si_sdr_db(waveform: Array, reference: Array) -> float:
    """The scale-invariant signal-to-distortion ratio of two clips [samples] in dB, within 200 dB of zero.

    10 log10(|a s|^2 / |a s - e|^2) with a = <e, s> / |s|^2, for the clip e and the reference s, both without their
    means (Le Roux et al. 2019, equation 3).
    """
    e, s = (each.astype(np.float64) - each.mean(dtype=np.float64) for each in (waveform, reference))
    power = float(s @ s)
    if power and not e.any():
        return -SNR_OF_EQUALS_DB  # silence has every scale, and is like no sound
    projected = (float(e @ s) / power if power else 0.0) * s
    error = projected - e
    return snr_db(float(projected @ projected), float(error @ error))


def _settings(sample_rate: int, given: dict[str, Any] | None) -> LogMel:
    try:
        return LogMel(**{**WINDOW, **(given or {}), "sample_rate": sample_rate, "log": "natural"})
    except (TypeError, ValueError) as error:
        raise DataError(f"metric.arguments.log_mel: {error}") from error


def _scores(predictor: str, clips: Array, sample_rate: int) -> list[float]:
    module, _, function = predictor.partition(":")
    predict: Predictor = getattr(importlib.import_module(module), function)
    scores = [float(score) for score in predict(clips.astype(np.float32), sample_rate)]
    if len(scores) != len(clips) or not all(map(math.isfinite, scores)):
        raise DataError(
            f"{predictor} gave {len(scores)} finite scores or fewer for {len(clips)} clips", hint="one each"
        )
    return scores
