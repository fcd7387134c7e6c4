"""Photographs as uint8 squares: checked, decoded once, and kept in a memory-mapped cache.

A square is (size, size, 3) uint8, RGB. `SquareImages` and `FileImages` are indexed by position; each square has a
SHA-256, so that any selection of photographs has a `fingerprint` without decoding it again.
"""

import hashlib
import io
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from joblib import cpu_count
from PIL import Image, ImageOps

from utils.base.digests import digest_of
from utils.base.errors import InputError
from utils.base.files import atomic, locked
from utils.base.progress import ProgressBar

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
    """Decode one image file, turned upright and squashed to a square.

    Bicubic with antialiasing, CLIP's own resampling. A JPEG more than four times as large is decoded at a half, a
    quarter or an eighth of its size, never below twice that of the square. Raises `InputError` with the path when it
    cannot be decoded.
    """
    with _naming(path), Image.open(path) as image:
        image.draft(None, (2 * size, 2 * size))
        return squash(image, size)


def thumbnail(path: Path, side: int) -> tuple[bytes, tuple[int, int]]:
    """An image file as a small JPEG without metadata, upright and in its own proportions, its longer side `side`
    pixels at most; and its width and height. Raises `InputError` with the path when it cannot be decoded.
    """
    with _naming(path), Image.open(path) as image:
        image.draft(None, (2 * side, 2 * side))
        small = ImageOps.exif_transpose(image).convert("RGB")
        small.thumbnail((side, side), Image.Resampling.BICUBIC)
        small.info.clear()
        content = io.BytesIO()
        small.save(content, "jpeg", quality=80)
    return content.getvalue(), small.size


def squash(image: Image.Image, size: int) -> np.ndarray:
    """A PIL image as a (size, size, 3) uint8 RGB square."""
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.array(upright.resize((size, size), Image.Resampling.BICUBIC))


class Squares:
    """What both kinds have in common; `digest_file` holds one SHA-256 (32 bytes) for each square."""

    def __init__(self, count: int, size: int, digest_file: Path):
        self.shape, self.digest_file = (count, size, size, 3), digest_file

    def __len__(self) -> int:
        return self.shape[0]

    def fingerprint(self, rows: np.ndarray | None = None) -> str:
        """64 hex digits over the squares at `rows`, in this order, or over all."""
        digests = np.fromfile(self.digest_file, np.uint8).reshape(-1, 32)
        return hashlib.sha256((digests if rows is None else digests[rows]).tobytes()).hexdigest()


class SquareImages(Squares):
    """Squares in a memory-mapped file, opened on first use in each process, so that the object travels to loader
    processes as a few strings.
    """

    def __init__(self, path: Path, count: int, size: int):
        super().__init__(count, size, _digest_file(path))
        self.path = path

    def __getitem__(self, index) -> np.ndarray:
        return np.array(self._squares[index])

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_squares"}

    @cached_property
    def _squares(self) -> np.memmap:
        return np.memmap(self.path, np.uint8, mode="r", shape=self.shape)


class FileImages(Squares):
    """The same interface without a cache: a photograph is decoded each time it is asked for."""

    def __init__(self, folder: Path, files: Sequence[str], size: int, digest_file: Path | None = None):
        super().__init__(len(files), size, digest_file)
        self.folder, self.files = folder, files

    def __getitem__(self, index: int) -> np.ndarray:
        return decode(self.folder / self.files[index], self.shape[1])


class SomeSquares:
    """Squares of some photographs only, under the positions that they have among all: `squares[k]` is that of
    `rows[k]`, and `rows` is sorted.
    """

    def __init__(self, squares: Squares, rows: np.ndarray):
        self.squares, self.rows = squares, rows

    def __getitem__(self, row: int) -> np.ndarray:
        return self.squares[np.searchsorted(self.rows, row)]

    def fingerprint(self, rows: np.ndarray) -> str:
        return self.squares.fingerprint(np.searchsorted(self.rows, rows))


