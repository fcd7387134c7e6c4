"""The drawn faces and the tower of the embedded demo."""

import csv
from collections import Counter

import numpy as np
import pytest
from conftest import REPOSITORY

from demo import faces as drawn
from demo import train_tower
from utils.base.errors import InputError
from utils.data import competition
from utils.data.reading import read_photographs
from utils.data.unlabelled import read_test_images
from utils.models.tower_config import CONFIG_KEYS
from utils.models.weights import read_weights


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    drawn.write_data_set(folder, train=12, test=4)
    return folder


def test_drawing_is_a_function_of_its_arguments(data, tmp_path):
    drawn.write_data_set(tmp_path, train=12, test=4)
    names = sorted(str(path.relative_to(data)) for path in data.rglob("*.*"))
    assert names == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert len(names) == 7 * 16 + 2
    assert all((data / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_drawn_people_are_not_mixed_with_others(data, tmp_path):
    drawn.check_only_drawn(data)
    (tmp_path / "train" / "images" / "000001_male_Asian_25").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds other photographs \(000001_male_Asian_25\): name a new folder"):
        drawn.main([str(tmp_path)])
    (tmp_path / "other" / "eval").mkdir(parents=True)
    (tmp_path / "other" / "eval" / "info.csv").touch()
    with pytest.raises(InputError, match=r"eval/info\.csv"):
        drawn.main([str(tmp_path / "other")])


def test_more_people_leave_the_first_ones_as_they_are():
    few, many = drawn.people(3, seed=5), drawn.people(9, seed=5)
    assert [person for person, _ in few] == [person for person, _ in many[:3]]
    assert [person for person, _ in drawn.people(3, seed=6)] != [person for person, _ in few]


def test_the_tower_has_seen_nobody_of_the_demo():
    drawings = [(train_tower.PEOPLE, train_tower.SEED), (600, 0), (1500, 1)]  # the demo's seeds are 0 and 1
    everyone = [person for count, seed in drawings for person, _ in drawn.people(count, seed)]
    assert len(set(everyone)) == sum(count for count, _ in drawings)


def test_the_layout_is_the_competitions(data):
    photographs = read_photographs(data)
    assert len(photographs) == 84
    assert Counter(Counter(photographs.persons).values()) == {7: 12}
    test = read_test_images(data)
    with open(data / "eval_truth.csv") as file:
        truth = list(csv.DictReader(file))
    assert [row["ImageID"] for row in truth] == list(test.files())
    masks = Counter(int(competition.labelling().decode(int(row["ans"]))["mask"]) for row in truth)
    assert masks == {0: 20, 1: 4, 2: 4}


def test_what_is_told_of_a_picture_is_what_is_drawn():
    person, _ = drawn.people(1, seed=1)[0]
    for stem in drawn.STEMS:
        _, seen = drawn.draw(person, stem, np.random.default_rng(0))
        assert (seen["mask"] is None) == (stem == "normal")
        expected = {"normal": {"none"}, "incorrect_mask": {"below the nose", "on the chin"}}.get(stem, {"worn"})
        assert seen["worn"] in expected
        words = {
            word for word, fits in zip(train_tower.VOCABULARY, train_tower.describe(person, seen), strict=True) if fits
        }
        assert {seen["worn"], *([f"{seen['mask']} mask"] if seen["mask"] else [])} <= words
        assert len([word for word in words if word.startswith(("low ", "middle ", "high "))]) == len(
            train_tower.GRADED
        )


def test_looks_follow_age_and_gender_but_overlap():
    everyone = [person for person, _ in drawn.people(600, seed=2)]
    old, young = ([p.wrinkles for p in everyone if low <= p.age <= high] for low, high in ((60, 99), (0, 29)))
    assert min(old) > np.mean(young)
    women, men = ([p.hair_length for p in everyone if p.gender == gender] for gender in (1, 0))
    assert np.mean(women) > np.mean(men) + 0.3
    assert min(women) < np.mean(men)
    middle = [p.wrinkles for p in everyone if 30 <= p.age <= 36]
    assert min(middle) < max(young)


def test_the_shipped_tower_is_small_and_whole():
    path = REPOSITORY / "demo" / "tower.pt"
    assert path.stat().st_size <= 5_000_000
    weights = read_weights(path)
    assert {key: weights.config[key] for key in CONFIG_KEYS} == train_tower.CONFIG
    assert weights.num_classes is None


def test_the_tower_can_be_trained_again(tmp_path):
    train_tower.main(["--output", str(tmp_path / "tower.pt"), "--people", "20", "--epochs", "1"])
    again, shipped = read_weights(tmp_path / "tower.pt"), read_weights(REPOSITORY / "demo" / "tower.pt")
    assert {name: t.shape for name, t in again.state_dict.items()} == {
        n: t.shape for n, t in shipped.state_dict.items()
    }
