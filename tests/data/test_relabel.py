"""Corrections of labels: what relabel.csv may say, what it changes, and how decisions are added to it."""

import logging
import os
import shutil

import numpy as np
import pytest
from conftest import make_people

from utils.base.errors import InputError
from utils.data import competition
from utils.data.reading import read_photographs
from utils.data.relabel import Decision, decided, read_claims, write_decisions


@pytest.fixture
def small(tmp_path):
    return make_people(tmp_path / "data", 6)


def relabel(folder, *lines, header="id,attribute,value"):
    path = folder / "train" / "relabel.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_relabelling_by_person_and_by_photograph(small, caplog):
    relabel(small, "000000,gender,female", "000001_female_Asian_23/normal,mask,incorrect", "000002,age,61")
    with caplog.at_level(logging.INFO):
        photographs = read_photographs(small)
    of = {
        name: photographs.labels(competition.labelling())[photographs.ids == name].item()
        for name in ("000000_male_Asian_22/mask1", "000001_female_Asian_23/normal", "000002_male_Asian_47/normal")
    }
    assert list(of.values()) == [3, 6 + 3, 12 + 2]
    assert "7 of age, 7 of gender, 1 of mask" in caplog.text
    assert np.array_equal(photographs.strata, read_photographs(make_people(small.parent / "again", 6)).strata)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("999999,gender,male", "line 2: no photograph has the id '999999'"),
        ("000000/mask9,mask,worn", "no photograph has the id"),
        ("000000,hair,long", "attribute 'hair'"),
        ("000000,mask,maybe", "mask 'maybe'"),
        ("000000,age,old", "age 'old'"),
        (f"000000,age,{'9' * 5000}", "line 2: age '9+' is no whole number"),
        ("\n\n000000,age,old", "line 4: .*age 'old'"),
    ],
)
def test_a_wrong_relabel_line_is_named(small, line, message):
    relabel(small, line)
    with pytest.raises(InputError, match=message):
        read_photographs(small)


@pytest.mark.parametrize("lines", [["000000,gender,FEMALE ", "0,gender,male"], ["000000,age,30", "000000,age,31"]])
def test_two_values_of_one_photograph_are_one_error_that_names_both_lines(small, lines):
    lines[0] = lines[0].rstrip()
    relabel(small, *lines)
    with pytest.raises(InputError, match=r"lines 2 and 3 give 000000_male_Asian_22/\w+ two values of (gender|age)"):
        read_photographs(small)
    relabel(small, lines[0], lines[0])
    read_photographs(small)


@pytest.mark.parametrize("order", [1, -1])
def test_a_correction_of_one_photograph_counts_more_than_one_of_its_person(small, order, caplog):
    relabel(small, *["000000,age,61", "000000/normal,age,40"][::order])
    with caplog.at_level(logging.INFO):
        photographs = read_photographs(small)
    of_person = photographs.persons == "000000_male_Asian_22"
    ages = dict(zip(photographs.ids[of_person], photographs.values["age"][of_person], strict=True))
    assert ages.pop("000000_male_Asian_22/normal") == 40
    assert set(ages.values()) == {61}
    assert "7 of age" in caplog.text


def test_ids_are_read_without_leading_zeros_and_with_spaces_behind_them(small, caplog):
    relabel(small, "1 ,age,61", "2/normal,age,62", "3_female_Asian_48,age,63", "0,age,64")
    photographs = read_photographs(small)
    changed = dict(zip(photographs.ids.tolist(), photographs.values["age"].tolist(), strict=True))
    assert {name[:6]: age for name, age in changed.items() if age > 60} == {
        "000000": 64, "000001": 61, "000002": 62, "000003": 63, "000004": 68, "000005": 64,
    }  # fmt: skip
    assert caplog.text.count("without their leading zeros") == 1
    shutil.copytree(
        small / "train" / "images" / "000001_female_Asian_23", small / "train" / "images" / "01_female_Asian_23"
    )
    with pytest.raises(InputError, match="id '1' fits 000001_female_Asian_23, 01_female_Asian_23"):
        read_photographs(small)