def _cache_file(folder: Path, files: Sequence[str], size: int, cache: Path) -> Path:
    """Named by every file's name, length and modification time, so that a changed photograph makes a new one."""
    root = str(folder.resolve())
    stats = [os.stat(os.path.join(root, name)) for name in files]
    listing = [[str(name), stat.st_size, stat.st_mtime_ns] for name, stat in zip(files, stats, strict=True)]
    return Path(cache) / "squares" / f"{digest_of([root, size, listing])}_{len(files)}x{size}.u8"


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def cached_squares(folder: Path, files: Sequence[str], size: int, cache: Path, keep: bool = True) -> Squares | None:
    """What `cache_squares` kept of these very files, or None."""
    path, count = _cache_file(folder, files, size, cache), len(files)
    digest_file = _digest_file(path)
    if not (digest_file.is_file() and digest_file.stat().st_size == 32 * count):
        return None
    if not keep:
        return FileImages(folder, files, size, digest_file)
    if path.is_file() and path.stat().st_size == count * size * size * 3:
        return SquareImages(path, count, size)
    return None


def cache_squares(
    folder: Path, files: Sequence[str], size: int, cache: Path, progress: bool = True, keep: bool = True
) -> Squares:
    """Decode `files` (relative to `folder`) once for all runs, scripts and processes that use this `size`.

    The cache file is written to a temporary name and moved into place, by one process while others that want the same
    wait. Without `keep` the pixels are thrown away and only the SHA-256 of each square stays: the photographs are
    decoded again whenever they are asked for. Raises `InputError` for an image that cannot be decoded and, before any
    work, for one that is cut short or a disk without room.
    """
    if (kept := cached_squares(folder, files, size, cache, keep)) is not None:
        return kept
    path = _cache_file(folder, files, size, cache)
    with locked(path.with_suffix(".lock")):
        if (kept := cached_squares(folder, files, size, cache, keep)) is None:
            _decode_all(folder, files, size, path, progress, keep)
            kept = cached_squares(folder, files, size, cache, keep)
    if kept is None:
        raise InputError(
            f"photographs in {folder} changed while they were decoded: run it again when they are all there"
        )
    return kept


def _decode_all(folder: Path, files: Sequence[str], size: int, path: Path, progress: bool, keep: bool) -> None:
    for name in files:
        check_complete(folder / name)
    megabytes = len(files) * size * size * 3 / 1e6
    free = shutil.disk_usage(path.parent).free / 1e6
    if keep and megabytes > free:
        raise InputError(
            f"{path.parent} has {free:.0f} MB free and {len(files)} decoded photographs take {megabytes:.0f} MB: make "
            "room, or pass --no-cache"
        )
    dataset = image_folder(folder, files)
    digests = []
    with atomic(path if keep else _digest_file(path)) as temporary, open(temporary, "wb") as file:
        bar = ProgressBar(what=f"decoding to {size} px", total=len(files), speaks=progress)
        with bar, ThreadPoolExecutor(cpu_count()) as pool:
            for start in range(0, len(files), BLOCK):
                block = [image["path"] for image in dataset[start : start + BLOCK]["image"]]
                for square in pool.map(lambda image: decode(Path(image), size).tobytes(), block):
                    digests.append(hashlib.sha256(square).digest())
                    if keep:
                        file.write(square)
                bar.update(len(block))
        if not keep:
            file.write(b"".join(digests))
    if keep:
        with atomic(_digest_file(path)) as temporary:
            temporary.write_bytes(b"".join(digests))
        log.info("decoded %d photographs to %s (%.1f MB)", len(files), path, megabytes)


def image_folder(folder: Path, files: Sequence[str]):
    """The `datasets.Dataset` image folder of exactly these files, in this order; its one column `image` gives
    their paths.

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
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetGenerationError) as error:
        raise InputError(f"the datasets library cannot list {folder} ({error}): move it to a plainer path") from error
    dataset = dataset.cast_column("image", datasets.Image(decode=False))
    listed = [image["path"] for image in dataset["image"]]
    if listed != paths:
        raise InputError(f"the datasets library lists {len(listed)} of the {len(paths)} images in {folder}")
    return dataset


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn Pillow's many ways of failing into one error that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # damaged metadata raises struct.error, TypeError, AttributeError and more
        raise InputError(f"cannot decode image {path} ({error}): replace or remove it") from error
