"""Held-out photographs and how a model does on them."""

import logging
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from utils.checkpoints import Checkpoint
from utils.clip import CLIPClassifier, build
from utils.data import Photographs
from utils.engine import all_agree, predict
from utils.images import cache_squares
from utils.labels import Labelling
from utils.logits import cache_key, digest_of, load_logits, store_logits
from utils.metrics import Gain, Scores, paired_gain, score, score_row
from utils.options import CACHE, LOGS, Options
from utils.soups import average
from utils.weights import digest

log = logging.getLogger(__name__)

EVALUATION_BATCH = 64


def decoded(accelerator: Accelerator, photographs: Photographs, size: int):
    """All photographs as squares of `size` pixels; one process decodes what is not cached yet, the others wait."""
    with accelerator.main_process_first():
        return cache_squares(
            photographs.folder, list(photographs.files), size, CACHE, progress=accelerator.is_local_main_process
        )


class HeldOut:
    """The photographs at `rows`, evaluated through the logit cache in `logs/logits`."""

    def __init__(
        self,
        accelerator: Accelerator,
        photographs: Photographs,
        rows: np.ndarray,
        labelling: Labelling,
        preprocessing: dict,
        options: Options,
        folder: Path = LOGS / "logits",
    ):
        self.accelerator, self.rows, self.labelling, self.folder = accelerator, rows, labelling, folder
        self.preprocessing, self.batch_size, self.workers = preprocessing, options.batch_size, options.workers
        self.squares = decoded(accelerator, photographs, preprocessing["size"])
        self.ids, self.persons = photographs.ids[rows], photographs.persons[rows]
        self.labels = photographs.labels(labelling)[rows]
        self.record = {"ids": digest_of(self.ids), "labels": digest_of(self.labels)}

    def predict(
        self, model: CLIPClassifier, progress: str = "held-out", rows: np.ndarray | None = None, output="classify"
    ) -> np.ndarray:
        """(N, C) logits of a model, evaluated now; also of other `rows` of the photographs, or their features
        (`output="embed"`).
        """
        rows = self.rows if rows is None else rows
        sizes = (self.batch_size, self.workers)
        return predict(self.accelerator, model, self.squares, rows, self.preprocessing, *sizes, progress, output)

    def logits(self, checkpoint: Checkpoint) -> np.ndarray:
        """(N, C) logits of a checkpoint, from the cache or evaluated and kept.

        The log warns when the same photographs had other labels while it was trained.
        """
        trained = (checkpoint.meta or {}).get("held_out")
        if trained and trained["ids"] == self.record["ids"] and trained["labels"] != self.record["labels"]:
            log.warning("%s was trained under other labels of these people: give the same --relabel", checkpoint.name)
        return self.logits_of(
            checkpoint.digest, checkpoint.weights.config, checkpoint.weights.state_dict, checkpoint.name
        )

    def logits_of(
        self, weights_digest: str, config: dict, state_dict: dict[str, torch.Tensor], name: str = "held-out"
    ) -> np.ndarray:
        """The same for weights that are in no file, such as a soup under trial."""
        logits = load_logits(self.folder, self._key(weights_digest))
        if not all_agree(self.accelerator, logits is not None):
            logits = self.predict(build(config, state_dict, name), name)
            if self.accelerator.is_main_process:
                self.keep(weights_digest, logits)
            self.accelerator.wait_for_everyone()
        return logits

    def keep(self, weights_digest: str, logits: np.ndarray) -> None:
        """Put logits of the weights with this digest into the cache; for one process to call."""
        store_logits(self.folder, self._key(weights_digest), logits, self.ids)

    def _key(self, weights_digest: str) -> str:
        return cache_key(weights_digest, self.squares.digest, self.ids, self.preprocessing)

    def average(self, members: list[Checkpoint]) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        """(N, C) logits of the average of some checkpoints' weights, and the average itself."""
        soup = average([member.weights.state_dict for member in members])
        return self.logits_of(digest(soup), members[0].weights.config, soup, f"soup of {len(members)}"), soup

    def score(self, logits: np.ndarray) -> Scores:
        return score(logits, self.labels, self.labelling)

    def gain(self, logits: np.ndarray, baseline: np.ndarray) -> dict[str, Gain]:
        """What (N, C) logits score above those of another model, by a paired bootstrap over people."""
        preds = (logits.argmax(-1), baseline.argmax(-1))
        return paired_gain(self.labels, *preds, self.persons, self.labelling.num_classes)

    def row(self, kind: str, model: str, preds: np.ndarray) -> dict:
        """Accuracy and macro-F1 of (N,) predicted classes with 95 % bootstrap intervals over people."""
        return {
            "kind": kind,
            "model": model,
            **score_row(self.labels, preds, self.persons, self.labelling.num_classes),
        }
