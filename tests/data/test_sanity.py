"""What is said of a set of photographs before training: a single class, small classes, copies across the split."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.base.errors import InputError
from utils.data import sanity
from utils.data.labels import Attribute, Labelling
from utils.data.photographs import from_columns
from utils.data.sanity import alike_names, check_classes, copies, small_classes, told_copies


def photographs(labels: str, groups: str | None = None):
    """One image for each letter, which is its class."""
    files = [f"{k:02d}.jpg" for k in range(len(labels))]
    told = {"label": list(labels)}
    return from_columns(Path("set"), files, groups and list(groups), told, files, {}, {})


def picture(seed: int, size: int = 32) -> np.ndarray:
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8))
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def saved_again(square: np.ndarray, size: int = 32) -> np.ndarray:
    """The same picture, larger or smaller for a while, and compressed."""
    file = BytesIO()
    Image.fromarray(square).resize((size, size)).save(file, "JPEG", quality=80)
    return np.asarray(Image.open(file).resize(square.shape[:2]))


def test_a_single_class_is_named():
    one = photographs("aaa")
    with pytest.raises(InputError, match=r"all 3 photographs in set are of one class, 'a': .* add photographs"):
        check_classes(one, one.labelling)
    two = photographs("aab")
    check_classes(two, two.labelling)


def test_classes_of_a_single_image_or_group_are_counted_and_the_smallest_named_first():
    alone = photographs("aabbcd")
    assert small_classes(alone, alone.labelling).startswith("2 of 4 classes have a single image")
    assert small_classes(alone, alone.labelling).endswith(": c (1); d (1)")
    grouped = photographs("aaabbcc", groups="xxyzzzw")
    line = small_classes(grouped, grouped.labelling)
    assert line.startswith("1 of 3 classes have a single group")
    assert line.endswith(": b (2)")
    many = photographs("aabcdefgh")
    assert small_classes(many, many.labelling).endswith(": b (1); c (1); d (1); e (1); f (1) and 2 more")
    enough = photographs("aabb")
    assert small_classes(enough, enough.labelling) == ""


def test_values_that_differ_in_case_or_form_alone_are_told():
    told = alike_names(Labelling((Attribute("label", ("Rose", "caf\u00e9", "cafe\u0301", "lily", "rose ")),)))
    assert told.endswith("classes of their own: 'caf\u00e9' and 'cafe\u0301', 'Rose' and 'rose '")
    assert alike_names(Labelling((Attribute("label", ("rose", "lily")),))) == ""


def test_copies_are_found_and_no_others():
    squares = [picture(seed) for seed in range(20)]
    squares += [saved_again(squares[3]), saved_again(squares[5], 48), picture(99)]
    found = copies(squares, np.array([20, 21, 22]), np.arange(20))
    assert sorted(found) == [(20, 3), (21, 5)]
    assert copies(squares, np.array([], int), np.arange(20)) == copies(squares, np.arange(3), np.array([], int)) == []


def test_pictures_that_only_their_hashes_cannot_tell_apart_are_no_copies():
    """Without any structure all hashes are the same."""
    flat = [np.full((32, 32, 3), shade, np.uint8) for shade in (10, 60, 200, 12)]
    assert copies(flat, np.array([0]), np.array([1, 2])) == []
    assert copies(flat, np.array([0]), np.array([3])) == [(0, 3)]


def test_the_warning_has_examples_and_the_remedy_and_is_off_where_groups_are_told(monkeypatch):
    squares = [picture(seed) for seed in range(4)]
    squares += [saved_again(square) for square in squares]
    held_out, train = np.arange(4), np.arange(4, 8)
    alone = photographs("abababab")
    line = told_copies(alone, squares, held_out, train)
    assert line.startswith("4 of 4 held-out images are nearly the same as one to train on")
    assert line.count(" and 0") == 3
    assert "; ...; tell which images belong together with --group-column, or --group-pattern" in line
    assert told_copies(photographs("abababab", groups="abcdefgh"), squares, held_out, train) == ""
    assert told_copies(alone, squares, held_out[:1], train[1:]) == ""
    monkeypatch.setattr(sanity, "MOST_HELD_OUT", 2)
    assert told_copies(alone, squares, held_out, train).startswith("2 of 2 held-out images")
