"""Rows of scores: where they are kept, how they read, what they look like.

A row is a dict of plain values, `ROW`: `people` says in words who was scored, `split` and `digest` are those of the
people and of the model's weights, `images` and `persons` count.
"""

import json
import logging
import re
from pathlib import Path

import numpy as np

from utils.errors import InputError
from utils.files import write_json_lines
from utils.metrics import paired_gain, score_row
from utils.options import LOGS
from utils.soups import Mixture
from utils.submissions import CLASS_IDS, match, read_submission

log = logging.getLogger(__name__)

ROW = ("kind", "model", "people", "split", "digest", "images", "persons", "accuracy", "accuracy_interval", "macro_f1",
       "macro_f1_interval")  # fmt: skip


def file_of(what: str, name: str) -> Path:
    """`what` is `individual`, `soup` or `validation`, behind `everyone_` where training people were scored too."""
    return LOGS / f"{what}_results_{name}.jsonl"


def read_rows(path: Path) -> list[dict]:
    """The rows of one file; raises `InputError` when it is not what the scripts write."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lacking = sorted({name for row in rows for name in ROW if name not in row})
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is no file of scores ({error}): remove it and run main.py again") from error
    if lacking:
        raise InputError(f"{path} has rows without {', '.join(lacking)}: remove it and run main.py again")
    return rows


def with_earlier(path: Path, rows: list[dict]) -> list[dict]:
    """`rows`, and those that an earlier call left in `path` about other ensembles of the same weights and people."""
    same, told = ("digest", "split", "people"), {(row["kind"], row["model"]) for row in rows}
    earlier = read_rows(path) if path.is_file() else []
    return rows + [
        row
        for row in earlier
        if (row["kind"], row["model"]) not in told and all(row[key] == rows[0][key] for key in same)
    ]


def latest_rows(name: str) -> list[dict]:
    """All rows of a sweep: its ingredients, best first, its soups, and what validation made of them.

    Of several runs of main.py the latest counts; of validation what it said of these very weights on these people.
    Raises `InputError` when the sweep has no scores yet.
    """
    found = sorted(LOGS.glob(f"individual_results_{name}_seed*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise InputError(f"no scores of {name} in {LOGS.resolve()}: run main.py --greedy-soup first")
    log_name = found[-1].stem.removeprefix("individual_results_")
    models = read_rows(found[-1])
    soups = file_of("soup", log_name)
    models += read_rows(soups) if soups.is_file() else []
    rows = list(models)
    for model in models:
        validation = file_of("validation", Path(model["model"]).stem)
        same = ("digest", "split", "people")
        rows += [
            row
            for row in (read_rows(validation) if validation.is_file() else [])
            if row["kind"] != "single" and all(row[key] == model[key] for key in same)
        ]
    return rows + _chosen_rows(name, models)


def _chosen_rows(name: str, models: list[dict]) -> list[dict]:
    """What `validation.py --ensemble auto` said of these very weights on the people of `models`."""
    path = LOGS / f"ensemble_{name}_auto.json"
    if not path.is_file():
        return []
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))
        digests = {one["file"]: one["digest"] for one in chosen["members"]}
        same = all(chosen[key] == models[0][key] for key in ("people", "split"))
        same &= all(digests.get(row["model"], row["digest"]) == row["digest"] for row in models)
        return chosen["scores"] if same else []
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no chosen ensemble ({error}): remove it") from error


def describe(row: dict) -> str:
    """A row as one line; the model's name comes last, for it may be long."""
    accuracy, macro_f1 = (with_interval(row, key) for key in ("accuracy", "macro_f1"))
    return f"{row['kind']:23} accuracy {accuracy}  macro-F1 {macro_f1}  {row['model']}"


def table(rows: list[dict]) -> str:
    """Rows as a table for people, with a heading that says who was scored."""
    first = rows[0]
    people = f"{first['people']}: {first['persons']} people, {first['images']} images; in brackets 95 % over people"
    return "\n".join([people, *map(describe, rows)])


def with_interval(row: dict, key: str) -> str:
    """A score of a row and its interval, for example `0.812 [0.774, 0.846]`."""
    low, high = row[f"{key}_interval"]
    return f"{row[key]:.3f} [{low:.3f}, {high:.3f}]"


def score_submissions(truth: Path, submissions: list[Path]) -> tuple[list[dict], list[str]]:
    """Rows of submissions against a CSV with the columns `ImageID,ans,person`, and a line for each but the first that
    says what it scores above the first.

    Raises `InputError` for a truth without a column `person`, which intervals need, and a submission of other images.
    """
    labels = read_submission(truth)
    if "person" not in labels.columns:
        raise InputError(f"{truth} has no column person: the right answers are ImageID,ans,person (info.csv has none)")
    persons = np.array([row[labels.columns.index("person")] for row in labels.rows])
    given = [read_submission(path) for path in submissions]
    preds = [one.answers[match(one, labels.ids, truth)] for one in given]
    rows = [
        {
            "kind": "submission",
            "model": path.name,
            "people": f"the people of {truth}",
            **score_row(labels.answers, answers, persons, len(CLASS_IDS)),
        }
        for path, answers in zip(submissions, preds, strict=True)
    ]
    lines = []
    for path, answers in zip(submissions[1:], preds[1:], strict=True):
        gains = paired_gain(labels.answers, answers, preds[0], persons, len(CLASS_IDS))
        lines.append(f"accuracy {gains['accuracy']}; macro-F1 {gains['macro_f1']}  {path.name}")
    return rows, lines


def of_these_images(truth: Path, submissions: list[Path]) -> list[Path]:
    """Those of some submissions that predict just the images of `truth`."""
    images = set(read_submission(truth).ids)
    return [path for path in submissions if set(read_submission(path).ids) == images]


