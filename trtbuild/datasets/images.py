"""Pictures, preprocessed as vision models take them: `generator: trtbuild.datasets.images:folder`."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from trtbuild.core.errors import DataError
from trtbuild.core.sources import SAMPLE_IDS
from trtbuild.core.tensor_file import Array
from trtbuild.datasets.files import library, named
from trtbuild.datasets.selection import HELD_OUT, batches, digest, one_of, take

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = ("JPEG", "PNG", "WEBP")
"""What a file may hold, whatever its suffix says: collections name JPEG files .png now and then."""
PURPOSE = "reading pictures"


class Frame(NamedTuple):
    """How a picture is brought to the model's height and width."""

    height: int
    width: int
    least: tuple[int, int] | None
    """Height and width that the resized picture covers before it is cut; None: no cut, its shape is not kept."""
    interpolation: str


def folder(
    split: str,
    count: int,
    files: Sequence[Path],
    *,
    input: str,  # noqa: A002 - the recipe's word
    size: int | Sequence[int],
    batch: int,
    mean: Sequence[float],
    std: Sequence[float],
    resize: int | None = None,
    crop: bool = True,
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box"] = "bilinear",
    layout: Literal["NCHW", "NHWC"] = "NCHW",
    dtype: Literal["float32", "float16"] = "float32",
    held_out: float = HELD_OUT,
) -> Iterator[dict[str, Any]]:
    """Yield one picture a file, `count` of a split, in batches of `batch` rows under the name `input`.

    `files` are .jpg, .png and .webp files; of one with several frames, the first counts. Each is turned upright (EXIF)
    and taken as RGB of 8 bits, transparency dropped. Its shorter side becomes `resize` pixels, with antialiasing, and
    from its middle `size` pixels are cut: a side, or height and width. Without `resize` it becomes as small as covers
    `size`; without `crop` it is brought to `size` whole, which does not keep its shape. Then, in float32,
    `(pixel / 255 - mean) / std` for red, green and blue.

    Yields [rows, 3, height, width], or [rows, height, width, 3] with layout NHWC. Raises DataError where a file cannot
    be read, the arguments contradict each other or a split has too few pictures, BackendMissing without Pillow.
    """
    one_of("layout", layout, ("NCHW", "NHWC"))
    one_of("dtype", dtype, ("float32", "float16"))
    frame = _frame(size, resize, crop, interpolation)
    centre, spread = _three("mean", mean), _three("std", std)
    if not (spread > 0).all():
        raise DataError(f"std is {list(std)}; its numbers must be above 0", hint="set data.arguments.std")
    sources = named(files, SUFFIXES)
    library("PIL.Image", PURPOSE)  # before the threads start
    identities: dict[bytes, str] = {}
    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without Python's lock
        found = pool.map(lambda name: _identity(_pixels(name, sources[name], frame)), sources)
        for identity, name in zip(found, sources, strict=True):
            identities.setdefault(identity, name)
    ordered = ((identity, identities[identity]) for identity in sorted(identities))
    chosen = take(ordered, split, count, held_out=held_out, what="pictures")
    for group in batches(chosen, batch):
        pixels = np.stack([_pixels(name, sources[name], frame) for name in group])
        rows = ((pixels.astype(np.float32) / np.float32(255) - centre) / spread).astype(dtype)
        yield {
            input: np.ascontiguousarray(rows.transpose(0, 3, 1, 2)) if layout == "NCHW" else rows,
            SAMPLE_IDS: list(group),
        }


def _frame(size: int | Sequence[int], resize: int | None, crop: bool, interpolation: str) -> Frame:
    one_of("interpolation", interpolation, ("bilinear", "bicubic", "lanczos", "box"))
    sides: list[Any] = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise DataError(
            f"size is {size!r}; it must be a side, or height and width, in pixels", hint="set data.arguments.size"
        )
    height, width = sides
    if not crop:
        if resize is not None:
            raise DataError("without crop, a picture is brought to size at once", hint="leave out resize")
        return Frame(height, width, None, interpolation)
    if resize is not None and resize < max(sides):
        raise DataError(
            f"resize is {resize}: the shorter side must not be shorter than size, {max(sides)}",
            hint="set data.arguments.resize, or leave it out",
        )
    return Frame(height, width, (height, width) if resize is None else (resize, resize), interpolation)


def _three(name: str, numbers: Sequence[float]) -> Array:
    """One number for each of red, green and blue: float32 [3]."""
    try:
        found = np.asarray(numbers, np.float32)
    except (TypeError, ValueError):
        found = np.empty(0, np.float32)
    if found.shape != (3,) or not np.isfinite(found).all():
        raise DataError(f"{name} is {numbers!r}; it must be three numbers", hint=f"set data.arguments.{name}")
    return found


def _identity(pixels: Array) -> bytes:
    """By what is seen: the same picture stored in two ways, or with other settings behind the pixels, is one."""
    return digest(str(pixels.shape).encode(), pixels.tobytes())


def _pixels(name: str, file: Path, frame: Frame) -> Array:
    """A picture as the model sees it, before it is scaled: uint8 [height, width, 3]."""
    image = _rgb(name, file)
    if frame.least is None:
        return np.asarray(_resized(image, frame.width, frame.height, frame))
    width, height = _covering(image.width, image.height, frame.least)
    image = _resized(image, width, height, frame)
    # The middle as torchvision's CenterCrop takes it: halves go to the even pixel.
    left, top = round((width - frame.width) / 2), round((height - frame.height) / 2)
    return np.asarray(image.crop((left, top, left + frame.width, top + frame.height)))


def _covering(width: int, height: int, least: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the smallest picture of the same shape that covers `least` (height, width); the longer side
    is rounded down, as torchvision's Resize does."""
    least_height, least_width = least
    if least_width * height >= least_height * width:
        return least_width, least_width * height // width
    return least_height * width // height, least_height


def _resized(image: Any, width: int, height: int, frame: Frame) -> Any:
    """Pillow widens the filter by the scale when it shrinks a picture, which is the antialiasing."""
    if image.size == (width, height):
        return image
    resampling = library("PIL.Image", PURPOSE).Resampling
    return image.resize((width, height), resampling[frame.interpolation.upper()])


def _rgb(name: str, file: Path) -> Any:
    """A file's picture, upright, as an RGB image of Pillow's. Raises DataError where there is none whole."""
    pillow, operations = library("PIL.Image", PURPOSE), library("PIL.ImageOps", PURPOSE)
    try:
        with pillow.open(file, formats=FORMATS) as stored:
            stored.load()
            upright = operations.exif_transpose(stored)
    except pillow.UnidentifiedImageError as error:
        raise DataError(
            f"{name} holds no JPEG, PNG or WebP picture",
            hint="take it out of data.files, or store it in one of these formats",
        ) from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        struct.error,
        zlib.error,
        pillow.DecompressionBombError,
    ) as error:
        raise DataError(
            f"{name} is damaged or was cut short: {error}", hint="fetch it again, or take it out of data.files"
        ) from error
    if upright.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip at 255 instead of scaling
        upright = pillow.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    return upright.convert("RGB")
