"""A soup in other programs answers as inference.py does."""

from pathlib import Path

import numpy as np
import pytest
from conftest import in_a_copy, infer, probs_of, soup
from PIL import Image

from inference import load
from utils.base.errors import InputError
from utils.data.submissions import read_submission

SOUP = "finetune_cp_seed42_epoch2_greedysoup_num3.pt"


@pytest.fixture
def images(faces) -> list[Path]:
    return [faces / "eval" / "images" / name for name in read_submission(faces / "eval" / "info.csv").ids]


def test_names_and_probabilities_are_those_of_inference(trained, faces, images, monkeypatch):
    in_a_copy(trained, monkeypatch)
    told = load(f"model/{SOUP}")
    answers = infer(faces, "--model-name", SOUP, "--save-probs")
    names, probs = told.predict(images)
    assert names == [told.classes[k] for k in read_submission(answers).answers]
    np.testing.assert_allclose(probs, probs_of(answers), atol=2e-6)
    assert len(told.classes) == 18
    for batch_size in (3, 1):
        again = told.predict(images, batch_size=batch_size)
        assert again.names == names
        np.testing.assert_allclose(again.probs, probs, atol=1e-5)


def test_images_may_be_open_already_and_none_is_nothing(trained, images):
    told = load(trained[0] / "model" / SOUP)
    opened = [Image.open(path) for path in images]
    np.testing.assert_allclose(told.predict(opened).probs, told.predict(images).probs, atol=1e-6)
    assert told.predict([Image.new("L", (5, 9), 200)]).names[0] in told.classes
    nothing = told.predict([])
    assert nothing.names == []
    assert nothing.probs.shape == (0, 18)


def test_an_exported_folder_and_a_hub_id_are_the_file(trained, faces, images, monkeypatch, tmp_path):
    in_a_copy(trained, monkeypatch)
    soup(faces, "--greedy-soup", "--export", str(tmp_path / "exported"))
    expected = load(f"model/{SOUP}").predict(images[:2])
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: asked.append(name) or tmp_path / "exported")
    for source in (tmp_path / "exported", "somebody/soup"):
        again = load(source).predict(images[:2])
        assert again.names == expected.names
        np.testing.assert_array_equal(again.probs, expected.probs)
    assert asked == ["somebody/soup"]


def test_what_cannot_be_loaded_or_read_is_one_error(trained, images, monkeypatch):
    told = load(trained[0] / "model" / SOUP)
    with pytest.raises(InputError, match=r"predict takes a list of images, such as \[image\]"):
        told.predict(str(images[0]))
    Path("text.jpg").write_text("hello")
    with pytest.raises(InputError, match=r"cannot decode image text\.jpg, which is text"):
        told.predict(["text.jpg"])
    with pytest.raises(InputError, match=r"gone\.pt is no checkpoint file"):
        load("gone.pt")
    with pytest.raises(InputError, match="nobody/nothing is no file or folder, and cannot be fetched from the hub"):
        load("nobody/nothing")  # HF_HUB_OFFLINE
