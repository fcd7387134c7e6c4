"""What the report counts, each by hand; its charts and its thumbnails."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import draw_face
from PIL import Image

from utils.data import competition
from utils.data.decoding import thumbnail
from utils.reports import analysis
from utils.reports.charts import Axis, Bar, row_chart


def held_out_of(labels, persons):
    return SimpleNamespace(labels=np.array(labels), persons=np.array(persons), labelling=competition.labelling())


def test_errors_of_ages_by_hand():
    held_out = held_out_of([1, 1, 2, 2, 0, 13], ["a", "a", "b", "b", "c", "d"])
    ages = np.array([57, 57, 62, 62, 20, 63])
    preds = np.array([1, 2, 2, 5, 6, 13])  # right; too old; right; wrong gender; wrong mask; right
    ages = analysis.Number("age", "years", ages, (30, 60))
    near = analysis.errors_near_borders(held_out, ages, preds)
    assert [(one.span, one.groups, one.photographs, one.wrong, one.wrong_value) for one in near] == [
        ("27 to 32", 0, 0, 0, 0),
        ("57 to 62", 2, 4, 2, 1),
        ("all others", 2, 2, 1, 0),
    ]
    by_age = analysis.errors_by_number(held_out, ages, preds)
    assert {age: (one.wrong, one.photographs) for age, one in by_age.items()} == {
        20: (1, 1),
        57: (1, 2),
        62: (1, 2),
        63: (0, 1),
    }


def test_calibration_by_hand():
    probs = np.array([[0.95, 0.05], [0.91, 0.09], [0.45, 0.55], [0.42, 0.58]])
    found = analysis.calibration(np.log(probs), np.array([0, 1, 1, 1]))
    np.testing.assert_allclose(found.confidence, [0.565, 0.93])
    np.testing.assert_allclose(found.right, [1, 0.5])
    assert found.counts.tolist() == [2, 2]
    assert found.error == pytest.approx((0.435 + 0.43) / 2)


def test_mistakes_by_hand(monkeypatch):
    monkeypatch.setattr(analysis, "PER_KIND", 1)
    probs = np.full((5, 18), 1e-9)
    probs[0, :2] = 0.49, 0.51  # surest, and of the lowest loss
    probs[1, :4] = 0.01, 0, 0.5, 0.49  # highest loss
    probs[2, 0] = 1  # right
    probs[3, [0, 9, 3, 6, 12]] = 0.2, 0.3, 0.2, 0.2, 0.1  # next to highest loss
    probs[4, [0, 1, 3, 6]] = 0.25, 0.35, 0.2, 0.2
    found = analysis.mistakes(np.log(probs + 1e-12), np.zeros(5, int), competition.labelling())
    assert [(one.position, one.kinds, one.attributes) for one in found] == [
        (1, (analysis.WORST,), ("age",)),
        (3, (), ("mask", "gender")),
        (4, (), ("age",)),
        (0, (analysis.CONFIDENT,), ("age",)),
    ]
    assert found[0].loss == pytest.approx(-np.log(0.01), rel=1e-4)
    assert (found[3].sureness, found[3].true_probability) == pytest.approx((0.51, 0.49), rel=1e-4)
    other = np.array([0, 1, 1, 5, 5])  # right where the first is wrong, wrong where the third is right
    compared = analysis.mistakes(np.log(probs + 1e-12), np.zeros(5, int), competition.labelling(), other)
    assert [(one.position, one.kinds) for one in compared][-2:] == [
        (0, (analysis.CONFIDENT, analysis.LOST)),
        (2, (analysis.WON,)),
    ]


def test_a_chart_leaves_out_what_is_no_number_and_escapes_names():
    axis = Axis("score", 0.1, 0.5, 0.2)
    np.testing.assert_allclose(axis.ticks(), [0.2, 0.4])
    assert axis.place(0.2, 100, 500) == pytest.approx(200)
    svg = row_chart("title", axis, ["a", "<b>"], {"one": [Bar(0.2, (0.1, 0.3)), Bar(float("nan"))]})
    assert svg.count('class="mark') == svg.count('class="interval') == 1
    assert "&lt;b&gt;" in svg
    assert "nan" not in svg


def test_a_thumbnail_is_upright_in_proportion_and_without_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    draw_face(2, 0, 25, 0).save(tmp_path / "face.jpg", exif=exif, comment=b"secret place")
    content, size = thumbnail(tmp_path / "face.jpg", 32)
    assert size == (32, 24)  # of 48 x 64
    assert b"Exif" not in content
    assert b"secret place" not in content
