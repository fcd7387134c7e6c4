"""A set of labelled photographs: which there are, which belong together, and what is told of each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.data.labels import BETWEEN, Attribute, Labelling, number

TRAIN, TEST = "train", "test"
WHOLE = "class"  # what scores, files and pages call all attributes together
HELD_OUT = ("val", "validation", "valid", "dev", "held_out")


@dataclass(frozen=True)
class Photographs:
    """Labelled photographs in the order of their reader; all arrays have one entry per photograph.

    A group, such as the photographs of one person, must not stand on both sides of a split: `persons` names the group,
    or the photograph itself where there are none, and `names` is what the record of a split calls it (of several
    folders of one person each has its own). `values` has a column for each attribute of `labelling`: indices into the
    names of its values, or of a number the number itself. `shared` are the attributes that all of a group have in
    common. `strata` numbers the classes as they were read, before any correction and with the reader's own limits, so
    that nothing moves anybody across the split. `relabelled` are those with a corrected label. `sides` says who is
    held out, or in which fold, where the photographs themselves tell. `whose` is what groups are called, and
    `listed_in` the table that lists the photographs.
    """

    folder: Path
    files: np.ndarray  # (N,) str, relative to folder
    ids: np.ndarray  # (N,) str
    persons: np.ndarray  # (N,) str
    names: np.ndarray  # (N,) str
    labelling: Labelling
    values: dict[str, np.ndarray] = field(repr=False)  # (N,) int each
    shared: tuple[str, ...]
    strata: np.ndarray  # (N,) int
    relabelled: np.ndarray = field(repr=False)  # (N,) bool
    sides: np.ndarray | None = None  # (N,) str
    whose: str = "people"
    listed_in: Path | None = None

    @property
    def corrections(self) -> Path:
        """Where corrected labels are unless one says so: beside the table that lists them, or beside the folder."""
        return (self.listed_in or self.folder).parent / "relabel.csv"

    def __len__(self) -> int:
        return len(self.files)

    @property
    def group_strata(self) -> np.ndarray:
        """(N,) the part of `strata` that all photographs of a group share, as far as the reader knows."""
        own = self.labelling.only(self.shared)
        values = self.labelling.decode(self.strata)
        return own.encode(**{name: values[name] for name in own.attributes}) if self.shared else 0 * self.strata

    def labels(self, labelling: Labelling) -> np.ndarray:
        """(N,) int64 class ids under `labelling`; raises `InputError` for classes of another kind."""
        if not labelling.attributes:
            raise InputError(
                f"{self.folder} has the classes {told(self.labelling)}, and the model has {labelling.num_classes} "
                "others: main.py --score-on FOLDER scores it on images of its own classes, inference.py predicts "
                "with it"
            )
        columns = {part.name: self._column(part) for part in labelling.parts}
        return labelling.encode(**columns).astype(np.int64)

    def _column(self, part) -> np.ndarray:
        """(N,) indices into the values of an attribute of somebody's labelling."""
        mine = next((one for one in self.labelling.parts if one.name == part.name), None)
        if mine is None or (mine.limits is None) != (part.limits is None):
            kind = "" if part.limits is None else " as a number"
            raise InputError(f"{self.folder} tells no {part.name}{kind}, only {told(self.labelling)}")
        if part.limits is not None or mine.values == part.values:
            return part.index(self.values[part.name])
        place = {value: k for k, value in enumerate(part.values)}
        used = np.unique(self.values[part.name])
        unknown = [mine.values[k] for k in used if mine.values[k] not in place]
        if unknown:
            raise InputError(
                f"{self.folder} has the {part.name} {unknown[0]!r}, which the model does not know: it tells "
                f"{', '.join(part.values[:5])}{' ...' if len(part.values) > 5 else ''}"
            )
        return np.array([place.get(value, -1) for value in mine.values])[self.values[part.name]]


def told(labelling: Labelling) -> str:
    """The attributes of a labelling in few words."""
    return " x ".join(labelling.attributes) or f"{labelling.num_classes} names"


def from_columns(
    folder: Path,
    files: Sequence[str],
    groups: Sequence[str] | None,
    told: dict[str, Sequence[str]],
    where: Sequence[str],
    order: dict[str, tuple[str, ...]],
    limits: dict[str, tuple[int, ...]],
    sides: Sequence[str] | None = None,
    whose: str = "groups",
    listed_in: Path | None = None,
) -> Photographs:
    """A set of photographs by columns of text: `told` has one for each attribute, and `where` names each photograph in
    errors. `order` has the values of attributes in the order of class numbers (by default they are sorted, numbers by
    size), `limits` those of attributes that are numbers. Those on the side `test` are left out.
    """
    for name in (*order, *limits):
        if name not in told:
            raise InputError(f"there is no label column {name!r}, only {', '.join(told)}: see --values and --limits")
    stems = [str(Path(file).with_suffix("")) for file in files]
    ids = np.array(stems if len(set(stems)) == len(stems) else files)
    rows = np.argsort(ids, kind="stable")
    if sides is not None:
        rows = rows[np.array(sides)[rows] != TEST]
        if len(rows) < len(sides) and all(sides[k] == TRAIN for k in rows):  # nobody is told to be held out
            sides = None
    if not len(rows):
        raise InputError(
            f"no photographs to train on in {listed_in or folder}: all are on the side {TEST}, to be predicted"
        )
    if len(told) > 1 and WHOLE in told:
        raise InputError(f"a label column is called {WHOLE!r}, as what all of them make up: rename it")
    parts, values = [], {}
    for name, column in told.items():
        part = _attribute(name, [column[k] for k in rows], order.get(name), limits.get(name))
        if len(told) > 1 and (odd := next((value for value in part.values if BETWEEN in value), None)):
            raise InputError(f"{name} {odd!r} has a comma, which stands between the parts of a class: rename it")
        parts.append(part)
        values[name] = np.array([part.parse(column[k], where[k]) for k in rows])
    labelling, ids = Labelling(tuple(parts)), ids[rows]
    persons = ids if groups is None else np.array(groups)[rows]
    strata = labelling.encode(**{part.name: part.index(values[part.name]) for part in parts})
    return Photographs(
        folder=folder,
        files=np.array(files)[rows],
        ids=ids,
        persons=persons,
        names=persons,
        labelling=labelling,
        values=values,
        shared=tuple(name for name in told if _is_shared(persons, values[name])),
        strata=strata,
        relabelled=np.zeros(len(rows), bool),
        sides=None if sides is None else np.array(sides)[rows],
        whose="images" if groups is None else whose,
        listed_in=listed_in,
    )


def _attribute(
    name: str, column: Sequence[str], order: tuple[str, ...] | None, limits: tuple[int, ...] | None
) -> Attribute:
    if limits:
        return number(name, limits)
    found = set(column)
    by_size = (lambda one: (int(one), one)) if all(one.isdecimal() for one in found) else None
    return Attribute(name, order or tuple(sorted(found, key=by_size)))


def _is_shared(groups: np.ndarray, column: np.ndarray) -> bool:
    """Whether all of a group have the same value."""
    return len(np.unique(groups)) == len({*zip(groups.tolist(), column.tolist(), strict=True)})
