"""`--keep-top`: only the best checkpoints of a sweep stay on the disk."""

from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from utils.base.files import locked, write_text
from utils.base.metrics import METRICS
from utils.base.options import ALL_FOLDS
from utils.base.records import Digest, Record
from utils.models.model_files import DROPPED, Ingredient, model_files


class DroppedNote(Record):
    """What is left of a checkpoint that `keep_top` removed."""

    options: dict[str, Any]
    scores: dict[str, Any] | None
    digest: Digest


def keep_top(model_location: Path, name: str, most: int, metric: str) -> list[Path]:
    """Remove all but the `most` best checkpoints of a sweep by their recorded held-out score; returns what went.

    Each leaves a note of its options and scores beside it, by which the same run is skipped when it is asked for
    again; checkpoints of its earlier epochs go with it. Of equal scores the lower seed and index stay. A run that is
    still under way, or whose record is older than the metric, is neither counted nor touched. In a folded sweep the
    models of all folds of a seed and index stay or go together, by the mean of their scores.
    """
    removed = []
    with locked(model_location / ".keep_top.lock"):  # several runs of a sweep may end at once
        sign, runs = METRICS[metric].sign, _scored_runs(model_location, name, metric)
        for run in sorted(runs, key=lambda run: -sign * mean(meta["scores"][metric] for _, meta in run))[most:]:
            for one, meta in run:
                note = DroppedNote(**{key: meta[key] for key in DroppedNote.model_fields})
                write_text(one.path.with_suffix(DROPPED), note.model_dump_json(indent=1) + "\n")
                earlier = one.path.stem.rpartition("_epoch")[0]
                removed += sorted(model_location.glob(f"{earlier}_epoch*.pt"))
        for path in removed:
            path.unlink(missing_ok=True)
    return removed


def _scored_runs(model_location: Path, name: str, metric: str) -> list[list[tuple[Ingredient, dict]]]:
    """The runs of a sweep that have ended and were scored, sorted by seed and index, each with the records of its
    checkpoints: one, or one for each fold.
    """
    found, metas = defaultdict(list), {}
    for file in model_files(model_location):
        one = file.place
        if file.meta and one and one.name == name and not file.is_specialist and one.fold != ALL_FOLDS:
            found[one.run].append(one)
            metas[one] = file.meta
    runs = defaultdict(list)
    for epochs in found.values():
        last = max(epochs, key=lambda one: one.epoch)
        if last.epoch == metas[last]["options"].get("epochs") and metric in (metas[last]["scores"] or ()):
            runs[last.seed, last.i].append((last, metas[last]))
    return [run for _, run in sorted(runs.items()) if len(run) == (run[0][0].folds or 1)]
