"""The answers to the photographs to predict: the submission, and beside it its record, what could not be read, and
probabilities.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.base.tables import write_table
from utils.data import competition
from utils.data.decoding import decode
from utils.data.labels import Labelling
from utils.data.origins import write_record
from utils.data.submissions import IDS, NAMES, answered, answered_columns
from utils.data.unlabelled import TestImages

log = logging.getLogger(__name__)

Scores = Callable[[], Iterator[np.ndarray]]  # (n, C) of each shard, NaN in the rows of images that cannot be read


def usual_answer(known: Labelling) -> str:
    """What answers are unless one asks otherwise: ids of the competition's classes, names of all others."""
    return IDS if competition.is_its(known) else NAMES


def write_answers(
    path: Path,
    test: TestImages,
    scores: Scores,
    record: dict,
    known: Labelling,
    answer: str,
    to_probs: Callable | None = None,
) -> None:
    """Write the submission: the class with the largest of `scores` in each row, as its name or its id.

    Beside it lie `record` with the file's SHA-256, a list of the images that could not be read, and with `to_probs`
    the class probabilities (C,) that it makes of each row. Those two of an earlier submission are removed.
    """
    shown = known.classes if answer == NAMES else range(known.num_classes)
    unreadable, listed = [], path.with_name(f"unreadable_{path.stem.removeprefix('output_')}.csv")
    probs_file = path.with_stem(f"{path.stem}_probs")
    answers, names = _answered_rows(test, scores(), unreadable, shown), test.files()
    write_table(path, answered_columns(test.columns), answers)
    if unreadable:
        write_table(listed, ["ImageID", "reason"], unreadable)
        as_class = shown[test.answer_bad]
        log.warning("%d unreadable images, in %s: answered as class %s", len(unreadable), listed, as_class)
    if to_probs:
        columns = [f"p{k}" for k in range(known.num_classes)] if competition.is_its(known) else known.classes
        every = (row.tolist() for one in scores() for row in to_probs(one))
        rows = ([name, *row] for name, row in zip(names, every, strict=True))
        write_table(probs_file, ["ImageID", *columns], rows)
        log.info("probabilities: %s", probs_file)
    for stale in (*([] if unreadable else [listed]), *([] if to_probs else [probs_file])):
        stale.unlink(missing_ok=True)
    photographs = {"count": test.count, "unreadable": len(unreadable), "digest": test.names_digest}
    write_record(path, {"photographs": photographs, "answer": answer, **record})


def _answered_rows(
    test: TestImages, scores: Iterator[np.ndarray], unreadable: list[list[str]], shown: Sequence
) -> Iterator[list[str | int]]:
    """The rows of the list with their answers, looked at once more; those that have none go to `unreadable`, too."""
    for rows, one in zip(test.shards(), scores, strict=True):
        for row, pred, is_bad in zip(rows, one.argmax(-1).tolist(), np.isnan(one[:, 0]), strict=True):
            if is_bad:
                reason = _why_unreadable(test.folder / row[test.key])
                if not test.skip_bad:
                    raise InputError(f"{reason}, or pass --skip-bad")
                unreadable.append([row[test.key], reason])
            yield answered(test.columns, row, shown[test.answer_bad if is_bad else pred])


def _why_unreadable(path: Path) -> str:
    if not path.exists():
        return f"image {path} is not there"
    try:
        decode(path, 8)
    except InputError as error:
        return str(error)
    return f"image {path} could not be read at the size it was predicted at"
