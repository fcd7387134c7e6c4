"""Our checkpoint files: names, records, digests, and which of them are ingredients."""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import torch

from utils.base.errors import InputError
from utils.base.options import ALL_FOLDS
from utils.data import competition
from utils.data.labels import Labelling, labelling_from_record
from utils.data.preprocessing import checked_preprocessing
from utils.models.clip import Classifier, build
from utils.models.model_files import SPECIALIST, is_specialist, specialist_name
from utils.models.record import FORMAT, REMEDY
from utils.models.weights import digest, read_weights, save_archive

log = logging.getLogger(__name__)


PACKAGES = ("torch", "transformers", "accelerate", "albumentations", "numpy", "pillow")


@dataclass(frozen=True)
class Checkpoint:
    """A classifier's weights with what is known about them.

    It holds no tensors: `state_dict` maps them anew for each use, so that a hundred checkpoints take no memory.
    `shapes` are those of the tensors by name. `meta` is the record of our own files and None for those of others;
    then `split` is None too, and classes and preprocessing are what the original used (or what was told by `--mean`,
    `--std` and the labelled images), and `tower` is what `--tower` tells.
    """

    path: Path
    config: dict
    shapes: dict[str, tuple[int, ...]]
    meta: dict | None
    preprocessing: dict
    digest: str
    classes: Labelling | None = None
    label: str = ""
    tower: tuple[int, str] | str | None = None

    @property
    def labelling(self) -> Labelling:
        """What the rows of the head mean: `classes`, which were told of a file without a record, or its record."""
        return self.classes or labelling_from_record(self.meta["labelling"])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors, memory-mapped; what they take in memory is freed with the last reference to them.

        Raises `InputError` when the file holds other weights by now.
        """
        weights = read_weights(self.path, self.tower)
        if weights.digest != self.digest:
            raise InputError(f"{self.path} was replaced while this ran: run the same command again")
        return weights.state_dict

    def build(self) -> Classifier:
        """The model with these weights."""
        return build(self.config, self.state_dict(), self.path.name)

    @property
    def file_name(self) -> str:
        """The file's name, or the `label` that tells it from others of the same name."""
        return self.label or self.path.name

    @property
    def name(self) -> str:
        return self.file_name.removesuffix(".pt")

    @property
    def parts(self) -> tuple["Checkpoint", ...]:
        """Its models of the folds; of a single split itself."""
        return (self,)

    @property
    def split(self) -> dict | None:
        return self.meta and self.meta["split"]

    @property
    def division(self) -> str | None:
        """What stands for who was trained on and who was not: models that fit have the same. Those across folds, and
        those trained on everyone for as long, have that of their folds.
        """
        if not self.split:
            return None
        return self.split["partition"] if self.split.get("fold") == ALL_FOLDS else self.split["digest"]

    @property
    def family(self) -> dict | None:
        return self.meta and self.meta["family"]


def flipped(checkpoint: Checkpoint) -> Checkpoint:
    """The same model, whose outputs are the mean over each photograph and its mirror image."""
    preprocessing = {**checkpoint.preprocessing, "flip": True}
    return replace(checkpoint, preprocessing=preprocessing, label=f"{checkpoint.name}_flip.pt")


