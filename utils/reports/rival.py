"""Another model beside the one that is validated, on the same photographs of the same people."""

import numpy as np

from utils.base.errors import InputError
from utils.base.options import Options
from utils.ensembles.members import Way, read_parts
from utils.evaluation.held_out import HeldOut
from utils.evaluation.results import gain_words
from utils.evaluation.scores import paired_gain
from utils.models.checkpoints import Checkpoint


def read_rival(model: Checkpoint, options: Options, by_folds: bool) -> Checkpoint:
    """The model of `--compare-with`, as in `read_parts`.

    Raises `InputError` when it is the same, or the same people cannot score both.
    """
    _, _, (rival,) = read_parts(Way(str(model.path), others=[options.compare_with]), options, by_folds)
    if rival.digest == model.digest:
        raise InputError(f"--compare-with {options.compare_with} has the model's own weights: name another one")
    return rival


def changed(labels: np.ndarray, preds: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) flags of the photographs that only `preds`, and of those that only `others` get right."""
    right, others_right = preds == labels, others == labels
    return right & ~others_right, others_right & ~right


def rival_line(rival: str, held_out: HeldOut, logits: np.ndarray, theirs: np.ndarray, metric: str) -> str:
    """What a model of (N, C) `logits` gains over its rival of `theirs`, and on how many photographs they differ."""
    only_ours, only_theirs = changed(held_out.labels, logits.argmax(-1), theirs.argmax(-1))
    return (
        f"gain over {rival}: {gain_words(held_out.gain(logits, theirs), metric)}; of {len(logits)} photographs only "
        f"this model is right on {only_ours.sum()}, only the other on {only_theirs.sum()}"
    )


def relabelled_line(held_out: HeldOut, answers: np.ndarray, theirs: np.ndarray, metric: str) -> str:
    """How many labels of the people who score relabel.csv changed, and what one model's answers gain over another's on
    all other people, which owes nothing to the corrections. Empty where it changed those of nobody, or of everybody.
    """
    changed_people = np.unique(held_out.persons[held_out.relabelled])
    others = ~np.isin(held_out.persons, changed_people)
    if others.all() or not others.any():
        return ""
    arrays = held_out.labels, answers, theirs, held_out.persons
    gains = paired_gain(*(one[others] for one in arrays), held_out.labelling.num_classes)
    changed = f"{held_out.relabelled.sum()} of these photographs, of {len(changed_people)} people"
    unchanged = len(np.unique(held_out.persons[others]))
    return f"relabel.csv changes {changed}; on the {unchanged} other people the gain is {gain_words(gains, metric)}"