class ScoreBook:
    """The rows and scores of all models that were scored on one set of photographs, in the order they came in.

    `rows` are by file name, `scores` by model name, for the caller of `main.run`.
    """

    def __init__(self, held_out, people: str, split: str):
        self.held_out, self.people, self.split = held_out, people, split
        self.rows, self.scores = {}, {}

    def add(self, kind: str, model: str, digest: str, logits: np.ndarray) -> None:
        """Score (N, C) logits of a model, which the log tells."""
        scores = self.held_out.score(logits)
        name = model.removesuffix(".pt")
        known = {"digest": digest, "people": self.people, "split": self.split}
        record = scores.record()
        self.rows[model] = {**record, **self.held_out.row(kind, model, logits.argmax(-1)), **known}
        if kind != "ensemble":
            self.scores[name] = record
        log.info("%s: %s", name, scores)

    def ordered(self, metric: str) -> list[dict]:
        """The ingredients, best first, then all others."""
        ranked = sorted((row for row in self.rows.values() if row["kind"] == "ingredient"), key=lambda r: -r[metric])
        return ranked + [row for row in self.rows.values() if row["kind"] != "ingredient"]

    def write(self, prefix: str, name: str, metric: str) -> list[Path]:
        """Replace the two files of scores of a sweep; returns their paths."""
        rows = self.ordered(metric)
        return [
            write_json_lines(
                file_of(prefix + what, name), [row for row in rows if (row["kind"] == "ingredient") == own]
            )
            for what, own in (("individual", True), ("soup", False))
        ]


def ensemble_row(kitchen) -> tuple[str, str, np.ndarray]:
    """Name, digest and scores (N, C) of the logit ensemble of all ingredients."""
    every = Mixture.of(kitchen.ingredients)
    name = f"averaged log-probabilities of all {len(every.members)}"
    return name, f"ensemble of {every.digest}", kitchen.ensemble(every).astype(np.float32)


def decisions(kitchen, dish, where: str, why: str | None = None) -> list[str]:
    """What a recipe decided, one line each: who was tried, what the soup is made of and gained, and `why` not more,
    what it took.
    """
    metric, mixture = kitchen.metric_name, dish.mixture
    lines = [f"{dish.recipe} soup by {metric}, {where}"]
    for step in dish.steps:
        told = "no gain, dropped" if step.score is None else f"{metric} with it {float(step.score):.6f}"
        lines.append(f"{'accepted' if step.accepted else 'rejected'} {step.candidate.name}: {told}")
    accepted = {step.candidate.digest for step in dish.steps if step.accepted}
    if accepted != {one.digest for one in mixture.members}:
        parts = zip(mixture.shares, (one.name for one in mixture.members), strict=True)
        lines += [f"{share:.4f} of {name}" for share, name in sorted(parts, key=lambda part: (-part[0], part[1]))]
    best = kitchen.order[0]
    if [one.digest for one in mixture.members] == [kitchen.ingredients[best].digest]:
        lines.append(f"the soup is its best ingredient, {kitchen.ingredients[best].name}")
    else:
        gains = kitchen.held_out.gain(dish.logits, kitchen.logits[best])
        lines += [f"{name} of the soup minus that of its best ingredient: {gain}" for name, gain in gains.items()]
    return [*lines, *([why] if why else []), dish.effort]


def recipe_table(kitchen, book: ScoreBook, dishes: list) -> str:
    """One line per recipe: members, scores with intervals, those of its members' averaged logits, and what it took.

    The best single model comes first. Looked at are the photographs of all candidates, whether cached or not. The
    ensemble needs as many forward passes per photograph as there are members.
    """
    best = kitchen.ingredients[kitchen.order[0]]
    head = ("recipe", "members", "accuracy", "macro-F1", "ensemble of the members", "looked at", "seconds")
    cells = [head, ("best single", "1", *_scores_of(book.rows[best.file_name]), "", "0", "")]
    for dish in dishes:
        row = next(row for row in book.rows.values() if row["kind"] == f"{dish.recipe} soup")
        ensemble = book.held_out.score(kitchen.ensemble(dish.mixture))
        both = f"{float(ensemble.accuracy):.3f} / {float(ensemble.macro_f1):.3f}"
        members = str(len(dish.mixture.members))
        cells.append((dish.recipe, members, *_scores_of(row), both, str(dish.looked_at), f"{dish.seconds:.1f}"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    people = f"chosen and scored by {kitchen.metric_name} on the same {len(kitchen.labels)} images of {book.people}"
    return "\n".join([people, lines[0], "-|-".join("-" * width for width in widths), *lines[1:]])


def _scores_of(row: dict) -> tuple[str, str]:
    return with_interval(row, "accuracy"), with_interval(row, "macro_f1")


def plot(path: Path, rows: list[dict], title: str, steps: list = (), metric: str = "accuracy") -> Path:
    """Draw rows as points with their intervals, accuracy against macro-F1, the kinds apart; beside them the greedy
    path, when there are `steps`.
    """
    from utils.pictures import save_score_plot

    points = {}
    for row in rows:
        points.setdefault(row["kind"], []).append(
            (_short(row["model"]), *(row[key] for key in ("accuracy", "macro_f1")),
             row["accuracy_interval"], row["macro_f1_interval"])
        )  # fmt: skip
    path_steps = [
        (_short(step.candidate.file_name), step.score and float(step.score), step.accepted) for step in steps
    ]
    return save_score_plot(path, points, title, path_steps, metric)


def _short(model: str) -> str:
    """`name_seed42_i3_epoch20.pt` as `seed 42, i 3`; other names as they are."""
    parts = re.search(r"_seed(\d+)_i(\d+)_", model)
    return f"seed {parts[1]}, i {parts[2]}" if parts else model
