"""One HTML page about what a model gets wrong: it holds its pictures, style and script, and loads nothing.

The page is the template `report.html` with `report.css` and `report.js` beside this file. Here are its contents.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from markupsafe import Markup

from utils.base.metrics import METRICS, PUBLISHED
from utils.data.decoding import thumbnail
from utils.data.labels import Labelling
from utils.data.photographs import Photographs
from utils.data.splits import Split, splits_digest
from utils.evaluation.alarms import chance
from utils.evaluation.held_out import HeldOut
from utils.evaluation.results import with_interval
from utils.evaluation.scores import paired_gain
from utils.models.checkpoints import Checkpoint, versions
from utils.reports import analysis
from utils.reports.advice import Commands, next_steps
from utils.reports.analysis import OTHER, Mistake, Number, NumberErrors, Reliability, ValueScores
from utils.reports.charts import Axis, Bar, Point, point_chart, row_chart
from utils.reports.mistakes import MOST_CLASSES, confusions, most_mixed_up, value_names
from utils.reports.rival import relabelled_line
from utils.reports.template import data_url, write_page

SIDE, SMALL = 240, 112  # pixels of the longer side of a photograph, and of one that is shown when it is asked for
AT_ONCE = 120  # photographs that are shown before more are asked for
MOST_CARDS = 2000  # photographs in a page
MOST_MIXED_UP = 100  # pairs of values that one may choose from
TICKS = 6  # on an axis of numbers, about
LEGIBLE = 0.69  # share of a shade above which writing on it is in the other colour; contrast stays above 4.5


@dataclass(frozen=True)
class Subject:
    """What a page is about: a model's `logits` on the held-out photographs, and scores beside it.

    `splits` are the split, or of a model across folds one of each fold. `rows` are scores, `preds` (N,) predicted
    classes by their kind, "single" of the model itself and `OTHER` of one that it is compared with; `who` says in
    words who was scored.
    """

    model: Checkpoint
    held_out: HeldOut
    photographs: Photographs
    logits: np.ndarray
    rows: list[dict]
    preds: dict[str, np.ndarray]
    who: str
    splits: list[Split]
    commands: Commands

    @property
    def split(self) -> Split:
        """The first split; those of all folds are alike."""
        return self.splits[0]

    @property
    def split_digest(self) -> str:
        return splits_digest(self.splits)

    @property
    def whose(self) -> str:
        """What photographs that belong together are called."""
        return self.photographs.whose

    @property
    def other(self) -> str:
        """The name of the model that it is compared with, if any."""
        return next((row["model"] for row in self.rows if row["kind"] == OTHER), "")


def save_page(path: Path, subject: Subject) -> Path:
    """Write the page to `path`."""
    return write_page(path, "report.html", contents(subject))


def contents(subject: Subject) -> dict:
    """All that the page shows, by the names that `report.html` uses."""
    held_out, single = subject.held_out, subject.preds["single"]
    labelling = held_out.labelling
    numbers = analysis.numbers_of(held_out, subject.photographs)
    bins = analysis.calibration(subject.logits, held_out.labels)
    found = analysis.mistakes(subject.logits, held_out.labels, labelling, subject.preds.get(OTHER))
    parts = {"class": subject.rows[0], **analysis.part_rows(held_out, single)}
    gains = {kind: gains_over_single(subject, kind) for kind in subject.preds if kind != "single"}
    borders = {one.name: analysis.errors_near_borders(held_out, one, single) for one in numbers}
    matrices = confusions(held_out.labels, single, labelling)
    names = {name: value_names(name, labelling) for name in ("class", *analysis.several(labelling))}
    shown = found[:MOST_CARDS]
    cards = [card(subject, one, numbers, SIDE if k < AT_ONCE or one.kinds else SMALL) for k, one in enumerate(shown)]
    f1, tables = f1_by_class(subject), analysis.value_tables(held_out, single)
    worst = worst_values(f1["single"])
    return {
        "subject": subject,
        "warnings": warnings(subject),
        "chance": {name: chance(held_out.labels, labelling.num_classes, name) for name in PUBLISHED},
        "steps": next_steps(
            subject.model, held_out, subject.preds, parts, gains, found, borders, subject.commands, subject.whose
        ),
        "parts": parts,
        "with_interval": with_interval,
        "gains": gains,
        "relabelled": relabelled_line(held_out, single, subject.preds.get(OTHER, single), "macro_f1"),
        "comparison_chart": comparison_chart([row for row in subject.rows if row["kind"] in subject.preds]),
        "value_tables": {name: [scores[k] for k in worst_values(scores)] for name, scores in tables.items()},
        "f1": {kind: [scores[k] for k in worst] for kind, scores in f1.items()},
        "f1_chart": f1_chart({kind: [scores[k] for k in worst] for kind, scores in f1.items()}),
        "heat": {name: heat(matrix, most_mixed_up(matrix, MOST_CLASSES)) for name, matrix in matrices.items()},
        "most_classes": MOST_CLASSES,
        "labels": Counter(one["label"] for one in cards),
        "mixed_up": {name: mixed_up(name, matrix, names[name]) for name, matrix in matrices.items()},
        "names": names,
        "legible": LEGIBLE,
        "numbers": [number_part(subject, k, one, borders[one.name]) for k, one in enumerate(numbers)],
        "calibration": bins,
        "calibration_chart": calibration_chart(bins),
        "loss": held_out.score(subject.logits).loss,
        "cards": cards,
        "at_once": AT_ONCE,
        "left_out": len(found) - len(shown),
        "wrong": int((single != held_out.labels).sum()),
        "changed": {
            kind: sum(kind in one.kinds for one in found) for kind in (analysis.WON, analysis.LOST) if subject.other
        },
        "per_kind": analysis.PER_KIND,
        "kinds": {
            analysis.WORST: "worst: the highest loss",
            analysis.CONFIDENT: "confidently wrong: the highest probability of a wrong class",
            **(
                {analysis.LOST: "only the other model right", analysis.WON: "only this model right"}
                if subject.other
                else {}
            ),
        },
        "versions": {**versions(), "scikit-learn": version("scikit-learn")},
    }


def warnings(subject: Subject) -> list[str]:
    """Why the scores may be better than they would be on new people; empty for people that are held out."""
    reasons = []
    if not subject.split.train_ids:
        reasons.append(
            f"These photographs include those of {subject.whose} that the model was trained on (--val-ratio None). "
            "The scores say how well it remembers, and nothing may be selected by them."
        )
    if subject.split.by == "image" and subject.whose != "images":
        reasons.append(f"The split is by image: other photographs of these {subject.whose} were trained on.")
    if subject.held_out.relabelled.any():
        reasons.append(
            f"relabel.csv changed the labels of {subject.held_out.relabelled.sum()} of these photographs. Corrections "
            "that a model like this one suggested flatter it."
        )
    if subject.model.meta is None:
        reasons.append(f"The checkpoint has no record: nothing tells which {subject.whose} it was trained on.")
    return reasons


def gains_over_single(subject: Subject, kind: str) -> dict:
    """The gain of a way of predicting over the single model by each metric, by a paired bootstrap over people."""
    held_out, preds = subject.held_out, subject.preds
    num_classes = held_out.labelling.num_classes
    return paired_gain(held_out.labels, preds[kind], preds["single"], held_out.persons, num_classes)


def comparison_chart(rows: list[dict]) -> Markup:
    series = {METRICS[name].title: [Bar(row[name], row[f"{name}_interval"]) for row in rows] for name in PUBLISHED}
    ends = [end for bars in series.values() for bar in bars for end in bar.interval]
    low = min(math.floor(min(ends) * 10) / 10, 0.9)
    high = max(math.ceil(max(ends) * 10) / 10, low + 0.1)
    return row_chart("comparison-title", Axis("score (0 to 1)", low, high, 0.1), [row["kind"] for row in rows], series)


def f1_by_class(subject: Subject) -> dict:
    """`ValueScores` of each class by the way of predicting."""
    labels, classes = subject.held_out.labels, subject.held_out.labelling.classes
    return {kind: analysis.value_scores(labels, preds, classes) for kind, preds in subject.preds.items()}


def f1_chart(f1: dict) -> Markup:
    names = [one.name for one in f1["single"]]
    series = {kind: [Bar(one.f1) for one in scores] for kind, scores in f1.items()}
    return row_chart("f1-title", Axis("F1 (0 to 1)", 0, 1, 0.2), names, series)


def worst_values(scores: Sequence[ValueScores]) -> list[int]:
    """The positions of all values; of more than can be read those of lowest F1 that occur, worst first."""
    every = range(len(scores))
    if len(scores) <= MOST_CLASSES:
        return list(every)
    there = [k for k in every if scores[k].support]
    return sorted(there, key=lambda k: (scores[k].f1, -scores[k].support))[:MOST_CLASSES]


def heat(matrix: np.ndarray, shown: Sequence[int]) -> list[tuple[int, list[tuple[int, int, float]]]]:
    """Of the rows and columns `shown` of a confusion matrix the position, and for each cell its column, its count and
    its share of the true class.
    """
    totals = np.maximum(1, matrix.sum(1))
    return [(k, [(j, int(matrix[k, j]), float(matrix[k, j] / totals[k])) for j in shown]) for k in shown]


def mixed_up(part: str, matrix: np.ndarray, names: Sequence[str]) -> list[tuple[str, str]]:
    """The cells of a confusion matrix that hold mistakes, the fullest first: cards have the word, people the other."""
    wrong = [(true, pred) for true, pred in np.argwhere(matrix) if true != pred]
    return [
        (f"{part}-{true}-{pred}", f"{names[true]} taken for {names[pred]} ({matrix[true, pred]})")
        for true, pred in sorted(wrong, key=lambda cell: -matrix[cell])[:MOST_MIXED_UP]
    ]


def number_part(subject: Subject, k: int, number: Number, borders: list[NumberErrors]) -> dict:
    """What the page shows of an attribute that is a number, the `k`-th of those."""
    by_number = analysis.errors_by_number(subject.held_out, number, subject.preds["single"])
    return {
        "name": number.name,
        "axis": number.axis,
        "near": number.near,
        "window": window(number),
        "by_number": by_number,
        "borders": borders,
        "chart": number_chart(f"number-{k + 1}-title", subject, number, by_number),
    }


def window(number: Number) -> int:
    """How far on either side the lines against a number are means over: of ages two years."""
    return max(1, number.near * 2 // 3)


def number_chart(named_by: str, subject: Subject, number: Number, by_number: dict[int, NumberErrors]) -> Markup:
    """The parts of photographs of each number with a wrong class and with a wrong group of numbers."""
    held_out, preds, every, wide = subject.held_out, subject.preds["single"], list(by_number), window(number)
    around = {
        one: analysis.errors_of_numbers(range(one - wide, one + wide + 1), held_out, number, preds) for one in every
    }
    gaps = np.flatnonzero(np.diff(every) > 2 * wide) + 1  # a line would tell of numbers that nobody has
    pieces = np.split(np.array(every), gaps)
    most = max(one.photographs for one in by_number.values())
    points, lines = {}, {}
    for name, key in (("class wrong", "wrong"), (f"{number.name} group wrong", "wrong_value")):
        points[name] = [
            Point(
                at,
                getattr(one, key) / one.photographs,
                f"{number.name} {at}: {name} in {getattr(one, key)} of {one.photographs}",
                1.5 + 3 * math.sqrt(one.photographs / most),
            )
            for at, one in by_number.items()
        ]
        means = {at: getattr(one, key) / one.photographs for at, one in around.items()}
        lines[name] = [[(at, means[at]) for at in piece] for piece in pieces]
    across = Axis(number.axis, min(every) - 1, max(every) + 1, tick_step(max(every) - min(every)))
    up = Axis("photographs wrong", 0, 1, 0.2, percent=True)
    shaded = [(near[0] - 0.5, near[-1] + 0.5) for near in number.borders()]
    seen = [(max(low, across.low), min(high, across.high)) for low, high in shaded]
    return point_chart(named_by, across, up, points, lines, [(low, high) for low, high in seen if low < high])


def tick_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, such that about `TICKS` of them make the span."""
    power = 10 ** math.floor(math.log10(max(span, TICKS) / TICKS))
    return min((power * factor for factor in (1, 2, 5, 10)), key=lambda step: abs(span / step - TICKS))


