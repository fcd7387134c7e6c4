from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_people

from utils.base.errors import InputError
from utils.data.photographs import Photographs, read_photographs
from utils.data.splits import make_split


def people(groups: dict[int, int]) -> Photographs:
    """Two photographs of each person; `groups` maps a gender x age stratum to its number of people."""
    names = [f"{stratum}{k:04d}_p" for stratum, count in groups.items() for k in range(count)]
    persons = np.array(sorted(names * 2))
    return Photographs(
        folder=None,
        files=persons,
        ids=np.array([f"{name}/{'ab'[k % 2]}" for k, name in enumerate(persons)]),
        persons=persons,
        strata=np.array([int(name[0]) for name in persons]),
        masks=np.zeros(len(persons), int),
        genders=np.zeros(len(persons), int),
        ages=np.zeros(len(persons), int),
    )


def test_nobody_stands_on_both_sides_and_everybody_on_one():
    photographs = people({0: 50, 1: 30, 5: 7})
    split = make_split(photographs, 0.2, 42)
    assert not set(split.train_ids) & set(split.held_out_ids)
    assert not set(photographs.persons[split.train]) & set(photographs.persons[split.held_out])
    assert sorted([*split.train, *split.held_out]) == list(range(len(photographs)))


@pytest.mark.parametrize("seed", range(20))
def test_every_stratum_is_held_out_in_proportion(seed):
    groups = {0: 50, 1: 30, 2: 10, 4: 5, 5: 1}
    split = make_split(people(groups), 0.2, seed)
    counts = Counter(int(name[0]) for name in split.held_out_ids)
    for stratum, count in groups.items():
        assert abs(counts[stratum] - 0.2 * count) < 1
    assert len(split.held_out_ids) in (19, 20)


def test_the_split_is_a_function_of_seed_and_ids_alone():
    photographs = people({0: 20, 3: 20})
    order = np.random.default_rng(0).permutation(len(photographs))
    shuffled = replace(
        photographs, **{name: getattr(photographs, name)[order] for name in ("files", "ids", "persons", "strata")}
    )
    first, second = make_split(photographs, 0.25, 7), make_split(shuffled, 0.25, 7)
    assert first.held_out_ids == second.held_out_ids
    assert first.digest == second.digest
    assert make_split(photographs, 0.25, 8).digest != first.digest


def test_relabelling_moves_nobody_across_the_split(tmp_path):
    data = make_people(tmp_path, 12)
    before = make_split(read_photographs(data), 0.25, 42)
    (data / "train" / "relabel.csv").write_text("id,attribute,value\n000000,gender,female\n000001,age,70\n")
    assert make_split(read_photographs(data), 0.25, 42).digest == before.digest


def test_split_by_image_puts_people_on_both_sides():
    photographs = people({0: 50})
    split = make_split(photographs, 0.2, 42, by="image")
    assert set(photographs.persons[split.train]) & set(photographs.persons[split.held_out])
    assert len(split.held_out) == 20


def test_an_empty_side_is_an_error_and_ratio_zero_holds_out_nobody():
    with pytest.raises(InputError, match="leaves one side of the split empty"):
        make_split(people({0: 1}), 0.2, 0)
    split = make_split(people({0: 3}), 0.0, 0)
    assert len(split.held_out) == 0
    assert len(split.train) == 6
