"""The competition's photographs: seven of each person in a folder `{id}_{gender}_{race}_{age}`, in 18 classes.

Everything that is particular to masks, genders and ages lives here; the rest of the project sees `Photographs` and
their `Labelling`.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.base.options import Options
from utils.data.image_names import SUFFIXES, hidden
from utils.data.labels import Attribute, Labelling, number
from utils.data.photographs import Photographs, told

log = logging.getLogger(__name__)

MASKS = ("worn", "incorrect", "not_worn")
GENDERS = ("male", "female")
AGE_LIMITS = (30, 60)
OLDEST = 150  # years
FALLBACK = 4  # the most frequent class of the training set: worn, female, 30 to 59
GROUP_ATTRIBUTES = ("gender", "age")  # that all photographs of a person share
STEM_MASKS = {**{f"mask{k}": 0 for k in range(1, 6)}, "incorrect_mask": 1, "normal": 2}
LAYOUT = "id_gender_race_age/mask1.jpg and so on"


def labelling(attributes: tuple[str, ...] | None = None, age_limits: tuple[int, int] = AGE_LIMITS) -> Labelling:
    """Mask, gender and age, or some of them; the age specialist has `("age",)` and the classes 0, 1, 2."""
    parts = Attribute("mask", MASKS), Attribute("gender", GENDERS), number("age", age_limits, "years", OLDEST)
    every = Labelling(parts)
    return every if attributes is None else every.only(attributes)


def is_its(known: Labelling) -> bool:
    """Whether classes are made of these attributes, or some of them, whatever the two limits of ages."""
    return bool(known.parts) and all(map(_is_own, known.parts))


def told_by(columns: list[str]) -> Labelling | None:
    """The labelling of a table that has a column for each of the attributes; None for others."""
    own = labelling()
    return own if set(own.attributes) <= set(columns) else None


def asked_limits(photographs: Photographs, options: Options) -> dict[str, tuple[int, int]]:
    """Limits other than the usual that `--age-limits` asks for; raises `InputError` for flags about ages where none
    are told.
    """
    asked = {
        "--age-limits": options.age_limits != AGE_LIMITS,
        "--drop-ages": options.drop_ages,
        "--age-regression": options.age_regression,
        "--old-aug True": options.old_aug,
    }
    flag = next((flag for flag, given in asked.items() if given), None)
    if flag and "age" not in photographs.labelling.limits:
        raise InputError(
            f"{flag} is about ages, and {photographs.folder} tells no age in years, only "
            f"{told(photographs.labelling)}: leave it out (--oversample NAME=VALUE shows images of any value once "
            "more), or name a column of ages with --label-columns and --limits age=30,60"
        )
    return {"age": options.age_limits} if asked["--age-limits"] else {}


def years(photographs: Photographs) -> np.ndarray:
    """(N,) int ages, where the photographs tell them."""
    return photographs.values["age"]


def oldest(known: Labelling) -> str:
    """What `--old-aug True` stands for, as `--oversample` has it."""
    return f"age={known['age'].values[-1]}"


@dataclass(frozen=True)
class Person:
    """One person's folder `{id}_{gender}_{race}_{age}`; `gender` indexes `GENDERS`, `age` is in years."""

    folder: str
    id: str
    gender: int
    age: int


def parse_person(folder: str) -> Person:
    """Read a person's folder name, whatever the case of its gender; raises `InputError` with the name when it does not
    follow the layout.
    """
    parts = folder.split("_")
    if len(parts) != 4 or not all(parts):
        raise InputError(
            f"person folder {folder!r} is not of the form id_gender_race_age, for example 000001_male_Asian_25"
        )
    person_id, gender, _, age = parts
    known, where = labelling(), f"person folder {folder!r}"
    return Person(folder, person_id, known["gender"].parse(gender, where), known["age"].parse(age, where))


def looks_like_it(folder: Path) -> bool:
    """Whether a folder has the competition's layout: a sub-folder that is named as a person's, or holds a photograph
    that is named as theirs are.
    """
    for entry in os.scandir(folder):
        if hidden(entry.name) or not entry.is_dir():
            continue
        try:
            parse_person(entry.name)
        except InputError:
            stems = (os.path.splitext(name.lower()) for name in os.listdir(entry.path))
            if not any(stem in STEM_MASKS and suffix in SUFFIXES for stem, suffix in stems):
                continue
        return True
    return False


