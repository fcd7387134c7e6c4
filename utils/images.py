"""Photographs as uint8 squares: checked, decoded once, and kept in a memory-mapped cache."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from utils.errors import InputError
from utils.files import atomic, write_text

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png")
BLOCK = 256  # photographs decoded ahead of the writer
JPEG_END, PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"


def check_complete(path: Path) -> None:
    """Raise `InputError` when an image file does not end as its format must, for example after a broken download.

    Only the last bytes are read. A file with something behind its end marker (some cameras append a preview) is
    decoded to be sure.
    """
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(PNG_END)))
            tail = file.read()
    except OSError as error:
        raise InputError(f"cannot read image {path}: {error.strerror}") from error
    if tail.endswith((JPEG_END, PNG_END)):
        return
    content = path.read_bytes()
    if JPEG_END not in content and PNG_END not in content:
        raise InputError(f"image {path} is cut short (no end marker): replace or remove it")
    decode(path, 8)


def decode(path: Path, size: int) -> np.ndarray:
    """Decode one image file, turned upright and squashed to a square: (size, size, 3) uint8, RGB.

    Bicubic with antialiasing, CLIP's own resampling. Raises `InputError` with the path when it cannot be decoded.
    """
    with _naming(path), Image.open(path) as image:
        return squash(image, size)


def squash(image: Image.Image, size: int) -> np.ndarray:
    """A PIL image as a (size, size, 3) uint8 RGB square."""
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(upright.resize((size, size), Image.Resampling.BICUBIC))


class FileImages:
    """Photographs decoded each time they are asked for: the same interface as `SquareImages`, without a cache."""

    def __init__(self, folder: Path, files: list[str], size: int):
        self.folder, self.files, self.size = folder, files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        return decode(self.folder / self.files[index], self.size)


class SquareImages:
    """Decoded photographs of one folder, indexable by position: (size, size, 3) uint8 each.

    `path` is the memory-mapped cache file that `cache_squares` made, `digest` the SHA-256 of its content. The file is
    opened on first use in each process, so that the object travels to loader processes as a few strings.
    """

    def __init__(self, path: Path, count: int, size: int, digest: str):
        self.path, self.shape, self.digest = path, (count, size, size, 3), digest

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        return np.array(self._squares[index])

    def __getstate__(self) -> dict:
        return {"path": self.path, "shape": self.shape, "digest": self.digest}

    @cached_property
    def _squares(self) -> np.memmap:
        return np.memmap(self.path, np.uint8, mode="r", shape=self.shape)


class SomeSquares:
    """Squares of some photographs only, under the positions that they have among all: `squares[k]` is that of
    `rows[k]`, and `rows` is sorted.
    """

    def __init__(self, squares: SquareImages, rows: np.ndarray):
        self.squares, self.rows = squares, rows

    def __getitem__(self, row: int) -> np.ndarray:
        return self.squares[np.searchsorted(self.rows, row)]


def _cache_file(folder: Path, files: list[str], size: int, cache: Path) -> Path:
    """Named by every file's name, length and modification time, so that a changed photograph makes a new one."""
    stats = [os.stat(folder / name) for name in files]
    listing = [[str(name), stat.st_size, stat.st_mtime_ns] for name, stat in zip(files, stats, strict=True)]
    key = hashlib.sha256(json.dumps([str(folder.resolve()), size, listing]).encode()).hexdigest()[:16]
    return Path(cache) / "squares" / f"{key}_{len(files)}x{size}.u8"


def cached_squares(folder: Path, files: list[str], size: int, cache: Path) -> SquareImages | None:
    """What `cache_squares` kept of these very files, or None."""
    path = _cache_file(folder, files, size, cache)
    digest_file = path.with_suffix(".sha256")
    if path.is_file() and path.stat().st_size == len(files) * size * size * 3 and digest_file.is_file():
        return SquareImages(path, len(files), size, digest_file.read_text())
    return None


def cache_squares(folder: Path, files: list[str], size: int, cache: Path, progress: bool = True) -> SquareImages:
    """Decode `files` (relative to `folder`) once for all runs, scripts and processes that use this `size`.

    The cache file is written to a temporary name and moved into place. Decoding goes through a Hugging Face `datasets`
    image folder.
    """
    if (kept := cached_squares(folder, files, size, cache)) is not None:
        return kept
    path = _cache_file(folder, files, size, cache)
    dataset = image_folder(folder, files)
    sha = hashlib.sha256()
    with atomic(path) as temporary, open(temporary, "wb") as file, ThreadPoolExecutor() as pool:
        bar = tqdm(total=len(files), desc=f"decoding to {size} px", unit="image", disable=None if progress else True)
        for start in range(0, len(files), BLOCK):
            rows = range(start, min(start + BLOCK, len(files)))
            for square in pool.map(lambda row: _decode_row(dataset, row, folder / files[row], size), rows):
                file.write(square.tobytes())
                sha.update(square.tobytes())
            bar.update(len(rows))
        bar.close()
    write_text(path.with_suffix(".sha256"), sha.hexdigest())
    log.info("decoded %d photographs to %s (%.1f MB)", len(files), path, path.stat().st_size / 1e6)
    return SquareImages(path, len(files), size, sha.hexdigest())


def image_folder(folder: Path, files: list[str]):
    """The `datasets.Dataset` image folder of exactly these files, in this order, with one column `image`.

    Given a folder alone the library takes words like `test` in a path for split names and drops the rest in silence;
    given the files, with their special characters escaped, it takes them all, which is checked.
    """
    import datasets

    datasets.disable_progress_bars()
    paths = [os.path.normpath(folder.resolve() / name) for name in files]
    escaped = [path.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]") for path in paths]
    try:
        dataset = datasets.load_dataset(
            "imagefolder", data_files={"photographs": escaped}, split="photographs", drop_labels=True
        )
    except (ValueError, FileNotFoundError) as error:
        raise InputError(f"the datasets library cannot list {folder} ({error}): move it to a plainer path") from error
    listed = [image["path"] for image in dataset.cast_column("image", datasets.Image(decode=False))["image"]]
    if listed != paths:
        raise InputError(f"the datasets library lists {len(listed)} of the {len(paths)} images in {folder}")
    return dataset


def _decode_row(dataset, row: int, path: Path, size: int) -> np.ndarray:
    with _naming(path):
        return squash(dataset[row]["image"], size)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn Pillow's many ways of failing into one error that names the file."""
    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot decode image {path} ({error}): replace or remove it") from error
