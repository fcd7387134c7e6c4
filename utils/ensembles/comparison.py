"""A model beside the ensembles that predict with it, all scored on the same held-out people."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from utils.ensembles import combining, members, specialist_weight, votes
from utils.evaluation.held_out import HeldOut
from utils.models.checkpoints import Checkpoint
from utils.models.model_files import specialist_name


@dataclass(frozen=True)
class Comparison:
    """A model beside the ensembles asked for: rows of scores, and the (N,) predicted classes by kind.

    `tuned` is the weight of the specialists and what it is worth, or None without any.
    """

    rows: list[dict]
    preds: dict[str, np.ndarray]
    tuned: dict | None

    def beside(self, row: dict, logits: np.ndarray) -> "Comparison":
        """The same with another row, of (N, C) logits."""
        return replace(self, rows=[*self.rows, row], preds={**self.preds, row["kind"]: logits.argmax(-1)})


def compare(
    model: Checkpoint,
    specialists: list[Checkpoint],
    others: list[Checkpoint],
    view: Callable[[Checkpoint], HeldOut],
    rule: str,
    metric: str,
) -> "Comparison":
    """Score the model, each ensemble asked for, and a hard vote when there is one of either kind.

    `view` gives the held-out photographs as a checkpoint sees them. Specialists of weight 0 have no vote: the model
    predicts with them as by itself.
    """
    held_out = view(model)
    logits, tuned = held_out.logits(model), None
    preds = {"single": logits.argmax(-1)}
    rows = [held_out.row("single", model.name, logits)]
    if others:
        every = [logits, *(view(other).logits(other) for other in others)]
        log_probs = combining.soft_vote_log_probs(every, rule)
        preds["soft vote"] = log_probs.argmax(-1)
        rows.append(held_out.row("soft vote", members.soft_voting_name(model, others, rule), log_probs))
    if specialists:
        each = [view(one).logits(one) for one in specialists]
        for one, own_logits in zip(specialists, each, strict=True):
            rows.append(view(one).row(specialist_name(one.labelling.attributes), one.name, own_logits))
        weighted, preds["weighted"], tuned = tune_weight(model, specialists, each, held_out, metric)
        rows.append(weighted)
    if len(preds) == 3:
        voters = [kind for kind in preds if kind != "weighted" or tuned["weight"]]
        answers = np.stack([preds[kind] for kind in voters])
        preds["hard vote"] = votes.attribute_votes(answers, np.ones(len(voters), np.int64), model.labelling)
        rows.append(held_out.row("hard vote", f"of {', '.join(voters[:-1])} and {voters[-1]}", preds["hard vote"]))
    return Comparison(rows, preds, tuned)


def tune_weight(
    model: Checkpoint, specialists: list[Checkpoint], each: list[np.ndarray], held_out: HeldOut, metric: str
) -> tuple[dict, np.ndarray, dict]:
    """The row and the (N,) predicted classes of the corrected model, each person's under a weight tuned on others;
    and the weight tuned on everybody, with both scores. `each` are the logits of the specialists.
    """
    name, labels = members.weighted_name(model, specialists), held_out.labels
    whole, own = model.labelling, specialists[0].labelling
    logits, own_logits = held_out.logits(model), combining.soft_vote(each, "log")
    weight = specialist_weight.tune_weight(logits, own_logits, labels, whole, own, metric)
    scores = specialist_weight.cross_fitted_scores(logits, own_logits, labels, held_out.persons, whole, own, metric)
    row = held_out.row("weighted", name, scores)
    tuned = combining.corrected(logits, own_logits, weight, whole, own)
    tuned_row = held_out.row("weighted, tuned on these people", name, tuned)
    return row, scores.argmax(-1), {"weight": weight, "cross_fitted": row, "tuned": tuned_row}
