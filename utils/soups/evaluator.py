"""Where soups are chosen: ingredients, held-out people to taste them on, and a journal of what was decided."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from utils.base.digests import digest_of
from utils.base.metrics import METRICS
from utils.evaluation.held_out import HeldOut, PartialLogits
from utils.evaluation.prediction import SEARCH_BATCH
from utils.evaluation.scores import confusion_matrix, log_softmax
from utils.models.averaging import Mixture
from utils.models.checkpoints import Checkpoint
from utils.soups.journal import Journal
from utils.soups.search import Outcome, fewest, hardest_first, score_above


class Evaluator:
    """The ingredients of one sweep with their scores on the held-out photographs at `positions` (None: all).

    `logits` (N, C), `log_probs` and `scores` are those of each ingredient by itself, in the order of `ingredients`.
    `start` is what they were fine-tuned from, if that is known. Decisions are by `metric_name`, and kept in the folder
    `journals`; `budget` is how many candidates `radin` may try.
    """

    def __init__(
        self,
        held_out: HeldOut,
        ingredients: Sequence[Checkpoint],
        metric_name: str,
        journals: Path,
        start: Checkpoint | None = None,
        positions: np.ndarray | None = None,
        budget: int = 10,
    ):
        self.held_out, self.ingredients, self.start = held_out, list(ingredients), start
        self.metric_name, self.metric, self.journals = metric_name, METRICS[metric_name], journals
        self.budget = budget
        self.positions = np.arange(len(held_out.rows)) if positions is None else positions
        self.labels = held_out.labels[self.positions]
        self.logits = [held_out.logits(one)[self.positions] for one in self.ingredients]
        self.log_probs = [log_softmax(logits) for logits in self.logits]
        self.scores = [self.score(logits) for logits in self.logits]
        self.begin("none")

    def begin(self, recipe: str) -> None:
        """Open the journal of a recipe and count from zero what its decisions look at."""
        content = [
            [one.digest for one in self.ingredients],
            self.held_out.key(""),
            self.held_out.record["labels"],
            self.positions.tolist(),
            self.start and self.start.digest,
        ]
        name = f"{recipe}_{self.metric_name}_{digest_of(content, 12)}.jsonl"
        self.journal = Journal(self.journals / name, self.held_out.accelerator)
        self.looked_at, self.steps, self._outcomes, self._to_beat = 0, [], [], []

    def score(self, logits: np.ndarray) -> Fraction:
        """The exact score of (N, C) logits of these photographs."""
        return self.metric(confusion_matrix(self.labels, logits.argmax(-1), logits.shape[1]))

    @property
    def order(self) -> list[int]:
        """The ingredients by their own scores, best first, equal ones as given."""
        return sorted(range(len(self.ingredients)), key=lambda k: -self.scores[k])

    def ensemble(self, mixture: Mixture) -> np.ndarray:
        """(N, C) mean log-probabilities of a mixture's ingredients, weighted as they are: N times the inference.

        The start is no ingredient and has no part in it.
        """
        own = {one.digest: log_probs for one, log_probs in zip(self.ingredients, self.log_probs, strict=True)}
        parts = [(one.digest, share) for one, share in zip(mixture.members, mixture.shares, strict=True)]
        return sum(share * own[digest] for digest, share in parts if digest in own)

    def evaluate(self, mixture: Mixture) -> np.ndarray:
        """(N, C) logits of a mixture, all of them."""
        partial = PartialLogits(self.held_out, mixture)
        logits = partial.evaluate(self.positions)
        partial.keep()
        self.looked_at += len(self.positions)
        return logits

    def score_above(self, mixture: Mixture, best: Fraction) -> Fraction | None:
        """The score of a mixture if it is strictly above `best`, else None; evaluates no more than that takes."""
        entry = self.journal.find(mixture.digest, best)
        if entry is None:
            entry = {
                "candidate": [one.name for one in mixture.members],
                "weights": list(mixture.shares),
                "digest": mixture.digest,
                "best": str(best),
                **self._look(mixture, best),
            }
            self.journal.append(entry)
        score = Fraction(entry["score"]) if entry["accepted"] else None
        self.looked_at += entry["seen"]
        self._outcomes.append(Outcome(score, entry["seen"], entry["correct"]))
        self._to_beat.append(len(self.labels) - int(best * len(self.labels)))
        return score

    def _look(self, mixture: Mixture, best: Fraction) -> dict:
        partial = PartialLogits(self.held_out, mixture)
        outcome = score_above(
            best,
            self.labels,
            self.held_out.labelling.num_classes,
            self.metric,
            hardest_first(self.ensemble(mixture), self.labels),
            lambda some: partial.evaluate(self.positions[some]).argmax(-1),
            SEARCH_BATCH,
            self.held_out.accelerator.num_processes,
        )
        partial.keep()
        score = None if outcome.score is None else str(outcome.score)
        return {"seen": outcome.seen, "correct": outcome.correct, "score": score, "accepted": score is not None}

    def effort(self) -> str:
        """What the recipe's decisions looked at, against all, and for accuracy against the fewest possible."""
        if not self._outcomes:
            return f"{self.looked_at} photographs looked at"
        used = sum(one.seen for one in self._outcomes)
        every = len(self._outcomes) * len(self.labels)
        line = f"{len(self._outcomes)} candidates, {used} of {every} photographs looked at"
        if self.looked_at > used:
            line += f", and {self.looked_at - used} for the score to beat"
        if self.metric_name == "accuracy":
            least = fewest(self._outcomes, self._to_beat)
            line += f", {used / max(1, least):.2f} times the {least} that an exact search needs at least"
        return line
