"""Models across folds: what is scored fold by fold, each part on people that it has not seen, and predicts as one.

Its weights are those of the average over its folds (Wortsman et al. 2022 average models of one split; here they come
from different ones), so the number of folds costs nothing at inference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from utils.base.digests import digest_of
from utils.base.errors import InputError
from utils.base.options import ALL_FOLDS
from utils.models.averaging import Mixture
from utils.models.checkpoints import Checkpoint, check_same_kind, read_checkpoint
from utils.models.model_files import Ingredient
from utils.models.starts import fold_file
from utils.models.sweeps import parts_on_disk


@dataclass(frozen=True)
class Averaged(Checkpoint):
    """An average that no file holds."""

    mixture: Mixture | None = None

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.mixture.state_dict()


@dataclass(frozen=True)
class FoldedModel(Checkpoint):
    """A model whose fold k was trained without the people of fold k; `of_folds` are checkpoints in the order of folds.

    Its own weights are their average, which the file `path` holds if there is one.
    """

    of_folds: tuple[Checkpoint, ...] = ()

    @property
    def parts(self) -> tuple[Checkpoint, ...]:
        return self.of_folds

    @property
    def division(self) -> str:
        return self.of_folds[0].split["partition"]

    def state_dict(self) -> dict[str, torch.Tensor]:
        return super().state_dict() if self.path.is_file() else Mixture.of(self.of_folds).state_dict()


def _like(checkpoint: Checkpoint, kind: type[Checkpoint], **others) -> Checkpoint:
    """A checkpoint of another kind with the same fields, but for `others`."""
    return kind(**{one.name: getattr(checkpoint, one.name) for one in fields(Checkpoint)} | others)


def folded_model(path: Path, parts: Sequence[Checkpoint]) -> FoldedModel:
    """The model that these checkpoints of the folds make up. Raises `InputError` when they are not of one sweep."""
    check_folds(parts)
    return _like(parts[0], FoldedModel, path=path, digest=Mixture.of(parts).digest, of_folds=tuple(parts))


def check_folds(parts: Sequence[Checkpoint]) -> None:
    """Raise `InputError` unless these checkpoints hold out the folds of one partition of the people, in order."""
    splits = [one.split or {} for one in parts]
    partitions, order = {split.get("partition") for split in splits}, [split.get("fold") for split in splits]
    if len(partitions) > 1 or order != list(range(len(parts))):
        names = " and ".join(one.file_name for one in parts[:2])
        raise InputError(f"{names} are of different divisions of the people into folds: retrain one of them")
    check_same_kind([replace(one, meta={**one.meta, "split": parts[0].split}) for one in parts])


def everyone_split(parts: Sequence[Checkpoint]) -> dict:
    """The record of the split of what the models of all folds make up: trained on everyone, nobody is held out."""
    first = parts[0].split
    people = sorted({name for part in parts for name in part.split["held_out_ids"]})
    split = {"by": first["by"], "seed": first["seed"], "val_ratio": 0.0, "train_ids": people, "held_out_ids": []}
    split |= {"fold": ALL_FOLDS, "folds": first["folds"], "partition": first["partition"]}
    return split | {"digest": digest_of([split["by"], people, []])}


def read_ingredient(one: Ingredient, *how) -> Checkpoint:
    """The checkpoint of a place in a sweep, across folds where it has them; `how` is as in `read_checkpoint`."""
    if not one.parts:
        return read_checkpoint(one.path, *how)
    return folded_model(one.path, [read_checkpoint(part.path, *how) for part in one.parts])


def read_model(path: Path, *how, **more) -> Checkpoint:
    """The checkpoint at a path; or where only its folds have files the model across them."""
    if found := parts_on_disk(path):
        return read_ingredient(found[0], *how)
    return read_checkpoint(path, *how, **more)


def soup_across_folds(soup: Checkpoint) -> Checkpoint:
    """A soup of a folded sweep with the averages of its folds, as its record tells of them; any other as it is.

    Where its members are not beside it any more, the soups of its folds serve that `main.py --save-folds` wrote.
    Raises `InputError` when there are neither, and when they have other weights than the soup was made of.
    """
    made_from = (soup.meta or {}).get("made_from", ())
    folds = (soup.split or {}).get("folds")
    if not folds or {one.get("fold") for one in made_from} != set(range(folds)):
        return soup
    saved = [fold_file(soup.path, fold, folds) for fold in range(folds)]
    beside = all(soup.path.with_name(one["name"]).is_file() for one in made_from)
    if not beside and all(path.is_file() for path in saved):
        return _like(soup, FoldedModel, of_folds=tuple(_saved_part(soup, path) for path in saved))
    weights = soup.meta["options"].get("weights") or [one["weight"] for one in made_from]
    parts = []
    for fold in range(folds):
        places = [k for k, one in enumerate(made_from) if one["fold"] == fold]
        members = [_member(soup, made_from[k]) for k in places]
        per_tensor = isinstance(weights, dict)
        own = {n: [w[k] for k in places] for n, w in weights.items()} if per_tensor else [weights[k] for k in places]
        mixture = Mixture.of(members, own)
        parts.append(_like(members[0], Averaged, digest=mixture.digest, mixture=mixture))
    return _like(soup, FoldedModel, of_folds=tuple(parts))


def _member(soup: Checkpoint, one: dict) -> Checkpoint:
    path = soup.path.with_name(one["name"])
    if not path.is_file():
        raise InputError(
            f"{soup.path} was made of {path.name}, which is not beside it, nor are the soups of its folds: "
            "main.py --save-folds writes them"
        )
    member = read_checkpoint(path)
    if member.digest != one["digest"]:
        raise InputError(f"{path} has other weights than {soup.path} was made of: make the soup again")
    return member


def _saved_part(soup: Checkpoint, path: Path) -> Checkpoint:
    part = read_checkpoint(path)
    if (part.meta or {}).get("folds_of") != soup.meta.get("folds_of"):
        raise InputError(f"{path} is of another soup than {soup.path}: make both again, with main.py --save-folds")
    return part
