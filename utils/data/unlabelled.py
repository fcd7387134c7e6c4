"""The photographs to predict and the answers to them, shard by shard, so that a million take no more memory than a
thousand.
"""

import hashlib
import logging
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.base.errors import InputError
from utils.base.tables import FORMATS, blocks, open_table, write_table
from utils.data.decoding import check_complete, decode
from utils.data.image_files import SUFFIXES, hidden
from utils.data.origins import write_record
from utils.data.submissions import answered, answered_columns, without_spaces

log = logging.getLogger(__name__)


Scores = Callable[[], Iterator[np.ndarray]]  # (n, C) of each shard, NaN in the rows of images that cannot be read
SHARD = 256  # photographs: what a killed run may lose
SKIP = "leave it out of the list, or pass --skip-bad"


@dataclass(frozen=True)
class TestImages:
    """The photographs to predict, in the order of the submission.

    `source` is the list's file, or the names of a plain folder. A column `ImageID` holds each file's path relative to
    `folder`. `digests` has one for each shard, over the names, lengths and times of change of its files; `digest`
    stands for the folder and all of them. `answer_bad` is the class that answers images which cannot be read; without
    it the first of them is an error.
    """

    folder: Path
    columns: list[str]
    source: Path | list[str]
    answer_bad: int | None = None
    count: int = 0
    digests: tuple[str, ...] = ()

    @property
    def skip_bad(self) -> bool:
        return self.answer_bad is not None

    @property
    def digest(self) -> str:
        content = [str(self.folder.resolve()), str(SHARD), *self.digests]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()

    @property
    def key(self) -> int:
        """The column of the `ImageID`."""
        return self.columns.index("ImageID")

    def files(self) -> Iterator[str]:
        """The `ImageID` of each row."""
        return (row[self.key] for row in self._rows())

    def shards(self) -> Iterator[list[list[str]]]:
        """The rows, `SHARD` at a time; raises `InputError` when list or files changed since they were checked."""
        rows = self._rows()
        for digest in self.digests:
            shard = list(islice(rows, SHARD))
            if not shard or _digest(_look(self.folder, [row[self.key] for row in shard])) != digest:
                break
            yield shard
        else:
            if next(rows, None) is None:
                return
        raise InputError(f"{self.folder} or its list changed meanwhile: run the same command again")

    def _rows(self) -> Iterator[list[str]]:
        """The rows of the list, read anew."""
        if isinstance(self.source, list):
            yield from ([name] for name in self.source)
            return
        _, lines = open_table(self.source)
        for _, row in lines:
            row[self.key] = without_spaces(row[self.key], self.source)
            yield row

    @property
    def shard_sizes(self) -> list[int]:
        return [min(SHARD, self.count - start) for start in range(0, self.count, SHARD)]


def read_test_images(data_location: Path, answer_bad: int | None = None, progress: bool = False) -> TestImages:
    """The images that `eval/info.csv` (or `.parquet`) lists, in its order; or all images below a plain folder, sorted.

    `data_location` is the root, `eval`, or any folder of images. Raises `InputError` for a missing folder, a list
    without one `ImageID` column or with doubled ids and, without `answer_bad`, for an image that is missing or cut
    short.
    """
    location = data_location
    if not location.is_dir():
        raise InputError(f"data folder {location} does not exist: give --data-location")
    places = [folder / f"info{suffix}" for folder in (location / "eval", location) for suffix in FORMATS]
    info = next(filter(os.path.lexists, places), None)
    if info:
        columns, _ = open_table(info)
        if columns.count("ImageID") != 1:
            raise InputError(f"{info} has no column ImageID, or several")
        test = TestImages(info.parent / "images", columns, info, answer_bad)
    else:
        folder = next((path for path in (location / "eval" / "images", location / "eval") if path.is_dir()), location)
        if folder == location and (location / "train").is_dir():
            raise InputError(f"{location} has photographs to train on and no folder eval: name those to predict")
        test = TestImages(folder, ["ImageID"], _image_names(folder), answer_bad)
        if not test.source:
            raise InputError(f"no info.csv and no images in {folder}: give --data-location")
        log.info("no info.csv: predicting all images of %s", folder)
    return _checked(test, progress)


