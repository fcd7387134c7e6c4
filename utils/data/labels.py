"""The competition's 18 classes: mask x gender x age, and what is read from a person's folder name.

Everything that is particular to these classes lives here; the rest of the project sees a `Labelling`.
"""

from dataclasses import dataclass

import numpy as np

from utils.base.errors import InputError

MASKS = ("worn", "incorrect", "not_worn")
GENDERS = ("male", "female")
ALL_ATTRIBUTES = ("mask", "gender", "age")
GROUP_ATTRIBUTES = ("gender", "age")  # that all photographs of a person share
STEM_MASKS = {**{f"mask{k}": 0 for k in range(1, 6)}, "incorrect_mask": 1, "normal": 2}


def age_group(age: np.ndarray | int, limits: tuple[int, int]) -> np.ndarray:
    """0 below `limits[0]` years, 1 from there to below `limits[1]`, 2 from `limits[1]` on."""
    return np.searchsorted(np.asarray(limits), age, side="right")


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
    if gender.lower() not in GENDERS:
        raise InputError(f"person folder {folder!r}: gender {gender!r} is none of {', '.join(GENDERS)}")
    return Person(folder, person_id, GENDERS.index(gender.lower()), parse_age(age, f"person folder {folder!r}"))


def parse_age(text: str, where: str) -> int:
    """A whole number of years from 0 to 150; raises `InputError` that begins with `where`."""
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) > 150:
        raise InputError(f"{where}: age {text[:20]!r} is no whole number of years from 0 to 150")
    return int(text)


@dataclass(frozen=True)
class Labelling:
    """Which attributes make up the class, and the age limits in years.

    A class id counts through the attributes in order, the last one fastest: with all three it is
    `mask * 6 + gender * 3 + age`; the age specialist has `attributes=("age",)` and the ids 0, 1, 2.
    """

    attributes: tuple[str, ...] = ALL_ATTRIBUTES
    age_limits: tuple[int, int] = (30, 60)

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """The names of each attribute's values, in class order."""
        young, old = self.age_limits
        every = {
            "mask": MASKS,
            "gender": GENDERS,
            "age": (f"under {young}", f"{young} to {old - 1}", f"{old} and over"),
        }
        return {attribute: every[attribute] for attribute in self.attributes}

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each attribute; a class id is an index into this shape in C order."""
        return tuple(len(names) for names in self.values.values())

    @property
    def num_classes(self) -> int:
        return int(np.prod(self.shape))

    @property
    def classes(self) -> tuple[str, ...]:
        """One readable name per class id, for example `worn, male, under 30`."""
        names = list(self.values.values())
        return tuple(
            ", ".join(names[axis][value] for axis, value in enumerate(index)) for index in np.ndindex(self.shape)
        )

    def encode(self, **attributes: np.ndarray | int) -> np.ndarray:
        """Class ids from attribute values given by name (`mask`, `gender`, `age` as value indices)."""
        return np.ravel_multi_index([np.asarray(attributes[name]) for name in self.attributes], self.shape)

    def decode(self, class_ids: np.ndarray | int) -> dict[str, np.ndarray]:
        """The inverse of `encode`: value indices of each attribute by name."""
        return dict(zip(self.attributes, np.unravel_index(np.asarray(class_ids), self.shape), strict=True))

    def record(self) -> dict:
        """What a checkpoint keeps of the labelling."""
        return {
            "attributes": list(self.attributes),
            "age_limits": list(self.age_limits),
            "classes": list(self.classes),
        }


@dataclass(frozen=True)
class Classes:
    """Any classes, known by name only: what the head of somebody else's model tells apart."""

    classes: tuple[str, ...]
    attributes = ()

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def decode(self, class_ids: np.ndarray | int) -> dict[str, np.ndarray]:
        """These classes are made up of no attributes."""
        return {}

    def record(self) -> dict:
        """What a checkpoint keeps of them."""
        return {"classes": list(self.classes)}


def labelling_from_record(record: dict) -> Labelling | Classes:
    """The inverse of `record`."""
    if "attributes" in record:
        return Labelling(tuple(record["attributes"]), tuple(record["age_limits"]))
    return Classes(tuple(record["classes"]))


PROMPT_TEMPLATES = (
    "a photo of {}.",
    "a close-up photo of the face of {}.",
    "a frontal portrait photo of {}.",
    "a webcam picture of {}.",
    "a cropped photo of {}, looking at the camera.",
)


def prompts(labelling: Labelling) -> list[list[str]]:
    """For each class its description in every template, for CLIP's text tower."""
    young, old = labelling.age_limits
    mask_phrases = (
        "wearing a face mask over nose and mouth",
        "wearing a face mask incorrectly with the nose uncovered",
        "without a face mask",
    )
    age_phrases = (
        f"a young {{}} under {young}",
        f"a middle-aged {{}} between {young} and {old}",
        f"an old {{}} over {old}",
    )
    every = []
    for class_id in range(labelling.num_classes):
        value = {name: int(index) for name, index in labelling.decode(class_id).items()}
        noun = ("man", "woman")[value["gender"]] if "gender" in value else "person"
        description = age_phrases[value["age"]].format(noun) if "age" in value else f"a {noun}"
        if "mask" in value:
            description += f" {mask_phrases[value['mask']]}"
        every.append([template.format(description) for template in PROMPT_TEMPLATES])
    return every
