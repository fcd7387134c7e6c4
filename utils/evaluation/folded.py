"""Everybody as held-out people: each fold's people are predicted by models that were trained without them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from utils.base.digests import digest_of
from utils.evaluation.held_out import HeldOut, PartialLogits, Scored, warn_of_labels
from utils.evaluation.results import ESTIMATE
from utils.models.averaging import Mixture
from utils.models.checkpoints import Checkpoint


class OutOfFold(Scored):
    """The held-out photographs of all folds, one fold behind the other, as if they were of one split.

    `parts` are those of each fold, and `fold_of` (N,) tells the fold of a position. Models are `FoldedModel`s, and
    mixtures are of such: on the photographs of fold k their models of fold k are evaluated.
    """

    def __init__(self, parts: Sequence[HeldOut]):
        first, self.parts = parts[0], list(parts)
        self.accelerator, self.labelling, self.preprocessing = first.accelerator, first.labelling, first.preprocessing
        self.whose = first.whose
        self.rows, self.ids, self.persons, self.labels, self.relabelled = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("rows", "ids", "persons", "labels", "relabelled")
        )
        self.fold_of = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
        self.starts = np.cumsum([0, *(len(part.rows) for part in parts)])
        self.images_digest = digest_of([part.images_digest for part in parts])
        for part in parts:
            part.resident = first.resident  # one model, and one limit of memory, for all folds
        self.record = {"ids": digest_of(self.ids), "labels": digest_of(self.labels)}

    def key(self, weights_digest: str) -> str:
        """What stands for the logits of these weights on these photographs, as in `HeldOut`."""
        return digest_of([part.key(weights_digest) for part in self.parts], 20)

    def logits(self, checkpoint: Checkpoint) -> np.ndarray:
        """(N, C) logits of a `FoldedModel`, out of fold."""
        warn_of_labels(checkpoint, self.parts)
        each = zip(self.parts, checkpoint.parts, strict=True)
        return np.concatenate([part.evaluated(model) for part, model in each])

    def partial(self, mixture: Mixture) -> "PartialFolds":
        return PartialFolds(self, mixture)

    def keep(self, weights_digest: str, logits: np.ndarray) -> None:
        """Nothing: the weights of a soup of all folds have seen everybody, and the logits are those of its parts."""

    def row(self, kind: str, model: str, answers: np.ndarray) -> dict:
        """The row of scores, as in `Scored`; it says that these are an estimate, since the models that predict new
        people, averages over the folds, are not scored themselves.
        """
        return super().row(kind, model, answers) | {"estimate": ESTIMATE}

    def squares_at(self, positions: np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8, the photographs at these positions."""
        each = zip(self.fold_of[positions], positions, strict=True)
        return np.concatenate([self.parts[fold].squares_at([k - self.starts[fold]]) for fold, k in each])

    def pixel_values(self, positions: np.ndarray) -> torch.Tensor:
        """(B, 3, S, S) pixels of the photographs at these positions, which are all of one fold."""
        fold = self.fold_of[positions[0]]
        return self.parts[fold].pixel_values(positions - self.starts[fold])


class PartialFolds:
    """As `PartialLogits`, over folds. The models of the folds are made one after the other, and one at a time is in
    memory, so that memory does not grow with the folds.
    """

    def __init__(self, held_out: OutOfFold, mixture: Mixture):
        self.held_out = held_out
        self.each = [PartialLogits(part, one) for part, one in zip(held_out.parts, mixture.parts, strict=True)]
        self._last = 0

    def evaluate(
        self, positions: np.ndarray, batch_size: int | None = None, workers: int = 0, progress: str = ""
    ) -> np.ndarray:
        """(M, C) logits at (M,) positions; each is predicted by the models of its own fold."""
        folds = self.held_out.fold_of[positions]
        logits = np.empty((len(positions), self.held_out.labelling.num_classes), np.float32)
        for fold in sorted(
            set(folds.tolist()), key=lambda fold: (fold != self._last, fold)
        ):  # the one in memory first
            if fold != self._last:
                self.each[self._last].let_go()
                self._last = fold
            own = positions[folds == fold] - self.held_out.starts[fold]
            logits[folds == fold] = self.each[fold].evaluate(own, batch_size, workers, progress)
        return logits

    def let_go(self) -> None:
        for one in self.each:
            one.let_go()


def folded_views(views: Sequence[Callable[[Checkpoint], HeldOut]]) -> Callable[[Checkpoint], OutOfFold]:
    """A function that gives everybody out of fold with the classes and the preprocessing of a model, of the `views` of
    the people of each fold.
    """
    made = {}

    def out_of_fold_of(checkpoint: Checkpoint) -> OutOfFold:
        parts = [view(checkpoint) for view in views]
        return made.setdefault(tuple(map(id, parts)), OutOfFold(parts))

    return out_of_fold_of
