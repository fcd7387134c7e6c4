"""What a checkpoint of ours tells of itself: its record, as it lies in a `.pt` file or beside an exported tower."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from utils.base import records
from utils.base.digests import digest_of
from utils.base.errors import InputError
from utils.base.records import Count, Digest, Record
from utils.data.labels import labelling_from_record

FORMAT = 1
REMEDY = "copy it anew, or remove it and make it again"

Limits = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Text = dict[str, str]
Fold = Count | Literal["all"]
Folds = Annotated[int, Field(ge=2)]


class LabellingRecord(Record):
    """What the rows of the head mean: the names of the classes, of which attributes they are made, and the limits of
    those that are numbers, such as `age_limits`.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Limits]

    classes: Annotated[list[str], Field(min_length=1)]
    attributes: Annotated[list[str], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _belong_together(self):
        try:
            labelling_from_record(self.model_dump())
        except InputError as error:
            raise ValueError(str(error)) from None
        return self


class InFolds(Record):
    """Which of how many folds is meant; neither of a single split."""

    fold: Fold | None = None
    folds: Folds | None = None

    @model_validator(mode="after")
    def _fold_is_one_of_them(self):
        if (self.fold is None) != (self.folds is None) or (isinstance(self.fold, int) and self.fold >= self.folds):
            raise ValueError(f"there is no fold {self.fold} of {self.folds}")
        return self


class SplitRecord(InFolds):
    """Who was trained on, and who was held out; in a folded sweep `partition` stands for who is in which fold."""

    by: Literal["person", "image"]
    seed: int
    val_ratio: records.Share
    train_ids: list[str]
    held_out_ids: list[str]
    digest: Digest
    partition: Digest | None = None

    @field_validator("digest")
    @classmethod
    def _is_of_these_ids(cls, digest: str, others: ValidationInfo) -> str:
        named = [others.data.get(name) for name in ("by", "train_ids", "held_out_ids")]
        if None not in named and digest_of(named) != digest:
            raise ValueError("it is not that of the ids beside it")
        return digest

    @model_validator(mode="after")
    def _folds_have_a_partition(self):
        if (self.partition is None) != (self.folds is None):
            raise ValueError("folds and partition belong together")
        return self


class OptionsRecord(Record):
    """The options of a training run that say which one it was, or how a soup was made; and all others."""

    model_config = ConfigDict(extra="allow")

    name: str | None = None
    random_seed: Count | None = None
    i: Count | None = None
    epochs: Count | None = None
    recipe: str | None = None


class Place(InFolds):
    """A checkpoint's place in its sweep."""

    name: str
    seed: Count
    i: Count
    epoch: Count


class Ingredient(Record):
    """What a soup was made of."""

    name: str
    digest: Digest
    weight: float
    fold: Fold | None = None


class TowerRecord(Record):
    """That of weights without a head, which others are fine-tuned from; `model` is looked at where it is used."""

    format: Literal[FORMAT]
    model: dict[str, Any]
    options: OptionsRecord
    split: SplitRecord | None
    digest: Digest


class CheckpointRecord(TowerRecord):
    """That of a classifier; `preprocessing` is looked at where it is used."""

    labelling: LabellingRecord
    preprocessing: dict[str, Any]
    family: Text | None
    held_out: Text | None = None
    scores: dict[str, Any] | None
    made_from: list[Ingredient]
    epoch: Count | None = None
    start: Text | None = None
    ingredient: Place | None = None
    reading: dict[str, Any] | None = None  # how the photographs were read
    folds_of: Digest | None = None  # of the soup of all folds that this soup of a fold belongs to


def check_record(meta: dict, has_head: bool, where: str) -> dict:
    """The record itself, when its values are those of a classifier, or of a tower without a head; raises `InputError`
    that begins with `where`.
    """
    told = meta.get("format")
    if isinstance(told, int) and told > FORMAT:
        raise InputError(f"{where} has checkpoint format {told}, this program reads format {FORMAT}")
    kind = CheckpointRecord if has_head else TowerRecord
    records.check_record(meta, kind, where, "has a damaged record", REMEDY)
    return meta


def read_exported_record(path: Path) -> dict | None:
    """The record beside an exported tower; None when it is a folder of others."""
    if not path.is_file():
        return None
    records.read_record(path, CheckpointRecord, "record of an exported soup", "export the soup again")
    return json.loads(path.read_bytes())
