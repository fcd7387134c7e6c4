"""What a class is: a product of attributes with named values.

Plain classes are one attribute; an attribute may also be a number that limits cut into groups, as an age. Nothing here
knows which attributes there are: the reader of a set of photographs says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from utils.base.errors import InputError

BETWEEN = ", "  # the parts of a class's name
LARGEST = 999_999_999  # of numbers
MOST = 20  # values that an error lists


@dataclass(frozen=True)
class Attribute:
    """One thing that is told of an image: `values` are the names of what it can be, in order.

    A number has `limits`: value k is from `limits[k - 1]` to below `limits[k]`, counted in `unit` and at most
    `largest`.
    """

    name: str
    values: tuple[str, ...]
    limits: tuple[int, ...] | None = None
    unit: str = field(default="", compare=False)
    largest: int = field(default=LARGEST, compare=False)

    def index(self, column: np.ndarray) -> np.ndarray:
        """(N,) indices into `values` of a column of `Photographs`: these indices themselves, or numbers."""
        return column if self.limits is None else np.searchsorted(self.limits, column, side="right")

    def listed(self, most: int) -> str:
        """The names of the values, or the first of them."""
        return ", ".join(self.values[:most]) + (", ..." if len(self.values) > most else "")

    def parse(self, text: str, where: str) -> int:
        """The index of a value that is told in words, or a number; raises `InputError` that begins with `where`."""
        if self.limits is None:
            return self.named(text, where)
        if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) > self.largest:
            unit = f" of {self.unit}" if self.unit else ""
            raise InputError(f"{where}: {self.name} {text[:20]!r} is no whole number{unit} from 0 to {self.largest}")
        return int(text)

    def named(self, text: str, where: str) -> int:
        """The index of the value of this name, in any case; the last one of a number is also called `60+`."""
        if self.limits is not None and text == f"{self.limits[-1]}+":
            return len(self.limits)
        if text in self.values:
            return self.values.index(text)
        lower = [value.lower() for value in self.values]
        if text.lower() not in lower:
            shown = self.listed(MOST)
            raise InputError(f"{where}: {self.name} {text!r} is none of {shown}")
        return lower.index(text.lower())


def number(name: str, limits: tuple[int, ...], unit: str = "", largest: int = LARGEST) -> Attribute:
    """An attribute that is a number, cut into groups by ascending `limits`."""
    between = [f"{low} to {high - 1}" for low, high in pairwise(limits)]
    names = (f"under {limits[0]}", *between, f"{limits[-1]} and over")
    return Attribute(name, names, tuple(limits), unit, largest)


@dataclass(frozen=True)
class Labelling:
    """The attributes that make up the class.

    A class id counts through their values, the last attribute fastest: of 3 masks, 2 genders and 3 groups of age it is
    `mask * 6 + gender * 3 + age`. Without attributes nothing but the names of the classes is known, as of the head of
    somebody else's model.
    """

    parts: tuple[Attribute, ...]
    names: tuple[str, ...] = ()  # of the classes, where there are no attributes

    @property
    def attributes(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    def __getitem__(self, attribute: str) -> Attribute:
        return next(part for part in self.parts if part.name == attribute)

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """The names of each attribute's values, in class order."""
        return {part.name: part.values for part in self.parts}

    @property
    def limits(self) -> dict[str, tuple[int, ...]]:
        """The limits of each attribute that is a number."""
        return {part.name: part.limits for part in self.parts if part.limits is not None}

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each attribute; a class id is an index into this shape in C order."""
        return tuple(len(part.values) for part in self.parts) or (len(self.names),)

    @property
    def num_classes(self) -> int:
        return int(np.prod(self.shape))

    @property
    def classes(self) -> tuple[str, ...]:
        """One readable name per class id, for example `worn, male, under 30`."""
        if not self.parts:
            return self.names
        return tuple(
            BETWEEN.join(part.values[value] for part, value in zip(self.parts, index, strict=True))
            for index in np.ndindex(self.shape)
        )

    def encode(self, /, **attributes: np.ndarray | int) -> np.ndarray:
        """Class ids from the value indices of each attribute, given by name."""
        return np.ravel_multi_index([np.asarray(attributes[name]) for name in self.attributes], self.shape)

    def decode(self, class_ids: np.ndarray | int) -> dict[str, np.ndarray]:
        """The inverse of `encode`: value indices of each attribute by name."""
        if not self.parts:
            return {}
        return dict(zip(self.attributes, np.unravel_index(np.asarray(class_ids), self.shape), strict=True))

    def only(self, attributes: tuple[str, ...], where: str = "") -> Labelling:
        """The labelling of some of the attributes, in its own order; raises `InputError` that begins with `where` for
        one that it lacks.
        """
        absent = [name for name in attributes if name not in self.attributes]
        if absent:
            begin = f"{where}: " if where else ""
            raise InputError(f"{begin}there is no attribute {absent[0]!r}, only {BETWEEN.join(self.attributes)}")
        return replace(self, parts=tuple(part for part in self.parts if part.name in attributes))

    def value(self, told: str, where: str) -> tuple[str, int]:
        """The attribute and the index of its value that `mask=incorrect` tells; raises `InputError` that begins with
        `where` for one that there is not.
        """
        name, _, value = told.partition("=")
        return name, self.only((name,), where)[name].named(value, where)

    def cut_at(self, /, **limits: tuple[int, ...]) -> Labelling:
        """The same with other limits of some numbers; what is no number here stays as it is."""
        parts = (
            number(part.name, limits[part.name], part.unit, part.largest)
            if part.limits is not None and part.name in limits
            else part
            for part in self.parts
        )
        return replace(self, parts=tuple(parts))

    def record(self) -> dict:
        """What a checkpoint keeps of the labelling: attributes, limits as `age_limits`, and the names of all classes,
        which are made of those of the values.
        """
        if not self.parts:
            return {"classes": list(self.names)}
        limits = {f"{name}_limits": list(limits) for name, limits in self.limits.items()}
        return {"attributes": list(self.attributes), **limits, "classes": list(self.classes)}


def own_class(whole: Labelling, own: Labelling) -> np.ndarray:
    """(C,) the class of `own` that each class of the `whole` falls under."""
    if own.attributes == whole.attributes:
        return np.arange(whole.num_classes)
    values = whole.decode(np.arange(whole.num_classes))
    return own.encode(**{name: values[name] for name in own.attributes})


def plain(names: tuple[str, ...]) -> Labelling:
    """Any classes, known by name only."""
    return Labelling((), tuple(names))


def labelling_from_record(record: dict) -> Labelling:
    """The inverse of `record`. Raises `InputError` when classes and attributes contradict each other."""
    classes = tuple(record["classes"])
    attributes = tuple(record.get("attributes") or ())
    if not attributes:
        return plain(classes)
    stray = [key for key in record if key.endswith("_limits") and key.removesuffix("_limits") not in attributes]
    if stray:
        raise InputError(f"it has {stray[0]} and no such attribute")
    rows = [name.split(BETWEEN) if len(attributes) > 1 else [name] for name in classes]
    if any(len(row) != len(attributes) for row in rows):
        raise InputError(f"its classes, such as {classes[0]!r}, do not tell {BETWEEN.join(attributes)}")
    parts = []
    for attribute, values in zip(attributes, zip(*rows, strict=True), strict=True):
        names, limits = tuple(dict.fromkeys(values)), record.get(f"{attribute}_limits")
        if limits and any(low >= high for low, high in pairwise(limits)):
            raise InputError(f"{attribute} limits {limits} do not ascend")
        parts.append(Attribute(attribute, names) if limits is None else number(attribute, tuple(limits)))
    labelling = Labelling(tuple(parts))
    if labelling.classes != classes:
        raise InputError(f"its classes are not the product of {BETWEEN.join(attributes)}")
    return labelling
