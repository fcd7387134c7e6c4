"""Which checkpoints of a folder `--ensemble auto` may choose, what they predict, and how often they disagree."""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.base.metrics import METRICS
from utils.base.options import ALL_FOLDS
from utils.data.labels import own_class
from utils.ensembles.agreement import agreement, percent_table
from utils.ensembles.combining import class_log_probs
from utils.ensembles.selection import Library
from utils.evaluation.held_out import HeldOut
from utils.evaluation.scores import exact_score
from utils.models.checkpoints import Checkpoint, check_ensemble, check_specialist, flipped
from utils.models.folded import read_model, soup_across_folds
from utils.models.model_files import model_files
from utils.models.sweeps import latest_whole
from utils.models.weights import is_foreign

log = logging.getLogger(__name__)

SINGLE, SOUP = "single", "soup"  # the kinds of candidates that tell all classes


@dataclass(frozen=True)
class Candidate:
    """One checkpoint that may be selected: `kind` is `single`, `soup` or what a specialist tells, `age`;
    `sweep` is the `--name` it goes by."""

    checkpoint: Checkpoint
    kind: str
    sweep: str

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def is_specialist(self) -> bool:
        return self.kind not in (SINGLE, SOUP)

    @property
    def flip(self) -> bool:
        return bool(self.checkpoint.preprocessing.get("flip"))


def find_candidates(model_location: Path, name: str | None = None, flip: bool = False) -> list[Candidate]:
    """The checkpoints of a folder that can predict together, sorted by name: ingredients and specialists at the
    latest epoch of each, and soups, as the scripts name them; of one sweep, or of all. With `flip` each comes a second
    time, averaged over every photograph and its mirror image.

    Left out, with a line in the log, are a checkpoint without a record, since nobody knows whom it was trained on; of
    a folded sweep one that was trained on everyone, and a soup whose members are gone; a specialist of another split
    or of other classes; and one with the weights of another. Raises `InputError` when no model of all
    classes is left, or when they are of different splits or classes.
    """
    found = [Candidate(one, kind, sweep) for path, kind, sweep in _files(model_location, name) if (one := _read(path))]
    models, specialists = ([one for one in found if one.is_specialist == asked] for asked in (False, True))
    if not models:
        of_sweep = f" of {name}" if name else ""
        raise InputError(f"no models{of_sweep} with a record in {model_location}: run finetune.py, or give --name")
    first = models[0].checkpoint
    for one in models[1:]:
        try:
            check_ensemble(first, one.checkpoint)
        except InputError as error:
            raise InputError(f"{error}; choose one sweep with --name, or move one away") from error
    usable = models + [one for one in specialists if _fits(first, one.checkpoint)]
    distinct = list({_weights_of(one.checkpoint): one for one in reversed(usable)}.values())[::-1]
    for one in usable:
        if one not in distinct:
            log.debug("%s has the weights of another candidate and is left out", one.name)
    mirrored = [replace(one, checkpoint=flipped(one.checkpoint)) for one in distinct if flip]
    return sorted(distinct + mirrored, key=lambda one: one.name)


def _files(model_location: Path, name: str | None) -> list[tuple[Path, str, str]]:
    """Path, kind and sweep of the checkpoints of one sweep, or of all, sorted: the latest epoch of each ingredient and
    specialist, across folds where they have folds, and soups.
    """
    found, places = [], defaultdict(list)
    for file in model_files(model_location):
        place, sweep = file.place, file.sweep
        if sweep is None or name not in (None, sweep) or file.is_of_a_fold:
            continue
        if file.meta is None and is_foreign(file.path):
            log.warning("%s is left out: no record of its split", file.path)
        elif place is None:
            found.append((file.path, SOUP, sweep))
        else:
            kind = " and ".join(file.attributes) if file.is_specialist else SINGLE
            places[kind, sweep].append(place)
    for (kind, sweep), some in places.items():
        found += [(one.path, kind, sweep) for one in latest_whole(some)]
    return sorted(found)


