"""Reviews of sets that are no competition's: by the attributes, and the groups or single images, that there are."""

from pathlib import Path

import numpy as np
import pytest

from utils.data.photographs import from_columns
from utils.data.relabel import apply_relabel
from utils.review.finding import find_suspects
from utils.review.predictions import Predictions


def predictions_of(told, groups=None):
    """Sure and right predictions of images in `a/`, but for the last one's class."""
    count = len(next(iter(told.values())))
    files = [f"a/{k:03d}.png" for k in range(count)]
    photographs = from_columns(Path("set"), files, groups, told, files, order={}, limits={})
    labels = photographs.labels(photographs.labelling)
    said = labels.copy()
    said[-1] = (said[-1] + 1) % photographs.labelling.num_classes
    rng = np.random.default_rng(0)
    num_classes = photographs.labelling.num_classes
    logits = 5 * np.eye(num_classes)[said] + rng.normal(size=(count, num_classes))
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return Predictions(photographs, np.arange(count), log_probs, photographs.labelling)


def squares_at(positions):
    return np.random.default_rng(positions).integers(0, 255, (len(positions), 32, 32, 3), np.uint8)


def test_plain_classes_are_reviewed_image_by_image():
    predictions = predictions_of({"label": ["rose", "aster"] * 40})
    suspects, _ = find_suspects(predictions, squares_at, [])
    assert predictions.kinds.tolist() == [0] * 80
    label = next(one for one in suspects if one.kind == "label")
    assert (label.id, label.attribute, label.given, label.suggested) == ("a/079", "label", "aster", "rose")
    assert not [one for one in suspects if one.kind == "two people"]


def test_what_differs_inside_groups_sets_their_images_apart():
    told = {"colour": ["red", "red", "blue", "blue"] * 10, "side": ["left", "right"] * 20}
    predictions = predictions_of(told, groups=[f"g{k // 2}" for k in range(40)])
    assert predictions.photographs.shared == ("colour",)
    assert predictions.kinds.tolist() == [0, 1] * 20
    find_suspects(predictions, squares_at, [])


@pytest.mark.parametrize(("name", "changed"), [("g1", [2, 3]), ("a/001", [1])])
def test_a_correction_names_a_group_or_an_image(name, changed):
    predictions = predictions_of({"colour": ["red", "red", "blue", "blue"]}, groups=["g0", "g0", "g1", "g1"])
    Path("relabel.csv").write_text(f"id,attribute,value\n{name},colour,{'blue' if name == 'a/001' else 'red'}\n")
    assert np.flatnonzero(apply_relabel(predictions.photographs, Path("relabel.csv")).relabelled).tolist() == changed


def test_of_many_other_values_the_most_probable_is_the_third():
    predictions = predictions_of({"label": [str(k % 10) for k in range(200)]})
    suspects, _ = find_suspects(predictions, squares_at, [])
    one = next(one for one in suspects if one.kind == "label")
    assert (one.id, one.given, one.suggested) == ("a/199", "9", "0")
    assert [(row.id, row.value) for row in one.instead] == [("a/199", one.other)]
    assert one.other == str(np.argsort(-predictions.log_probs[199, 1:9])[0] + 1)


@pytest.mark.parametrize(
    ("told", "groups"),
    [
        ({"label": ["a", "b"] * 40}, [f"g{k // 4}" for k in range(80)]),
        ({"label": ["a", "b"] * 40, "place": ["here"] * 80}, None),
    ],
    ids=["a group shares nothing", "an attribute has one value"],
)
def test_there_may_be_nothing_to_tell_apart(told, groups):
    suspects, _ = find_suspects(predictions_of(told, groups), squares_at, [])
    assert [one.id for one in suspects if one.kind == "label"] == ["a/079"]
