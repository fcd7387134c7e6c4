"""Photographs that `datasets` keeps: a folder it saved, Parquet with the bytes of images (a file, or a folder of them
as sets of the hub have), or a hub id.

They are unpacked once, into a folder of `cache/images` with the images as files and a table of all other columns, so
that everything else sees files and a table.
"""

from __future__ import annotations

import glob
import io
import json
import logging
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from utils.base.data_flags import hub_names, is_hub_id
from utils.base.digests import digest_of
from utils.base.errors import InputError
from utils.base.files import CACHE, PICTURES, identity, locked, temporary_beside
from utils.base.tables import write_table
from utils.data import parquet_files
from utils.data.image_names import images_below
from utils.data.photographs import TEST, TRAIN
from utils.data.tables import PART

if TYPE_CHECKING:
    from datasets import Dataset

    from utils.data.reading import Reading

log = logging.getLogger(__name__)

SAVED = {"dataset_dict.json"}, {"dataset_info.json", "state.json"}  # in a folder of save_to_disk
TABLE, FACTS = "images.csv", "facts.json"
LABEL = "label"
OWN = CACHE, PICTURES  # where this program has images of its own
PER_FOLDER = 1000  # files
VERSION = 2  # of what is unpacked


@dataclass(frozen=True)
class Unpacked:
    """A table of images with the `reading` that it asks for, the columns of images, labels and splits, and the `order`
    of the values of labels, where the set tells it. `kept_in` is where the set is, of one of the hub its name.
    """

    table: Path
    reading: Reading
    order: dict[str, tuple[str, ...]]
    kept_in: Path


def is_saved(location: Path) -> bool:
    """Whether `datasets` saved a folder, of several splits or of one."""
    return any(all((location / name).is_file() for name in names) for names in SAVED)


def is_kept(location: Path) -> bool:
    """Whether `datasets` keeps a set there. Raises `InputError` for a folder that holds folders of images, too."""
    if is_saved(location) or is_hub_id(location):
        return True
    if not parquet_files.holds_images(location):
        return False
    own = {folder.resolve() for name in OWN for folder in (name, location / name)}
    beside = (location / path.parts[0] for path in images_below(location) if len(path.parts) > 1)
    if folder := next((one for one in beside if one.resolve() not in own), None):
        raise InputError(
            f"{location} holds Parquet files with images and a folder of images, {folder.name}: move one of them "
            "away, or name the one that is meant"
        )
    return True


def names_of_parts(location: Path) -> set[str]:
    """The parts that a set has, as far as that shows without reading it: all that a set of the hub may have."""
    if is_hub_id(location):
        return {TRAIN, TEST}
    listed = location / "dataset_dict.json"
    if not is_saved(location):
        return set(parquet_files.parts_of(location))
    if not listed.is_file():
        return {TRAIN}
    try:
        return set(json.loads(listed.read_text(encoding="utf-8"))["splits"])
    except (ValueError, LookupError, TypeError):
        return {TRAIN, TEST}  # whoever reads it tells what is wrong


def unpacked(location: Path, reading: Reading) -> Unpacked | None:
    """The table of a set that `datasets` keeps, unpacked if it was not yet; None for a location of another kind.

    Raises `InputError` for a set that cannot be read, one without a column of images, or with several of which none is
    named, and for a row without an image.
    """
    if not is_kept(location):
        return None
    parts, key = _read(location)
    first = next(iter(parts.values()))
    column = _image_column(location, first, reading.image_column)
    digest = digest_of([str(VERSION), column, *key])
    folder = CACHE / "images" / digest
    with locked(CACHE / "images" / f"{digest}.lock"):
        if not (folder / TABLE).is_file():
            _unpack(location, parts, column, folder)
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    labels = reading.label_columns
    if not labels and LABEL not in first.column_names and len(facts["classes"]) == 1:
        labels = tuple(facts["classes"])
    order = {name: tuple(names) for name, names in facts["classes"].items() if name in (labels or (LABEL,))}
    split = reading.split_column or (PART if list(parts) != [TRAIN] else None)
    wanted = replace(reading, image_column=column, label_columns=labels, split_column=split)
    return Unpacked(folder / TABLE, wanted, order, location if location.exists() else Path(location.name))


