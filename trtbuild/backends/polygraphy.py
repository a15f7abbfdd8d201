"""Polygraphy compares: its Comparator runs engine, reference and recorded truth, its metric classes say how they
agree."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator, CosineSimilarityCompareFunc, SnrCompareFunc
from polygraphy.logger import G_LOGGER

from trtbuild.core.agreement import SNR_OF_EQUALS_DB, non_finite
from trtbuild.core.errors import ModelError
from trtbuild.core.results import Comparison, TensorAgreement
from trtbuild.core.roles import Compared, Comparer, Session
from trtbuild.core.tensor_file import Tensors

G_LOGGER.module_severity = G_LOGGER.WARNING

_ENGINE, _REFERENCE, _TRUTH = range(3)


class Polygraphy(Comparer):
    """Comparison of runs with Polygraphy's Comparator."""

    def compare(
        self,
        engine: Callable[[], Session],
        reference: Callable[[], Session],
        samples: Sequence[Tensors],
        truth: Sequence[Tensors] | None,
    ) -> Compared:
        """Run all of them on every sample and compare output by output.

        `truth` holds the FP32 model's outputs in the same order. Raises ModelError where the output names differ.
        """
        batches = list(samples)
        openers = {"engine": engine, "reference": reference}
        if truth is not None:
            openers["model"] = lambda: _Replay(truth)
        runners = [_SessionRunner(name, opener, batches[0]) for name, opener in openers.items()]
        results = Comparator.run(runners, data_loader=batches)
        runs = [[dict(iteration) for iteration in iterations] for _, iterations in results]
        _check_names(runs)
        finite, comparable = (not non_finite(runs[run], list(runs[run][0])) for run in (_ENGINE, _REFERENCE))
        comparison = Comparison(
            samples=len(batches),
            non_finite=non_finite(runs[_ENGINE], list(runs[_ENGINE][0])),
            against_reference=_agreement(results, runs, _REFERENCE) if finite and comparable else {},
            against_model=_agreement(results, runs, _TRUTH) if finite and truth is not None else {},
        )
        return Compared(comparison, runs[_ENGINE], runs[_REFERENCE])


class _SessionRunner(BaseRunner):  # type: ignore[misc]  # polygraphy carries no types
    """Any engine of ours, as a Polygraphy runner."""

    def __init__(self, name: str, opener: Callable[[], Session], example: Tensors) -> None:
        super().__init__(name)
        self._open = opener
        self._example = example

    def activate_impl(self) -> None:
        self._session = self._open()

    def deactivate_impl(self) -> None:
        self._session.close()

    def get_input_metadata_impl(self) -> TensorMetadata:
        metadata = TensorMetadata()
        for name, tensor in self._example.items():
            metadata.add(name, dtype=tensor.dtype, shape=[-1] * tensor.ndim)
        return metadata

    def infer_impl(self, feed_dict: Tensors) -> OrderedDict[str, Any]:
        began = time.perf_counter()
        outputs = self._session.infer(dict(feed_dict))
        self.inference_time = time.perf_counter() - began
        return OrderedDict((name, tensor.astype(np.float32)) for name, tensor in outputs.items())


class _Replay(Session):
    """Outputs that were recorded, replayed in order."""

    def __init__(self, outputs: Sequence[Tensors]) -> None:
        self._next = iter(outputs)

    def infer(self, inputs: Tensors) -> Tensors:
        return next(self._next)

    def close(self) -> None:
        return None


def _agreement(results: Any, runs: list[list[Tensors]], other: int) -> dict[str, TensorAgreement]:
    """Per output: cosine and SNR by Polygraphy's classes; Polygraphy takes the first runner as the signal."""
    pair = [(other, _ENGINE)]
    cosines, snrs = (
        _values(results, function, pair, key)
        for function, key in (
            (CosineSimilarityCompareFunc(), "cosine_similarity"),
            (SnrCompareFunc(), "snr"),
        )
    )
    return {
        name: TensorAgreement(
            cosine_mean=float(np.mean(cosines[name])),
            cosine_min=float(np.min(cosines[name])),
            snr_db=float(np.mean(snrs[name])),
            max_abs_error=max(
                float(np.abs(mine[name] - theirs[name]).max(initial=0.0))
                for mine, theirs in zip(runs[_ENGINE], runs[other], strict=True)
            ),
        )
        for name in runs[_ENGINE][0]
    }


def _values(results: Any, function: Any, pair: list[tuple[int, int]], field: str) -> dict[str, list[float]]:
    """One metric for each output, batch by batch."""
    (accuracy,) = Comparator.compare_accuracy(results, comparisons=pair, compare_func=function)
    (iterations,) = accuracy.values()
    values: dict[str, list[float]] = {}
    for iteration in iterations:
        for name, result in iteration.items():
            values.setdefault(name, []).append(min(float(getattr(result, field)), SNR_OF_EQUALS_DB))
    return values


def _check_names(runs: list[list[Tensors]]) -> None:
    names = [list(run[0]) for run in runs]
    for other, said in ((_REFERENCE, "the reference"), (_TRUTH, "the FP32 model")):
        if other < len(names) and sorted(names[_ENGINE]) != sorted(names[other]):
            raise ModelError(f"the engine gives outputs {names[_ENGINE]}, {said} gives {names[other]}")