def read_person_folders(folder: Path) -> Photographs:
    """All photographs of the person folders in `folder`, labelled by its names.

    Dot files and unknown names are skipped and counted in the log; folders of one id are one person. Raises
    `InputError` for a person folder that does not parse, and an empty result.
    """
    skipped = defaultdict(list)
    rows, empty = [], []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if hidden(entry.name) or not entry.is_dir():
            skipped["dot files" if hidden(entry.name) else "files beside the person folders"].append(entry.name)
            continue
        try:
            person = parse_person(entry.name)
        except InputError as error:
            raise InputError(f"{error} (in {folder})") from None
        names = _photograph_names(Path(entry.path), skipped)
        rows += [(person, name) for name in names]
        if not names:
            empty.append(entry.name)
    if not rows:
        raise InputError(f"no photographs in {folder}: expected {LAYOUT}")
    if skipped:
        counts = [f"{len(names)} {what}" for what, names in sorted(skipped.items())]
        example = f" such as {skipped['unknown names'][0]!r}" if "unknown names" in skipped else ""
        log.info("skipped in %s: %s%s", folder, ", ".join(counts), example)
        log.debug("skipped: %s", dict(skipped))
    if empty:
        log.warning("%d person folders in %s hold no photograph: %s", len(empty), folder, ", ".join(empty[:5]))
    people = [person for person, _ in rows]
    stems = [Path(name).stem.lower() for _, name in rows]
    person_of = _person_of_folders(people)
    known = labelling()
    values = {
        "mask": np.array([STEM_MASKS[stem] for stem in stems]),
        "gender": np.array([person.gender for person in people]),
        "age": np.array([person.age for person in people]),
    }
    classes = known.encode(**{part.name: part.index(values[part.name]) for part in known.parts})
    return Photographs(
        folder=folder,
        files=np.array([f"{person.folder}/{name}" for person, name in rows]),
        ids=np.array([f"{person.folder}/{stem}" for person, stem in zip(people, stems, strict=True)]),
        persons=np.array([person_of[person.folder] for person in people]),
        names=np.array([person.folder for person in people]),
        labelling=known,
        values=values,
        shared=GROUP_ATTRIBUTES,
        strata=classes,
        relabelled=np.zeros(len(rows), bool),
    )


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


ABOUT = (
    "Mask, gender and age",
    "A guess from one frontal photograph of a face, by a model trained for a competition. It is no instrument to "
    "judge people by.",
)  # title and words of a page that anybody may see
MANY_OF_THREE, MANY_MASKED = 10, 50  # rows: of the task's photographs a third are of class 0 to 2, a seventh unmasked


def oddity(answers: np.ndarray) -> str:
    """In words why (N,) answers are hardly those of the 18 classes; nothing when they may be."""
    known = labelling()
    rows, last, ages = len(answers), int(answers.max()), len(known["age"].values)
    bare = int(known.encode(mask=2, gender=0, age=0))  # the first class without a mask
    if last < ages and rows >= MANY_OF_THREE:
        return f"answers all {rows} rows with 0 to {ages - 1}, as a model of one attribute does"
    if last < bare and rows >= MANY_MASKED:
        return f"answers none of {rows} rows with {bare} or above (no mask), as other classes than the 18 do"
    return ""


PROMPT_TEMPLATES = (
    "a photo of {}.",
    "a close-up photo of the face of {}.",
    "a frontal portrait photo of {}.",
    "a webcam picture of {}.",
    "a cropped photo of {}, looking at the camera.",
)


def prompts(known: Labelling) -> list[list[str]] | None:
    """For each class its description in every template, for CLIP's text tower; None for classes that are not made of
    the competition's attributes.
    """
    if not is_its(known):
        return None
    mask_phrases = (
        "wearing a face mask over nose and mouth",
        "wearing a face mask incorrectly with the nose uncovered",
        "without a face mask",
    )
    every = []
    for class_id in range(known.num_classes):
        value = {name: int(index) for name, index in known.decode(class_id).items()}
        noun = ("man", "woman")[value["gender"]] if "gender" in value else "person"
        description = f"a {noun}"
        if "age" in value:
            young, old = known.limits["age"]
            description = (
                f"a young {noun} under {young}",
                f"a middle-aged {noun} between {young} and {old}",
                f"an old {noun} over {old}",
            )[value["age"]]
        if "mask" in value:
            description += f" {mask_phrases[value['mask']]}"
        every.append([template.format(description) for template in PROMPT_TEMPLATES])
    return every


def _is_own(part: Attribute) -> bool:
    """Whether it is one of the competition's attributes, under whatever two limits."""
    own = next((one for one in labelling().parts if one.name == part.name), None)
    if own is None or own.limits is None or part.limits is None:
        return own == part
    return len(own.limits) == len(part.limits)