def _read(location: Path) -> tuple[dict[str, Dataset], list[str]]:
    """The splits of a set, and what its content is known by."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it tells of an error before it raises it
    by_part = {} if is_saved(location) or is_hub_id(location) else parquet_files.parts_of(location)
    parquet_files.warn_of_missing(location)
    key = [str(one) for name, files in by_part.items() for file in files for one in (name, *_known_by(file))]
    try:
        if is_saved(location):
            found = datasets.load_from_disk(str(location))
        elif is_hub_id(location):
            found = datasets.load_dataset(*hub_names(location))
        else:
            found = {name: _of_files(files, digest_of(key)) for name, files in by_part.items()}
    except Exception as error:  # of whatever kind: files, networks, scripts, features
        words = str(error.__cause__ or error).strip().split("\n")[0]
        remedy = (
            "save it with save_to_disk, or as Parquet, again"
            if location.exists()
            else "it is no path, and as a set of the hub (user/name, or user/name:configuration) it cannot be had: "
            "give --data-location another one"
        )
        raise InputError(
            f"{location} cannot be read by datasets ({type(error).__name__}: {words}): {remedy}"
        ) from error
    parts = dict(found) if isinstance(found, dict) else {TRAIN: found}
    parts = {name: part for name, part in parts.items() if len(part)}
    if not parts:
        raise InputError(f"{location} has no rows: give another --data-location")
    if is_saved(location):
        files = sorted(one for one in location.rglob("*") if one.is_file())
        key = [str(one) for file in files for one in _known_by(file)]
    elif is_hub_id(location):
        key = [f"{name} {part._fingerprint}" for name, part in parts.items()]
    return parts, [str(location.resolve() if location.exists() else location), *key]


def _known_by(file: Path) -> tuple:
    return file.resolve(), identity(file)


def _of_files(files: list[Path], digest: str) -> Dataset:
    """Some Parquet files behind each other, whatever their names have in them; `digest` stands for what is in them."""
    from datasets import Dataset

    return Dataset.from_parquet([glob.escape(str(file)) for file in files], cache_dir=str(CACHE / "datasets" / digest))


def _image_column(location: Path, part: Dataset, asked: str | None) -> str:
    """The column of images: the one that is asked for, else the only one there is."""
    if asked:
        if asked not in part.column_names:
            raise InputError(
                f"{location} has the columns {_shown(part)}, and no {asked}: name one with --image-column"
            )
        return asked
    found = [name for name in part.column_names if _is_of_images(part, name)]
    if len(found) != 1:
        which = f"the columns of images {', '.join(found)}" if found else f"no column of images, only {_shown(part)}"
        raise InputError(f"{location} has {which}: name one with --image-column")
    return found[0]


def _is_of_images(part: Dataset, name: str) -> bool:
    from datasets import Array2D, Array3D, Image

    kinds = (Image, Array2D, Array3D)
    return isinstance(part.features[name], kinds) or parquet_files.may_be_images(part.data.schema.field(name).type)


def _shown(part: Dataset) -> str:
    return ", ".join(part.column_names[:8]) + (", ..." if len(part.column_names) > 8 else "")


def _unpack(location: Path, parts: dict[str, Dataset], column: str, folder: Path) -> None:
    """Write images, table and facts into `folder`, which is there when all of them are."""
    from datasets import Image

    if any(PART in part.column_names for part in parts.values()):
        raise InputError(f"{location} has a column {PART!r}: rename it")
    log.info("unpacking %d images of %s into %s", sum(map(len, parts.values())), location, folder)
    temporary = temporary_beside(folder)
    try:
        temporary.mkdir()
        first = next(iter(parts.values()))
        told = [name for name in first.column_names if name != column and _is_plain(first, name)]
        rows = []
        for split, part in parts.items():
            if column not in part.column_names:
                raise InputError(f"{location}: its part {split} has the columns {_shown(part)}, and no {column}")
            if isinstance(part.features[column], Image):
                part = part.cast_column(column, Image(decode=False))
            names = {name: _names(part, name) for name in told}
            for number, row in enumerate(part):
                where = f"{location}, row {number} of {split}, column {column}"
                file = _write_image(row[column], temporary, f"{split}/{number // PER_FOLDER:03d}/{number:06d}", where)
                rows.append([file, split, *(_text(row.get(name), names[name]) for name in told)])
        write_table(temporary / TABLE, [column, PART, *told], rows)
        classes = {name: names for name in told if (names := _names(first, name))}
        (temporary / FACTS).write_text(json.dumps({"classes": classes}), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_plain(part: Dataset, name: str) -> bool:
    """Whether a column has text, numbers or classes in it, and no lists or images."""
    from datasets import ClassLabel, Value

    return isinstance(part.features[name], ClassLabel | Value) and not _is_of_images(part, name)


def _names(part: Dataset, name: str) -> list[str]:
    return [one.strip() for one in getattr(part.features.get(name), "names", None) or ()]


def _text(value, names: list[str]) -> str:
    """A value as text; a class that nobody has told (None, -1) is blank."""
    if value is None or (names and value < 0):
        return ""
    return names[value] if names else str(value)


def _write_image(value, folder: Path, stem: str, where: str) -> str:
    """Write an image as it is, or an array as PNG; returns its name."""
    content = _content(value, where)
    _check_image(content, where)
    file = f"{stem}.png" if content.startswith(b"\x89PNG") else f"{stem}.jpg"  # readers look at what is in it
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return file


def _check_image(content: bytes, where: str) -> None:
    """Raise `InputError` for bytes that begin like no image; damage further on is found when it is decoded."""
    from PIL import Image

    try:
        Image.open(io.BytesIO(content)).close()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their parsers do
        raise InputError(f"{where}: these bytes are no image ({error}): write the row anew, or remove it") from error


def _content(value, where: str) -> bytes:
    if isinstance(value, dict):
        if not value.get("bytes") and value.get("path") and Path(value["path"]).is_file():
            return Path(value["path"]).read_bytes()
        value = value.get("bytes")
    if isinstance(value, list):
        return _png(value, where)
    if not value:
        raise InputError(f"{where}: there is no image: remove the row")
    return value


def _png(pixels: list, where: str) -> bytes:
    import numpy as np
    from PIL import Image

    array = np.array(pixels)
    grey, rgb = array.ndim == 2, array.ndim == 3 and array.shape[2] == 3
    if not (grey or rgb) or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise InputError(f"{where}: no array (H, W) or (H, W, 3) of whole numbers from 0 to 255: save it as an image")
    buffer = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
