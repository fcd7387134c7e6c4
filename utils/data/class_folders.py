"""Photographs in a folder per class, as torchvision and `datasets` have it; perhaps inside `train`, `val`, `test`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from utils.base.errors import InputError
from utils.data.image_names import images_below
from utils.data.photographs import HELD_OUT, TRAIN, Photographs, from_columns

if TYPE_CHECKING:
    from utils.data.reading import Reading


def looks_like_it(folder: Path) -> bool:
    """Whether there is an image in a sub-folder."""
    return any(len(path.parts) > 1 for path in images_below(folder))


def read_class_folders(folder: Path, reading: Reading) -> Photographs:
    """The photographs of all classes; a sub-folder of another one belongs to the class of the outer.

    Where there are classes in a folder `train`, those of `val` or `validation` are held out, and `test` is left for
    inference. Raises `InputError` for an image beside the folders of classes, for a `val` without images, and for a
    file name in which `--group-pattern` finds nothing.
    """
    is_split = _is_split(folder)
    parts = [folder / name for name in (TRAIN, *HELD_OUT)] if is_split else [folder]
    files = [(part / path).relative_to(folder) for part in parts for path in sorted(images_below(part))]
    depth = int(is_split)
    beside = next((path for path in files if len(path.parts) <= depth + 1), None)
    if beside:
        raise InputError(f"{folder / beside} is in no class's folder: move it into one, or away")
    sides = [path.parts[0] for path in files] if is_split else None
    if empty := [part for part in parts if is_split and part.is_dir() and part.name not in sides]:
        raise InputError(f"{empty[0]} holds no images: fill it, or remove it and a part of {TRAIN} is held out")
    if sides and set(sides) == {TRAIN}:
        sides = None
    labels = [path.parts[depth] for path in files]
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


def _is_split(folder: Path) -> bool:
    """Whether the classes are inside `train` and so on; a class may be called so, too. Raises `InputError` for a
    `Train`, which would be taken for one.
    """
    if looks_like_it(folder / TRAIN):
        return True
    for path in sorted(folder.iterdir()):
        if path.name.lower() == TRAIN and looks_like_it(path):
            raise InputError(f"{path} has folders inside, as those to train on: call it {TRAIN}, and so on")
    return False


def images(folder: Path) -> Iterator[Path]:
    """The images in the sub-folders of a folder, sorted, relative to it."""
    return (path for path in sorted(images_below(folder)) if len(path.parts) > 1)
