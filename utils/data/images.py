"""Photographs as uint8 squares: decoded once, and kept in a memory-mapped cache that is verified when it is read.

A square is (size, size, 3) uint8, RGB. `FileImages` and `SquareImages` are indexed by position; each square has a
SHA-256, so that any selection of photographs has a `fingerprint` without decoding it again.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
from joblib import cpu_count

from utils.base.digests import digest_of
from utils.base.errors import InputError
from utils.base.files import atomic, locked
from utils.base.progress import ProgressBar
from utils.data.decoding import check_complete, decode

log = logging.getLogger(__name__)


BLOCK = 256  # photographs decoded ahead of the writer


class FileImages:
    """Photographs decoded each time they are asked for; `digests` has one SHA-256, 32 bytes, for each square."""

    def __init__(self, folder: Path, files: Sequence[str], size: int, digests: bytes = b""):
        self.folder, self.files, self.size, self.digests = folder, files, size, digests

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> np.ndarray:
        return decode(self.folder / self.files[row], self.size)

    def fingerprint(self, rows: np.ndarray | None = None) -> str:
        """64 hex digits over the squares at `rows`, in this order, or over all."""
        digests = np.frombuffer(self.digests, np.uint8).reshape(-1, 32)
        return hashlib.sha256((digests if rows is None else digests[rows]).tobytes()).hexdigest()


class SquareImages(FileImages):
    """Squares in a memory-mapped file, opened on first use in each process.

    There each square is compared with its SHA-256 when it is read for the first time. One that differs is decoded from
    its photograph again, and put back. Raises `InputError` when the photograph no longer gives that square.
    """

    def __init__(self, path: Path, folder: Path, files: Sequence[str], size: int, digests: bytes):
        super().__init__(folder, files, size, digests)
        self.path, self.told = path, False

    def __getitem__(self, row: int) -> np.ndarray:
        square = np.array(self._squares[row])
        if not self._verified[row]:
            if not self._fits(row, square):
                square = self._again(row)
            self._verified[row] = True
        return square

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name not in ("_squares", "_verified")}

    @cached_property
    def _squares(self) -> np.memmap:
        return np.memmap(self.path, np.uint8, mode="r", shape=(len(self), self.size, self.size, 3))

    @cached_property
    def _verified(self) -> np.ndarray:
        return np.zeros(len(self), bool)

    def _fits(self, row: int, square: np.ndarray) -> bool:
        return hashlib.sha256(square).digest() == self.digests[32 * row : 32 * (row + 1)]

    def _again(self, row: int) -> np.ndarray:
        square, photograph = super().__getitem__(row), self.folder / self.files[row]
        if not self._fits(row, square):
            raise InputError(f"{self.path} is damaged, and {photograph} now gives other pixels: remove the former")
        level, self.told = logging.DEBUG if self.told else logging.WARNING, True  # a whole file may be damaged
        log.log(level, "%s is damaged: %s and others that are damaged are decoded again", self.path, photograph)
        with suppress(OSError), open(os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW), "wb") as file:
            file.seek(row * square.nbytes)
            file.write(square)
        return square


class SomeSquares:
    """Squares of some photographs only, under the positions that they have among all: `squares[k]` is that of
    `rows[k]`, and `rows` is sorted.
    """

    def __init__(self, squares: FileImages, rows: np.ndarray):
        self.squares, self.rows = squares, rows

    def __getitem__(self, row: int) -> np.ndarray:
        return self.squares[np.searchsorted(self.rows, row)]

    def fingerprint(self, rows: np.ndarray) -> str:
        return self.squares.fingerprint(np.searchsorted(self.rows, rows))


def _cache_file(folder: Path, files: Sequence[str], size: int, cache: Path) -> Path:
    """Named by every file's name, length and times of change, so that a changed photograph makes a new one.

    Whoever replaces a file may set its modification time, but not the time of the last change of its status.
    """
    root = str(folder.resolve())
    stats = [os.stat(os.path.join(root, name)) for name in files]
    listing = [
        [str(name), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in zip(files, stats, strict=True)
    ]
    return Path(cache) / "squares" / f"{digest_of([root, size, listing])}_{len(files)}x{size}.u8"


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _read_digests(path: Path, count: int) -> bytes | None:
    """The SHA-256 of `count` squares; None when they are not there or differ from their own, which stands behind."""
    length = 32 * count
    if not path.is_file() or path.stat().st_size != length + 32:
        return None
    content = path.read_bytes()
    if hashlib.sha256(content[:length]).digest() == content[length:]:
        return content[:length]
    log.warning("%s is damaged: the photographs are decoded again", path)
    return None


def cached_squares(folder: Path, files: Sequence[str], size: int, cache: Path, keep: bool = True) -> FileImages | None:
    """What `cache_squares` kept of these very files, or None."""
    path, count = _cache_file(folder, files, size, cache), len(files)
    digests = _read_digests(_digest_file(path), count)
    if digests is None:
        return None
    if not keep:
        return FileImages(folder, files, size, digests)
    if path.is_file() and path.stat().st_size == count * size * size * 3:
        return SquareImages(path, folder, files, size, digests)
    return None


def cache_squares(
    folder: Path, files: Sequence[str], size: int, cache: Path, progress: bool = True, keep: bool = True
) -> FileImages:
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
        digests.append(hashlib.sha256(b"".join(digests)).digest())
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
    given the files, with their special characters escaped, it takes them all, which is checked. What it keeps of an
    earlier call and cannot read, or reads as something else, it makes anew.
    """
    import datasets

    datasets.disable_progress_bars()
    paths = [os.path.normpath(folder.resolve() / name) for name in files]
    escaped = [path.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]") for path in paths]
    for download_mode in ("reuse_dataset_if_exists", "force_redownload"):
        try:
            dataset = datasets.load_dataset(
                "imagefolder",
                data_files={"photographs": escaped},
                split="photographs",
                drop_labels=True,
                download_mode=download_mode,
            )
            dataset = dataset.cast_column("image", datasets.Image(decode=False))
            listed = [image["path"] for image in dataset["image"]]
        except (ValueError, TypeError, LookupError, OSError, datasets.exceptions.DatasetGenerationError) as error:
            reason = error
            continue
        if listed == paths:
            return dataset
        reason = f"it lists {len(listed)} of {len(paths)} images"
    raise InputError(
        f"the datasets library cannot list {folder} ({reason}): move it to a plainer path, or remove what the library "
        f"keeps in {datasets.config.HF_DATASETS_CACHE}"
    )