def calibration_chart(bins: Reliability) -> Markup:
    points = [
        Point(
            sure,
            right,
            f"{count} photographs: {sure:.0%} sure, {right:.0%} right",
            2 + 5 * math.sqrt(count / max(bins.counts)),
        )
        for sure, right, count in zip(bins.confidence, bins.right, bins.counts, strict=True)
    ]
    across = Axis("confidence: probability of the predicted class", 0, 1, 0.2, percent=True)
    up = Axis("photographs right", 0, 1, 0.2, percent=True)
    line = [(point.x, point.y) for point in points]
    return point_chart("calibration-title", across, up, {"model": points}, {"model": [line]}, diagonal=True)


def card(subject: Subject, mistake: Mistake, numbers: Sequence[Number], side: int) -> dict:
    """What the page shows of a mistake, and the values that its filters use."""
    held_out, k = subject.held_out, mistake.position
    labelling, label, pred = held_out.labelling, int(held_out.labels[k]), int(subject.preds["single"][k])
    jpeg, (width, height) = thumbnail(subject.photographs.folder / subject.photographs.files[held_out.rows[k]], side)
    truth, guess = labelling.decode(label), labelling.decode(pred)
    cells = [f"class-{label}-{pred}", *(f"{name}-{truth[name]}-{guess[name]}" for name in mistake.attributes)]
    return {
        "mistake": mistake,
        "id": str(held_out.ids[k]),
        "numbers": [f"{one.name} {one.numbers[k]}" for one in numbers],
        "label": label,
        "cells": cells,
        "said": labelling.classes[subject.preds[OTHER][k]] if subject.other else "",
        "true": described(labelling, label, mistake),
        "predicted": described(labelling, pred, mistake),
        "alt": f"{held_out.ids[k]}: true {labelling.classes[label]}, predicted {labelling.classes[pred]}",
        "source": data_url(jpeg),
        "width": width,
        "height": height,
    }


def described(labelling: Labelling, class_id: int, mistake: Mistake) -> list[tuple[str, bool]]:
    """The attributes of a class in words, each with whether the prediction is wrong in it."""
    if not labelling.attributes:
        return [(labelling.classes[class_id], True)]
    values = labelling.decode(class_id)
    return [(labelling.values[name][values[name]], name in mistake.attributes) for name in values]