def _checked(test: TestImages, progress: bool) -> TestImages:
    """The same with its count and digest, after one look at every row and file.

    Names are compared by 64-bit hashes: eight bytes a row are all that stays in memory.
    """
    hashes, digests, missing, first_missing = array("Q"), [], 0, ""
    names = tqdm(test.files(), "checking", unit="image", disable=None if progress else True, leave=False)
    for files in blocks(names, SHARD):
        for name in files:
            if not name:
                raise InputError(f"{test.source} has no ImageID in row {len(hashes) + 1}: fill it in")
            if "\0" in name or not _encodes(name):
                raise InputError(f"{test.folder} has the file name {name!r}, which is no UTF-8 text: rename it")
            hashes.append(_hash(name))
        seen = _look(test.folder, files)
        digests.append(_digest(seen))
        absent = [name for name, *found in seen if not found]
        missing, first_missing = missing + len(absent), first_missing or next(iter(absent), "")
        for name, *_ in (one for one in seen if len(one) > 1 and not test.skip_bad):
            try:
                check_complete(test.folder / name)
            except InputError as error:
                raise InputError(f"{error}, or pass --skip-bad") from error
    if not hashes:
        raise InputError(f"{test.source} lists no images")
    values, counts = np.unique(hashes, return_counts=True)
    if len(values) < len(hashes):
        doubled = set(values[counts > 1].tolist())
        first = next(name for name in test.files() if _hash(name) in doubled)
        raise InputError(f"{test.source} lists {len(doubled)} images twice, the first: {first}")
    if missing and not test.skip_bad:
        raise InputError(
            f"{test.source} names {missing} images that are not in {test.folder}, the first: {first_missing}; {SKIP}"
        )
    return replace(test, count=len(hashes), digests=tuple(digests))


def _look(folder: Path, files: list[str]) -> list[tuple]:
    """For each file its name, length and times of change; of one that is not there the name alone."""
    seen = []
    for name in files:
        try:
            stat = os.stat(os.path.join(folder, name))
            seen.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        except OSError:
            seen.append((name,))
    return seen


def _encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest(seen: list[tuple]) -> str:
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def write_answers(
    path: Path, test: TestImages, scores: Scores, record: dict, to_probs: Callable | None = None
) -> None:
    """Write the submission: the class with the largest of `scores` in each row.

    Beside it lie `record` with the file's SHA-256, a list of the images that could not be read, and with `to_probs`
    the class probabilities (C,) that it makes of each row. Those two of an earlier submission are removed.
    """
    unreadable, listed = [], path.with_name(f"unreadable_{path.stem.removeprefix('output_')}.csv")
    probs_file = path.with_stem(f"{path.stem}_probs")
    answers, names = _answered_rows(test, scores(), unreadable), test.files()
    write_table(path, answered_columns(test.columns), answers)
    if unreadable:
        write_table(listed, ["ImageID", "reason"], unreadable)
        log.warning("%d unreadable images, in %s: answered as class %d", len(unreadable), listed, test.answer_bad)
    if to_probs:
        every = (row.tolist() for one in scores() for row in to_probs(one))
        first = next(every)
        rows = ([name, *row] for name, row in zip(names, chain([first], every), strict=True))
        write_table(probs_file, ["ImageID", *(f"p{k}" for k in range(len(first)))], rows)
        log.info("probabilities: %s", probs_file)
    for stale in (*([] if unreadable else [listed]), *([] if to_probs else [probs_file])):
        stale.unlink(missing_ok=True)
    write_record(path, {"photographs": {"count": test.count, "unreadable": len(unreadable)}, **record})


def _answered_rows(
    test: TestImages, scores: Iterator[np.ndarray], unreadable: list[list[str]]
) -> Iterator[list[str | int]]:
    """The rows of the list with their answers, looked at once more; those that have none go to `unreadable`, too."""
    for rows, one in zip(test.shards(), scores, strict=True):
        for row, pred, is_bad in zip(rows, one.argmax(-1).tolist(), np.isnan(one[:, 0]), strict=True):
            if is_bad:
                reason = _why_unreadable(test.folder / row[test.key])
                if not test.skip_bad:
                    raise InputError(f"{reason}, or pass --skip-bad")
                unreadable.append([row[test.key], reason])
            yield answered(test.columns, row, test.answer_bad if is_bad else pred)


def _why_unreadable(path: Path) -> str:
    if not path.exists():
        return f"image {path} is not there"
    try:
        decode(path, 8)
    except InputError as error:
        return str(error)
    return f"image {path} could not be read at the size it was predicted at"


def _image_names(folder: Path) -> list[str]:
    """Sorted paths of the images below a folder, hidden ones left out."""
    images = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    relative = (path.relative_to(folder) for path in images)
    return sorted(str(path) for path in relative if not any(map(hidden, path.parts)))