def _read(path: Path) -> Checkpoint | None:
    """The candidate at a path; None for one that nobody can score, which the log tells: without a record of the people
    it was trained on, of classes that nothing tells the attributes of, or of a folded sweep and trained on everyone.
    """
    checkpoint = read_model(path)
    try:
        checkpoint = soup_across_folds(checkpoint)
    except InputError as error:
        log.warning("left out: %s", error)
        return None
    if checkpoint.split is None or not checkpoint.labelling.attributes:
        log.warning("%s is left out: no record of its split, or other classes", checkpoint.path)
        return None
    if len(checkpoint.parts) == 1 and checkpoint.split.get("fold") == ALL_FOLDS:
        log.debug("%s was trained on everyone and is left out", checkpoint.name)
        return None
    return checkpoint


def _weights_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What two candidates with the same weights have in common; a soup across folds may be of a single member."""
    return tuple(one.digest for one in checkpoint.parts)


def _fits(model: Checkpoint, one: Checkpoint) -> bool:
    try:
        check_specialist(model, one)
    except InputError as error:
        log.warning("%s is left out: %s", one.path, error)
        return False
    return True


def sweeps_of(candidates: list[Candidate]) -> list[str]:
    """The sweeps that predict all classes, sorted."""
    return sorted({one.sweep for one in candidates if not one.is_specialist})


def ensemble_name(candidates: list[Candidate]) -> str:
    """`{sweep}_auto`, or `all_auto` of several sweeps; `_flip` when there are mirrored ones."""
    sweeps = sweeps_of(candidates)
    name = sweeps[0] if len(sweeps) == 1 else "all"
    return f"{name}_auto" + ("_flip" if any(one.flip for one in candidates) else "")


def read_library(
    candidates: list[Candidate], held_out_of: Callable[[Checkpoint], HeldOut], class_counts: np.ndarray
) -> Library:
    """The candidates with their predictions on the held-out photographs, read from the logit cache or evaluated now.

    `held_out_of` gives these photographs with the classes and the preprocessing of a checkpoint. `class_counts` (C,)
    are the training photographs of each class.
    """
    held_out = held_out_of(next(one.checkpoint for one in candidates if not one.is_specialist))
    log_probs = []
    for one in candidates:
        logits = held_out_of(one.checkpoint).logits(one.checkpoint)
        log_probs.append(class_log_probs(logits, held_out.labelling, one.checkpoint.labelling))
    begins = np.array([not one.is_specialist for one in candidates])
    names = tuple(one.name for one in candidates)
    return Library(names, np.stack(log_probs), begins, held_out.labels, held_out.persons, class_counts)


def library_lines(library: Library, metric: str, candidates: list[Candidate]) -> list[str]:
    """The candidates by number with their scores, and how often each two disagree, one line each.

    Models disagree where they predict other classes; with a specialist where they predict other values of its own
    attributes.
    """
    preds = library.log_probs.argmax(-1)  # (M, N); the first class of the values that a specialist predicts
    labellings = [one.checkpoint.labelling for one in candidates]
    whole = labellings[int(library.begins.argmax())]
    lines, scored = [], METRICS[metric]
    for k, name in enumerate(library.names):
        reached = exact_score(scored, library.labels, library.log_probs[k], len(library.class_counts))
        score = f"{metric} {scored.shown(reached):.4f}" if library.begins[k] else "specialist"
        lines.append(f"[{k:2d}] {score:{len(metric) + 8}}  {name}")
    same = agreement(preds)
    for k in np.flatnonzero(~library.begins):
        own = own_class(whole, labellings[k])[preds]
        same[k] = same[:, k] = (own == own[k]).sum(1)
    lines += ["pairwise disagreement in percent of photographs, rounded down (with a specialist: on what it tells)"]
    return lines + percent_table(preds.shape[1] - same, preds.shape[1])
