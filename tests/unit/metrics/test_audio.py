"""Distances between waveforms, against values that can be known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trtbuild.core.errors import DataError
from trtbuild.datasets.log_mel import LogMel
from trtbuild.metrics.audio import WINDOW, log_mel_distance_db, si_sdr_db, waveforms
from trtbuild.metrics.tokens import agreement

RATE = 16000
SETTINGS = LogMel(sample_rate=RATE, log="natural", **WINDOW)


def noise(seed: int, samples: int = RATE) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples)


def test_a_gain_is_its_decibels_in_every_band_and_no_distortion() -> None:
    clip = noise(0)
    assert log_mel_distance_db(clip, clip, SETTINGS) == 0
    assert log_mel_distance_db(0.5 * clip, clip, SETTINGS) == pytest.approx(20 * np.log10(2), abs=1e-6)
    assert si_sdr_db(0.5 * clip, clip) == pytest.approx(200, abs=1)
    assert si_sdr_db(clip + 3.0, clip) == pytest.approx(200, abs=1), "a constant is no sound"
    assert si_sdr_db(-clip, clip) == pytest.approx(200, abs=1), "nor is the sign"


def test_independent_noise_counts_by_its_power() -> None:
    clip, other = noise(0, 1 << 18), noise(1, 1 << 18)
    for decibels in (10, 30):
        error = other * 10 ** (-decibels / 20)
        error -= (error @ clip) / (clip @ clip) * clip
        assert si_sdr_db(clip + error, clip) == pytest.approx(decibels, abs=0.1)


def test_a_shifted_phase_is_no_spectral_distance_and_no_likeness() -> None:
    time = np.arange(RATE) / RATE
    sine, cosine = np.sin(2 * np.pi * 1000 * time), np.cos(2 * np.pi * 1000 * time)
    assert si_sdr_db(cosine, sine) < -100
    shaped = LogMel(sample_rate=RATE, log="natural", n_fft=1024, hop=256, mels=20, min_hz=900, max_hz=1100)
    other = np.sin(2 * np.pi * 1050 * time)
    assert log_mel_distance_db(cosine, sine, shaped) < 0.25 * log_mel_distance_db(other, sine, shaped)


def test_silence_is_told_and_not_divided_by() -> None:
    clip, silence = noise(0), np.zeros(RATE)
    assert si_sdr_db(silence, silence) == pytest.approx(200)
    assert si_sdr_db(clip, silence) == -200
    assert si_sdr_db(silence, clip) == -200
    assert np.isfinite(log_mel_distance_db(silence, clip, SETTINGS))


def test_the_worst_row_is_told_beside_the_mean() -> None:
    clips = np.stack([noise(seed) for seed in range(3)]).astype(np.float32)
    changed = clips.copy()
    changed[2] *= 2
    found = waveforms([{"y": changed}], [{"y": clips}], [{}], output="y", sample_rate=RATE)
    worst = 20 * np.log10(2)
    assert found["log_mel_distance_db_max"] == pytest.approx(worst, abs=1e-3)
    assert found["log_mel_distance_db"] == pytest.approx(worst / 3, abs=1e-3)
    assert set(found) == {"log_mel_distance_db", "log_mel_distance_db_max", "si_sdr_db", "si_sdr_db_min"}


def test_a_predictor_of_opinions_is_asked_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loudness_mos.py").write_text(
        "def predict(clips, rate):\n    assert rate == 16000 and clips.dtype == 'float32'\n"
        "    return [5 - abs(clip).max() for clip in clips]\n"
        "def broken(clips, rate):\n    return [float('nan')] * len(clips)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    clips = np.stack([noise(0), noise(1)])
    runs = [{"y": 2 * clips}], [{"y": clips}], [{}]
    found = waveforms(*runs, output="y", sample_rate=RATE, predictor="loudness_mos:predict")
    assert found["mos_drop"] == pytest.approx(np.abs(clips).max(axis=1).mean(), rel=1e-5)
    assert found["mos"] == pytest.approx(5 - 2 * np.abs(clips).max(axis=1).mean(), rel=1e-5)
    with pytest.raises(DataError, match="loudness_mos:broken"):
        waveforms(*runs, output="y", sample_rate=RATE, predictor="loudness_mos:broken")


def test_settings_that_contradict_each_other_are_told() -> None:
    with pytest.raises(DataError, match=r"metric.arguments.log_mel: .*max_hz"):
        waveforms([], [], [], output="y", sample_rate=RATE, log_mel={"max_hz": 9000})


def test_tokens_are_the_same_or_not() -> None:
    truth = [{"ids": np.array([1, 2, 3, 4])}, {"ids": np.array([5, 6])}]
    mine = [{"ids": np.array([1, 2, 3, 4])}, {"ids": np.array([5, 7])}]
    found = agreement(mine, truth, [{}, {}], output="ids")
    assert found == {"token_agreement": pytest.approx(5 / 6), "token_agreement_min": 0.5}
