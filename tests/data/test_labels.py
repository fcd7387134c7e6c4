import numpy as np
import pytest

from utils.base.errors import InputError
from utils.data import competition
from utils.data.competition import parse_person, prompts
from utils.data.labels import labelling_from_record, number, plain


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
