"""Log-mel spectrograms, as speech models take them.

The power spectrum of overlapping windows, summed in triangular bands that are equally wide on the mel scale, and its
logarithm. Frames are centred on every `hop`-th sample, the clip reflected at its ends; windows are Hann's, periodic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trtbuild.core.tensor_file import Array

FLOOR = 1e-10
"""The least power a band may have before the logarithm."""


@dataclass(frozen=True)
class LogMel:
    """How a clip becomes a spectrogram. The defaults are those of Whisper at 16 kHz (Radford et al. 2022, 2.2).

    Raises ValueError where the values contradict each other.
    """

    sample_rate: int
    """Hz."""
    n_fft: int = 400
    """Samples a window."""
    hop: int = 160
    """Samples from one window to the next."""
    mels: int = 80
    """Bands."""
    min_hz: float = 0.0
    """Where the lowest band begins."""
    max_hz: float | None = None
    """Where the highest band ends; None is half the sample rate."""
    scale: Literal["slaney", "htk"] = "slaney"
    """`htk`: mel = 2595 log10(1 + f / 700), bands of peak 1. `slaney`: linear to 1000 Hz and logarithmic above
    (Slaney 1998), bands of equal area, 2 / (width in Hz)."""
    log: Literal["whisper", "natural"] = "whisper"
    """`natural`: ln(max(power, 1e-10)), samples // hop + 1 frames. `whisper`: x = log10(max(power, 1e-10)) without the
    last frame, then (max(x, greatest x - 8) + 4) / 4."""

    def __post_init__(self) -> None:
        if self.scale not in ("slaney", "htk") or self.log not in ("whisper", "natural"):
            raise ValueError("scale may be slaney or htk, log may be whisper or natural")
        if min(self.n_fft, self.hop, self.mels) < 1:
            raise ValueError("n_fft, hop and mels must be at least 1")
        if not 0 <= self.min_hz < self.top_hz <= self.sample_rate / 2:
            raise ValueError(
                f"needs 0 <= min_hz < max_hz <= {self.sample_rate / 2:g} Hz, got {self.min_hz:g} and {self.top_hz:g}"
            )

    @property
    def top_hz(self) -> float:
        """Where the highest band ends."""
        return self.sample_rate / 2 if self.max_hz is None else self.max_hz


def spectrogram(waveform: Array, settings: LogMel) -> Array:
    """The spectrogram of a clip [samples]: float64 [mels, frames]."""
    n_fft, hop = settings.n_fft, settings.hop
    padded = np.pad(waveform.astype(np.float64), n_fft // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    power = np.abs(np.fft.rfft(windows * hann, axis=1)) ** 2
    bands = np.maximum(filters(settings) @ power.T, FLOOR)
    if settings.log == "natural":
        return np.asarray(np.log(bands))
    decades = np.log10(bands)[:, : len(waveform) // hop]
    return np.asarray((np.maximum(decades, decades.max() - 8) + 4) / 4)


def filters(settings: LogMel) -> Array:
    """How much of each frequency each band takes: float64 [mels, n_fft // 2 + 1]."""
    ends = _mel(np.array([settings.min_hz, settings.top_hz]), settings.scale)
    corners = _hertz(np.linspace(ends[0], ends[1], settings.mels + 2), settings.scale)
    frequencies = np.arange(settings.n_fft // 2 + 1) * settings.sample_rate / settings.n_fft
    below, peak, above = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - below) / (peak - below), (above - frequencies) / (above - peak)
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles if settings.scale == "htk" else triangles * 2 / (above - below))


def _mel(hertz: Array, scale: str) -> Array:
    if scale == "htk":
        return np.asarray(2595 * np.log10(1 + hertz / 700))
    above = 15 + np.log(np.maximum(hertz, 1000) / 1000) * 27 / np.log(6.4)
    return np.where(hertz < 1000, hertz * 3 / 200, above)


def _hertz(mel: Array, scale: str) -> Array:
    if scale == "htk":
        return np.asarray(700 * (10 ** (mel / 2595) - 1))
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
