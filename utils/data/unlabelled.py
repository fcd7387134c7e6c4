"""The photographs to predict, shard by shard, so that a million take no more memory than a thousand."""

import hashlib
import logging
import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.base.errors import InputError
from utils.base.tables import FORMATS, blocks, open_table
from utils.data import class_folders, hub_sets, tables
from utils.data.decoding import check_complete
from utils.data.image_names import images_below
from utils.data.photographs import TEST, TRAIN
from utils.data.reading import Reading, not_a_set
from utils.data.submissions import without_spaces

log = logging.getLogger(__name__)

SHARD = 256  # photographs: what a killed run may lose
KINDS = "a folder of images, a CSV or Parquet file with a column of files, or what datasets keeps"
AS_IT_IS = Reading()
SKIP = "leave it out of the list, or pass --skip-bad"


@dataclass(frozen=True)
class TestImages:
    """The photographs to predict, in the order of the submission.

    `source` is the list's file, or the names of a plain folder. Its column `column` holds each file's path relative to
    `folder`; of a list without a column `ImageID` that is all the submission has. `part` is a column and the value
    that it has in the rows that are meant, by default all. `digests` has one for each shard, over the names, lengths
    and times of change of its files; `digest` stands for the folder and all of them, `names_digest` for names and
    lengths alone, wherever they lie. `answer_bad` is the class that answers images which cannot be read; without it
    the first of them is an error.
    """

    folder: Path
    columns: list[str]
    source: Path | list[str]
    answer_bad: int | None = None
    column: str = "ImageID"
    part: tuple[str, str] | None = None
    count: int = 0
    digests: tuple[str, ...] = ()
    names_digest: str = ""

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
        columns, lines = open_table(self.source)
        column, (where, value) = columns.index(self.column), self.part or ("", "")
        for _, row in lines:
            if where and row[columns.index(where)].strip() != value:
                continue
            if self.column == "ImageID":
                row[column] = without_spaces(row[column], self.source)
                yield row
            else:  # as the reader of tables to train on has it
                name = row[column].strip()
                yield [os.path.normpath(name) if name else ""]

    @property
    def shard_sizes(self) -> list[int]:
        return [min(SHARD, self.count - start) for start in range(0, self.count, SHARD)]


def read_test_images(
    data_location: Path,
    answer_bad: int | None = None,
    progress: bool = False,
    reading: Reading = AS_IT_IS,
    split: str | None = None,
) -> TestImages:
    """The images to predict: those that `eval/info.csv` (or `.parquet`) lists, in its order; those of a table or of
    `datasets`, read as `reading` says; or all images below a folder, sorted.

    `data_location` is the root, `eval`, any folder of images, a table, or what `hub_sets` reads. `split` is the part
    that is meant, by default `test` where there is one. Raises `InputError` for a location that is not there, a list
    without one column of images or with doubled ids and, without `answer_bad`, for an image that is missing or cut
    short.
    """
    if unpacked := hub_sets.unpacked(data_location, reading):
        test = _of_table(unpacked.table, unpacked.reading, split)
    elif data_location.is_file() and data_location.suffix.lower() in FORMATS:
        test = _of_table(data_location, reading, split)
    elif data_location.is_dir():
        test = _of_folder(data_location, split)
    else:
        raise not_a_set(data_location, KINDS)
    return _checked(replace(test, answer_bad=answer_bad), progress)


def told_seen(test: TestImages, splits: Iterable[dict | None], classes: Iterable[str]) -> str:
    """In words that half of the images to predict or more are probably some that models with these splits were
    trained on; else nothing. It goes by names in folders of `classes`: no record says where photographs lay.
    """
    known, classes = {name for split in splits if split for name in split["train_ids"]}, set(classes)
    names = (name for name in test.files() if Path(name).parts[0] in classes) if known else ()
    seen = sum(os.path.splitext(name)[0] in known for name in names)
    if not seen or 2 * seen < test.count:
        return ""
    return (
        f"{seen} of {test.count} images of {test.folder} lie in folders of classes, under the names of images that "
        "were trained on: if they are these, the answers say little; name those to predict with --data-location "
        "(TEST_LOCATION of training.sh)"
    )


def has_own_images(location: Path) -> bool:
    """Whether a location of photographs to train on may have others to predict: all but folders and sets without a
    part for them. A file may have a column that tells.
    """
    if location.is_file():
        return True
    if hub_sets.is_kept(location):
        return TEST in hub_sets.names_of_parts(location)
    if any((location / name).exists() for name in ("eval", "info.csv", "info.parquet", TEST)):
        return True
    return not any(class_folders.looks_like_it(folder) for folder in (location, location / TRAIN) if folder.is_dir())


def tells_own_images(location: Path, split_column: str | None) -> bool:
    """The same of a location that is read with this column of splits: without one a file has none."""
    if hub_sets.is_kept(location):  # it may have the column, which shows when it is unpacked
        return split_column is not None or TEST in hub_sets.names_of_parts(location)
    if not location.is_file():
        return has_own_images(location)
    columns, rows = open_table(location)
    place = columns.index(split_column) if split_column in columns else None
    return "ImageID" in columns or (place is not None and any(row[place].strip() == TEST for _, row in rows))


