"""Reading, comparing and timing decoders, on exact ones in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.decoding.toy import Attention, layout_of
from trtbuild.backends.polygraphy import Polygraphy
from trtbuild.core.artifacts import Engine, Samples
from trtbuild.core.decoder_shapes import decoder_shapes
from trtbuild.core.errors import DataError
from trtbuild.core.interface import Interface
from trtbuild.core.reading import Reading
from trtbuild.core.results import Coverage, LayerCoverage
from trtbuild.core.roles import Precisions, Runner, Session
from trtbuild.core.tensor_file import Tensors, write_batches
from trtbuild.core.tensors import AxisRange
from trtbuild.stages.build import _caches, with_precisions
from trtbuild.stages.measure import MeasureOptions
from trtbuild.stages.measure_decoder import measure_decoder
from trtbuild.stages.read import ReadOptions, read
from trtbuild.stages.validate_decoder import ForcedOptions, validate_decoder

LAYOUT = layout_of("float", ["float32", "float32"], 24, kv_heads=2, head_dim=4)
FORCED = ForcedOptions(prompt=4, steps=6, texts=3)
READ = ReadOptions(prompt=4, new_tokens=6, texts=2)
TEXTS = np.random.default_rng(1).integers(0, 16, (5, 12))


class Broken(Attention):
    """One whose logits are NaN from a position on."""

    def infer(self, inputs: Tensors) -> Tensors:
        outputs = super().infer(inputs)
        far = inputs["lengths"][:, None] + np.arange(inputs["input_ids"].shape[1]) >= 10
        return {**outputs, "logits": np.where(far[..., None], np.nan, outputs["logits"])}


class Toys(Runner):
    """Opens the decoder that an engine's folder is named for."""

    sessions = {
        "exact": lambda: Attention(LAYOUT),
        "noisy": lambda: Attention(LAYOUT, noise=0.05),
        "broken": lambda: Broken(LAYOUT),
    }

    def open(self, engine: Engine, threads: int) -> Session:
        return self.sessions[engine.path.name]()

    @property
    def device(self) -> str:
        return "NumPy"


def engine(folder: Path, name: str) -> Engine:
    (folder / name).mkdir(exist_ok=True)
    LAYOUT.write(folder / name)
    return Engine(folder / name)


@pytest.fixture
def texts(tmp_path: Path) -> Samples:
    samples = Samples(tmp_path / "samples")
    samples.path.mkdir()
    write_batches(samples.main, [{"input_ids": TEXTS[:3]}, {"input_ids": TEXTS[3:]}])
    return samples


def compared(folder: Path, texts: Samples, name: str, reference: str = "exact"):
    mine, theirs = (read(engine(folder, each), texts, READ, Toys()) for each in (name, reference))
    truth = read(engine(folder, "exact"), texts, READ, Toys())
    return validate_decoder(
        engine(folder, name), engine(folder, reference), texts, truth, mine, theirs, FORCED, Toys(), Polygraphy()
    )


def test_a_decoder_beside_itself(tmp_path: Path, texts: Samples) -> None:
    found = compared(tmp_path, texts, "exact")
    metrics = found.task_metrics
    assert list(metrics)[:3] == ["perplexity", "perplexity_ratio", "top1_agreement"]
    assert metrics["perplexity_ratio"] == metrics["perplexity_ratio_to_model"] == metrics["top1_agreement"] == 1
    assert metrics["kl_divergence"] == 0
    assert (metrics["free_running_tokens"], metrics["free_running_identical"]) == (6, 1)
    assert metrics["cache_cosine_min"] == pytest.approx(1)
    assert metrics["kv_bytes_ratio"] == 2  # FP32
    assert set(found.against_reference) == {
        "logits",
        *(f"cache.{n}.{part}" for n in (0, 1) for part in ("key", "value")),
    }


def test_noise_shows_in_every_number_and_layer_by_layer(tmp_path: Path, texts: Samples) -> None:
    found = compared(tmp_path, texts, "noisy")
    metrics = found.task_metrics
    assert metrics["perplexity_ratio"] == pytest.approx(metrics["perplexity_ratio_to_model"])
    assert metrics["perplexity_ratio"] != 1
    assert metrics["kl_divergence"] > 0
    assert metrics["logits_cosine_min"] < metrics["logits_cosine"] < 1
    cosines = [agreement.cosine_mean for name, agreement in found.against_reference.items() if name != "logits"]
    assert metrics["cache_cosine_min"] < min(cosines) < 1


def test_nan_further_on_than_both_are_led_is_found_all_the_same(tmp_path: Path, texts: Samples) -> None:
    assert read(engine(tmp_path, "broken"), texts, READ, Toys()).nats is None
    assert compared(tmp_path, texts, "broken").non_finite == {"logits": 1}
    with pytest.raises(DataError, match="the reference's logits hold NaN"):
        compared(tmp_path, texts, "noisy", reference="broken")


def test_texts_must_go_beyond_the_prompt(tmp_path: Path, texts: Samples) -> None:
    with pytest.raises(DataError, match=r"has 12 tokens, and decoder\.prompt asks for 13"):
        read(engine(tmp_path, "exact"), texts, READ.model_copy(update={"prompt": 13}), Toys())
    reading = Reading(nats=1.0, tokens=1)
    long = FORCED.model_copy(update={"prompt": 12})
    with pytest.raises(DataError, match=r"has 12 tokens, and decoder\.prompt takes 12"):
        validate_decoder(*[engine(tmp_path, "exact")] * 2, texts, reading, reading, reading, long, Toys(), Polygraphy())


def test_a_step_and_the_prompt_before_it_are_timed_in_turns(tmp_path: Path, texts: Samples) -> None:
    seen = Attention(LAYOUT)
    Toys.sessions = {**Toys.sessions, "seen": lambda: seen}
    shapes = decoder_shapes(24, AxisRange(min=1, opt=2, max=8), prompt=5)
    options = MeasureOptions(runs=3, warm_up=1)
    found = measure_decoder(engine(tmp_path, "seen"), engine(tmp_path, "exact"), texts, shapes, options, Toys())
    assert set(seen.calls) == {(2, 5), (2, 1)}
    assert found.shapes == {"input_ids": [2, 5], "lengths": [2]}
    assert found.decoder is not None
    assert found.decoder.tokens_per_s == pytest.approx(2e3 / found.engine.median_ms, rel=0.01)
    assert (
        found.decoder.cache_bytes == 8 * 2 * 2 * 2 * 24 * 4 * 4
    )  # rows, layers, K and V, heads, slots, elements, FP32
    assert found.size_ratio == pytest.approx(1)


def test_a_cache_counts_as_covered_where_the_engine_s_own_inputs_say_so() -> None:
    layout = layout_of("int8", ["int8", "float16"], 24)
    asked = Coverage(layers=[LayerCoverage(module=f"cache.{n}", format="kv_int8", inserted=True) for n in (0, 1)])
    tensors = [tensor for layer in (0, 1) for tensor in layout.tensors(layer)]
    inputs = {tensor.name: {"dtype": tensor.dtype, "dims": []} for tensor in tensors}
    interface = Interface.model_validate({"inputs": inputs, "outputs": {}, "profiles": []})
    found = with_precisions(asked, Precisions({}, {}), _caches(interface, layout))
    assert [layer.ran for layer in found.layers] == ["int8 cache", "float16 cache"]
    assert found.ran == 1
    assert "kv_int8 means int8 cache" in found.layers[1].reason
