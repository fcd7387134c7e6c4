from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_people

from utils.base.errors import InputError
from utils.data import competition
from utils.data.photographs import Photographs
from utils.data.reading import read_photographs
from utils.data.splits import check_unseen, make_split, person_folds, recorded_split
from utils.evaluation.scores import score_row


def people(groups: dict[int, int]) -> Photographs:
    """Two photographs of each person; `groups` maps a gender x age stratum to its number of people."""
    names = [f"{stratum}{k:04d}_p" for stratum, count in groups.items() for k in range(count)]
    persons = np.array(sorted(names * 2))
    return Photographs(
        folder=None,
        files=persons,
        ids=np.array([f"{name}/{'ab'[k % 2]}" for k, name in enumerate(persons)]),
        persons=persons,
        names=persons,
        labelling=competition.labelling(),
        values={name: np.zeros(len(persons), int) for name in ("mask", "gender", "age")},
        shared=competition.GROUP_ATTRIBUTES,
        strata=np.array([int(name[0]) for name in persons]),
        relabelled=np.zeros(len(persons), bool),
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
    fields = ("files", "ids", "persons", "names", "strata")
    shuffled = replace(photographs, **{name: getattr(photographs, name)[order] for name in fields})
    first, second = make_split(photographs, 0.25, 7), make_split(shuffled, 0.25, 7)
    assert first.held_out_ids == second.held_out_ids
    assert first.digest == second.digest
    assert make_split(photographs, 0.25, 8).digest != first.digest


def test_relabelling_moves_nobody_across_the_split(tmp_path):
    data = make_people(tmp_path, 12)
    before = make_split(read_photographs(data), 0.25, 42)
    (data / "train" / "relabel.csv").write_text("id,attribute,value\n000000,gender,female\n000001,age,70\n")
    assert make_split(read_photographs(data), 0.25, 42).digest == before.digest


@pytest.fixture
def in_two_folders(tmp_path):
    """Twenty people; four photographs of every other lie in a folder of another age, and once of another gender."""
    images = make_people(tmp_path, 20) / "train" / "images"
    for person in sorted(images.iterdir())[::2]:
        number, gender, race, age = person.name.split("_")
        other = images / f"{number}_{'female' if number == '000000' else gender}_{race}_{int(age) + 40}"
        other.mkdir()
        for stem in ("mask3", "mask4", "mask5", "normal"):
            (person / f"{stem}.jpg").rename(other / f"{stem}.jpg")
    return tmp_path


@pytest.mark.parametrize("seed", range(5))
def test_folders_of_one_id_are_one_person_on_one_side(in_two_folders, seed):
    photographs = read_photographs(in_two_folders)
    assert len(np.unique(photographs.persons)) == 20
    split = make_split(photographs, 0.2, seed)
    sides = [{name.partition("_")[0] for name in side} for side in (split.train_ids, split.held_out_ids)]
    assert [len(ids) for ids in sides] == [16, 4]
    assert not sides[0] & sides[1]
    assert set(photographs.names[split.held_out]) == set(split.held_out_ids)
    assert set(photographs.names[split.train]) == set(split.train_ids)
    assert len(split.held_out) == 4 * 7
    again = recorded_split(photographs, split.record())
    assert (again.digest, again.held_out.tolist()) == (split.digest, split.held_out.tolist())


def test_folders_of_one_id_are_named(in_two_folders, caplog):
    read_photographs(in_two_folders)
    assert "10 ids have several folders and count as one person each" in caplog.text
    assert "000000 (000000_female_Asian_62, 000000_male_Asian_22); 000002 (" in caplog.text


def test_folds_and_intervals_take_folders_of_one_id_as_one_person(in_two_folders):
    photographs = read_photographs(in_two_folders)
    labels = photographs.labels(competition.labelling())
    for rows in person_folds(labels, photographs.persons, 3):
        inside = {name[:6] for name in photographs.names[rows]}
        assert not inside & {name[:6] for name in np.delete(photographs.names, rows)}
    assert score_row(labels, labels, photographs.persons, 18)["persons"] == 20


def test_nobody_is_held_out_whom_an_old_record_has_in_training_too(in_two_folders, caplog):
    photographs = read_photographs(in_two_folders)
    folders = np.unique(photographs.names).tolist()
    held_out = ["000000_male_Asian_22", "000001_female_Asian_23"]
    record = {"by": "person", "seed": 1, "val_ratio": 0.2, "held_out_ids": held_out}
    record["train_ids"] = [name for name in folders if name not in held_out]
    split = recorded_split(photographs, record)
    assert np.unique(photographs.names[split.held_out]).tolist() == held_out[1:]
    assert list(split.held_out_ids) == held_out
    assert "1 people held out were trained on in other folders (such as 000000_female_Asian_62)" in caplog.text
    check_unseen(split, record, photographs, "model.pt")
    leaking = replace(split, held_out=np.flatnonzero(photographs.names == held_out[0]))
    with pytest.raises(InputError, match=r"model\.pt was trained on 1 of the people held out here"):
        check_unseen(leaking, record, photographs, "model.pt")


def test_split_and_records_of_people_with_one_folder_are_those_of_earlier_versions():
    split = make_split(people({0: 20, 3: 10, 5: 3}), 0.2, 42)
    assert split.held_out_ids == ("00010_p", "00013_p", "00015_p", "00019_p", "30000_p", "30008_p", "50000_p")
    assert split.digest == "1f575c54416af470"  # checkpoints on people's disks hold it


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
