"""How often files, or models, give the same answer: which are nearly one vote, and which stands apart.

Shapes: F files, N rows. `answers` is (F, N) class ids; `same` is (F, F) int64 from `agreement`. Percent are rounded
down, so that 100 is every row.
"""

from collections.abc import Sequence

import numpy as np

from utils.base.terminal import percent
from utils.data.labels import Labelling

NEAR = 4  # files are nearly one vote when they differ on this many times fewer rows than the middle pair


def agreement(answers: np.ndarray) -> np.ndarray:
    """(F, F) int64: the number of rows on which each two give the same answer; N on the diagonal."""
    return np.stack([(one == answers).sum(1) for one in answers])


def mean_percent(same: np.ndarray, rows: int) -> list[str]:
    """For each of two or more files its mean agreement with the others."""
    others = len(same) - 1
    return [percent(count, others * rows) for count in same.sum(1) - rows]


def percent_table(counts: np.ndarray, rows: int) -> list[str]:
    """(F, F) numbers of rows in whole percent under a line of file numbers, one line per file."""
    lines = ["     " + " ".join(f"{k:3d}" for k in range(len(counts)))]
    shares = 100 * counts // rows
    return lines + [f"[{k:2d}] " + " ".join(f"{p:3d}" for p in row) for k, row in enumerate(shares)]


def groups(same: np.ndarray, rows: int) -> list[list[int]]:
    """Which of two or more files are nearly one vote: groups of two or more, all of them near the first.

    Two files are near when they differ on at most a `NEAR`-th of the rows on which the middle pair of files differs.
    So the measure fits the task. Equal files are near in any case.
    """
    middle = np.median((rows - same)[np.triu_indices(len(same), 1)])
    found = {}
    for k in range(len(same)):
        first = next((first for first in found if NEAR * (rows - same[first, k]) <= middle), k)
        found.setdefault(first, []).append(k)
    return [group for group in found.values() if len(group) > 1]


def equal_files(same: np.ndarray, rows: int) -> list[list[int]]:
    """Groups of two or more files that give the same answers everywhere."""
    found = {}
    for k in range(len(same)):
        found.setdefault(int((same[k] == rows).argmax()), []).append(k)
    return [group for group in found.values() if len(group) > 1]


def file_lines(
    names: Sequence[str],
    weights: Sequence[float],
    answers: np.ndarray,
    preds: np.ndarray,
    classes: Labelling,
) -> list[str]:
    """One line per file, by number: the rows that the vote `preds` (N,) changes, agreement, weight and name."""
    parts = {"class": answers} | (classes.decode(answers) if len(classes.attributes) > 1 else {})
    lines = ["        rows  mean agreement with the others, %"]
    lines += [f"     changed  {'  '.join(f'{name:>6}' for name in parts)}  weight  file"]
    means = [mean_percent(agreement(part), len(preds)) if len(names) > 1 else ["-"] for part in parts.values()]
    changed = (answers != preds).sum(1)
    for k, (name, weight, *shares) in enumerate(zip(names, weights, *means, strict=True)):
        agreed = "  ".join(f"{share:>6}" for share in shares)
        lines.append(f"[{k:2d}] {changed[k]:7d}  {agreed}  {weight:6g}  {name}")
    return lines


def comparison_lines(same: np.ndarray, rows: int) -> list[str]:
    """The table of two or more files, and in words which are nearly one vote and which is least like the others."""
    lines = ["rows on which two files give the same class, in percent, rounded down", *percent_table(same, rows)]
    for first, *others in equal_files(same, rows):
        numbers = " ".join(f"[{k}]" for k in others)
        lines.append(f"the same answer on every row as [{first}]: {numbers}; a model counts once for each file of it")
    for group in groups(same, rows):
        members = " ".join(f"[{k}]" for k in group)
        least = percent(same[group[0], group].min(), rows)
        lines.append(f"nearly one vote: {members}, the same as [{group[0]}] on {least} % of rows or more")
    means = mean_percent(same, rows)
    totals = same.sum(1)
    if totals.min() < totals.max():
        last = totals.argmin()
        lines.append(f"least like the others: [{last}], the same on {means[last]} % of rows on average")
    return lines