def check_folder(location: Path) -> None:
    """Raise `InputError` for a folder in which there is nothing to predict, whatever its images are like."""
    if location.is_dir() and not hub_sets.is_kept(location):
        _of_folder(location, None)


def _of_table(path: Path, reading: Reading, split: str | None) -> TestImages:
    """The images of a list with a column `ImageID`, or of any table with a column of files."""
    columns, _ = open_table(path)
    if "ImageID" in columns:
        return _of_info(path, path.parent)
    asked = reading.image_column if reading.image_column in columns else None
    column = tables.column(path, columns, asked, tables.FILES, "--image-column")
    return TestImages(path.parent, ["ImageID"], path, column=column, part=_part(path, columns, reading, split))


def _of_info(info: Path, folder: Path) -> TestImages:
    columns, _ = open_table(info)
    if columns.count("ImageID") != 1:
        raise InputError(f"{info} has no column ImageID, or several")
    images = folder / "images"
    return TestImages(images if images.is_dir() or folder.name == "eval" else folder, columns, info)


def _part(path: Path, columns: list[str], reading: Reading, split: str | None) -> tuple[str, str] | None:
    """The column and the value of the rows to predict, where a set of `datasets` or a column of splits has them; None
    for all.
    """
    asked = [name for name in dict.fromkeys((tables.PART, reading.split_column)) if name in columns]
    if not asked:
        if split:
            raise InputError(f"--split {split}: {path} has no column of splits: name one with --split-column")
        return None
    found = {name: sorted({row[columns.index(name)].strip() for _, row in open_table(path)[1]}) for name in asked}
    for name, values in found.items():
        if (split or TEST) in values:
            return name, split or TEST
    if split:
        every = ", ".join(dict.fromkeys(value for values in found.values() for value in values))
        raise InputError(f"--split {split}: {path} has the splits {every}: name one of them")
    if reading.split_column in found:
        log.warning(
            "no rows of %s in the column %s of %s: predicting all, perhaps some that models were trained on",
            TEST, reading.split_column, path,
        )  # fmt: skip
    return None


def _of_folder(location: Path, split: str | None) -> TestImages:
    """The images of `eval`, of the folder of a split, or of any other folder."""
    places = [folder / f"info{suffix}" for folder in (location / "eval", location) for suffix in FORMATS]
    info = next(filter(os.path.lexists, places), None)
    if split and not (location / split).is_dir():
        raise InputError(f"--split {split}: there is no folder {location / split}")
    if info and not split:
        return _of_info(info, info.parent)
    own = [split] if split else ["eval/images", "eval"]
    inside = own if split or not (location / TRAIN).is_dir() else [*own, TEST]
    folder = next((path for path in map(location.joinpath, inside) if path.is_dir()), location)
    if folder == location and class_folders.looks_like_it(location / TRAIN):  # else it may be a class of this name
        raise InputError(f"{location} has photographs to train on and no folder eval or test: name those to predict")
    test = TestImages(folder, ["ImageID"], _image_names(folder))
    if not test.source:
        raise InputError(
            f"no info.csv and no images in {folder}: give --data-location (TEST_LOCATION of training.sh) {KINDS}"
        )
    log.info("no info.csv: predicting all images of %s", folder)
    return test


def _checked(test: TestImages, progress: bool) -> TestImages:
    """The same with its count and digest, after one look at every row and file.

    Names are compared by 64-bit hashes: eight bytes a row are all that stays in memory.
    """
    hashes, digests, missing, first_missing = array("Q"), [], 0, ""
    known_by = hashlib.sha256()
    names = tqdm(test.files(), "checking", unit="image", disable=None if progress else True, leave=False)
    for files in blocks(names, SHARD):
        for name in files:
            if not name:
                raise InputError(f"{test.source} has no {test.column} in row {len(hashes) + 1}: fill it in")
            if "\0" in name or not _encodes(name):
                raise InputError(f"{test.folder} has the file name {name!r}, which is no UTF-8 text: rename it")
            hashes.append(_hash(name))
        seen = _look(test.folder, files)
        digests.append(_digest(seen))
        known_by.update(repr([one[:2] for one in seen]).encode())
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
        if isinstance(test.source, list):
            raise InputError(f"{missing} images in {test.folder} are links to nothing, the first: {first_missing}")
        raise InputError(
            f"{test.source} names {missing} images that are not in {test.folder}, the first: {first_missing}; {SKIP}"
        )
    return replace(test, count=len(hashes), digests=tuple(digests), names_digest=known_by.hexdigest())


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


def _image_names(folder: Path) -> list[str]:
    """Sorted paths of the images below a folder, hidden ones left out."""
    return sorted(map(str, images_below(folder)))
