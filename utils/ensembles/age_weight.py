"""How much the age specialist counts: tuned on held-out people, kept for inference."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.base.files import LOGS, write_text
from utils.base.metrics import METRICS
from utils.data.labels import Labelling
from utils.data.splits import FOLDS
from utils.ensembles.combining import age_corrected
from utils.ensembles.names import weighted_name
from utils.evaluation.scores import confusion_matrix
from utils.models.checkpoints import Checkpoint

log = logging.getLogger(__name__)


AGE_WEIGHTS = np.linspace(0, 2, 41)  # 0 leaves the age specialist out


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
