"""Who is held out: a split by person, stratified by what a person's photographs share, the same in every script."""

import logging
import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from utils.base.digests import digest_of
from utils.base.errors import InputError
from utils.base.flags import DEFAULT_SPLIT
from utils.base.options import ALL_FOLDS, RECORDED, Options
from utils.data.photographs import HELD_OUT, TEST, TRAIN, Photographs

log = logging.getLogger(__name__)


FOLDS = 5  # of people, wherever something is chosen across them


@dataclass(frozen=True)
class Folded:
    """Which of how many folds a split holds out, or `all` when nobody; `partition` is a digest of who is in which."""

    fold: int | str
    folds: int
    partition: str


@dataclass(frozen=True)
class Split:
    """A division of photographs. `train` and `held_out` are sorted positions into the `Photographs` divided."""

    by: str  # "person" or "image"
    seed: int
    val_ratio: float
    train: np.ndarray
    held_out: np.ndarray
    train_ids: tuple[str, ...]  # all folders of the persons, or photographs when by == "image", sorted
    held_out_ids: tuple[str, ...]
    folded: Folded | None = None

    @property
    def digest(self) -> str:
        """16 hex digits over both lists of ids: equal digests mean the same people on the same sides."""
        return digest_of([self.by, self.train_ids, self.held_out_ids])

    def record(self) -> dict:
        """What a checkpoint keeps of its split."""
        return {
            "by": self.by,
            "seed": self.seed,
            "val_ratio": self.val_ratio,
            "digest": self.digest,
            "train_ids": list(self.train_ids),
            "held_out_ids": list(self.held_out_ids),
            **(asdict(self.folded) if self.folded else {}),
        }


def split_of(photographs: Photographs, options: Options) -> Split:
    """The split that a training run asks for: `--val-ratio` of the people held out, or a fold."""
    if options.folds is None:
        return make_split(photographs, options.val_ratio, options.split_seed, options.split_by)
    folds = make_folds(photographs, options.folds, options.split_seed, options.split_by)
    return trained_on_all(photographs, folds) if options.fold == ALL_FOLDS else folds[options.fold]


def make_split(photographs: Photographs, val_ratio: float, seed: int, by: str = "person") -> Split:
    """Hold out `val_ratio` of the people (or images), each stratum in proportion.

    The result depends on (`seed`, sorted ids, strata) only. Units are shuffled inside their stratum, the strata laid
    end to end, and every (1 / val_ratio)-th unit is held out from a random start: the total is exact to one unit and a
    stratum of a single person is no error. Where the photographs themselves tell who is held out, that counts, unless
    `val_ratio` is 0. Raises `InputError` when either side would be empty.
    """
    if photographs.sides is not None and val_ratio > 0:
        return _told_split(photographs, seed, val_ratio, by)
    units, rng = _stratified(photographs, seed, by)
    marks = np.floor(np.arange(len(units) + 1) * val_ratio + rng.random())
    held_out_units = units[np.diff(marks) > 0]
    if val_ratio > 0 and not 0 < len(held_out_units) < len(units):
        raise InputError(
            f"--val-ratio {val_ratio} of {len(units)} {by}s leaves one side of the split empty: "
            f"use at least {math.ceil(1 / val_ratio)} {by}s or another ratio"
        )
    return _split(photographs, held_out_units, seed, val_ratio, by)


def _told_split(photographs: Photographs, seed: int, val_ratio: float, by: str) -> Split:
    """The split that `sides` tell; raises `InputError` for other words there, and for a group on both sides."""
    odd = sorted(set(photographs.sides.tolist()) - {TRAIN, *HELD_OUT})
    if odd and all(side.isdecimal() for side in odd):
        raise InputError(f"the photographs are told into the folds {', '.join(odd[:9])}: give --folds {len(odd)}")
    if odd:
        raise InputError(f"the side {odd[0]!r} of photographs is none of {TRAIN}, {', '.join(HELD_OUT)}, {TEST}")
    held_out = np.isin(photographs.sides, HELD_OUT)
    both = np.intersect1d(photographs.persons[held_out], photographs.persons[~held_out])
    if len(both) and by == "person":
        raise InputError(f"photographs of {both[0]} stand on both sides of the split ({len(both)} such groups)")
    if held_out.all() or not held_out.any():
        raise InputError(f"all photographs are on the side {photographs.sides[0]}: one must be held out, one not")
    return _split(photographs, np.unique(_units(photographs, by)[held_out]), seed, val_ratio, by)


def _stratified(photographs: Photographs, seed: int, by: str) -> tuple[np.ndarray, np.random.Generator]:
    """The units that are divided, shuffled inside their stratum, the strata end to end; and the generator."""
    by_id = np.argsort(photographs.ids, kind="stable")  # of a person's folders the first tells the stratum
    units, first = np.unique(_units(photographs, by)[by_id], return_index=True)
    strata = (photographs.strata if by == "image" else photographs.group_strata)[by_id[first]]
    rng = np.random.default_rng([seed, len(units)])
    return units[np.argsort(strata + rng.random(len(units)), kind="stable")], rng


