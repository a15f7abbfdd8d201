"""Pictures: decoded, resized, cut and normalized, held to Pillow and to a resampling written out in NumPy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.unit.datasets.files import LFS_POINTER
from trtbuild.core.errors import BackendMissing, DataError
from trtbuild.datasets.images import folder as generator

NONE_HELD = {"mean": [0, 0, 0], "std": [1, 1, 1], "held_out": 1e-12}
"""Pixels between 0 and 1, and every picture in the calibration split."""
ORIENTATION = 0x0112


def picture(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Waves and noise, uint8 [height, width, channels]: something that a wrong filter or cut changes."""
    rng = np.random.default_rng(seed)
    y, x, c = np.mgrid[:height, :width, :channels]
    waves = 127 + 80 * np.sin(0.3 * x + 0.2 * c + seed) + 30 * np.cos(0.25 * y)
    return np.clip(waves + rng.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)


def write(path: Path, pixels: np.ndarray | Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def made(files: list[Path], count: int = 1, split: str = "calibration", **arguments: Any) -> list[dict[str, Any]]:
    return list(generator(split, count, files, **{"input": "x", "size": 8, "batch": 4, **NONE_HELD, **arguments}))


def pixels_of(file: Path, **arguments: Any) -> np.ndarray:
    """What the model gets of one file, as bytes [height, width, 3]."""
    (batch,) = made([file], layout="NHWC", **arguments)
    (row,) = batch["x"]
    return np.round(row * 255).astype(np.uint8)


def triangle_resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with antialiasing: each pixel is an average weighted by a triangle as wide as the scale."""

    def weights(old: int, new: int) -> np.ndarray:
        scale = old / new
        centres = (np.arange(new)[:, None] + 0.5) * scale
        distance = np.abs(np.arange(old)[None] + 0.5 - centres) / max(scale, 1)
        found = np.maximum(0, 1 - distance)
        return found / found.sum(axis=1, keepdims=True)

    across = np.einsum("ow,hwc->hoc", weights(pixels.shape[1], width), pixels.astype(np.float64))
    return np.einsum("oh,hwc->owc", weights(pixels.shape[0], height), np.floor(across + 0.5))


@pytest.mark.parametrize(
    ("height", "width", "new_height", "new_width"),
    [(40, 61, 12, 18), (61, 40, 18, 12), (12, 12, 12, 12), (9, 30, 12, 40), (1000, 13, 923, 12)],
)
def test_the_shorter_side_is_resized_with_antialiasing_and_the_middle_cut(
    tmp_path: Path, height: int, width: int, new_height: int, new_width: int
) -> None:
    pixels = picture(height, width)
    seen = pixels_of(write(tmp_path / "a.png", pixels), resize=12, size=[8, 9])
    top, left = round((new_height - 8) / 2), round((new_width - 9) / 2)
    whole = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(seen, np.asarray(whole)[top : top + 8, left : left + 9])
    wanted = triangle_resized(pixels, new_height, new_width)[top : top + 8, left : left + 9]
    # Pillow rounds after each direction, and the order of the two is its own affair.
    assert np.abs(seen - wanted).max() <= 1.5
    assert np.abs(seen - wanted).mean() < 0.4


@pytest.mark.parametrize(("size", "new"), [(8, (8, 16)), ([8, 20], (10, 20)), ([9, 4], (9, 18))])
def test_without_resize_it_becomes_as_small_as_covers_the_size(tmp_path: Path, size: Any, new: tuple[int, int]) -> None:
    pixels = picture(50, 100)
    seen = pixels_of(write(tmp_path / "a.png", pixels), size=size)
    height, width = [size, size] if isinstance(size, int) else size
    whole = np.asarray(Image.fromarray(pixels).resize(new[::-1], Image.Resampling.BILINEAR))
    top, left = round((new[0] - height) / 2), round((new[1] - width) / 2)
    np.testing.assert_array_equal(seen, whole[top : top + height, left : left + width])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "box"])
def test_without_crop_the_whole_picture_is_brought_to_size(tmp_path: Path, interpolation: str) -> None:
    pixels = picture(30, 50)
    wanted = Image.fromarray(pixels).resize((16, 8), Image.Resampling[interpolation.upper()])
    file = write(tmp_path / "a.png", pixels)
    seen = pixels_of(file, size=[8, 16], crop=False, interpolation=interpolation)
    np.testing.assert_array_equal(seen, np.asarray(wanted))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pixels_are_scaled_and_normalized_in_float32(tmp_path: Path, dtype: str) -> None:
    pixels = picture(8, 8)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    file = write(tmp_path / "a.png", pixels)
    (planes,) = made([file], mean=mean, std=std, dtype=dtype)
    (last,) = made([file], mean=mean, std=std, dtype=dtype, layout="NHWC")
    wanted = (pixels / 255.0 - mean) / std
    assert planes["x"].dtype == last["x"].dtype == dtype
    assert planes["x"].shape == (1, 3, 8, 8)
    assert planes["x"].flags.c_contiguous
    np.testing.assert_allclose(last["x"][0], wanted, rtol=0, atol=1e-6 if dtype == "float32" else 2e-3)
    np.testing.assert_array_equal(planes["x"], last["x"].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = write(tmp_path / "a.png", picture(8, 12), exif=exif)
    with Image.open(file) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    assert upright.shape[:2] == ((8, 12) if orientation < 5 else (12, 8))
    np.testing.assert_array_equal(pixels_of(file, size=list(upright.shape[:2])), upright)
    if orientation == 6:  # held by its left side: a quarter turn clockwise
        np.testing.assert_array_equal(upright, np.rot90(picture(8, 12), -1))


GREY = picture(8, 8, channels=1)[..., 0]
RGBA = picture(8, 8, channels=4)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (Image.fromarray(GREY), np.stack([GREY] * 3, axis=-1)),
        (Image.fromarray((GREY.astype(np.uint16) << 8) + 77), np.stack([GREY] * 3, axis=-1)),
        (Image.fromarray(np.stack([GREY, GREY[::-1]], axis=-1), "LA"), np.stack([GREY] * 3, axis=-1)),
        (Image.fromarray(RGBA), RGBA[..., :3]),
        (Image.fromarray(GREY > 127), np.stack([np.where(GREY > 127, 255, 0)] * 3, axis=-1)),
        (Image.fromarray(picture(8, 8)).quantize(16), None),
    ],
    ids=["grey", "grey of 16 bits", "grey with alpha", "alpha", "black and white", "palette"],
)
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, stored: Image.Image, wanted: np.ndarray | None) -> None:
    wanted = np.asarray(stored.convert("RGB")) if wanted is None else wanted
    np.testing.assert_array_equal(pixels_of(write(tmp_path / "a.png", stored)), wanted)


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.jpg", "RGB", {"quality": 90}),
        ("a.JPEG", "CMYK", {"quality": 90}),
        ("a.webp", "RGB", {"lossless": True}),
        ("a.webp", "RGBA", {"lossless": True, "exact": True}),
    ],
)
def test_jpeg_and_webp(tmp_path: Path, name: str, mode: str, options: dict[str, Any]) -> None:
    file = write(tmp_path / name, Image.fromarray(picture(8, 8)).convert(mode), **options)
    with Image.open(file) as stored:
        wanted = np.asarray(stored.convert("RGB"))
    np.testing.assert_array_equal(pixels_of(file), wanted)
    assert np.abs(wanted.astype(int) - picture(8, 8)).mean() < 12


def test_a_picture_under_another_formats_name_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jpg", picture(8, 8))
    renamed = file.rename(tmp_path / "a.png")
    with Image.open(renamed) as stored:
        np.testing.assert_array_equal(pixels_of(renamed), np.asarray(stored))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_file_cut_short_is_named(tmp_path: Path, name: str, share: float) -> None:
    file = write(tmp_path / name, picture(64, 64))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=rf"{name} (is damaged or was cut short|holds no JPEG, PNG or WebP)") as caught:
        made([file])
    assert "take it out of data.files" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [(LFS_POINTER, "a.png is a Git LFS pointer"), ("GIF89a and so on", "holds no JPEG, PNG or WebP"), ("", "holds no")],
)
def test_files_that_are_no_pictures(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "a.png").write_text(content)
    with pytest.raises(DataError, match=words):
        made([tmp_path / "a.png"])


def test_a_picture_beyond_reason_is_an_error_not_a_full_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="decompression bomb"):
        made([write(tmp_path / "a.png", picture(64, 64))])


def test_splits_follow_from_what_is_seen(tmp_path: Path) -> None:
    """Not from names, folders, formats or what is normalized behind the pixels."""
    here = [write(tmp_path / "here" / f"{n}.png", picture(8, 8, n)) for n in range(40)]
    there = [write(tmp_path / "there" / f"{99 - n}.webp", picture(8, 8, n), lossless=True) for n in range(40)]
    copies = [write(tmp_path / "copies" / f"{n}.png", picture(8, 8, n)) for n in range(10)]
    held = {"held_out": 0.25}

    def seen(files: list[Path], split: str, **arguments: Any) -> np.ndarray:
        return np.concatenate([batch["x"] for batch in made(files, 6, split, **held, **arguments)])

    chosen = {split: seen(here, split) for split in ("calibration", "evaluation")}
    for split, rows in chosen.items():
        np.testing.assert_array_equal(rows, seen([*there, *copies], split))
        np.testing.assert_allclose(rows, seen(here, split, mean=[0.5] * 3, std=[0.5] * 3) / 2 + 0.5, atol=1e-6)
    calibration, evaluation = ({row.tobytes() for row in rows} for rows in chosen.values())
    assert len(calibration) == len(evaluation) == 6
    assert not calibration & evaluation
    with pytest.raises(DataError, match=r"has \d\d pictures, 41 are wanted \(of 40 different ones"):
        made([*here, *copies], 41, **held)


def test_batches_name_their_files(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.png", picture(8, 8, n)) for n in range(6)]
    first, second = made(files, 6)
    assert first["x"].shape == (4, 3, 8, 8)
    assert second["x"].shape == (2, 3, 8, 8)
    for batch in (first, second):
        for row, name in zip(batch["x"], batch["__ids__"], strict=True):
            wanted = picture(8, 8, int(Path(name).stem)).transpose(2, 0, 1) / np.float32(255)
            np.testing.assert_allclose(row, wanted, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"resize": 7}, "resize is 7: the shorter side must not be shorter than size, 8"),
        ({"resize": 9, "crop": False}, "without crop, a picture is brought to size at once"),
        ({"size": [8, 8, 3]}, r"size is \[8, 8, 3\]; it must be a side, or height and width"),
        ({"size": 0}, "size is 0"),
        ({"mean": [0.5]}, r"mean is \[0.5\]; it must be three numbers"),
        ({"mean": ["a", 0, 0]}, "mean is .* three numbers"),
        ({"std": [1, 0, 1]}, "its numbers must be above 0"),
        ({"interpolation": "nearest"}, "interpolation is 'nearest'; it may be bilinear"),
        ({"layout": "CHW"}, "layout is 'CHW'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
    ],
)
def test_arguments_that_contradict_each_other(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        made([write(tmp_path / "a.png", picture(8, 8))], **arguments)


def test_without_pillow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.png", picture(8, 8))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(BackendMissing, match="reading pictures needs Pillow") as caught:
        made([file])
    assert "trtbuild[datasets]" in caught.value.hint