@pytest.mark.parametrize("put", [lambda path: path.symlink_to("nowhere"), lambda path: path.mkdir(), os.mkfifo])
def test_a_relabel_csv_that_is_no_file_is_an_error(small, put):
    put(small / "train" / "relabel.csv")
    with pytest.raises(InputError, match=r"relabel\.csv does not exist or is no file"):
        read_photographs(small)


def test_relabel_columns_and_missing_file_are_errors(small):
    with pytest.raises(InputError, match=r"none\.csv does not exist"):
        read_photographs(small, small / "none.csv")
    with pytest.raises(InputError, match="expected id,attribute,value"):
        read_photographs(small, relabel(small, "000000,male", header="id,gender"))


def test_an_id_that_fits_two_people_is_an_error(small):
    shutil.copytree(
        small / "train" / "images" / "000000_male_Asian_22", small / "train" / "images" / "000000_male_White_22"
    )
    relabel(small, "000000,gender,female")
    with pytest.raises(InputError, match="give the folder's whole name"):
        read_photographs(small)


REVIEWED = [
    "000001,gender,female,reviewed",  # what is given
    "000003,gender,male,reviewed",  # not what is given
    "000002/normal,mask,not_worn,reviewed",
    "000004,two people,no,reviewed",
    "000000,gender,female,corrected",
    "000005,age,23,",
]


def test_reviewed_rows_change_nothing_and_stand_only_while_they_confirm_what_is_given(small):
    path = relabel(small, *REVIEWED, header="id,attribute,value,decision")
    photographs = read_photographs(small)
    given = read_photographs(small, relabel(small, "000000,gender,female", "000005,age,23"))
    for name, column in photographs.values.items():
        assert np.array_equal(column, given.values[name])
    assert {one[:6] for one in photographs.ids[photographs.relabelled]} == {"000000", "000005"}

    relabel(small, *REVIEWED, header="id,attribute,value,decision")
    flags = decided(photographs, read_claims(photographs, path))
    of = {name: {one[:6] for one in photographs.ids[rows]} for name, rows in flags.items() if rows.any()}
    assert of == {
        "gender": {"000000", "000001"}, "age": {"000005"}, "mask": {"000002"}, "two people": {"000004"},
    }  # fmt: skip
    assert flags["mask"].sum() == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("000000,gender,male,perhaps", "line 2: decision 'perhaps' is none of corrected, reviewed"),
        ("000000,two people,no,corrected", "line 2: attribute 'two people' is none of mask, gender, age"),
        ("000000,gender,long,reviewed", "line 2: gender 'long'"),
    ],
)
def test_a_wrong_decision_is_named(small, line, message):
    with pytest.raises(InputError, match=message):
        read_photographs(small, relabel(small, line, header="id,attribute,value,decision"))


def test_a_new_decision_replaces_the_old_one_about_the_same_thing_and_no_other(small):
    path = relabel(small, "000000,gender,female", "000000,age,61", "000001/normal,mask,worn")
    earlier = [one.decision for one in read_claims(read_photographs(small), path)]
    new = [
        Decision("000000_male_Asian_22", "gender", "male", "reviewed"),
        Decision("000002_male_Asian_47", "age", "30"),
    ]
    write_decisions(path, earlier + new)
    assert path.read_text().splitlines() == [
        "id,attribute,value,decision",
        "000000_male_Asian_22,gender,male,reviewed",
        "000000_male_Asian_22,age,61,corrected",
        "000001_female_Asian_23/normal,mask,worn,corrected",
        "000002_male_Asian_47,age,30,corrected",
    ]
    photographs = read_photographs(small)
    assert photographs.relabelled.sum() == 7 + 1 + 7
