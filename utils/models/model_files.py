"""The checkpoints in the model folder, each with its place in its sweep, as its record or its name tells.

Only what reads a record imports torch, so that what file names show to be wrong is said at once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.base.errors import InputError
from utils.base.files import LONGEST_PREFIX, fitted
from utils.base.options import ALL_FOLDS

SPECIALIST = ("age",)  # what the specialist of finetune_age.py tells apart
DROPPED = ".dropped.json"  # what takes the place of ".pt" when `--keep-top` removes a checkpoint


@dataclass(frozen=True)
class Ingredient:
    """One fine-tuned checkpoint that may go into a soup, and its place in its sweep.

    `epoch` is the one that its file is named after; `asked` the `--epochs` of its sweep, which an index that draws its
    own options need not have. In a folded sweep `fold` is the one of `folds` that it holds out, or `all`.
    """

    path: Path
    name: str
    seed: int
    i: int
    epoch: int
    asked: int
    fold: int | str | None = None
    folds: int | None = None
    parts: tuple["Ingredient", ...] = ()  # across folds: the model of each; then there is no file `path`

    @property
    def run(self) -> tuple[int, int, int | None, int | str | None]:
        """What tells it from the other runs of its sweep."""
        return self.seed, self.i, self.folds, self.fold


@dataclass(frozen=True)
class ModelFile:
    """A checkpoint in the model folder, as its record `meta` tells of it.

    A file without a record (the original's, or a damaged one, which fails when it is read) is known by its name only;
    so is one that was not read.
    """

    path: Path
    meta: dict | None
    was_read: bool = True

    @property
    def is_specialist(self) -> bool:
        """Whether it is a model of some attributes alone. One that was not read counts as such where its name may be a
        specialist's, and what is said by names alone leaves it out.
        """
        if self.meta is None:
            name = self.path.name
            return name.startswith(AGE_PREFIX) or (not self.was_read and "_" in name and not name[0].islower())
        return is_specialist(self.attributes, self.meta)

    @property
    def attributes(self) -> tuple[str, ...]:
        """What it tells apart; nothing without a record."""
        return tuple((self.meta or {}).get("labelling", {}).get("attributes") or ())

    @property
    def recipe(self) -> str | None:
        """That of a soup."""
        if self.meta is None:
            return "greedy" if "_greedysoup" in self.path.stem else None
        return self.meta.get("options", {}).get("recipe")

    @property
    def is_of_a_fold(self) -> bool:
        """Whether it is a soup of one fold, which is a part of the soup of all."""
        if self.meta is None:
            return re.search(r"soup_num\d+_fold\d+of\d+$", self.path.stem) is not None
        return bool(self.meta.get("made_from")) and isinstance((self.meta.get("split") or {}).get("fold"), int)

    @property
    def sweep(self) -> str | None:
        """The name of its sweep, of a soup that of its members; None when nothing tells."""
        return self.place.name if self.place else sweep_of(self.meta)

    @property
    def place(self) -> Ingredient | None:
        """Its place in its sweep, of a specialist too; None for a soup and for what has no place."""
        if self.meta is None:
            return named_place(self.path)
        options, place = self.meta.get("options", {}), self.meta.get("ingredient")
        if self.meta.get("made_from") or "random_seed" not in options:
            return None
        if place is None:  # of a program that wrote no place: its epoch stands in its name only
            named = named_place(self.path)
            epoch = named.epoch if named else options["epochs"]
            place = {"name": options["name"], "seed": options["random_seed"], "i": options["i"], "epoch": epoch}
        is_final = place["epoch"] == options.get("epochs")
        asked = options.get("epochs asked", place["epoch"]) if is_final else place["epoch"]
        return Ingredient(self.path, **place, asked=asked)


def is_specialist(attributes: Sequence[str], meta: dict | None) -> bool:
    """Whether a model of these attributes, with this record, was trained for them alone, and there are more.

    Older records do not tell, and only specialists of the competition were trained then.
    """
    options = (meta or {}).get("options") or {}
    return bool(options["attributes"]) if "attributes" in options else tuple(attributes) == SPECIALIST


def specialist_name(attributes: Sequence[str]) -> str:
    """What a specialist of some attributes is called, `age specialist`."""
    return f"{' and '.join(attributes)} specialist"


def specialist_prefix(attributes: Sequence[str] | None) -> str:
    """What the file names of a specialist of some attributes begin with, `Age_`; nothing for a model of all."""
    if not attributes:
        return ""
    words = (re.sub(r"[\W_]+", "-", name).strip("-") for name in attributes)
    return fitted("+".join(word[:1].upper() + word[1:] for word in words), "_", LONGEST_PREFIX)


AGE_PREFIX = specialist_prefix(SPECIALIST)


def named_place(path: Path) -> Ingredient | None:
    """The place that a file's name tells, `{name}_seed{seed}_i{i}_epoch{epoch}` with `_fold{k}of{K}` before the epoch
    of a fold's model, for what has no record.
    """
    match = re.fullmatch(
        rf"(.+)_seed(\d+)_i(\d+)(?:_fold(\d+|{ALL_FOLDS})of(\d+))?_epoch(\d+)", path.stem.removeprefix(AGE_PREFIX)
    )
    if match is None:
        return None
    name, seed, i, fold, folds, epoch = match.groups()
    seed, i, epoch = map(int, (seed, i, epoch))
    fold = fold if fold in (None, ALL_FOLDS) else int(fold)
    return Ingredient(path, name, seed, i, epoch, epoch, fold, folds and int(folds))


def sweep_of(meta: dict | None) -> str | None:
    """The name of the sweep that a record tells of, of a soup that of its members; None when nothing tells."""
    if meta is None:
        return None
    if "random_seed" in meta.get("options", {}):
        return meta["options"]["name"]
    members = filter(None, (named_place(Path(one["name"])) for one in meta.get("made_from", ())))
    return next((one.name for one in members), None)


def model_files(model_location: Path, by_name: bool = False) -> list[ModelFile]:
    """The `.pt` files of the folder, sorted, without the release's `model_{i}.pt`, hidden and temporary files; known
    by their records, or `by_name` only, which reads none.
    """
    if not Path(model_location).is_dir():
        raise InputError(f"model folder {model_location} does not exist: give --model-location")
    paths = sorted(Path(model_location).glob("*.pt"))
    others = [path for path in paths if not path.name.startswith(".") and not is_release_file(path)]
    if by_name:
        return [ModelFile(path, None, was_read=False) for path in others]
    from utils.models.weights import read_meta

    return [ModelFile(path, read_meta(path)) for path in others]


def is_release_file(path: Path) -> bool:
    """Whether it is called `model_{i}.pt`, as in the model-soups release."""
    name, _, index = path.stem.rpartition("_")
    return name == "model" and index.isdecimal()