def as_saved(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as a checkpoint holds them: float32, in main memory, none of them a part of a larger one."""
    saved = {name: tensor.detach().float().cpu().contiguous() for name, tensor in state_dict.items()}
    is_part = {name: tensor.untyped_storage().nbytes() > tensor.nbytes for name, tensor in saved.items()}
    return {name: tensor.clone() if is_part[name] else tensor for name, tensor in saved.items()}


def _as_if_new(value: object) -> object:
    """A record in which each text is one object wherever it stands, and nothing else is; pickle writes an object that
    it has met before in another way than an equal one, and a run that was resumed has read some of them from a file.
    """
    if isinstance(value, dict):
        return {_as_if_new(key): _as_if_new(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_as_if_new, value))
    return sys.intern(value) if type(value) is str else value


def versions() -> dict[str, str]:
    """Of the packages that what is written depends on."""
    return {name: version(name) for name in PACKAGES}


def save_checkpoint(path: Path, state_dict: dict[str, torch.Tensor], meta: dict) -> str:
    """Write a float32 `state_dict` and its record atomically; returns the digest, which the record keeps.

    Equal content makes equal bytes.
    """
    state_dict = as_saved(state_dict)
    meta = {
        "format": FORMAT,
        **meta,
        "digest": digest(state_dict),
        "versions": versions(),
    }
    save_archive(path, _as_if_new({"state_dict": state_dict, "meta": meta}))
    return meta["digest"]


def read_checkpoint(
    path: Path, mean=None, std=None, classes_of: Callable[[int], Labelling] | None = None, tower=None
) -> Checkpoint:
    """Read a classifier's checkpoint, ours or another's; `mean`, `std` and `tower` serve files without a record.

    `classes_of` tells what the rows of a head without a record mean, given their number; without it they are the 18
    classes of the competition, or 3 ages. Raises `InputError` for a file without a head, with another number of
    classes, or of a newer format.
    """
    weights = read_weights(path, tower)
    if weights.num_classes is None:
        raise InputError(f"{path} has no classification head: fine-tune it first")
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.state_dict.items()}
    meta = weights.meta
    if meta is not None:
        if mean or std or tower:
            log.warning("%s records its own preprocessing and tower: --mean, --std and --tower are not used", path)
        checked_preprocessing(meta["preprocessing"], weights.config["image_size"], str(path))
        if len(meta["labelling"]["classes"]) != weights.num_classes:
            classes = len(meta["labelling"]["classes"])
            raise InputError(f"{path} has a record of {classes} classes and a head of {weights.num_classes}: {REMEDY}")
        return Checkpoint(path, weights.config, shapes, meta, meta["preprocessing"], weights.digest)
    if classes_of is None:
        every = competition.labelling(), competition.labelling(SPECIALIST)
        known = {labelling.num_classes: labelling for labelling in every}
        if weights.num_classes not in known:
            raise InputError(
                f"{path} has a head of {weights.num_classes} classes, expected 18 (or 3 for an age specialist)"
            )
        classes_of = known.get
    how, classes = weights.preprocessing(mean, std), classes_of(weights.num_classes)
    untold = "" if weights.processor else ", nor its preprocessing"
    log.warning("%s has no record: nothing tells which people it was trained on%s", path, untold)
    return Checkpoint(path, weights.config, shapes, None, how, weights.digest, classes, tower=tower)


def differences(before: dict, now: dict) -> str:
    """What differs between two records, as `name before -> now; ...`; empty when nothing does."""
    return "; ".join(
        f"{name} {before.get(name)} -> {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )


def soup_meta(members: Sequence[Checkpoint], weights: Sequence, how: dict, scores: dict) -> dict:
    """The record of a soup: what it was made of with which `weights`, and `how`; split and family are those its
    members share.
    """
    recorded = {
        key: next((getattr(one, key) for one in members if getattr(one, key) is not None), None)
        for key in ("split", "family")
    }
    made_from = [
        {"name": one.file_name, "digest": one.digest, "weight": weight, **_fold_of(one)}
        for one, weight in zip(members, weights, strict=True)
    ]
    return {
        "model": members[0].config,
        "labelling": members[0].labelling.record(),
        "preprocessing": members[0].preprocessing,
        "options": {**_attributes_asked(members[0]), **how},
        "split": recorded["split"],
        "family": recorded["family"],
        "scores": scores,
        "made_from": made_from,
        **{key: one.meta[key] for one in members if one.meta for key in ("reading",) if key in one.meta},
    }


def _attributes_asked(checkpoint: Checkpoint) -> dict:
    """What tells a specialist from a model of all, where its record says so."""
    options = (checkpoint.meta or {}).get("options", {})
    return {"attributes": options["attributes"]} if "attributes" in options else {}


def _fold_of(checkpoint: Checkpoint) -> dict:
    """The fold that a model of a folded sweep holds out, as the record of a soup keeps it."""
    fold = (checkpoint.split or {}).get("fold")
    return {} if fold is None else {"fold": fold}


def check_same_kind(checkpoints: list[Checkpoint]) -> None:
    """Raise `InputError` unless all can be averaged: same shapes, classes, preprocessing, split and family."""
    first = checkpoints[0]
    for other in checkpoints[1:]:
        here, there = first.shapes, other.shapes
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                raise InputError(
                    f"{first.file_name} and {other.file_name} are different architectures: tensor {name} is "
                    f"{here.get(name, 'absent')} and {there.get(name, 'absent')}"
                )
        for what, one, another, remedy in (
            ("other model configurations", first.config, other.config, "retrain one of them"),
            ("other limits or classes", first.labelling, other.labelling, "retrain one of them"),
            ("other preprocessing", first.preprocessing, other.preprocessing, "retrain one of them"),
        ):
            if one != another:
                raise InputError(f"{first.file_name} and {other.file_name} have {what}: {remedy}")
    recorded = [checkpoint for checkpoint in checkpoints if checkpoint.split is not None]
    for first, other in pairwise(recorded):
        if first.split["digest"] != other.split["digest"]:
            raise InputError(
                f"{first.file_name} and {other.file_name} were trained on different splits "
                f"({first.split['digest']} and {other.split['digest']}): one has seen people held out from the other"
            )
        if family_of(first) != family_of(other):
            raise InputError(
                f"{first.file_name} and {other.file_name} do not share a start (anchor and head "
                f"{first.family['inputs']} and {other.family['inputs']}): their average means nothing; "
                "fine-tune them with the same --head-init, labels and lowest model_{i}.pt"
            )


def family_of(checkpoint: Checkpoint) -> object:
    """What all that may be averaged with it have in common; models of the folds of one sweep start from heads of
    their own, which were made alike.
    """
    return checkpoint.family and (checkpoint.family.get("folds") or checkpoint.family)


def check_members(model: Checkpoint, specialists: Sequence[Checkpoint], others: Sequence[Checkpoint]) -> None:
    """Raise `InputError` unless `model` tells all classes apart and fits its specialists and other models."""
    if not model.labelling.attributes and specialists:
        raise InputError(f"{model.path} is {_kind(model)}: --weighted-ensemble corrects some of several attributes")
    check_whole(model)
    for one in specialists:
        check_specialist(model, one)
        check_same_labelling(specialists[0], one)
    for other in others:
        check_ensemble(model, other)


def check_ensemble(model: Checkpoint, other: Checkpoint) -> None:
    """Raise `InputError` unless `other` predicts the classes of `model` under the same split."""
    if model.labelling.attributes:
        check_whole(other)
    check_same_labelling(model, other)
    check_same_people(model, other)


def check_same_people(model: Checkpoint, other: Checkpoint) -> None:
    """Raise `InputError` when one of the two has seen people that are held out from the other."""
    if model.division and other.division and model.division != other.division:
        raise InputError(
            f"{model.path.name} and {other.path.name} were trained on different splits "
            f"({model.division} and {other.division}): one has seen people held out from the other"
        )


def check_specialist(model: Checkpoint, one: Checkpoint) -> None:
    """Raise `InputError` unless `one` tells some of the attributes apart that `model` does, under the same split."""
    own, whole = one.labelling.attributes, model.labelling.attributes
    if not set(own) < set(whole):
        raise InputError(
            f"{one.path} is {_kind(one)}, not a specialist of some of {', '.join(whole)}: finetune.py --attributes "
            "trains one"
        )
    check_same_labelling(model, one, model.labelling.only(own))
    check_same_people(model, one)


def check_same_labelling(model: Checkpoint, other: Checkpoint, asked: Labelling | None = None) -> None:
    """Raise `InputError` unless the classes of both mean the same; `asked` are those that the other should have."""
    here, there = asked or model.labelling, other.labelling
    if here == there:
        return
    names = f"{model.path.name} and {other.path.name}"
    if here.attributes == there.attributes:
        for name in here.attributes:
            if here[name] != there[name] and here[name].limits and there[name].limits:
                raise InputError(
                    f"{names} have other {name} limits ({here[name].limits} and {there[name].limits}): their {name} "
                    "classes mean different things; retrain one of them"
                )
    raise InputError(f"{names} have other classes: they cannot vote together")


def check_whole(checkpoint: Checkpoint) -> None:
    """Raise `InputError` when a specialist stands where a model of all classes is asked for."""
    if is_specialist(checkpoint.labelling.attributes, checkpoint.meta):
        raise InputError(
            f"{checkpoint.path} is {_kind(checkpoint)}, not a model of all classes: --weighted-ensemble takes one"
        )


def _kind(checkpoint: Checkpoint) -> str:
    """What a model tells apart, in words."""
    labelling = checkpoint.labelling
    if is_specialist(labelling.attributes, checkpoint.meta):
        article = "an" if labelling.attributes[0][0] in "aeiou" else "a"
        return f"{article} {specialist_name(labelling.attributes)} of {labelling.num_classes} classes"
    return f"a model of {labelling.num_classes} {'' if labelling.attributes else 'other '}classes"
