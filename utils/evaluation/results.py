"""Rows of scores: where they are kept, how they read, what they look like.

A row is a dict of plain values, as `kept.KeptRow` describes them.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.base.files import LOGS, write_json_lines
from utils.base.metrics import METRICS, shown_metrics
from utils.base.records import read_records
from utils.data import competition
from utils.data.origins import told_classes
from utils.data.submissions import images_of, match, read_submission
from utils.evaluation.kept import KeptRow, ensemble_file, read_chosen
from utils.evaluation.manifest import Manifest
from utils.evaluation.scores import Gain, paired_gain, score_row

log = logging.getLogger(__name__)

ESTIMATE = "out of fold"  # what the scores of a model are that was trained on everyone: those of its recipe
AS_THE_SOUP = "trained on everyone: the scores are the soup's"


def file_of(what: str, name: str) -> Path:
    """`what` is `individual`, `soup` or `validation`, behind `everyone_` where training people were scored too."""
    return LOGS / f"{what}_results_{name}.jsonl"


def read_rows(path: Path) -> list[dict]:
    """The rows of one file; raises `InputError` when it is not what the scripts write."""
    if not path.is_file():
        raise InputError(f"the scores {path} are gone: run main.py again")
    rows = read_records(path, KeptRow, "file of scores", "remove it and run main.py again")
    return [row.plain() for row in rows]


def with_earlier(path: Path, rows: list[dict]) -> list[dict]:
    """`rows`, and those that an earlier call left in `path` about other ensembles of the same weights and people."""
    same, told = ("digest", "split", "people"), {(row["kind"], row["model"]) for row in rows}
    earlier = read_rows(path) if path.is_file() else []
    return rows + [
        row
        for row in earlier
        if (row["kind"], row["model"]) not in told and all(row[key] == rows[0][key] for key in same)
    ]


def latest_rows(manifest: Manifest) -> list[dict]:
    """All rows of a sweep: its ingredients, best first, its soups, and what validation made of them.

    Of several runs of main.py the latest counts; of validation what it said of these very weights on these people.
    """
    models = [row for file in manifest.scores for row in read_rows(Path(file))]
    rows = list(models)
    for model in models:
        validation = file_of("validation", Path(model["model"]).stem)
        same = ("digest", "split", "people")
        rows += [
            row
            for row in (read_rows(validation) if validation.is_file() else [])
            if row["kind"] != "single" and all(row[key] == model[key] for key in same)
        ]
    return rows + _auto_ensemble_rows(manifest.name, models)


def _auto_ensemble_rows(name: str, models: list[dict]) -> list[dict]:
    """What `validation.py --ensemble auto` said of these very weights on the people of `models`."""
    path = ensemble_file(f"{name}_auto")
    if not path.is_file():
        return []
    chosen = read_chosen(path)
    digests = {one.file: one.digest for one in chosen.members}
    same = (chosen.people, chosen.split) == (models[0]["people"], models[0]["split"])
    if not same or any(digests.get(row["model"], row["digest"]) != row["digest"] for row in models):
        return []
    biased = any(chosen.bias)  # what inference.py does with it
    rows = [row.plain() for row in chosen.scores]
    return [{**row, "applied": row["kind"].endswith("bias") == biased} for row in rows]


def row_line(row: dict, metric: str = "macro_f1") -> str:
    """A row as one line with the score that it was selected by, if it has that; the model's name comes last, for it
    may be long.
    """
    shown = [name for name in shown_metrics(metric) if name in row]
    scores = "  ".join(f"{METRICS[name].title} {with_interval(row, name)}" for name in shown)
    return f"{row['kind']:23} {scores}  {row['model']}" + (f" ({AS_THE_SOUP})" if is_refit(row) else "")


def is_refit(row: dict) -> bool:
    """Whether a row is of a model that was trained on everyone, and has the scores of its soup (`add_estimate`)."""
    return row["kind"].endswith(" refit")


def whose(row: dict) -> str:
    """What the interval of a row of scores resamples: people, groups or images."""
    told = row["people"].partition(" of ")[0]  # the path of right answers may have any words in it
    if "images" in told and row["persons"] == row["images"]:
        return "images"
    return "groups" if "groups" in told else "people"


def score_table(rows: list[dict], metric: str = "macro_f1") -> str:
    """Rows as a table for people, with a heading that says who was scored."""
    first = rows[0]
    changed = f", {first['relabelled']} of them relabelled" if first.get("relabelled") else ""
    units = whose(first)
    counted = f"{first['persons']} {units}, " if units != "images" else ""
    people = f"{first['people']}: {counted}{first['images']} images{changed}; in brackets 95 % over {units}"
    return "\n".join([people, *(row_line(row, metric) for row in rows)])


def gain_words(gains: dict[str, Gain], metric: str = "macro_f1") -> str:
    """Gains by each metric that is shown, in words; a loss gains what it falls by."""
    return "; ".join(f"{METRICS[name].title} {gains[name]}" for name in shown_metrics(metric) if name in gains)


def with_interval(row: dict, key: str) -> str:
    """A score of a row and its interval, for example `0.812 [0.774, 0.846]`; nothing where it has no such score."""
    if key not in row:
        return ""
    low, high = row[f"{key}_interval"]
    return f"{row[key]:.3f} [{low:.3f}, {high:.3f}]"


def score_submissions(truth: Path, submissions: list[Path]) -> tuple[list[dict], list[str]]:
    """Rows of submissions against a CSV with the columns `ImageID,ans,person`, and a line for each but the first that
    says what it scores above the first.

    Answers are names or ids. Without a column `person` each image stands for itself, but of the competition's classes,
    whose photographs are seven of each person. Raises `InputError` for blank cells there, a submission of other
    images, and submissions of different classes.
    """
    known, _ = told_classes(submissions) or (competition.labelling(), None)
    labels = read_submission(truth, filled="person", known=known)
    whose, column = "people", labels.ids
    if "person" in labels.columns:
        column = [row[labels.columns.index("person")].strip() for row in labels.rows]
    elif competition.is_its(known):
        raise InputError(f"{truth} has no column person: the right answers are ImageID,ans,person (info.csv has none)")
    else:
        whose = "images"
    persons = np.array(column)
    given = [read_submission(path, known=known) for path in submissions]
    preds = [one.answers[match(one, labels.ids, truth)] for one in given]
    rows = [
        {
            "kind": "submission",
            "model": path.name,
            "people": f"the {whose} of {truth}",
            **score_row(labels.answers, answers, persons, known.num_classes),
        }
        for path, answers in zip(submissions, preds, strict=True)
    ]
    lines = []
    for path, answers in zip(submissions[1:], preds[1:], strict=True):
        gains = paired_gain(labels.answers, answers, preds[0], persons, known.num_classes)
        lines.append(f"{gain_words(gains)}  {path.name}")
    return rows, lines


def of_these_images(truth: Path, submissions: list[Path]) -> list[Path]:
    """Those of some submissions that predict just the images of `truth`."""
    images = images_of(truth)
    return [path for path in submissions if images_of(path) == images]


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
        self.rows[model] = {**record, **self.held_out.row(kind, model, logits), **known}
        if kind != "ensemble":
            self.scores[name] = record
        log.debug("%s: %s", name, scores.told())

    def add_expected(self, every: Sequence[np.ndarray]) -> None:
        """What one of several models is expected to score, given the (N, C) logits of each: what a user gets who
        trains once, and so what a soup is compared with.
        """
        self.add_row(self.held_out.expected_row(every))

    def add_row(self, row: dict) -> None:
        """A row of what is no model with weights of its own."""
        self.rows[row["model"]] = {**row, "digest": "", "people": self.people, "split": self.split}

    def add_estimate(self, kind: str, model: str, digest: str, like: str) -> None:
        """A model that was trained on everyone, with the scores of the one that was made `like` it out of fold."""
        self.rows[model] = {**self.rows[like], "kind": kind, "model": model, "digest": digest, "estimate": ESTIMATE}

    def soups(self) -> dict[str, str]:
        """The file of each soup by its recipe."""
        kinds = {model: row["kind"] for model, row in self.rows.items() if row["kind"].endswith(" soup")}
        return {kind.removesuffix(" soup"): model for model, kind in kinds.items()}

    def ordered(self, metric: str) -> list[dict]:
        """The ingredients, best first, then all others."""
        sign, own = METRICS[metric].sign, [row for row in self.rows.values() if row["kind"] == "ingredient"]
        ranked = sorted(own, key=lambda row: -sign * row[metric])
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
