"""Labelled images of others, to score somebody else's checkpoints on: a folder per class, or a CSV."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.base.tables import read_dicts
from utils.data import class_folders
from utils.data.image_names import hidden
from utils.data.labels import Labelling, plain
from utils.data.tables import check_images

NUMBER, CLASS_ID = re.compile(r"[-+]?\d+(\.\d*)?"), re.compile(r"0*(\d+)(\.0*)?")


@dataclass(frozen=True)
class LabelledImages:
    """N images with the fields that `evaluation.HeldOut` reads of photographs; `persons` are what intervals resample.

    `files` and `ids` are paths relative to `folder`. `targets` (N,) are class ids where `names` is None, else they
    index `names`.
    """

    folder: Path
    files: np.ndarray
    ids: np.ndarray
    persons: np.ndarray
    targets: np.ndarray
    names: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def whose(self) -> str:
        """What `persons` are: people as far as the CSV tells them, else images."""
        return "images" if len(set(self.persons)) == len(self) else "people"

    @property
    def relabelled(self) -> np.ndarray:
        """(N,) bool: relabel.csv corrects none of them."""
        return np.zeros(len(self), bool)

    def labels(self, labelling: Labelling) -> np.ndarray:
        """(N,) class ids in `labelling`; raises `InputError` when it lacks a class of the images."""
        if self.names is None:
            self._check_largest(labelling.num_classes)
            return self.targets
        absent = [name for name in self.names if name not in labelling.classes]
        if absent:
            raise InputError(
                f"the images in {self.folder} are of class {absent[0]!r}, which the checkpoints' "
                f"{labelling.num_classes} classes lack: give a CSV file,label with their class numbers"
            )
        return np.array([labelling.classes.index(name) for name in self.names])[self.targets]

    def head_classes(self, num_classes: int) -> Labelling:
        """What the rows of a head without a record mean: the images' classes, or numbers when they are numbered.

        Raises `InputError` when the images have another number of classes.
        """
        if self.names is None:
            self._check_largest(num_classes)
            return plain(tuple(map(str, range(num_classes))))
        if len(self.names) != num_classes:
            raise InputError(
                f"the images in {self.folder} have {len(self.names)} classes and the checkpoints' head has "
                f"{num_classes}: give a CSV file,label with class numbers"
            )
        return plain(self.names)

    def _check_largest(self, num_classes: int) -> None:
        if self.targets.max() >= num_classes:
            raise InputError(
                f"the images in {self.folder} have a label {self.targets.max()}, and the checkpoints' head has the "
                f"class numbers 0 to {num_classes - 1}"
            )


def read_labelled_images(location: Path) -> LabelledImages:
    """One sub-folder per class, in sorted order, as torchvision and `datasets` have it; or a CSV `file,label`.

    A CSV names its files relative to its own folder. Labels that are whole numbers are class ids; others are names,
    numbered in sorted order. A third column `person` says which images belong together; else each stands for itself.
    Raises `InputError` for what cannot be read or can be read in two ways, and for an image that is missing or
    listed twice.
    """
    if location.is_dir():
        folder, (rows, names) = location, _class_folders(location)
    elif location.is_file():
        folder, (rows, names) = location.parent, _csv_rows(location)
    else:
        raise InputError(f"--score-on {location} is neither a folder with one sub-folder per class nor a CSV")
    files, targets, persons = (np.array(column) for column in zip(*rows, strict=True))
    return LabelledImages(folder, files, files, persons, targets, names)


def _class_folders(folder: Path) -> tuple[list[tuple[str, int, str]], tuple[str, ...]]:
    """(file, class, file) of all images, an image's person being itself; and the classes."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not hidden(path.name))
    if all(name.isdecimal() for name in classes) and classes != [str(k) for k in range(len(classes))]:
        raise InputError(
            f"the sub-folders of {folder} ({', '.join(classes[:3])} ...) could be class numbers or names in sorted "
            "order: give a CSV file,label"
        )
    rows = [(str(file), classes.index(file.parts[0]), str(file)) for file in class_folders.images(folder)]
    if not rows:
        raise InputError(f"no images in the sub-folders of {folder}: expected one sub-folder per class")
    return rows, tuple(classes)


def _csv_rows(path: Path) -> tuple[list[tuple[str, int, str]], tuple[str, ...] | None]:
    """(file, class, person) of each line; and the classes, None when the labels are class ids."""
    columns, numbered = read_dicts(path)
    if columns not in (["file", "label"], ["file", "label", "person"]):
        raise InputError(f"{path}: the columns are {','.join(columns)}, expected file,label or file,label,person")
    if not numbered:
        raise InputError(f"{path} lists no images")
    rows, lines = zip(*numbered, strict=True)
    files = [os.path.normpath(line["file"].rstrip(" \t")) for line in lines]
    check_images(path, path.parent, files, rows)
    persons = [line.get("person", file).strip() for line, file in zip(lines, files, strict=True)]
    for row, file, person in zip(rows, files, persons, strict=True):
        if not person:
            raise InputError(f"{path} line {row}: {file} has no person: fill the column in, or leave it out")
    labels = [line["label"].strip() for line in lines]
    ids = [CLASS_ID.fullmatch(label) for label in labels]
    if all(ids):
        targets, names = [int(one[1]) if len(one[1]) < 10 else 2**31 for one in ids], None  # no head has so many
    else:
        numbers = any(map(NUMBER.fullmatch, labels))
        for row, label, class_id in zip(rows, labels, ids, strict=True):
            if not label or (numbers and not class_id):
                raise InputError(f"{path} row {row}: label {label!r} is no class number, as others are, nor a name")
        names, targets = np.unique(labels, return_inverse=True)
        names, targets = tuple(map(str, names)), targets.tolist()
    return list(zip(files, targets, persons, strict=True)), names
