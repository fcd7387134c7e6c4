"""Pictures hold any name as it is, in its own place."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from utils.base import pictures
from utils.base.pictures import CAPTION, save_confusion, save_curves, save_score_plot, save_sheet, wrapped

pytestmark = pytest.mark.usefixtures("drawn")

NAMES = ("$_{$", r"$\frac$", "$x$", "한글$_{$")


def row(epoch):
    return {"epoch": epoch, "train_loss": 1.0, "loss": 1.0, "accuracy": 0.5, "macro_f1": 0.5}


DRAWN = {
    "sheet": lambda path, name: save_sheet(path, np.zeros((2, 8, 8, 3), np.uint8), [name, ""], title=name),
    "confusion": lambda path, name: save_confusion(path, np.eye(2, dtype=int), [name, "b"], name),
    "curves": lambda path, name: save_curves(path, [row(1), row(2)], name),
    "agreement": lambda path, name: pictures.save_agreement(path, np.full((2, 2), 3), 4, [name, "b"]),
    "scores": lambda path, name: save_score_plot(
        path, {name: [(name, 0.5, 0.5, (0.4, 0.6), (0.4, 0.6))]}, name, [(name, 0.5, True)], "accuracy", (0.4, 0.6)
    ),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN.keys())
def test_a_name_is_no_formula_and_no_warning(tmp_path, draw, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(tmp_path / "a.png", name)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 100


def test_lines_break_behind_underscores_and_slashes_and_never_inside_an_age():
    assert wrapped("000123_female_Southeast-Asian_45/mask1", 32) == "000123_female_Southeast-Asian_\n45/mask1"
    assert wrapped("predicted: incorrect, female, 30 to 59", 33) == "predicted: incorrect, female, 30\nto 59"
    assert wrapped("a" * 10 + "\n\nb", 4) == "aaaa\naaaa\naa\n\nb"
    assert wrapped("x\x1b[31m", 20) == r"x\x1b[31m"


def test_captions_of_neighbours_do_not_overlap(tmp_path, monkeypatch):
    boxes = []
    save = pictures._save

    def measured(figure, *rest):
        boxes.extend(text.get_window_extent() for text in figure.axes[0].texts)
        save(figure, *rest)

    monkeypatch.setattr(pictures, "_save", measured)
    widest = ["W" * 50, "0123456789" * 5, "predicted: not_worn, female, 60 and over", "MASK_" * 9]
    save_sheet(tmp_path / "a.png", np.zeros((8, 8, 8, 3), np.uint8), widest * 2, wrong=np.ones(8, bool))
    assert len(boxes) == 8
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert CAPTION > 30


def test_a_small_step_of_the_greedy_path_looks_small_beside_what_chance_does(tmp_path, monkeypatch):
    spans = []
    save = pictures._save

    def measured(figure, *rest):
        spans.append(figure.axes[1].get_ylim())
        save(figure, *rest)

    monkeypatch.setattr(pictures, "_save", measured)
    points = {"ingredient": [("a", 0.8, 0.8, (0.75, 0.85), (0.75, 0.85))]}
    save_score_plot(tmp_path / "a.png", points, "t", [("a", 0.800, True), ("b", 0.805, True)], band=(0.75, 0.85))
    ((low, high),) = spans
    assert high - low > 0.005 / 0.06
