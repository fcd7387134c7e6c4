"""Several models' predictions put together: the age-corrected average, soft voting, weighted means.

Shapes: N photographs, C classes. `logits` are (N, C) float32; scores are (N, C) float64, of which the largest in each
row is the prediction (of equal ones the first).
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from utils.checkpoints import Checkpoint, find_checkpoint, flipped, read_checkpoint
from utils.errors import InputError
from utils.files import write_text
from utils.labels import Labelling
from utils.metrics import METRICS, confusion_matrix, log_softmax
from utils.options import LOGS, Options
from utils.splits import FOLDS

log = logging.getLogger(__name__)

AGE_WEIGHTS = np.linspace(0, 2, 41)  # 0 leaves the age specialist out
EVERY = ("mask", "gender", "age")


def age_corrected(logits: np.ndarray, age_logits: np.ndarray, weight: float, labelling: Labelling) -> np.ndarray:
    """`log p(class) + weight * log p_age(age of class)`, a product of experts; `age_logits` are (N, 3)."""
    return log_softmax(logits) + weight * log_softmax(age_logits)[:, _age_of_class(labelling)]


def class_log_probs(logits: np.ndarray, labelling: Labelling) -> np.ndarray:
    """(N, 18) what a model adds in log-probability space: its log-probabilities, those of an age specialist spread
    over the classes of each age.
    """
    of_class = slice(None) if labelling.attributes == EVERY else _age_of_class(Labelling(EVERY))
    return log_softmax(logits)[:, of_class]


def weighted_mean(log_probs: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """(N, C) sum of `weights` times `log_probs`; what weighs nothing plays no part."""
    return sum(weight * one for weight, one in zip(weights, log_probs, strict=True) if weight)


def _age_of_class(labelling: Labelling) -> np.ndarray:
    return labelling.decode(np.arange(labelling.num_classes))["age"]


def tune_age_weight(
    logits: np.ndarray, age_logits: np.ndarray, labels: np.ndarray, labelling: Labelling, metric: str
) -> float:
    """The weight of `AGE_WEIGHTS` whose predictions score best by `metric`; among equals the smallest."""

    def scored(weight: float):
        preds = age_corrected(logits, age_logits, weight, labelling).argmax(-1)
        return METRICS[metric](confusion_matrix(labels, preds, labelling.num_classes))

    return float(max(AGE_WEIGHTS, key=lambda weight: (scored(weight), -weight)))


def cross_fitted_preds(
    logits: np.ndarray,
    age_logits: np.ndarray,
    labels: np.ndarray,
    persons: np.ndarray,
    labelling: Labelling,
    metric: str,
) -> np.ndarray:
    """(N,) class ids of the age-corrected model, each person's under a weight that was tuned on other people only.

    The score of these is what a tuned weight is worth on new people; the tuned weight's own score flatters itself.
    """
    from sklearn.model_selection import GroupKFold

    preds = np.empty(len(labels), np.int64)
    folds = min(FOLDS, len(np.unique(persons)))
    if folds < 2:
        raise InputError("the age specialist's weight is tuned across people, and only one person is held out")
    for rest, fold in GroupKFold(folds, shuffle=True, random_state=0).split(logits, labels, persons):
        weight = tune_age_weight(logits[rest], age_logits[rest], labels[rest], labelling, metric)
        preds[fold] = age_corrected(logits[fold], age_logits[fold], weight, labelling).argmax(-1)
    return preds


def min_max_scaled(probs: np.ndarray) -> np.ndarray:
    """Each row scaled so that its smallest probability becomes 0 and its largest 1; a row of equals becomes zeros."""
    low = probs.min(-1, keepdims=True)
    spread = probs.max(-1, keepdims=True) - low
    return np.divide(probs - low, spread, out=np.zeros_like(probs), where=spread > 0)


RULES = {
    "minmax": lambda log_probs: min_max_scaled(np.exp(log_probs)),  # the published competition project's rule
    "mean": np.exp,
    "log": lambda log_probs: log_probs,
}


def soft_vote(logits: Sequence[np.ndarray], rule: str = "minmax") -> np.ndarray:
    """Scores of several models' logits: min-max scaled probabilities summed, or the mean of probabilities (`mean`) or
    of log-probabilities (`log`).
    """
    return sum(RULES[rule](log_softmax(one)) for one in logits) / len(logits)


def as_probs(scores: np.ndarray, rule: str = "log") -> np.ndarray:
    """(N, C) probabilities in the order of the scores: rows of logits or log-probabilities (`log`) are exponentiated,
    sums of (scaled) probabilities divided by their total. All classes of a row of NaN are equally likely.
    """
    probs = np.exp(log_softmax(scores)) if rule == "log" else scores / scores.sum(-1, keepdims=True)
    return np.where(np.isnan(probs), 1 / probs.shape[-1], probs)


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


def weighted_name(model: Checkpoint, ages: Sequence[Checkpoint]) -> str:
    return f"{model.name}_WE_{_joined_names(ages)}"


def soft_voting_name(model: Checkpoint, others: Sequence[Checkpoint], rule: str = "minmax") -> str:
    """The names of all, and the rule when it is not the published one."""
    return f"{model.name}_SV_{_joined_names(others)}" + ("" if rule == "minmax" else f"_{rule}")


def _joined_names(checkpoints: Sequence[Checkpoint]) -> str:
    """Or, where a file name would become too long, their number and a digest of the names."""
    names = "_".join(one.name for one in checkpoints)
    if len(checkpoints) <= 3:
        return names
    return f"{len(checkpoints)}models_{hashlib.sha256(names.encode()).hexdigest()[:8]}"


def weight_file(model: Checkpoint, ages: Sequence[Checkpoint]) -> Path:
    """Where validation keeps the tuned weight for inference."""
    return LOGS / f"ensemble_{weighted_name(model, ages)}.json"


def save_age_weight(model: Checkpoint, ages: Sequence[Checkpoint], record: dict) -> Path:
    """Keep a tuned `weight` with the digests of all models; `record` also says how it was tuned and how it scores."""
    content = {**_identities(model, ages), **record}
    return write_text(weight_file(model, ages), json.dumps(content, indent=2) + "\n")


def load_age_weight(model: Checkpoint, ages: Sequence[Checkpoint]) -> float:
    """The weight that validation tuned for exactly these models; without one 1.0, and the log says so."""
    path = weight_file(model, ages)
    if not path.is_file():
        log.warning("no weight tuned for these models (%s): 1.0 is taken; validation.py tunes it", path)
        return 1.0
    asked = _identities(model, ages)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tuned_for, weight = {key: content[key] for key in asked}, float(content["weight"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): remove it, or run validation.py again") from error
    if tuned_for != asked:
        log.warning("%s was tuned for other weights of these names: 1.0 is taken; run validation.py again", path)
        return 1.0
    log.info("weight of the age specialist: %g (%s)", weight, path)
    return weight


def _identities(model: Checkpoint, ages: Sequence[Checkpoint]) -> dict:
    """By their places: `model`, `age`, and of several age specialists `age2` and so on."""
    places = ["model", "age", *(f"age{k}" for k in range(2, len(ages) + 1))]
    return {place: _identity(one) for place, one in zip(places, [model, *ages], strict=True)}


def _identity(checkpoint: Checkpoint) -> dict:
    return {"name": checkpoint.path.name, "digest": checkpoint.digest}
