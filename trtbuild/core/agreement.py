"""How one run's outputs agree with another's on the same batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtbuild.core.results import Comparison, TensorAgreement
from trtbuild.core.tensor_file import Array, Tensors

SNR_OF_EQUALS_DB = 200.0
"""What stands for the infinite signal-to-noise ratio of equal tensors, so that every number is finite."""


def compare(outputs: Sequence[Tensors], truth: Sequence[Tensors]) -> Comparison:
    """Compare output by output: cosine and signal-to-noise ratio of each batch, flattened, then their mean and least.

    Both list the same outputs for the same batches. Batches that hold NaN or infinity are counted, and then nothing
    is compared.
    """
    names = list(truth[0]) if truth else []
    broken = non_finite(outputs, names)
    return Comparison(
        samples=len(outputs),
        non_finite=broken,
        against_model={} if broken else {name: _agreement(name, outputs, truth) for name in names},
    )


def non_finite(outputs: Sequence[Tensors], names: Sequence[str]) -> dict[str, int]:
    """In how many batches each of these outputs held NaN or infinity, for those that did."""
    counts = {name: sum(not np.isfinite(batch[name]).all() for batch in outputs) for name in names}
    return {name: count for name, count in counts.items() if count}


def _agreement(name: str, outputs: Sequence[Tensors], truth: Sequence[Tensors]) -> TensorAgreement:
    pairs = [
        (mine[name].astype(np.float64).ravel(), theirs[name].astype(np.float64).ravel())
        for mine, theirs in zip(outputs, truth, strict=True)
    ]
    cosines = [_cosine(*pair) for pair in pairs]
    return TensorAgreement(
        cosine_mean=float(np.mean(cosines)),
        cosine_min=float(np.min(cosines)),
        snr_db=float(np.mean([snr_db(float(theirs @ theirs), _energy(mine - theirs)) for mine, theirs in pairs])),
        max_abs_error=max(float(np.abs(mine - theirs).max(initial=0.0)) for mine, theirs in pairs),
    )


def snr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two energies, within 200 dB of zero."""
    if noise <= 0:
        return SNR_OF_EQUALS_DB
    ratio = 10 * np.log10(signal / noise) if signal > 0 else -SNR_OF_EQUALS_DB
    return float(np.clip(ratio, -SNR_OF_EQUALS_DB, SNR_OF_EQUALS_DB))


def _cosine(mine: Array, theirs: Array) -> float:
    lengths = np.sqrt(_energy(mine) * _energy(theirs))
    if lengths == 0:
        return float(_energy(mine) == _energy(theirs))  # two zero tensors agree
    return float(mine @ theirs / lengths)


def _energy(values: Array) -> float:
    return float(values @ values)


def relative_error(outputs: Sequence[Tensors], truth: Sequence[Tensors]) -> float:
    """Root mean square over rows and outputs of |error| / |output|; rows are the first axis where all outputs have it.

    Integer outputs do not count, and infinity stands for outputs that are not finite.
    """
    ratios, counts = 0.0, 0
    for mine, theirs in zip(outputs, truth, strict=True):
        names = [name for name in theirs if np.issubdtype(theirs[name].dtype, np.floating)]
        lengths = {theirs[name].shape[:1] for name in names}
        rows = lengths.pop()[0] if len(lengths) == 1 and () not in lengths else 1
        for name in names:
            expected = theirs[name].astype(np.float64).reshape(rows, -1)
            error = mine[name].astype(np.float64).reshape(rows, -1) - expected
            signal = np.maximum((expected**2).sum(axis=1), 1e-60)
            ratios += float(((error**2).sum(axis=1) / signal).sum()) / len(names)
        counts += rows
    error_of_all = (ratios / counts) ** 0.5 if counts else 0.0
    return error_of_all if np.isfinite(error_of_all) else float("inf")


def divergence(outputs: Sequence[Tensors], truth: Sequence[Tensors]) -> float:
    """Kullback-Leibler divergence of the softmax of the first output from the truth's, in nats, mean over positions."""
    total, positions = 0.0, 0
    for mine, theirs in zip(outputs, truth, strict=True):
        name = next(iter(theirs))
        expected, found = (_log_softmax(batch[name].astype(np.float64)) for batch in (theirs, mine))
        nats = (np.exp(expected) * (expected - found)).sum(axis=-1)
        total, positions = total + float(nats.sum()), positions + nats.size
    return max(total / positions, 0.0) if positions else 0.0


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
