"""Labelled images of others, to score somebody else's checkpoints on: a folder per class, or a CSV."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.data import read_csv
from utils.errors import InputError
from utils.images import SUFFIXES, check_complete
from utils.labels import Classes, Labelling


@dataclass(frozen=True)
class LabelledImages:
    """N images with the fields that `evaluation.HeldOut` reads of photographs; `persons` are what intervals resample.

    `files` and `ids` are paths relative to `folder`, `targets` (N,) class ids.
    """

    folder: Path
    files: np.ndarray
    ids: np.ndarray
    persons: np.ndarray
    targets: np.ndarray
    classes: Classes

    def __len__(self) -> int:
        return len(self.files)

    @property
    def numbered(self) -> bool:
        """Whether the labels are class ids rather than names."""
        return self.classes.classes == tuple(map(str, range(self.classes.num_classes)))

    def labels(self, labelling: Labelling | Classes) -> np.ndarray:
        """(N,) class ids in `labelling`; raises `InputError` when it lacks a class of the images."""
        if self.numbered and self.classes.num_classes <= labelling.num_classes:
            return self.targets
        absent = [name for name in self.classes.classes if name not in labelling.classes]
        if absent:
            raise InputError(
                f"the images in {self.folder} are of class {absent[0]!r}, which the checkpoints' "
                f"{labelling.num_classes} classes lack: give a CSV file,label with their class numbers"
            )
        return np.array([labelling.classes.index(name) for name in self.classes.classes])[self.targets]

    def head_classes(self, num_classes: int) -> Classes:
        """What the rows of a head without a record mean: the images' classes, or numbers when they are numbered.

        Raises `InputError` when the images have another number of classes.
        """
        if self.numbered and self.classes.num_classes <= num_classes:
            return Classes(tuple(map(str, range(num_classes))))
        if self.classes.num_classes != num_classes:
            raise InputError(
                f"the images in {self.folder} have {self.classes.num_classes} classes and the checkpoints' head has "
                f"{num_classes}: give a CSV file,label with class numbers"
            )
        return self.classes


def read_labelled_images(location: Path) -> LabelledImages:
    """One sub-folder per class, in sorted order, as torchvision and `datasets` have it; or a CSV `file,label`.

    A CSV names its files relative to its own folder. Labels that are whole numbers are class ids; others are names,
    numbered in sorted order. A third column `person` says which images belong together; else each stands for itself.
    Raises `InputError` for what cannot be read, and for an image that is missing, cut short or listed twice.
    """
    if location.is_dir():
        folder, rows = location, _class_folders(location)
    elif location.is_file():
        folder, rows = location.parent, _csv_rows(location)
    else:
        raise InputError(f"--score-on {location} is neither a folder with one sub-folder per class nor a CSV")
    doubled = [name for name, count in Counter(name for name, _, _ in rows).items() if count > 1]
    if doubled:
        raise InputError(f"{location} lists {len(doubled)} images twice, the first: {doubled[0]}")
    for name, _, _ in rows:
        check_complete(folder / name)
    files, names, persons = (np.array(column) for column in zip(*rows, strict=True))
    if all(name.isdecimal() for name in names):
        targets = names.astype(int)
        classes = tuple(map(str, range(targets.max() + 1)))
    else:
        classes, targets = np.unique(names, return_inverse=True)
        classes = tuple(map(str, classes))
    return LabelledImages(folder, files, files, persons, targets, Classes(classes))


def _class_folders(folder: Path) -> list[tuple[str, str, str]]:
    """(file, class, file) of all images; an image's person is itself."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    rows = []
    for one in classes:
        images = sorted(path for path in one.rglob("*") if path.suffix.lower() in SUFFIXES)
        names = [str(path.relative_to(folder)) for path in images if not path.name.startswith(".")]
        rows += [(name, one.name, name) for name in names]
    if not rows:
        raise InputError(f"no images in the sub-folders of {folder}: expected one sub-folder per class")
    return rows


def _csv_rows(path: Path) -> list[tuple[str, str, str]]:
    columns, lines = read_csv(path)
    if columns not in (["file", "label"], ["file", "label", "person"]):
        raise InputError(f"{path}: the columns are {','.join(columns)}, expected file,label or file,label,person")
    if not lines:
        raise InputError(f"{path} lists no images")
    return [(line["file"], line["label"].strip(), line.get("person", line["file"])) for line in lines]
