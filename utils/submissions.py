"""Submission files: the columns of `info.csv` with `ans` filled in."""

import csv
from pathlib import Path

import numpy as np

from utils.data import TestImages
from utils.files import atomic


def write(path: Path, test: TestImages, preds: np.ndarray) -> Path:
    """One row per test image, in the order of `info.csv`, other columns unchanged; `preds` (N,) are class ids."""
    columns = test.columns if "ans" in test.columns else [*test.columns, "ans"]
    rows = ({**row, "ans": int(pred)} for row, pred in zip(test.rows, preds, strict=True))
    return _write_rows(path, columns, rows)


def write_probs(path: Path, test: TestImages, probs: np.ndarray) -> Path:
    """`ImageID,p0,...` with (N, C) class probabilities."""
    columns = [f"p{k}" for k in range(probs.shape[1])]
    rows = (
        {"ImageID": name, **dict(zip(columns, (f"{p:.7g}" for p in row), strict=True))}
        for name, row in zip(test.files, probs, strict=True)
    )
    return _write_rows(path, ["ImageID", *columns], rows)


def _write_rows(path: Path, columns: list[str], rows) -> Path:
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
