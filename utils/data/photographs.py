"""The competition's folders: which photographs there are, whose they are, and what they are labelled as."""

import logging
import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.base.flags import data_folder
from utils.base.tables import read_dicts
from utils.data.images import SUFFIXES
from utils.data.labels import GENDERS, MASKS, STEM_MASKS, Labelling, age_group, parse_age, parse_person

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photographs:
    """Labelled photographs in sorted order; all arrays have one entry per photograph.

    `ids` are `person/file-stem`, `persons` the folder names; `masks` and `genders` index `labels.MASKS` and
    `labels.GENDERS`, `ages` are years. `strata` numbers each photograph's mask x gender x age group by its file and
    folder name with the fixed limits 30 and 60, before any relabelling, so that nothing moves anybody across the
    split.
    """

    folder: Path
    files: np.ndarray  # (N,) str, relative to folder
    ids: np.ndarray  # (N,) str
    persons: np.ndarray  # (N,) str
    strata: np.ndarray  # (N,) int
    masks: np.ndarray = field(repr=False)  # (N,) int
    genders: np.ndarray = field(repr=False)  # (N,) int
    ages: np.ndarray = field(repr=False)  # (N,) int

    def __len__(self) -> int:
        return len(self.files)

    def labels(self, labelling: Labelling) -> np.ndarray:
        """(N,) int64 class ids under `labelling`."""
        ages = age_group(self.ages, labelling.age_limits)
        return labelling.encode(mask=self.masks, gender=self.genders, age=ages).astype(np.int64)


def read_photographs(data_location: Path, relabel: Path | None = None) -> Photographs:
    """List and label every training photograph below `data_location` (the root, `train` or `train/images`).

    Dot files and unknown names are skipped and counted in the log. `relabel` (default: a `relabel.csv` beside the
    `images` folder, if there is one) corrects labels. Raises `InputError` for a missing folder, a person folder that
    does not parse, and an empty result.
    """
    folder = training_folder(data_location)
    skipped = Counter()
    rows = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or not entry.is_dir():
            skipped["dot files" if entry.name.startswith(".") else "files beside the person folders"] += 1
            continue
        try:
            person = parse_person(entry.name)
        except InputError as error:
            raise InputError(f"{error} (in {folder})") from None
        rows += [(person, name) for name in _photograph_names(Path(entry.path), skipped)]
    if not rows:
        raise InputError(f"no photographs in {folder}: expected id_gender_race_age/mask1.jpg and so on")
    if skipped:
        log.info("skipped in %s: %s", folder, ", ".join(f"{n} {what}" for what, n in sorted(skipped.items())))
    people = [person for person, _ in rows]
    stems = [Path(name).stem for _, name in rows]
    genders, ages = (np.array([getattr(person, key) for person in people]) for key in ("gender", "age"))
    masks = np.array([STEM_MASKS[stem] for stem in stems])
    photographs = Photographs(
        folder=folder,
        files=np.array([f"{person.folder}/{name}" for person, name in rows]),
        ids=np.array([f"{person.folder}/{stem}" for person, stem in zip(people, stems, strict=True)]),
        persons=np.array([person.folder for person in people]),
        strata=Labelling().encode(mask=masks, gender=genders, age=age_group(ages, Labelling().age_limits)),
        masks=masks,
        genders=genders,
        ages=ages,
    )
    default = folder.parent / "relabel.csv"
    relabel = relabel or (default if default.is_file() else None)
    return photographs if relabel is None else apply_relabel(photographs, relabel)


def training_folder(data_location: Path) -> Path:
    """The folder of person folders: `train/images`, `images` or the location itself, the first that is there."""
    location = data_folder(data_location)
    for candidate in (location / "train" / "images", location / "images", location):
        if candidate.is_dir():
            return candidate
    raise AssertionError("the location itself is a folder")


def _photograph_names(folder: Path, skipped: Counter) -> list[str]:
    """Names of a person's photographs, sorted."""
    names = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if name.startswith(".") or stem not in STEM_MASKS or suffix.lower() not in SUFFIXES:
            skipped["dot files" if name.startswith(".") else "unknown names"] += 1
            continue
        if stem in names:
            raise InputError(f"{folder} holds both {names[stem]} and {name}: keep one of them")
        names[stem] = name
    return list(names.values())


def apply_relabel(photographs: Photographs, path: Path) -> Photographs:
    """Correct labels from a CSV with the columns `id,attribute,value`.

    `id` is a person's folder name or leading id (then all seven photographs change) or `person/file-stem`; `attribute`
    is mask (`worn`, `incorrect`, `not_worn`), gender (`male`, `female`) or age (years). An unknown id, attribute or
    value is an `InputError` that names the line.
    """
    header, lines = read_dicts(path)
    if header != ["id", "attribute", "value"]:
        raise InputError(f"{path}: the columns are {','.join(header)}, expected id,attribute,value")
    columns = {name: getattr(photographs, name).copy() for name in ("masks", "genders", "ages")}
    changed = Counter()
    for number, line in lines:
        where = f"{path} line {number}"
        rows = _matching_rows(photographs, line["id"], where)
        name, value = _relabel_value(line["attribute"], line["value"], where)
        changed[line["attribute"]] += int((columns[name][rows] != value).sum())
        columns[name][rows] = value
    counts = ", ".join(f"{n} of {attribute}" for attribute, n in sorted(changed.items())) or "nothing"
    log.info("relabelled from %s: %s", path, counts)
    return replace(photographs, **columns)


def _matching_rows(photographs: Photographs, identifier: str, where: str) -> np.ndarray:
    """(N,) bool: the photographs that `identifier` means."""
    person, slash, stem = identifier.partition("/")
    folders = {name for name in np.unique(photographs.persons) if person in (name, name.split("_")[0])}
    if len(folders) > 1:
        raise InputError(f"{where}: id {person!r} fits {', '.join(sorted(folders))}: give the folder's whole name")
    rows = np.isin(photographs.persons, list(folders))
    if slash:
        rows &= photographs.ids == f"{next(iter(folders), person)}/{stem}"
    if not rows.any():
        raise InputError(f"{where}: no photograph has the id {identifier!r}")
    return rows


def _relabel_value(attribute: str, value: str, where: str) -> tuple[str, int]:
    """The `Photographs` field that `attribute` names, and the value to put there."""
    if attribute == "age":
        return "ages", parse_age(value, where)
    names = {"mask": ("masks", MASKS), "gender": ("genders", GENDERS)}
    if attribute not in names:
        raise InputError(f"{where}: attribute {attribute!r} is none of mask, gender, age")
    field_name, allowed = names[attribute]
    if value not in allowed:
        raise InputError(f"{where}: {attribute} {value!r} is none of {', '.join(allowed)}")
    return field_name, allowed.index(value)
