"""How candidate soups are scored: on held-out people, with a journal of every decision."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from utils.base.digests import digest_of
from utils.base.metrics import METRICS
from utils.base.progress import ProgressBar
from utils.evaluation.folded import OutOfFold
from utils.evaluation.held_out import HeldOut
from utils.evaluation.prediction import search_batch
from utils.evaluation.scores import exact_score, log_softmax
from utils.models.averaging import Mixture
from utils.models.checkpoints import Checkpoint
from utils.soups.journal import Journal
from utils.soups.search import Outcome, fewest, fold_after_fold, hardest_first, score_above


class Evaluator:
    """Scores ingredients and mixtures of them on the held-out photographs at `positions` (None: all).

    `logits` (N, C), `log_probs` (N, C) and `scores` hold one entry per ingredient, in the order of `ingredients`.
    `start` is the checkpoint that they were fine-tuned from, or None. `metric_name` decides, and the folder `journals`
    keeps the decisions. `budget` is how many candidates the recipe `radin` may evaluate.
    """

    def __init__(
        self,
        held_out: HeldOut | OutOfFold,
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
        """Open the journal of a recipe, and count from zero the photographs that its decisions look at."""
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
        """The exact score of (N, C) logits on these photographs."""
        return exact_score(self.metric, self.labels, logits, logits.shape[1])

    @property
    def order(self) -> list[int]:
        """The positions of the ingredients, the best score first, equal ones as given."""
        return sorted(range(len(self.ingredients)), key=lambda k: -self.scores[k])

    def ensemble(self, mixture: Mixture) -> np.ndarray:
        """(N, C) mean log-probabilities of a mixture's ingredients, each with its share in the mixture.

        To predict so takes one forward pass per ingredient. The start is no ingredient and is left out.
        """
        own = {one.digest: (one, log_probs) for one, log_probs in zip(self.ingredients, self.log_probs, strict=True)}
        flat = mixture.flat
        share_of = {one.digest: share for one, share in zip(flat.members, flat.shares, strict=True)}
        total = np.zeros_like(self.log_probs[0])
        for _, (one, log_probs) in sorted(own.items(), key=lambda item: item[0]):
            share = sum(share_of.get(part.digest, 0) for part in one.parts)
            total = total + share * log_probs if share else total
        return total

    def _order(self, mixture: Mixture) -> np.ndarray:
        """(N,) in which order a candidate's photographs are looked at: the hardest first, in blocks of folds."""
        expected = self.ensemble(mixture)
        wrong = int((expected.argmax(-1) != self.labels).sum())  # about as many must be seen to drop it
        fold_of = self.held_out.fold_of[self.positions]
        return fold_after_fold(hardest_first(expected, self.labels), fold_of, wrong)

    def evaluate(self, mixture: Mixture) -> np.ndarray:
        """(N, C) logits of a mixture on all of the photographs."""
        partial = self.held_out.partial(mixture)
        logits = partial.evaluate(self.positions)
        partial.let_go()
        self.looked_at += len(self.positions)
        return logits

    def score_above(self, mixture: Mixture, best: Fraction) -> Fraction | None:
        """The score of a mixture if it is strictly above `best`, else None.

        It looks at no more photographs than that takes. A decision that the journal has is not taken again.
        """
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
        partial = self.held_out.partial(mixture)
        outcome = score_above(
            best,
            self.labels,
            self.held_out.labelling.num_classes,
            self.metric,
            self._order(mixture),
            lambda some: partial.evaluate(self.positions[some]),
            search_batch(self.held_out.accelerator.device),
            self.held_out.accelerator.num_processes,
        )
        partial.let_go()
        score = None if outcome.score is None else str(outcome.score)
        return {"seen": outcome.seen, "correct": outcome.correct, "score": score, "accepted": score is not None}

    def progress(self, candidates: Iterable, what: str, total: int | None = None) -> Iterable:
        """The candidates one by one, under a bar with the time left."""
        speaks = self.held_out.accelerator.is_main_process
        return ProgressBar(candidates, what, total=total, unit="candidate", speaks=speaks)

    def effort(self) -> str:
        """How many photographs the recipe's decisions looked at, and of how many; by accuracy also the least possible
        number.
        """
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
