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

CLASS_IDS = {str(class_id): class_id for class_id in range(competition.labelling().num_classes)}
ANY_CLASS_IDS = {str(class_id): class_id for class_id in range(1000)}  # where other classes than the 18 may vote


@dataclass(frozen=True)
class Submission:
    """A submission as it stands in its file; `ids`, `rows` and `answers` go in the file's order."""

    path: Path
    columns: list[str]
    rows: list[list[str]]
    ids: list[str]
    answers: np.ndarray  # (N,) int64


def find_submissions(folder: Path = OUTPUT) -> list[Path]:
    """Sorted `output_*.csv` of a folder, without the probabilities beside them."""
    return [path for path in sorted(folder.glob("output_*.csv")) if not path.name.endswith("_probs.csv")]


def read_submission(path: Path, filled: str = "ImageID", class_ids: dict[str, int] = CLASS_IDS) -> Submission:
    """Read a CSV or Parquet file with the columns `ImageID` and `ans` (others are kept); `ans` is one of `class_ids`,
    by default from 0 to 17.

    Raises `InputError` for what `open_table` refuses, a missing column, an `ans` that is no class id and a blank cell
    in the column `filled` (with its line), and a doubled `ImageID`.
    """
    columns, lines = open_table(path)
    key, ans = _positions(path, columns)
    never_blank = columns.index(filled) if filled in columns else key
    rows, answers = [], []
    for line, row in lines:
        row[key] = without_spaces(row[key], path)
        if not row[never_blank].strip():
            raise InputError(f"{path}, line {line}: the column {columns[never_blank]} is blank: fill it in")
        if row[ans] not in class_ids:
            raise InputError(
                f"{path}, line {line}: ans {row[ans]!r} is no whole number from 0 to {len(class_ids) - 1}"
            )
        rows.append(row)
        answers.append(class_ids[row[ans]])
    if not rows:
        raise InputError(f"{path} has a header but no rows")
    ids = [row[key] for row in rows]
    doubled = [image for image, count in Counter(ids).items() if count > 1]
    if doubled:
        raise InputError(f"{path} lists {len(doubled)} images more than once, the first: {doubled[0]}")
    return Submission(path, columns, rows, ids, np.array(answers, np.int64))


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


def answered(columns: list[str], row: list[str], pred: int) -> list[str | int]:
    """A row of the list with its `ans` replaced, or put behind it, by a class id."""
    ans = columns.index("ans") if "ans" in columns else len(columns)
    return [*row[:ans], pred, *row[ans + 1 :]]


def write_submission(path: Path, columns: list[str], rows: Iterable[list[str]], preds: np.ndarray) -> Path:
    """Write `rows` with the class ids `preds` (N,) as their answers, atomically."""
    filled = (answered(columns, row, pred) for row, pred in zip(rows, preds.tolist(), strict=True))
    return write_table(path, answered_columns(columns), filled)
