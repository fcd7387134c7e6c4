"""Rows of scores: where they are kept, how they read, what they look like.

A row is a dict of plain numbers: `kind`, `model`, `people` (who was scored, in words), `images`, `persons`, `accuracy`
and `macro_f1` with `accuracy_interval` and `macro_f1_interval`.
"""

import json
import re
from pathlib import Path

import numpy as np

from utils.errors import InputError
from utils.metrics import score_row
from utils.options import LOGS
from utils.submissions import CLASS_IDS, match, read_submission


def file_of(what: str, name: str) -> Path:
    """`what` is `individual`, `soup` or `validation`."""
    return LOGS / f"{what}_results_{name}.jsonl"


def read_rows(path: Path) -> list[dict]:
    """The rows of one file; raises `InputError` when it is not what the scripts write."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise InputError(f"{path} is no file of scores ({error}): remove it and run main.py again") from error


def latest_rows(name: str) -> list[dict]:
    """All rows of a sweep: its ingredients, best first, its soups, and what validation made of them.

    Of several runs of main.py the latest counts. Raises `InputError` when the sweep has no scores yet.
    """
    found = sorted(LOGS.glob(f"individual_results_{name}_seed*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise InputError(f"no scores of {name} in {LOGS.resolve()}: run main.py --greedy-soup first")
    log_name = found[-1].stem.removeprefix("individual_results_")
    rows = read_rows(found[-1])
    soups = file_of("soup", log_name)
    rows += read_rows(soups) if soups.is_file() else []
    for model in [row["model"] for row in rows]:
        validation = file_of("validation", Path(model).stem)
        rows += [row for row in read_rows(validation) if row["kind"] != "single"] if validation.is_file() else []
    return rows


def describe(row: dict) -> str:
    """A row as one line; the model's name comes last, for it may be long."""
    accuracy, macro_f1 = (_with_interval(row, key) for key in ("accuracy", "macro_f1"))
    return f"{row['kind']:15} accuracy {accuracy}  macro-F1 {macro_f1}  {row['model']}"


def table(rows: list[dict]) -> str:
    """Rows as a table for people, with a heading that says who was scored."""
    first = rows[0]
    people = f"{first['people']}: {first['persons']} people, {first['images']} images; in brackets 95 % over people"
    return "\n".join([people, *map(describe, rows)])


def _with_interval(row: dict, key: str) -> str:
    low, high = row[f"{key}_interval"]
    return f"{row[key]:.3f} [{low:.3f}, {high:.3f}]"


def score_submissions(truth: Path, submissions: list[Path]) -> list[dict]:
    """Rows of submissions against a CSV with the columns `ImageID,ans,person`.

    Without a column `person` each photograph counts as a person of its own, which makes intervals too narrow.
    """
    labels = read_submission(truth)
    person = labels.columns.index("person" if "person" in labels.columns else "ImageID")
    persons = np.array([row[person] for row in labels.rows])
    rows = []
    for path in submissions:
        submission = read_submission(path)
        preds = submission.answers[match(submission, labels.ids, truth)]
        rows.append({"kind": "submission", "model": path.name, "people": f"the people of {truth}"})
        rows[-1] |= score_row(labels.answers, preds, persons, len(CLASS_IDS))
    return rows


def plot(path: Path, rows: list[dict], title: str) -> Path:
    """Draw rows as points, accuracy against macro-F1, the kinds apart."""
    from utils.pictures import save_score_plot

    points = {}
    for row in rows:
        points.setdefault(row["kind"], []).append((_short(row["model"]), row["accuracy"], row["macro_f1"]))
    return save_score_plot(path, points, title)


def _short(model: str) -> str:
    """`name_seed42_i3_epoch20.pt` as `seed 42, i 3`; other names as they are."""
    parts = re.search(r"_seed(\d+)_i(\d+)_", model)
    return f"seed {parts[1]}, i {parts[2]}" if parts else model
