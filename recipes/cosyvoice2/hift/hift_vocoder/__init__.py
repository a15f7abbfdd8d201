"""CosyVoice's vocoder: spectrogram to waveform.

source       pitch to a hum of harmonics and noise
fourier      the short-time Fourier transform and its inverse, as convolutions
convolution  convolutions that see both ways, or back only
generator    the network
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hift_vocoder.generator import Hift
from trtbuild.checkpoints import load_checkpoint


def vocoder(files: Sequence[Path] = (), **sizes: Any) -> Hift:
    """The vocoder with the weights of hift.pt, which the recipe lists under `model.factory.files`.

    `sizes` are those of `Hift`, by default CosyVoice2-0.5B's. Weight normalization is folded, and the prefix
    `generator.` that training adds is dropped. Raises ModelError with the first ten differences where the file does not
    fit.
    """
    model: Hift = load_checkpoint(Hift(**sizes), *files, rename=lambda name: name.removeprefix("generator."))
    return model
