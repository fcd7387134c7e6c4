"""A set of labelled photographs: which there are, which belong together, and what is told of each."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.data.labels import Labelling


@dataclass(frozen=True)
class Photographs:
    """Labelled photographs in the order of their reader; all arrays have one entry per photograph.

    A group, such as the photographs of one person, must not stand on both sides of a split: `persons` names the group,
    or the photograph itself where there are none, and `names` is what the record of a split calls it (of several
    folders of one person each has its own). `values` has a column for each attribute of `labelling`: indices into the
    names of its values, or of a number the number itself. `shared` are the attributes that all of a group have in
    common. `strata` numbers the classes as they were read, before any correction and with the reader's own limits, so
    that nothing moves anybody across the split. `relabelled` are those with a corrected label.
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