def _units(photographs: Photographs, by: str) -> np.ndarray:
    """(N,) of which person, or image, each photograph is."""
    return photographs.persons if by == "person" else photographs.ids


def _split(photographs: Photographs, held_out_units: np.ndarray, seed: int, val_ratio: float, by: str) -> Split:
    is_held_out = np.isin(_units(photographs, by), held_out_units)
    names = _recorded_names(photographs, by)
    return Split(
        by=by,
        seed=seed,
        val_ratio=val_ratio,
        train=np.flatnonzero(~is_held_out),
        held_out=np.flatnonzero(is_held_out),
        train_ids=tuple(map(str, np.unique(names[~is_held_out]))),
        held_out_ids=tuple(map(str, np.unique(names[is_held_out]))),
    )


def make_folds(photographs: Photographs, count: int, seed: int, by: str = "person") -> list[Split]:
    """`count` splits, of which each holds out another part of the people (or images): everyone is held out once.

    The parts have the same strata in proportion, and their sizes differ by one person at most: units are shuffled
    inside their stratum, the strata laid end to end, and dealt out in turn. The result depends on (`seed`, sorted ids,
    strata) only. Where the photographs themselves tell the fold of each, that counts. Raises `InputError` when there
    are fewer people than parts.
    """
    if photographs.sides is not None:
        parts = _told_folds(photographs, count, by)
    else:
        units, _ = _stratified(photographs, seed, by)
        if len(units) < count:
            raise InputError(f"--folds {count} of {len(units)} {by}s leaves folds empty: use at most {len(units)}")
        parts = [units[k::count] for k in range(count)]
    splits = [_split(photographs, part, seed, 1 / count, by) for part in parts]
    partition = digest_of([one.held_out_ids for one in splits])
    return [replace(one, folded=Folded(k, count, partition)) for k, one in enumerate(splits)]


def _told_folds(photographs: Photographs, count: int, by: str) -> list[np.ndarray]:
    """The units of each fold that `sides` tell: the numbers 0, 1 and so on, or 1, 2 and so on."""
    sides = sorted(set(photographs.sides.tolist()), key=lambda side: (len(side), side))
    if sides not in ([str(k) for k in range(count)], [str(k) for k in range(1, count + 1)]):
        raise InputError(
            f"--folds {count}: the photographs are told to be on the sides {', '.join(sides[:9])}, which are no "
            f"numbers of {count} folds: leave --folds out, or tell the fold of each in a --split-column"
        )
    parts = [np.unique(_units(photographs, by)[photographs.sides == side]) for side in sides]
    both = [name for k, part in enumerate(parts) for other in parts[:k] for name in np.intersect1d(part, other)]
    if both:
        raise InputError(f"photographs of {both[0]} stand in two folds ({len(both)} such groups)")
    return parts


def trained_on_all(photographs: Photographs, folds: list[Split]) -> Split:
    """The split of a model that is trained on the people of all folds."""
    first = folds[0]
    nobody = _split(photographs, np.array([], dtype=str), first.seed, 0.0, first.by)
    return replace(nobody, folded=replace(first.folded, fold=ALL_FOLDS))


def _recorded_names(photographs: Photographs, by: str) -> np.ndarray:
    """(N,) the name by which the record of a split tells each photograph's side."""
    return photographs.names if by == "person" else photographs.ids


def evaluation_split(photographs: Photographs, options: Options, checkpoints: list) -> tuple[Split, str]:
    """Whom to score checkpoints on, and how to call these people.

    They are those that the checkpoints' own record holds out, unless `--val-ratio`, `--split-seed` or `--split-by`
    ask for others. `--val-ratio None` means everyone, and nothing may be selected by such scores. Raises `InputError`
    when a checkpoint's record says that it was trained on somebody held out here.
    """
    if options.val_ratio is None:
        positions = np.arange(len(photographs))
        people = tuple(map(str, np.unique(photographs.names)))
        who = "everyone" if photographs.whose == "people" else f"all {photographs.whose}"
        split = Split("person", 0, 1.0, positions[:0], positions, (), people)
        return split, f"{who}, training {photographs.whose} included"
    recorded = next((checkpoint.split for checkpoint in checkpoints if checkpoint.split is not None), None)
    asked = {"val_ratio": options.val_ratio, "seed": options.split_seed, "by": options.split_by}
    asked = {name: value for name, value in asked.items() if value not in (None, RECORDED)}
    if recorded is not None and not asked:
        split = recorded_split(photographs, recorded)
    else:
        split = make_split(photographs, **{**DEFAULT_SPLIT, **asked})
    for checkpoint in checkpoints:
        check_unseen(split, checkpoint.split, photographs, checkpoint.name)
    if not len(split.held_out):
        raise InputError(
            "trained on everyone (--val-ratio 0 or --fold all): nobody is left to score on; --val-ratio None scores "
            "on everyone"
        )
    whose = photographs.whose
    beside = "" if whose == "images" else f", whose {whose} were trained on"
    return split, f"held-out {whose}" if split.by == "person" else f"held-out images{beside}"


