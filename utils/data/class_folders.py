"""Photographs in a folder per class, as torchvision and `datasets` have it; perhaps inside `train`, `val`, `test`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from utils.base.errors import InputError
from utils.data.image_names import SUFFIXES, hidden
from utils.data.photographs import HELD_OUT, TRAIN, Photographs, from_columns

if TYPE_CHECKING:
    from utils.data.reading import Reading


def looks_like_it(folder: Path) -> bool:
    """Whether there is an image in a sub-folder."""
    return any(True for _ in images(folder))


def read_class_folders(folder: Path, reading: Reading) -> Photographs:
    """The photographs of all classes; a sub-folder of another one belongs to the class of the outer.

    Where there is a folder `train`, the classes are in it; those of `val` or `validation` are held out, and `test` is
    left for inference. Raises `InputError` for an image beside the folders of classes, and for a file name in which
    `--group-pattern` finds nothing.
    """
    parts = {path.name: path for path in folder.iterdir() if path.is_dir() and path.name in (TRAIN, *HELD_OUT)}
    files = list(images(folder)) if TRAIN not in parts else [one for path in parts.values() for one in images(path)]
    files = [path.relative_to(folder) for path in files]
    sides = [path.parts[0] for path in files] if TRAIN in parts else None
    if sides and set(sides) == {TRAIN}:
        sides = None
    labels = [path.parts[0 if TRAIN not in parts else 1] for path in files]
    for path, label in zip(files, labels, strict=True):
        if label == path.name:
            raise InputError(f"{folder / path} is in no class's folder: move it into one, or away")
    groups = None
    if reading.group_pattern:
        found = [re.search(reading.group_pattern, path.name) for path in files]
        odd = next((path for path, match in zip(files, found, strict=True) if not match or not match[1]), None)
        if odd:
            raise InputError(f"--group-pattern {reading.group_pattern} finds nothing in {odd.name} ({folder / odd})")
        groups = [match[1] for match in found]
    return from_columns(
        folder=folder,
        files=[str(path) for path in files],
        groups=groups,
        told={"label": labels},
        where=[str(folder / path) for path in files],
        order=reading.order,
        limits={},
        sides=sides,
    )


def images(folder: Path) -> Iterator[Path]:
    """The images below a folder, but not those beside the sub-folders of a folder with such; hidden ones left out."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if len(inside) > 1 and path.suffix.lower() in SUFFIXES and not any(map(hidden, inside)) and path.is_file():
            yield path
