"""Held-out photographs and how a model does on them."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from utils.base.digests import digest_of
from utils.base.errors import Diverged, InputError
from utils.base.files import CACHE, LOGS
from utils.base.memory import limit_of
from utils.base.options import Options
from utils.base.runtime import from_main, main_first
from utils.data.images import SomeSquares, cache_squares, cached_squares
from utils.data.labels import Labelling
from utils.data.photographs import Photographs
from utils.data.preprocessing import normalised
from utils.evaluation.logit_cache import cache_key, load_logits, store_logits
from utils.evaluation.prediction import predict, search_batch
from utils.evaluation.scores import Gain, Scores, expected_row, gain_over_mean, score, score_row
from utils.models.averaging import Mixture
from utils.models.checkpoints import Checkpoint
from utils.models.clip import Classifier
from utils.models.resident import Resident

log = logging.getLogger(__name__)


EXPECTED = "expected single"  # the kind of its row
KEEP_EVERY = 1.0  # seconds of evaluation that a killed search may lose


def decoded(
    accelerator: Accelerator, photographs: Photographs, size: int, rows: np.ndarray | None = None, keep: bool = True
):
    """All photographs as squares of `size` pixels. If the whole set is not cached, only those at `rows`.

    One process decodes what is not cached yet; the others wait. Without `keep` a photograph is decoded each time that
    it is asked for.
    """
    folder, files = photographs.folder, photographs.files
    progress = accelerator.is_local_main_process

    def read():
        if rows is None:
            return cache_squares(folder, list(files), size, CACHE, progress, keep)
        whole = cached_squares(folder, list(files), size, CACHE, keep)
        if whole is not None:
            return whole
        return SomeSquares(cache_squares(folder, list(files[rows]), size, CACHE, progress, keep), rows)

    return main_first(accelerator, read)


class Scored:
    """What is asked of held-out photographs once they are predicted: `labels` and `persons` (N,), and `labelling`.

    `relabelled` (N,) are those whose label relabel.csv changed. Every record of scores counts them, so that nobody who
    scores is cleaned silently. `whose` they are is what intervals resample: people, groups or images.
    """

    labels: np.ndarray
    persons: np.ndarray
    relabelled: np.ndarray
    labelling: Labelling
    whose: str

    def score(self, logits: np.ndarray) -> Scores:
        """The scores of (N, C) logits. Raises `Diverged` when one of them is NaN or infinite."""
        if not np.isfinite(logits).all():
            raise Diverged(
                "the model diverged, its held-out logits are NaN or infinite: use a lower --lr (with --overwrite)"
            )
        return replace(score(logits, self.labels, self.labelling), relabelled=int(self.relabelled.sum()))

    def gain(self, logits: np.ndarray, *baselines: np.ndarray) -> dict[str, Gain]:
        """The gain of (N, C) logits over those of another model, or over the mean score of several, by a paired
        bootstrap over people.
        """
        return gain_over_mean(self.labels, logits, baselines, self.persons, self.labelling.num_classes)

    def row(self, kind: str, model: str, answers: np.ndarray) -> dict:
        """The row of scores of answers, with 95 % bootstrap intervals over people."""
        scores = score_row(self.labels, answers, self.persons, self.labelling.num_classes)
        return {"kind": kind, "model": model, "relabelled": int(self.relabelled.sum()), **scores}

    def expected_row(self, every: Sequence[np.ndarray]) -> dict:
        """The row of what one of several models is expected to score, given the (N, C) logits of each."""
        scores = expected_row(self.labels, every, self.persons, self.labelling.num_classes)
        model = f"the mean score of {len(every)}"
        return {"kind": EXPECTED, "model": model, "relabelled": int(self.relabelled.sum()), **scores}


class HeldOut(Scored):
    """The photographs at `rows` (sorted), evaluated through the logit cache in `logs/logits`.

    `decode_all` makes `squares` hold every photograph, for training.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        photographs: Photographs,
        rows: np.ndarray,
        labelling: Labelling,
        preprocessing: dict,
        options: Options,
        folder: Path = LOGS / "logits",
        decode_all: bool = False,
    ):
        self.accelerator, self.rows, self.labelling, self.folder = accelerator, rows, labelling, folder
        self.whose = photographs.whose
        self.preprocessing, self.batch_size, self.workers = preprocessing, options.batch_size, options.workers
        size, some = preprocessing["size"], None if decode_all else rows
        self.squares = decoded(accelerator, photographs, size, some, keep=not options.no_cache)
        self.images_digest = self.squares.fingerprint(rows)
        self.ids, self.persons = photographs.ids[rows], photographs.persons[rows]
        self.relabelled = photographs.relabelled[rows]
        self.labels = photographs.labels(labelling)[rows]
        self.record = {"ids": digest_of(self.ids), "labels": digest_of(self.labels)}
        self.fold_of = np.zeros(len(rows), np.int64)
        self.resident = Resident(accelerator.device, limit_of(getattr(options, "memory", None)))

    def predict(
        self, model: Classifier, progress: str = "held-out", rows: np.ndarray | None = None, output="classify"
    ) -> np.ndarray:
        """(N, C) logits of a model, evaluated now; of other `rows` if given, or features with `output="embed"`."""
        return predict(
            self.accelerator,
            model,
            self.squares,
            self.rows if rows is None else rows,
            self.preprocessing,
            batch_size=self.batch_size,
            workers=self.workers,
            progress=progress,
            output=output,
        )

    def squares_at(self, positions: np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8, the held-out photographs at these positions."""
        return np.stack([self.squares[row] for row in self.rows[positions]])

    def pixel_values(self, positions: np.ndarray) -> torch.Tensor:
        """(B, 3, S, S) pixels, as a model takes them, of the held-out photographs at these positions."""
        squares = torch.from_numpy(self.squares_at(positions))
        return normalised(squares, self.preprocessing["mean"], self.preprocessing["std"])

    def logits(self, checkpoint: Checkpoint) -> np.ndarray:
        """(N, C) logits of a checkpoint: read from the cache, or evaluated and put there.

        The log warns when these photographs had other labels while the checkpoint was trained.
        """
        warn_of_labels(checkpoint, [self])
        return self.evaluated(checkpoint)

    def evaluated(self, checkpoint: Checkpoint) -> np.ndarray:
        """As `logits`, whatever labels the checkpoint was trained under."""
        partial = self.partial(Mixture.of([checkpoint]))
        logits = partial.evaluate(np.arange(len(self.rows)), self.batch_size, self.workers, checkpoint.name)
        partial.let_go()
        return logits

    def partial(self, mixture: Mixture) -> "PartialLogits":
        """The logits of a mixture, evaluated where they are asked for."""
        return PartialLogits(self, mixture)

    def keep(self, weights_digest: str, logits: np.ndarray) -> None:
        """Put logits of the weights with this digest into the cache. Only one process may call it."""
        store_logits(self.folder, self.key(weights_digest), logits, self.ids)

    def key(self, weights_digest: str) -> str:
        """The cache's key for the logits of these weights on these photographs."""
        return cache_key(weights_digest, self.images_digest, self.ids, self.preprocessing)


def warn_of_labels(checkpoint: Checkpoint, parts: Sequence[HeldOut]) -> None:
    """Warn when photographs had other labels while a checkpoint, or its models of the folds, were trained."""
    for model, part in zip(checkpoint.parts, parts, strict=False):  # of everybody there is but one part
        trained, now = (model.meta or {}).get("held_out"), part.record
        if trained and trained["ids"] == now["ids"] and trained["labels"] != now["labels"]:
            words = "was trained under other labels of these people: give the same --relabel, unless you compare them"
            log.warning("%s %s", checkpoint.name, words)
            return


def views(
    accelerator: Accelerator, photographs: Photographs, rows: np.ndarray, options: Options
) -> Callable[[Checkpoint], HeldOut]:
    """A function that gives the photographs at `rows` with the classes and the preprocessing of a checkpoint.

    Checkpoints that agree in both share one `HeldOut`.
    """
    made = {}

    def held_out_of(checkpoint: Checkpoint) -> HeldOut:
        labelling, preprocessing = checkpoint.labelling, checkpoint.preprocessing
        key = labelling, json.dumps(preprocessing)
        if key not in made:
            made[key] = HeldOut(accelerator, photographs, rows, labelling, preprocessing, options)
        return made[key]

    return held_out_of


class PartialLogits:
    """A mixture's logits on the held-out photographs: evaluated only where asked for, and never twice.

    `logits` (N, C) are NaN where nothing was evaluated yet. They are read from the cache and kept there, also
    unfinished, so that a killed search loses a second of work at most. All processes must ask for the same positions.
    """

    def __init__(self, held_out: HeldOut, mixture: Mixture):
        self.held_out, self.mixture = held_out, mixture
        shape = len(held_out.rows), held_out.labelling.num_classes
        stored = from_main(
            held_out.accelerator,
            lambda: load_logits(held_out.folder, held_out.key(mixture.digest), held_out.ids, shape[1]),
        )
        self.logits = np.full(shape, np.nan, np.float32) if stored is None else stored
        self._kept_at, self._unkept = time.monotonic(), False

    def evaluate(
        self, positions: np.ndarray, batch_size: int | None = None, workers: int = 0, progress: str = ""
    ) -> np.ndarray:
        """(M, C) logits at (M,) positions among the held-out photographs, in the batches of a search unless told."""
        missing = positions[np.isnan(self.logits[positions, 0])]
        if len(missing):
            held_out = self.held_out
            self.logits[missing] = predict(
                held_out.accelerator,
                held_out.resident.model(self.mixture),
                held_out.squares,
                held_out.rows[missing],
                held_out.preprocessing,
                batch_size=batch_size or search_batch(held_out.accelerator.device),
                workers=workers,
                progress=progress,
            )
            if not np.isfinite(self.logits[missing]).all():
                names = ", ".join(one.name for one in self.mixture.members)
                raise InputError(f"{names}: its logits are NaN or infinite, so it diverged: leave it out")
            self._unkept = True
            if time.monotonic() - self._kept_at > KEEP_EVERY:
                self.keep()
        return self.logits[positions]

    def let_go(self) -> None:
        """Keep what was evaluated, and free the model, which is made anew if it is asked for again."""
        self.keep()
        self.held_out.resident.let_go()

    def keep(self) -> None:
        """Put what was evaluated since the last time into the cache."""
        if self._unkept and self.held_out.accelerator.is_main_process:
            self.held_out.keep(self.mixture.digest, self.logits)
        self._kept_at, self._unkept = time.monotonic(), False
