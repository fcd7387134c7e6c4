"""Image files: whether they are whole, what they are, and their pixels as 8-bit RGB, upright."""

import io
import mmap
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from utils.base.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # whatever the suffix; Pillow opens no others here
ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB`\x82"}  # how a JPEG and a PNG begin and end
LARGEST = 2**30  # bytes of a file
GREY = (128, 128, 128)  # around an image in a cell of other proportions

KINDS = {  # what begins so is no photograph that can be read
    rb"version https://git-lfs": "a Git LFS pointer, which `git lfs pull` replaces by the photograph",
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<(!doctype )?html": "an HTML page, as a download that failed leaves it",
    rb"\0*\Z": "nothing but zero bytes, as a power cut or a copy that failed leaves it",
    rb"\xff\xd8|\x89PNG|GIF8|BM|II\*\0|MM\0\*|RIFF....WEBP|....ftypavi[fs]": "cut short or damaged",
    rb"....ftyp(hei|hev|mif|msf)": "a HEIC photograph, to be saved as JPEG",
    rb"%!PS|\xc5\xd0\xd3\xc6": "an EPS drawing",
    rb"%PDF": "a PDF document",
    rb"PK\x03\x04|\x1f\x8b": "a packed archive",
    rb"[\t\n\r -~\x80-\xff]*\Z": "text",
}


def check_complete(path: Path) -> None:
    """Raise `InputError` when an image file is not whole, for example after a broken download.

    Of a JPEG or PNG only the first and the last bytes are read. One with something behind its end marker (some cameras
    append a preview) and a file in any other format are decoded to be sure.
    """
    with _naming(path):
        with _regular(path) as file:
            head, length = file.read(4), os.fstat(file.fileno()).st_size
            end = next((end for begin, end in ENDS.items() if head.startswith(begin)), None)
            file.seek(max(0, length - 8))
            if end and file.read().endswith(end):
                return
            if end:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    if content.find(end) < 0:
                        raise InputError(f"image {path} is cut short (no end marker): replace or remove it")
        decode(path, 8)


def decode(path: Path, size: int) -> np.ndarray:
    """Decode one image file, turned upright and squashed to a square.

    Bicubic with antialiasing, CLIP's own resampling. A JPEG more than four times as large is decoded at a half, a
    quarter or an eighth of its size, never below twice that of the square. Raises `InputError` with the path when it
    cannot be decoded.
    """
    with _opened(path) as image:
        image.draft(None, (2 * size, 2 * size))
        return squash(image, size)


def thumbnail(path: Path, side: int) -> tuple[bytes, tuple[int, int]]:
    """An image file as a small JPEG without metadata, upright and in its own proportions, its longer side `side`
    pixels at most; and its width and height. Raises `InputError` with the path when it cannot be decoded.
    """
    small = _shrunk(path, (side, side))
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    return _jpeg(small), small.size


def mosaic(paths: Sequence[Path], large: int, cell: tuple[int, int]) -> tuple[bytes, tuple[int, int]]:
    """Image files side by side in one JPEG without metadata, two cells high; and its width and height.

    The first `large` of them take two by two cells, the others one each, two in a column. `cell` is its width and
    height in pixels; images keep their own proportions, on grey. Raises `InputError` with the path of one that cannot
    be decoded.
    """
    width, height = cell
    columns = 2 * large + -(-(len(paths) - large) // 2)
    canvas = Image.new("RGB", (columns * width, 2 * height), GREY)
    for k, path in enumerate(paths):
        column, row = (2 * k, 0) if k < large else (2 * large + (k - large) // 2, (k - large) % 2)
        size = (2 * width, 2 * height) if k < large else cell
        fitting = ImageOps.pad(_shrunk(path, size), size, Image.Resampling.BICUBIC, GREY)
        canvas.paste(fitting, (column * width, row * height))
    return _jpeg(canvas), canvas.size


def _shrunk(path: Path, size: tuple[int, int]) -> Image.Image:
    """An image file, upright; a large JPEG is decoded at a part of its size, never below twice `size`."""
    with _opened(path) as image:
        image.draft(None, (2 * size[0], 2 * size[1]))
        return _upright(image)


def _jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "jpeg", quality=80)
    return content.getvalue()


def squash(image: Image.Image, size: int) -> np.ndarray:
    """A PIL image as a (size, size, 3) uint8 RGB square."""
    return np.array(_upright(image).resize((size, size), Image.Resampling.BICUBIC))


def _upright(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB without metadata, turned as its own ask. Those that cannot be read ask for nothing."""
    image.load()  # which turns a TIFF
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata raises struct.error, SyntaxError, TypeError and more
        orientation = None
    plain = _eight_bits(image)
    plain.info.clear()  # Pillow would write them back, which fails on tags of a wrong type
    plain.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(plain)


def _eight_bits(image: Image.Image) -> Image.Image:
    """A copy in RGB. Grey of 16 bits is scaled from its whole range, by 257, and that of a 12-bit TIFF from 4095.

    Transparency is left out. Values of 32 bits say nothing of what is white: they raise `ValueError`.
    """
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its values, of Pillow's mode {image.mode}, have no known range: save it with 8 or 16 bits a channel"
        )
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        white = 2 ** tags.get(ExifTags.Base.BitsPerSample, (16,))[0] - 1
        grey = (np.minimum(image, white).astype(np.uint32) * 255 + white // 2) // white
        if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is zero, which Pillow turns for 8 bits only
            grey = 255 - grey
        image = Image.fromarray(grey.astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # RGB at once would warn of transparency
    return image.convert("RGB")


@contextmanager
def _regular(path: Path) -> Iterator[IO[bytes]]:
    """A file opened for reading; raises `InputError` for pipes and devices, which may never end, and giants."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a device or a socket"
        raise InputError(f"image {path} is {kind} and no file: replace or remove it")
    if status.st_size > LARGEST:
        raise InputError(f"image {path} has {status.st_size / 1e9:.1f} GB: no photograph is as large, replace it")
    if not status.st_size:
        raise InputError(f"image {path} is empty: replace or remove it")
    with open(path, "rb") as file:
        yield file


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file of one of `FORMATS`; whatever fails while it is open becomes an `InputError` that names it."""
    with _naming(path), _regular(path) as file, Image.open(file, formats=FORMATS) as image:
        yield image


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn Pillow's many ways of failing into one error that names the file and says what it is."""
    try:
        yield
    except (MemoryError, InputError):
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"cannot decode image {path}, which is {_kind(path)}: replace or remove it") from error
    except Exception as error:  # damaged files raise OSError, SyntaxError, struct.error, TypeError and more
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot decode image {path} ({reason}): replace or remove it") from error


def _kind(path: Path) -> str:
    """What a file is that Pillow does not know, by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(1024)
    found = (kind for begin, kind in KINDS.items() if re.match(begin, head, re.IGNORECASE | re.DOTALL))
    return next(found, f"no {', '.join(FORMATS)}")