def evaluation_splits(photographs: Photographs, options: Options, checkpoints: list) -> tuple[list[Split], str]:
    """Whom to score checkpoints on, as in `evaluation_split`: one split, or for models across folds one of each."""
    folded = [one for one in checkpoints if len(one.parts) > 1]
    if not folded or options.val_ratio is None:
        split, who = evaluation_split(photographs, options, checkpoints)
        return [split], who
    asked = {"--val-ratio": options.val_ratio != RECORDED, "--split-seed": options.split_seed is not None}
    for flag in (flag for flag, given in (asked | {"--split-by": options.split_by is not None}).items() if given):
        raise InputError(f"{folded[0].name} is scored on the people of its folds: leave {flag} out")
    splits = [recorded_split(photographs, part.split) for part in folded[0].parts]
    for checkpoint in checkpoints:
        if len(checkpoint.parts) != len(splits):
            raise InputError(
                f"{checkpoint.name} is no model of the {len(splits)} folds of {folded[0].name}, and may have seen the "
                "people of some of them: score them apart"
            )
        for split, part in zip(splits, checkpoint.parts, strict=True):
            check_unseen(split, part.split, photographs, part.name)
    kind = photographs.whose if splits[0].by == "person" else "images"
    return splits, f"all {kind}, each scored by models trained without their fold ({len(splits)} folds)"


def splits_digest(splits: list[Split]) -> str:
    """What stands for the people that some splits hold out."""
    return splits[0].folded.partition if len(splits) > 1 else splits[0].digest


def recorded_split(photographs: Photographs, record: dict) -> Split:
    """The split that a checkpoint's `record` tells of; photographs of people it does not name are on neither side.

    Nobody is held out who was trained on in another folder of the same id, as in records of times when folders were
    people. Raises `InputError` when people it holds out are not among the photographs.
    """
    names = _recorded_names(photographs, record["by"])
    absent = sorted(set(record["held_out_ids"]) - set(names.tolist()))
    if absent:
        raise InputError(
            f"{photographs.folder} lacks {len(absent)} of the {len(record['held_out_ids'])} {record['by']}s held out "
            f"in training (such as {absent[0]}): name the photographs it was trained with, --data-location"
        )
    trained, held_out = (np.isin(names, record[side]) for side in ("train_ids", "held_out_ids"))
    if record["by"] == "person":
        both = np.intersect1d(photographs.persons[trained], photographs.persons[held_out])
        held_out &= ~np.isin(photographs.persons, both)
        if len(both):
            log.warning(
                "%d people held out were trained on in other folders (such as %s): left out", len(both), both[0]
            )
    return Split(
        by=record["by"],
        seed=record["seed"],
        val_ratio=record["val_ratio"],
        train=np.flatnonzero(trained),
        held_out=np.flatnonzero(held_out),
        train_ids=tuple(record["train_ids"]),
        held_out_ids=tuple(record["held_out_ids"]),
        folded=Folded(record["fold"], record["folds"], record["partition"]) if record.get("folds") else None,
    )


def person_folds(labels: np.ndarray, persons: np.ndarray, count: int, seed: int = 0) -> list[np.ndarray]:
    """The positions of `count` parts of the people, alike in their classes: people are sorted by their last class,
    shuffled among equals, and dealt out in turn.
    """
    people, person_of = np.unique(persons, return_inverse=True)
    last = np.zeros(len(people), np.int64)
    np.maximum.at(last, person_of, labels)
    rank = np.empty(len(people), np.int64)
    rank[np.lexsort((np.random.default_rng(seed).random(len(people)), last))] = np.arange(len(people))
    return [np.flatnonzero(rank[person_of] % count == side) for side in range(count)]


def cross_folds(labels: np.ndarray, persons: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The positions (others, own) of each of `FOLDS` parts of the people, or of as many as there are people."""
    parts = person_folds(labels, persons, min(FOLDS, len(np.unique(persons))))
    return [(np.setdiff1d(np.arange(len(labels)), part), part) for part in parts]


def check_unseen(split: Split, record: dict | None, photographs: Photographs, model: str) -> None:
    """Raise `InputError` when the model with this split `record` was trained on a photograph held out in `split`.

    A model without a record passes: nothing is known about it.
    """
    if record is None:
        return
    trained = np.isin(_recorded_names(photographs, record["by"]), record["train_ids"])
    unit_of = photographs.persons if record["by"] == "person" else photographs.ids
    seen = np.intersect1d(unit_of[split.held_out], unit_of[trained])
    if len(seen) and not record["held_out_ids"]:
        raise InputError(
            f"{model} was trained on everyone (--val-ratio 0 or --fold all): nobody is left to score it on"
        )
    if len(seen):
        raise InputError(
            f"{model} was trained on {len(seen)} of the {'people' if record['by'] == 'person' else 'images'} "
            f"held out here (such as {seen[0]}), so its score would mean nothing: use the split it was trained with "
            f"(--split-by {record['by']} --split-seed {record['seed']} --val-ratio {record['val_ratio']})"
        )
