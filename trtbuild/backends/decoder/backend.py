"""The roles for decoders of transformers: loaded ready to be exported, and watched for the scales of their cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trtbuild.backends.decoder.export import as_decoder
from trtbuild.backends.decoder.ranges import observe_ranges
from trtbuild.backends.factory import Factory
from trtbuild.backends.huggingface import HuggingFace
from trtbuild.core.kv_cache import LayerRanges
from trtbuild.core.roles import CacheObserver, Loader
from trtbuild.core.sources import ModelSource, PythonSource
from trtbuild.core.tensor_file import Tensors


class HuggingFaceDecoder(Loader, CacheObserver):
    """A decoder of transformers, from its folder or from a function that returns one."""

    def load(self, source: ModelSource) -> Any:
        """The module with `forward(input_ids, lengths) -> (logits,)`, in FP32. Raises ModelError."""
        loader: Loader = Factory() if isinstance(source, PythonSource) else HuggingFace()
        return as_decoder(loader.load(source))

    def observe_cache(self, module: Any, samples: Iterable[Tensors], percentile: float) -> dict[int, LayerRanges]:
        """The ranges of keys and values by layer."""
        return observe_ranges(module, samples, percentile)
