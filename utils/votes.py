"""Hard voting over submissions, in whole numbers, so that a tie is a tie.

Shapes: F files, N rows, C classes. `answers` is (F, N) int64, the class id that each file gives each row; `weights` is
(F,) int64 from `whole_weights`.
"""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from utils.errors import InputError
from utils.files import atomic
from utils.labels import Labelling

LABELLING = Labelling()
CLASS_IDS = {str(class_id): class_id for class_id in range(LABELLING.num_classes)}


@dataclass(frozen=True)
class Submission:
    """A submission as it stands in its file; `ids`, `rows` and `answers` go in the file's order."""

    path: Path
    columns: list[str]
    rows: list[list[str]]
    ids: list[str]
    answers: np.ndarray  # (N,) int64


def read_submission(path: Path) -> Submission:
    """Read a CSV with the columns `ImageID` and `ans` (others are kept); `ans` is a class id from 0 to 17.

    Raises `InputError` for a missing, empty or non-UTF-8 file, a missing column, a row of another length, an `ans`
    that is no class id (with its line), and a doubled `ImageID`.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file")
    rows, answers = [], []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            columns = next(reader, [])
            key, ans = _positions(path, columns)
            for row in filter(None, reader):
                if len(row) != len(columns):
                    raise InputError(
                        f"{path}, line {reader.line_num}: {len(row)} fields, expected the header's {len(columns)}"
                    )
                if row[ans] not in CLASS_IDS:
                    raise InputError(
                        f"{path}, line {reader.line_num}: ans {row[ans]!r} is no whole number "
                        f"from 0 to {len(CLASS_IDS) - 1}"
                    )
                rows.append(row)
                answers.append(CLASS_IDS[row[ans]])
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no UTF-8 text: give a CSV file") from error
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: {error}") from error
    if not rows:
        raise InputError(f"{path} has a header but no rows")
    ids = [row[key] for row in rows]
    doubled = [image for image, count in Counter(ids).items() if count > 1]
    if doubled:
        raise InputError(f"{path} lists {len(doubled)} images more than once, the first: {doubled[0]}")
    return Submission(path, columns, rows, ids, np.array(answers, np.int64))


def _positions(path: Path, columns: list[str]) -> tuple[int, int]:
    """Where `ImageID` and `ans` stand in the header."""
    if not columns:
        raise InputError(f"{path} is empty")
    for name in ("ImageID", "ans"):
        if columns.count(name) != 1:
            shown = ",".join(columns[:4]) + (",..." if len(columns) > 4 else "")
            raise InputError(f"{path} has {columns.count(name)} columns {name} ({shown}), expected ImageID,ans")
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
        row_of = {image: row for row, image in enumerate(other.ids)}
        missing = [image for image in first.ids if image not in row_of]
        if missing:
            raise InputError(f"{other.path} lacks {len(missing)} images of {first.path}, the first: {missing[0]}")
        if len(other.ids) > len(first.ids):
            known = set(first.ids)
            extra = [image for image in other.ids if image not in known]
            raise InputError(f"{other.path} has {len(extra)} images that {first.path} lacks, the first: {extra[0]}")
        answers[f] = other.answers[[row_of[image] for image in first.ids]]
    return answers


def write_submission(path: Path, like: Submission, preds: np.ndarray) -> Path:
    """Write the rows of `like` with `ans` replaced by `preds` (N,), atomically."""
    ans = like.columns.index("ans")
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(like.columns)
        writer.writerows(
            [*row[:ans], pred, *row[ans + 1 :]] for row, pred in zip(like.rows, preds.tolist(), strict=True)
        )
    return path


def whole_weights(weights: Sequence[float], files: int) -> np.ndarray:
    """(F,) int64 in the exact ratio of the decimal numbers given: 0.1, 0.2, 0.3 become 1, 2, 3 and 0.1 + 0.2 ties 0.3.

    Raises `InputError` for another count than `files`, a weight that is not above 0, and weights too far apart for
    their sum to be exact in 63 bits.
    """
    if len(weights) != files:
        raise InputError(f"{len(weights)} weights for {files} files: give one weight per file")
    exact = [Fraction(str(weight)) for weight in weights]
    if min(exact) <= 0:
        raise InputError(f"weight {min(weights)} is not above 0")
    unit = Fraction(math.gcd(*(w.numerator for w in exact)), math.lcm(*(w.denominator for w in exact)))
    whole = [int(weight / unit) for weight in exact]
    if sum(whole) >= 2**63:
        raise InputError(f"weights {min(weights)} and {max(weights)} are too far apart to be added exactly")
    return np.array(whole, np.int64)


def tally(answers: np.ndarray, weights: np.ndarray, num_classes: int) -> np.ndarray:
    """(N, C) int64: the weight each class gets in each row."""
    sums = np.zeros((answers.shape[1], num_classes), np.int64)
    rows = np.arange(answers.shape[1])
    for file_answers, weight in zip(answers, weights, strict=True):
        sums[rows, file_answers] += weight
    return sums


def class_votes(answers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) int64: the value of most weight in each row; among equals the one that the earliest file gives."""
    sums = tally(answers, weights, int(answers.max()) + 1)
    backing = np.take_along_axis(sums, answers.T, axis=1)  # (N, F): the weight behind each file's answer
    return answers[backing.argmax(1), np.arange(answers.shape[1])]  # argmax takes the first file of the largest


def attribute_votes(answers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) int64: mask, gender and age voted apart by the rule of `class_votes` and put together again.

    The class that results may be one that no file gives.
    """
    votes = {name: class_votes(values, weights) for name, values in LABELLING.decode(answers).items()}
    return LABELLING.encode(**votes)


def most_disputed(answers: np.ndarray, weights: np.ndarray, limit: int) -> np.ndarray:
    """Up to `limit` rows on which the files disagree, those with least weight behind their leading class first."""
    leading = tally(answers, weights, LABELLING.num_classes).max(1)
    order = np.argsort(leading, kind="stable")
    return order[leading[order] < weights.sum()][:limit]
