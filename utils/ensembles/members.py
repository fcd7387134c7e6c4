"""Which models predict together, and whether they fit."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.base.options import Options
from utils.data.labels import Labelling
from utils.ensembles.age_weight import load_age_weight
from utils.ensembles.combining import EVERY, age_corrected, soft_vote
from utils.ensembles.names import soft_voting_name, weighted_name
from utils.models.checkpoints import Checkpoint, find_checkpoint, flipped, read_checkpoint


def read_asked(path: Path, options: Options) -> Checkpoint:
    """The checkpoint at `path` with the preprocessing that `--mean`, `--std` and `--flip` ask for."""
    checkpoint = read_checkpoint(path, options.mean, options.std)
    return flipped(checkpoint) if options.flip else checkpoint


def read_members(options: Options, model: Checkpoint) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """The age specialists of `--weighted-ensemble` and the models of `--soft-voting`, each checked to fit `model`.

    Raises `InputError` for a model that is not one of 18 classes, too.
    """

    def read(name: str) -> Checkpoint:
        return read_asked(find_checkpoint(name, options.model_location), options)

    check_attributes(model, EVERY)
    if options.soft_voting_rule and not options.soft_voting:
        raise InputError(f"--soft-voting-rule {options.soft_voting_rule} is for --soft-voting, which is not given")
    ages = [read(name) for name in options.weighted_ensemble or ()]
    others = [read(name) for name in options.soft_voting or ()]
    for other, attributes in [*((one, ("age",)) for one in ages), *((one, EVERY) for one in others)]:
        check_ensemble(model, other, attributes)
    return ages, others


@dataclass(frozen=True)
class Ensemble:
    """Models that predict together: `combine` makes (N, 18) scores of their logits, in the order of `members`.

    `rule` is what `as_probs` makes probabilities of the scores by; `how` tells weights and rules for the record.
    """

    name: str
    members: list[Checkpoint]
    combine: Callable[[list[np.ndarray]], np.ndarray]
    rule: str = "log"
    how: dict = field(default_factory=dict)


def read_ensemble(path: Path, options: Options) -> Ensemble:
    """The model at `path` with those that `--weighted-ensemble` or `--soft-voting` add, or by itself."""
    model = read_asked(path, options)
    ages, others = read_members(options, model)
    if ages:
        weight = load_age_weight(model, ages)

        def corrected(logits: list[np.ndarray]) -> np.ndarray:
            return age_corrected(logits[0], soft_vote(logits[1:], "log"), weight, model.labelling)

        return Ensemble(weighted_name(model, ages), [model, *ages], corrected, how={"age weight": weight})
    if others:
        rule = options.soft_voting_rule or "minmax"
        voted = partial(soft_vote, rule=rule)
        return Ensemble(soft_voting_name(model, others, rule), [model, *others], voted, rule, {"soft vote": rule})
    return Ensemble(model.name, [model], lambda logits: logits[0])


def combine_readable(ensemble: Ensemble, logits: list[np.ndarray]) -> np.ndarray:
    """(N, 18) scores of the members' logits; a row that is NaN for a member is NaN."""
    readable = np.isfinite([one[:, 0] for one in logits]).all(0)
    scores = np.full((len(readable), Labelling().num_classes), np.nan)
    scores[readable] = ensemble.combine([one[readable] for one in logits])
    return scores


def check_ensemble(model: Checkpoint, other: Checkpoint, attributes: tuple[str, ...]) -> None:
    """Raise `InputError` unless `other` predicts `attributes` under the age limits and the split of `model`."""
    check_attributes(other, attributes)
    if model.labelling.age_limits != other.labelling.age_limits:
        raise InputError(
            f"{model.path.name} and {other.path.name} have other age limits ({model.labelling.age_limits} and "
            f"{other.labelling.age_limits}): their age classes mean different things; retrain one of them"
        )
    if model.split and other.split and model.split["digest"] != other.split["digest"]:
        raise InputError(
            f"{model.path.name} and {other.path.name} were trained on different splits "
            f"({model.split['digest']} and {other.split['digest']}): one has seen people held out from the other"
        )


def check_attributes(checkpoint: Checkpoint, attributes: tuple[str, ...]) -> None:
    """Raise `InputError` when an age specialist stands where a model of 18 classes is asked for, or the reverse."""
    if checkpoint.labelling.attributes != attributes:
        kinds = {3: "an age specialist of 3 classes", 18: "a model of 18 classes"}
        asked = kinds[Labelling(attributes).num_classes]
        remedy = "--weighted-ensemble takes one" if len(attributes) > 1 else "finetune_age.py trains one"
        raise InputError(f"{checkpoint.path} is {kinds[checkpoint.labelling.num_classes]}, not {asked}: {remedy}")
