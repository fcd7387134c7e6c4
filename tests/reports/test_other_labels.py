"""The report of sets of images that are no competition's: no attribute but the class, numbers, and many classes."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_report_page import Page

import validation
from utils.base.tables import read_dicts
from utils.data.labels import Attribute, Labelling
from utils.data.photographs import from_columns
from utils.data.splits import make_split
from utils.evaluation.held_out import Scored
from utils.reports import mistakes, page
from utils.reports.advice import commands_of


class Seen(Scored):
    """Held-out photographs whose predictions are given."""

    def __init__(self, photographs, rows):
        self.rows, self.labelling = rows, photographs.labelling
        self.ids, self.persons = photographs.ids[rows], photographs.persons[rows]
        self.labels, self.relabelled = photographs.labels(self.labelling)[rows], photographs.relabelled[rows]
        self.preprocessing, self.images_digest, self.record = {"size": 8}, "d1", {"labels": "d2"}

    def squares_at(self, positions):
        return np.zeros((len(positions), 8, 8, 3), np.uint8)


def seen_page(told: dict, groups=None, limits=None, whose="groups"):
    """The page of a model that is wrong on each third photograph, and what was seen."""
    count = len(next(iter(told.values())))
    files = [f"{k:03d}.png" for k in range(count)]
    for file in files:
        Image.new("RGB", (8, 8), (int(file[:3]), 90, 9)).save(file)
    photographs = from_columns(
        Path(), files, groups, told, files, order={}, limits=limits or {}, whose=whose
    )  # fmt: skip
    split = make_split(photographs, 0.5, 0)
    held_out = Seen(photographs, split.held_out)
    preds = held_out.labels.copy()
    preds[::3] = (preds[::3] + 1) % held_out.labelling.num_classes
    logits = 4.0 * np.eye(held_out.labelling.num_classes)[preds]
    model = SimpleNamespace(name="m", meta=None, path=Path("model/m.pt"), digest="d", parts=("m",))
    commands = commands_of(model, validation.parser().parse([]), validation.parser())
    rows = [held_out.row("single", "m", logits)]
    who = f"held-out {photographs.whose}"
    subject = page.Subject(
        model, held_out, photographs, logits, rows, {"single": preds}, who, [split], commands
    )  # fmt: skip
    mistakes.save_report(Path("out"), held_out, logits, "m", who)
    text = page.save_page(Path("out/report.html"), subject).read_text(encoding="utf-8")
    return SimpleNamespace(page=Page(text), preds=preds, held_out=held_out)


def test_plain_classes_have_neither_attributes_nor_people():
    seen = seen_page({"label": [str(k % 3) for k in range(30)]})
    text = seen.page.text
    assert "Scored on 15 photographs: held-out images" in text
    assert "bootstrap intervals over images" in text
    for word in ("people", "person", "mask", "gender", "Wrong attribute", "Errors against exact"):
        assert word not in text
    assert seen.page.tables["The class; in brackets the interval"][1][0] == "class"
    heat = seen.page.tables["class, number of photographs"]
    assert heat[0] == ["true \\ predicted", "0", "1", "2"]


def test_a_number_is_plotted_under_its_own_name():
    heights = [str(3 * k % 40) for k in range(40)]
    told = {"kind": [("shrub", "tree")[k % 2] for k in range(40)], "height": heights}
    seen = seen_page(told, groups=[f"g{k // 2}" for k in range(40)], limits={"height": (10, 20)})
    assert "Errors against exact height" in seen.page.text
    assert f"of {len(set(seen.held_out.persons))} groups: held-out groups" in seen.page.text
    near = seen.page.tables["Errors of the single model near the borders between groups of height"]
    assert near[0] == ["height", "groups", "photographs", "class wrong", "height group wrong"]
    assert [row[0] for row in near[1:]] == ["9 to 10", "19 to 20", "all others"]
    every = seen.page.tables["Errors of the single model by height"][1:]
    assert sum(int(row[3].split()[0]) for row in every) == (seen.preds != seen.held_out.labels).sum()


def test_of_many_classes_the_worst_are_shown_and_files_have_them_all(monkeypatch):
    monkeypatch.setattr(mistakes, "MOST_CLASSES", 5)
    monkeypatch.setattr(page, "MOST_CLASSES", 5)
    monkeypatch.setattr(page, "MOST_CARDS", 4)
    seen = seen_page({"label": [f"kind {k % 12:02d}" for k in range(96)]})
    labels, classes = seen.held_out.labels, seen.held_out.labelling.classes
    name = (
        "The single model by class, the 5 worst of 12, all in scores_class.csv; support is the number of photographs"
    )
    shown = seen.page.tables[name][1:]
    wrong = seen.preds != labels
    assert [float(row[3]) for row in shown] == sorted(float(row[3]) for row in shown)
    heat = seen.page.tables[
        "class, number of photographs; the 5 of 12 that most mistakes are about, all others in confusion_class.csv"
    ]
    assert [len(row) for row in heat] == [6] * 6
    _, rows = read_dicts(Path("out/confusion_class.csv"))
    for k, (_, row) in enumerate(rows):
        counts = np.bincount(seen.preds[labels == k], minlength=12).tolist()
        assert row == {"true class": classes[k], **{name: str(one) for name, one in zip(classes, counts, strict=True)}}
    _, rows = read_dicts(Path("out/scores_class.csv"))
    assert sum(int(row["images"]) - int(row["right"]) for _, row in rows) == wrong.sum()
    assert f"Of {wrong.sum()} misclassified photographs of held-out images those of the highest loss" in seen.page.text
    assert len([one for one in seen.page.all("li") if "data-kind" in one]) == 4


def test_files_of_all_values_go_where_pictures_have_them_all():
    Path("out").mkdir()
    Path("out/confusion_class.csv").touch()
    labelling = Labelling((Attribute("label", ("a", "b")),))
    mistakes.save_whole(Path("out"), {"class": np.eye(2, dtype=int)}, labelling)
    assert not list(Path("out").iterdir())


@pytest.mark.parametrize(("count", "expected"), [(3, [0, 1, 2]), (2, [0, 2]), (1, [0])])
def test_the_classes_that_most_mistakes_are_about_by_hand(count, expected):
    matrix = np.array([[9, 0, 3], [1, 9, 0], [2, 0, 9]])  # wrong from or to: 6, 1, 5
    assert mistakes.most_mixed_up(matrix, count) == expected


@pytest.mark.parametrize(("span", "step"), [(55, 10), (6, 1), (3, 1), (700, 100), (1300, 200), (25, 5)])
def test_ticks_are_round_numbers(span, step):
    assert page.tick_step(span) == pytest.approx(step)
