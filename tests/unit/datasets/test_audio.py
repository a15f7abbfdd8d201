"""Clips of sound: decoding, resampling and the log-mel spectrogram, each against something else."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.datasets.files import LFS_POINTER, noise, write_wav
from trtbuild.core.errors import BackendMissing, DataError
from trtbuild.datasets.audio import clips
from trtbuild.datasets.log_mel import LogMel, filters, spectrogram


def made(files: list[Path], split: str = "calibration", count: int = 4, **arguments: Any) -> list[dict[str, Any]]:
    given = {"input": "audio", "sample_rate": 16000, "seconds": 0.1, "batch": 2, **arguments}
    return list(clips(split, count, files, **given))


def one(file: Path, **arguments: Any) -> np.ndarray:
    """The clip of a single file, with nothing held out."""
    (row,) = made([file], "calibration", 1, held_out=1e-12, **arguments)[0]["audio"]
    return row


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [write_wav(folder / f"{seed}.wav", noise(seed)) for seed in range(12)]


def test_batches_are_float32_and_say_where_they_came_from(files: list[Path]) -> None:
    batches = made(files, count=5)
    assert [batch["audio"].shape for batch in batches] == [(2, 1600), (2, 1600), (1, 1600)]
    for batch in batches:
        for source, row in zip(batch["__ids__"], batch["audio"], strict=True):
            assert row.dtype == np.float32
            np.testing.assert_allclose(row, noise(int(source.removesuffix(".wav"))), atol=1e-4)


def test_the_choice_follows_from_the_content(files: list[Path], tmp_path: Path) -> None:
    renamed = [tmp_path / f"{11 - number}-{file.stem}.wav" for number, file in enumerate(files)]
    for link, file in zip(renamed, files, strict=True):
        os.link(file, link)
    twice = [*renamed, write_wav(tmp_path / "again.wav", noise(3), width=2)]
    for one_way, other in zip(made(files), made(twice[::-1]), strict=True):
        np.testing.assert_array_equal(one_way["audio"], other["audio"])
    with pytest.raises(DataError, match=r"has \d+ clips, 13 are wanted \(of 12 different"):
        made(twice, count=13)
    names = [
        {name for batch in made(files, split, 2) for name in batch["__ids__"]}
        for split in ("calibration", "evaluation")
    ]
    assert not names[0] & names[1]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_of_pcm_is_decoded_to_the_same_range(tmp_path: Path, width: int) -> None:
    wanted = np.array([0.0, 0.5, -0.5, -1.0, 127 / 128, 1 / 128] * 4)
    np.testing.assert_array_equal(one(write_wav(tmp_path / "a.wav", wanted, width=width), seconds=24 / 16000), wanted)


def test_channels_are_averaged_and_short_clips_filled(tmp_path: Path) -> None:
    stereo = np.stack([np.full(100, 0.5), np.full(100, -0.25)], axis=1)
    clip = one(write_wav(tmp_path / "a.wav", stereo), seconds=0.01)
    np.testing.assert_array_equal(clip, [0.125] * 100 + [0.0] * 60)
    assert one(tmp_path / "a.wav", seconds=0.01, channel_axis=True).shape == (1, 160)


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 16000), (8000, 16000), (22050, 16000), (16000, 8000)])
def test_resampling_keeps_what_fits_and_lets_nothing_alias(tmp_path: Path, rate: int, wanted: int) -> None:
    lower = min(rate, wanted)
    edge = 300  # the clip begins and ends abruptly

    def at(hertz: float) -> np.ndarray:
        tone = 0.9 * np.sin(2 * np.pi * hertz * np.arange(rate // 4) / rate)
        return one(write_wav(tmp_path / "a.wav", tone, rate=rate, width=4), sample_rate=wanted, seconds=0.2)

    for hertz in (0.05 * lower, 0.44 * lower):
        clip = at(hertz)
        assert len(clip) == wanted // 5
        exact = 0.9 * np.sin(2 * np.pi * hertz * np.arange(len(clip)) / wanted)
        assert np.abs(clip - exact)[edge:-edge].max() < 1e-4
    if rate > wanted:
        assert np.abs(at(0.51 * lower))[edge:-edge].max() < 1e-4


def test_normalizing_is_wav2vecs(tmp_path: Path) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    file = write_wav(tmp_path / "a.wav", 0.2 + 0.1 * noise(0), width=4)
    peer = Wav2Vec2FeatureExtractor(do_normalize=True)(one(file), sampling_rate=16000, return_tensors="np")
    np.testing.assert_allclose(one(file, normalize=True), peer.input_values[0], atol=1e-5)


def test_the_spectrogram_is_whispers(tmp_path: Path) -> None:
    from transformers import WhisperFeatureExtractor

    file = write_wav(tmp_path / "a.wav", noise(0, 12000) * np.linspace(1, 0, 12000) ** 4, width=4)
    peer = WhisperFeatureExtractor(chunk_length=1)(one(file, seconds=0.75), sampling_rate=16000, return_tensors="np")
    ours = one(file, seconds=1.0, features="log_mel")
    assert ours.shape == (80, 100)
    np.testing.assert_allclose(ours, peer.input_features[0], atol=1e-5)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_the_bands_are_those_of_another_implementation(scale: str) -> None:
    from transformers.audio_utils import mel_filter_bank

    peer = mel_filter_bank(257, 40, 20.0, 7600.0, 16000, norm="slaney" if scale == "slaney" else None, mel_scale=scale)
    ours = filters(LogMel(16000, n_fft=512, mels=40, min_hz=20, max_hz=7600, scale=scale))  # type: ignore[arg-type]
    np.testing.assert_allclose(ours, peer.T, atol=1e-12)


def test_a_tone_falls_into_its_band() -> None:
    settings = LogMel(16000, log="natural", scale="htk")
    found = spectrogram(np.sin(2 * np.pi * 1000 * np.arange(4000) / 16000), settings)
    assert found.shape == (80, 4000 // 160 + 1)
    band = filters(settings)[:, 1000 * 400 // 16000].argmax()
    assert (found[:, 2:-2].argmax(axis=0) == band).all()


@pytest.mark.parametrize("given", [{"mels": 0}, {"max_hz": 9000}, {"scale": "bark"}, {"bands": 40}])
def test_settings_of_the_spectrogram_that_cannot_be(files: list[Path], given: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"data.arguments.log_mel"):
        made(files, features="log_mel", log_mel=given)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    good = write_wav(tmp_path / "good.wav", noise(0))
    float_wav = bytearray(good.read_bytes())
    float_wav[20:22] = b"\x03\x00"  # the format's tag: IEEE float
    wide = bytearray(good.read_bytes())
    wide[32:34], wide[34:36] = b"\x08\x00", b"\x40\x00"  # bytes a frame, bits a sample
    for content, words in (
        (b"RIFF", "a.wav is not a PCM .wav file"),
        (bytes(float_wav), "a.wav is not a PCM .wav file: unknown format: 3"),
        (bytes(wide), "a.wav has samples of 64 bits"),
        (LFS_POINTER.encode(), "a.wav is a Git LFS pointer"),
        (write_wav(tmp_path / "empty.wav", np.zeros(0)).read_bytes(), "a.wav holds no sound"),
    ):
        (tmp_path / "a.wav").write_bytes(content)
        with pytest.raises(DataError, match=words):
            made([tmp_path / "a.wav"])
    with pytest.raises(DataError, match="lists no file"):
        made([])
    with pytest.raises(DataError, match="are no sample"):
        made([good], seconds=0)


def test_without_scipy_the_command_is_said_and_only_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    assert one(write_wav(tmp_path / "a.wav", noise(0))).shape == (1600,)
    with pytest.raises(BackendMissing, match=r"resampling a.wav from 8000 to 16000 Hz needs scipy") as caught:
        one(write_wav(tmp_path / "a.wav", noise(0), rate=8000))
    assert "pip install" in caught.value.hint
