"""The competition's folders: which photographs there are, whose they are, and what they are labelled as."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.base.flags import data_folder
from utils.data.decoding import SUFFIXES, hidden
from utils.data.labels import STEM_MASKS, Labelling, Person, age_group, parse_person
from utils.data.relabel import apply_relabel, relabel_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photographs:
    """Labelled photographs in sorted order; all arrays have one entry per photograph.

    `ids` are `folder/file-stem`; `persons` name each person by a folder, of several folders of one id by the first.
    `masks` and `genders` index `labels.MASKS` and `labels.GENDERS`, `ages` are years. `strata` numbers each
    photograph's mask x gender x age group by its file and folder name with the fixed limits 30 and 60, before any
    relabelling, so that nothing moves anybody across the split. `relabelled` are those with a corrected label.
    """

    folder: Path
    files: np.ndarray  # (N,) str, relative to folder
    ids: np.ndarray  # (N,) str
    persons: np.ndarray  # (N,) str
    strata: np.ndarray  # (N,) int
    masks: np.ndarray = field(repr=False)  # (N,) int
    genders: np.ndarray = field(repr=False)  # (N,) int
    ages: np.ndarray = field(repr=False)  # (N,) int
    relabelled: np.ndarray = field(repr=False)  # (N,) bool

    def __len__(self) -> int:
        return len(self.files)

    @property
    def folders(self) -> np.ndarray:
        """(N,) the person folder of each photograph, by which records of splits name it."""
        return np.array([one.partition("/")[0] for one in self.ids.tolist()])

    def labels(self, labelling: Labelling) -> np.ndarray:
        """(N,) int64 class ids under `labelling`; raises `InputError` for classes of another kind."""
        if not labelling.attributes:
            raise InputError(
                f"{self.folder} has the competition's classes, and the model has {labelling.num_classes} others: "
                "main.py --score-on FOLDER scores it on images of its own classes, inference.py predicts with it"
            )
        ages = age_group(self.ages, labelling.age_limits)
        return labelling.encode(mask=self.masks, gender=self.genders, age=ages).astype(np.int64)


def read_photographs(data_location: Path, relabel: Path | None = None) -> Photographs:
    """List and label every training photograph below `data_location` (the root, `train` or `train/images`).

    Dot files and unknown names are skipped and counted in the log; folders of one id are one person. `relabel`
    (default: a `relabel.csv` beside the `images` folder, if there is one) corrects labels. Raises `InputError` for a
    missing folder, a person folder that does not parse, and an empty result.
    """
    folder = training_folder(data_location)
    skipped = defaultdict(list)
    rows = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if hidden(entry.name) or not entry.is_dir():
            skipped["dot files" if hidden(entry.name) else "files beside the person folders"].append(entry.name)
            continue
        try:
            person = parse_person(entry.name)
        except InputError as error:
            raise InputError(f"{error} (in {folder})") from None
        rows += [(person, name) for name in _photograph_names(Path(entry.path), skipped)]
    if not rows:
        raise InputError(f"no photographs in {folder}: expected id_gender_race_age/mask1.jpg and so on")
    if skipped:
        counts = [f"{len(names)} {what}" for what, names in sorted(skipped.items())]
        example = f" such as {skipped['unknown names'][0]!r}" if "unknown names" in skipped else ""
        log.info("skipped in %s: %s%s", folder, ", ".join(counts), example)
        log.debug("skipped: %s", dict(skipped))
    people = [person for person, _ in rows]
    stems = [Path(name).stem.lower() for _, name in rows]
    person_of = _person_of_folders(people)
    genders, ages = (np.array([getattr(person, key) for person in people]) for key in ("gender", "age"))
    masks = np.array([STEM_MASKS[stem] for stem in stems])
    photographs = Photographs(
        folder=folder,
        files=np.array([f"{person.folder}/{name}" for person, name in rows]),
        ids=np.array([f"{person.folder}/{stem}" for person, stem in zip(people, stems, strict=True)]),
        persons=np.array([person_of[person.folder] for person in people]),
        strata=Labelling().encode(mask=masks, gender=genders, age=age_group(ages, Labelling().age_limits)),
        masks=masks,
        genders=genders,
        ages=ages,
        relabelled=np.zeros(len(rows), bool),
    )
    relabel = relabel_file(folder, relabel)
    return photographs if relabel is None else apply_relabel(photographs, relabel)


def _person_of_folders(people: Iterable[Person]) -> dict[str, str]:
    """The first folder of the same id for each folder, in sorted order; the log names ids that have several."""
    folders = defaultdict(dict)
    for person in people:
        folders[person.id][person.folder] = None
    several = [f"{name} ({', '.join(some)})" for name, some in folders.items() if len(some) > 1]
    if several:
        log.warning(
            "%d ids have several folders and count as one person each (relabel.csv corrects what differs): %s%s",
            len(several),
            "; ".join(several[:5]),
            "; ..." if len(several) > 5 else "",
        )
        log.debug("ids with several folders: %s", "; ".join(several))
    return {folder: next(iter(some)) for some in folders.values() for folder in some}


def training_folder(data_location: Path) -> Path:
    """The folder of person folders: `train/images`, `images` or the location itself, the first that is there."""
    location = data_folder(data_location)
    for candidate in (location / "train" / "images", location / "images", location):
        if candidate.is_dir():
            return candidate
    raise AssertionError("the location itself is a folder")


def _photograph_names(folder: Path, skipped: dict[str, list[str]]) -> list[str]:
    """Names of a person's photographs, sorted by what they are in lower case."""
    names = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name.lower())
        if hidden(name) or stem not in STEM_MASKS or suffix not in SUFFIXES:
            skipped["dot files" if hidden(name) else "unknown names"].append(f"{folder.name}/{name}")
            continue
        if stem in names:
            raise InputError(f"{folder} holds both {names[stem]} and {name}: keep one of them")
        names[stem] = name
    return [names[stem] for stem in sorted(names)]
