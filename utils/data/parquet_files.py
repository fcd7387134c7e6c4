"""Parquet files with the bytes of images, one or a folder of them: which there are, and to which part each belongs."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from utils.base.errors import InputError
from utils.data.image_names import hidden, images_below
from utils.data.photographs import HELD_OUT, TEST, TRAIN

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger(__name__)

SUFFIX = ".parquet"
VALIDATION = "validation"
WORDS = {"training": TRAIN, "testing": TEST, "eval": TEST, "evaluation": TEST, TRAIN: TRAIN, TEST: TEST}
WORDS |= dict.fromkeys(HELD_OUT, VALIDATION)  # what the names of files and folders call a part
OF_SEVERAL = re.compile(r"(.+)-(\d+)-of-(\d+)(?:-[0-9a-f]+)?")  # older files of the hub end in a digest
LAID_OUT = "info.csv", "info.parquet", "eval/info.csv", "eval/info.parquet", "eval/images", "train/images"
FEATURES = b"huggingface"  # where a file keeps what `datasets` knows of its columns, names of classes among it


def parquet_files(location: Path) -> list[Path]:
    """The Parquet files of a folder, in it or in its folder `data`, or those of its folders that are called as parts
    are; a location that is such a file; none where photographs are laid out as the competition's.
    """
    if location.is_file():
        return [location] if location.suffix.lower() == SUFFIX else []
    if not location.is_dir() or any((location / name).exists() for name in LAID_OUT):
        return []
    found, seen = [], set()
    for folder in (location, location / "data", *(location / word for word in WORDS)):
        if folder.is_dir() and folder.resolve() not in seen:
            seen.add(folder.resolve())
            found += sorted(path for path in folder.iterdir() if _is_named_so(path))
    return found


def _is_named_so(path: Path) -> bool:
    return path.suffix.lower() == SUFFIX and not hidden(path.name) and not path.is_dir()


def holds_images(location: Path) -> bool:
    """Whether a file has a column of the bytes of images, or one of a folder's; in a folder that holds images by
    themselves, as `datasets` writes it.

    Raises `InputError` for a file of such a folder that is no Parquet.
    """
    schemas = {file: _schema(file) for file in parquet_files(location)}
    kinds = [field.type for schema in schemas.values() for field in schema or ()]
    if not schemas or location.is_file():
        return any(map(may_be_images, kinds))
    has_others = next(images_below(location), None) is not None
    found = any(map(_is_image if has_others else may_be_images, kinds))
    broken = next((file for file, schema in schemas.items() if schema is None), None)
    if broken and (found or not (kinds or has_others)):
        raise InputError(f"{broken} is no Parquet file: download it again, or remove it")
    return found


def may_be_images(kind: pyarrow.DataType) -> bool:
    """Whether a column of this type may hold images as they lie on a disk."""
    import pyarrow.types as types

    return _is_image(kind) or types.is_binary(kind) or types.is_large_binary(kind)


def parts_of(location: Path) -> dict[str, list[Path]]:
    """The files with rows by the part (train, validation, test) that their names or those of their folders tell; train
    where none does.

    Raises `InputError` for a file with other columns or classes than the first of its part.
    """
    parts = {name: [] for name in (TRAIN, VALIDATION, TEST)}
    for file in parquet_files(location):
        if _has_rows(file):
            parts[_part(file, location)].append(file)
    parts = {name: files for name, files in parts.items() if files}
    for files in parts.values():
        first = _schema(files[0])
        for file in files[1:]:
            if not (schema := _schema(file)).equals(first) or _features(schema) != _features(first):
                raise InputError(
                    f"{file} has other columns or classes than {files[0]}: write both alike, or leave one out"
                )
    return parts


def warn_of_missing(location: Path) -> None:
    """Say that `train-00000-of-00002` is there and the other one is not."""
    there = {}
    for file in parquet_files(location):
        if match := OF_SEVERAL.fullmatch(file.stem):
            there.setdefault((file.parent, match[1], int(match[3])), set()).add(int(match[2]))
    for (folder, name, count), numbers in there.items():
        if len(numbers) < count:
            told = "%d of the %d files %s-... are read: name the folder %s if the others are in it, or download them"
            log.warning(told, len(numbers), count, name, folder)


def _is_image(kind: pyarrow.DataType) -> bool:
    import pyarrow.types as types

    return types.is_struct(kind) and "bytes" in {kind.field(k).name for k in range(kind.num_fields)}


def _schema(file: Path) -> pyarrow.Schema | None:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_schema(file)
    except (pyarrow.ArrowException, OSError):
        return None


def _has_rows(file: Path) -> bool:
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(file).num_rows > 0


def _features(schema: pyarrow.Schema) -> bytes | None:
    return (schema.metadata or {}).get(FEATURES)


def _part(file: Path, location: Path) -> str:
    """The part that a word of the file's name tells, else the name of its folder."""
    words = re.split(r"[\W_]+", file.stem.lower())
    if location.is_dir() and file.parent != location:
        words.append(file.parent.name)
    return next((WORDS[word] for word in words if word in WORDS), TRAIN)
