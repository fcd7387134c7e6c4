"""When scores call for something to be done: what is wrong, and the option that helps."""

from collections.abc import Sequence

import numpy as np

from utils.base.metrics import METRICS
from utils.evaluation.scores import confusion_matrix, exact_score, preds_of

NEAR = 0.1  # part of the way from chance to a perfect score below which a model has learned next to nothing
ENOUGH = 10  # photographs of a class below which its being always wrong says little
NAMED = 2  # classes that a line names


def chance(labels: np.ndarray, num_classes: int, metric: str) -> float:
    """What one scores, as it is shown, on photographs with these (N,) labels who has not seen them: with the classes'
    frequencies as probabilities for all, or with classes drawn by their frequency, whichever is better.
    """
    counts, scored = np.bincount(labels, minlength=num_classes), METRICS[metric]
    with np.errstate(divide="ignore"):
        frequencies = np.broadcast_to(np.log(counts / len(labels)), (len(labels), num_classes))
    reached = [exact_score(scored, labels, frequencies, num_classes)]
    if not scored.is_loss:
        reached.append(scored(np.outer(counts, counts)))
    return scored.shown(max(reached))


def alarm_lines(
    labels: np.ndarray, every: Sequence[np.ndarray], classes: Sequence[str], metric: str = "macro_f1"
) -> list[str]:
    """What is wrong with the answers of one model, or alike with those of several; nothing when all is well.

    The best of them is near chance by `metric`; else, which of the classes with `ENOUGH` photographs none of them ever
    gets right. Both come in one line each, with what to do about it.
    """
    scored, guessed = METRICS[metric], chance(labels, len(classes), metric)
    best = scored.shown(max(exact_score(scored, labels, answers, len(classes)) for answers in every))
    perfect = 0 if scored.is_loss else 1
    who = f"all {len(every)} models" if len(every) > 1 else "the model"
    if scored.sign * (best - guessed) < NEAR * abs(perfect - guessed):
        at_best = " at best" if len(every) > 1 else ""
        return [
            f"ALARM: {who} learned little: {scored.title} {best:.3f}{at_best}, and answers that see no "
            f"photograph reach {guessed:.3f} on the same: fine-tune with more --epochs or a higher --lr (a lower "
            "one if the training loss rose)"
        ]
    confusions = np.stack([confusion_matrix(labels, preds_of(answers), len(classes)) for answers in every])
    totals, right, said = confusions[0].sum(1), confusions.diagonal(axis1=1, axis2=2).max(0), confusions.sum((0, 1))
    dead = np.flatnonzero((totals >= ENOUGH) & (right == 0))
    kinds = {"never predicted": dead[said[dead] == 0], "always wrong": dead[said[dead] > 0]}
    told = [f"{kind}: {_named(some, totals, classes)}" for kind, some in kinds.items() if len(some)]
    if not told:
        return []
    return [
        f"ALARM: of {len(classes)} classes {who} never {'get' if len(every) > 1 else 'gets'} {len(dead)} right "
        f"({'; '.join(told)}): fine-tune with --logit-adjustment 1.0 or --sampler balanced"
    ]


def _named(some: np.ndarray, totals: np.ndarray, classes: Sequence[str]) -> str:
    """The largest of some classes with their photographs, and how many others there are."""
    largest = some[np.argsort(-totals[some], kind="stable")]
    words = [f"{classes[k]} ({totals[k]} photographs)" for k in largest[:NAMED]]
    return ", ".join(words) + (f" and {len(some) - NAMED} more" if len(some) > NAMED else "")
