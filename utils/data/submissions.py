"""Submission files: the columns of `info.csv` with `ans` filled in; rows of several are matched by `ImageID`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.base.files import OUTPUT
from utils.base.tables import open_table, tell_once, write_table
from utils.data import competition
from utils.data.labels import Labelling, plain
from utils.data.origins import origin_of

ANY_CLASSES = plain(tuple(map(str, range(1000))))  # where classes may vote whose names nobody knows
SHOWN = 5  # names of classes in an error
NAMES, IDS = "names", "ids"  # what answers are


@dataclass(frozen=True)
class Submission:
    """A submission as it stands in its file; `ids`, `rows` and `answers` go in the file's order. `named` says whether
    the answers stand there as names of classes; `answers` are class ids in any case.
    """

    path: Path
    columns: list[str]
    rows: list[list[str]]
    ids: list[str]
    answers: np.ndarray  # (N,) int64
    named: bool = False


def find_submissions(folder: Path = OUTPUT) -> list[Path]:
    """Sorted `output_*.csv` of a folder, without the probabilities beside them."""
    return [path for path in sorted(folder.glob("output_*.csv")) if not path.name.endswith("_probs.csv")]


def read_submission(path: Path, filled: str = "ImageID", known: Labelling | None = None) -> Submission:
    """Read a CSV or Parquet file with the columns `ImageID` and `ans` (others are kept).

    The record beside the file says of which classes its answers are, and whether they are names or ids. Without one
    they are of the classes `known`, by default the competition's: names if all of them are, else ids. Raises
    `InputError` for what `open_table` refuses, a missing column, an `ans` that is no class and a blank cell in the
    column `filled` (with its line), and a doubled `ImageID`.
    """
    origin = origin_of(path)
    known = origin.classes if origin else known or competition.labelling()
    columns, lines = open_table(path)
    key, ans = _positions(path, columns)
    never_blank = columns.index(filled) if filled in columns else key
    rows, numbers = [], []
    for line, row in lines:
        row[key] = without_spaces(row[key], path)
        if not row[never_blank].strip():
            raise InputError(f"{path}, line {line}: the column {columns[never_blank]} is blank: fill it in")
        rows.append(row)
        numbers.append(line)
    if not rows:
        raise InputError(f"{path} has a header but no rows")
    ids = [row[key] for row in rows]
    doubled = [image for image, count in Counter(ids).items() if count > 1]
    if doubled:
        raise InputError(f"{path} lists {len(doubled)} images more than once, the first: {doubled[0]}")
    texts = [row[ans] for row in rows]
    names = {name: class_id for class_id, name in enumerate(known.classes)}
    numbered = {str(class_id): class_id for class_id in range(known.num_classes)}
    named = names != numbered and (origin.answer == NAMES if origin else all(text in names for text in texts))
    class_ids = names if named else numbered
    for line, text in zip(numbers, texts, strict=True):
        if text not in class_ids:
            shown = ", ".join(known.classes[:SHOWN]) + (", ..." if known.num_classes > SHOWN else "")
            what = f"none of the classes {shown}" if named else f"no whole number from 0 to {known.num_classes - 1}"
            raise InputError(f"{path}, line {line}: ans {text!r} is {what}")
    return Submission(path, columns, rows, ids, np.array([class_ids[text] for text in texts], np.int64), named)


def images_of(path: Path) -> set[str]:
    """The `ImageID`s of a submission, whatever its answers."""
    columns, lines = open_table(path)
    key, _ = _positions(path, columns)
    return {without_spaces(row[key], path) for _, row in lines}


def without_spaces(image: str, path: Path) -> str:
    """An `ImageID` without the spaces behind it, which the log tells of."""
    short = image.rstrip(" \t")
    if short != image:
        tell_once(f"{path}: spaces behind an ImageID, such as {image!r}, are left out")
    return short


def _positions(path: Path, columns: list[str]) -> tuple[int, int]:
    """Where `ImageID` and `ans` stand in the header."""
    for name in ("ImageID", "ans"):
        if columns.count(name) != 1:
            shown = ",".join(columns[:4]) + (",..." if len(columns) > 4 else "")
            count = f"{columns.count(name)} columns" if name in columns else "no column"
            raise InputError(f"{path} has {count} {name} ({shown}), expected ImageID,ans")
    return columns.index("ImageID"), columns.index("ans")


def align(submissions: Sequence[Submission]) -> np.ndarray:
    """(F, N) answers, every file's rows matched by `ImageID` to those of the first.

    Raises `InputError` when a file has other columns than the first, lacks some of its images or has further ones.
    """
    first = submissions[0]
    answers = np.empty((len(submissions), len(first.ids)), np.int64)
    for f, other in enumerate(submissions):
        if other.columns != first.columns:
            raise InputError(
                f"{other.path} has the columns {','.join(other.columns)}, "
                f"but {first.path} has {','.join(first.columns)}"
            )
        answers[f] = other.answers[match(other, first.ids, first.path)]
    return answers


def match(submission: Submission, ids: Sequence[str], of: Path) -> list[int]:
    """The submission's row of each of `ids`; raises `InputError` unless both list the same images."""
    row_of = {image: row for row, image in enumerate(submission.ids)}
    missing = [image for image in ids if image not in row_of]
    if missing:
        raise InputError(f"{submission.path} lacks {len(missing)} images of {of}, the first: {missing[0]}")
    if len(submission.ids) > len(ids):
        known = set(ids)
        extra = [image for image in submission.ids if image not in known]
        raise InputError(f"{submission.path} has {len(extra)} images that {of} lacks, the first: {extra[0]}")
    return [row_of[image] for image in ids]


def answered_columns(columns: list[str]) -> list[str]:
    """The columns of a submission: those of the list, and a last one `ans` if there is none."""
    return columns if "ans" in columns else [*columns, "ans"]


def answered(columns: list[str], row: list[str], pred: str | int) -> list[str | int]:
    """A row of the list with its `ans` replaced, or put behind it, by a class."""
    ans = columns.index("ans") if "ans" in columns else len(columns)
    return [*row[:ans], pred, *row[ans + 1 :]]


def write_submission(
    path: Path, columns: list[str], rows: Iterable[list[str]], preds: np.ndarray, names: Sequence[str] | None = None
) -> Path:
    """Write `rows` with the class ids `preds` (N,), or the `names` of these classes, as their answers, atomically."""
    answers = [names[pred] for pred in preds] if names else preds.tolist()
    filled = (answered(columns, row, answer) for row, answer in zip(rows, answers, strict=True))
    return write_table(path, answered_columns(columns), filled)
