import numpy as np
import pytest

from utils.base.errors import InputError
from utils.data import competition
from utils.data.competition import parse_person, prompts
from utils.data.labels import Attribute, Labelling, labelling_from_record, number, plain


def test_class_id_is_mask_times_6_plus_gender_times_3_plus_age():
    table = [(mask, gender, age) for mask in range(3) for gender in range(2) for age in range(3)]
    for mask, gender, age in table:
        assert competition.labelling().encode(mask=mask, gender=gender, age=age) == mask * 6 + gender * 3 + age


@pytest.mark.parametrize(
    "labelling",
    [competition.labelling(), competition.labelling(("age",)), competition.labelling(("mask", "gender"), (20, 40))],
)
def test_encode_and_decode_are_inverse(labelling):
    ids = np.arange(labelling.num_classes)
    np.testing.assert_array_equal(labelling.encode(**labelling.decode(ids)), ids)
    assert len(set(labelling.classes)) == labelling.num_classes


def test_the_age_borders_belong_to_the_older_group():
    assert number("age", (30, 60)).index(np.array([0, 29, 30, 59, 60, 99])).tolist() == [0, 0, 1, 1, 2, 2]
    assert number("age", (29, 59)).index(np.array([28, 29, 58, 59])).tolist() == [0, 1, 1, 2]


def test_record_round_trip():
    labelling = competition.labelling(("age",), (29, 57))
    assert labelling_from_record(labelling.record()) == labelling
    assert labelling_from_record(plain(("cat", "dog")).record()) == plain(("cat", "dog"))
    assert labelling.num_classes == 3


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("000001_male_Asian", "id_gender_race_age"),
        ("000001_male_Asian_25_x", "id_gender_race_age"),
        ("000001__Asian_25", "id_gender_race_age"),
        ("000001_man_Asian_25", "gender 'man'"),
        ("000001_male_Asian_old", "age 'old'"),
        ("000001_male_Asian_-5", "age '-5'"),
        ("000001_male_Asian_200", "age '200'"),
    ],
)
def test_a_folder_that_does_not_parse_is_named(folder, message):
    with pytest.raises(InputError, match=message) as error:
        parse_person(folder)
    assert folder in str(error.value)


def test_prompts_tell_every_class_apart():
    every = prompts(competition.labelling())
    assert len(every) == 18
    assert len({tuple(sentences) for sentences in every}) == 18
    assert len({len(sentences) for sentences in every}) == 1
    assert "woman" in every[17][0]
    assert "mask" not in prompts(competition.labelling(("age",)))[0][0]


def test_a_value_is_found_by_its_name_and_the_last_group_of_a_number_by_a_shorthand():
    known = competition.labelling()
    assert known.value("mask=INCORRECT", "--x") == ("mask", 1)
    assert known.value("age=60+", "--x") == known.value("age=60 and over", "--x") == ("age", 2)
    assert competition.labelling(age_limits=(30, 58)).value("age=58+", "--x") == ("age", 2)
    for told, message in (
        ("age=70+", "--x: age '70\\+' is none of under 30, 30 to 59, 60 and over"),
        ("mask=off", "--x: mask 'off' is none of worn, incorrect, not_worn"),
        ("colour=red", "--x: there is no attribute 'colour', only mask, gender, age"),
    ):
        with pytest.raises(InputError, match=message):
            known.value(told, "--x")
    many = Labelling((Attribute("label", tuple(f"c{k:03d}" for k in range(200))),))
    with pytest.raises(InputError, match=r"is none of c000, c001, .*, c019, \.\.\.$"):
        many.value("label=x", "--x")


def test_only_numbers_are_cut_at_other_limits():
    words = Labelling((Attribute("age", ("young", "old")), Attribute("hair", ("dark", "fair"))))
    assert words.cut_at(age=(20, 40)) == words
    assert competition.labelling().cut_at(age=(20, 40)) == competition.labelling(age_limits=(20, 40))
