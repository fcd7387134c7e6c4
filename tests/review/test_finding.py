"""Suspects of people some of whom are known to be labelled wrong, what is decided about them, and the files."""

import csv
from pathlib import Path

import numpy as np
import pytest
from cleanlab.filter import find_label_issues
from generated import LABELLING, MASKS, looks, people, photographs_of, predictions_of

from utils.data.relabel import Claim, Decision
from utils.evaluation.scores import log_softmax
from utils.review.finding import accept_above, fact_lines, find_suspects, write_suspects
from utils.review.noise import Judged
from utils.review.other_kinds import duplicate_suspects, two_people_suspects
from utils.review.suspects import DUPLICATE, LABEL, NO_CLASS, SWAPPED, TWO_PEOPLE
from utils.review.wrong_labels import label_suspects, worth_a_look

WRONG_GENDERS, WRONG_AGES, SWAPPED_GROUPS, WRONG_MASK = (3, 40, 77), (12, 90), (20, 64, 101), 55
TWO, BLANK, COPY = 30, 7 * 70 + 2, (7 * 81 + 1, 7 * 15 + 4)


def case(seed: int = 0):
    """Predictions of 120 people, and a function that gives their pixels."""
    genders, ages = people()
    given_genders, given_ages = genders.copy(), ages.copy()
    given_genders[list(WRONG_GENDERS)] = 1 - genders[list(WRONG_GENDERS)]
    given_ages[12], given_ages[90] = 21, 68
    ages[12], ages[90] = 69, 22
    photographs = photographs_of(given_genders.tolist(), given_ages.tolist())
    true_genders, true_masks = np.repeat(genders, 7), np.tile(MASKS, len(genders))
    for group in SWAPPED_GROUPS:
        true_masks[[7 * group, 7 * group + 6]] = 2, 1
    true_masks[7 * WRONG_MASK + 6] = 0
    true_genders[7 * TWO : 7 * TWO + 3] = 1 - true_genders[7 * TWO]
    log_probs = looks(true_genders, np.repeat(ages, 7), true_masks, seed)
    log_probs[BLANK] = -np.log(18)
    pixels = np.random.default_rng(1).integers(0, 256, (len(photographs), 32, 32, 3), dtype=np.uint8)
    pixels[COPY[0]] = pixels[COPY[1]]
    return predictions_of(photographs, log_probs), lambda rows: pixels[rows]


@pytest.fixture(scope="module")
def found():
    predictions, squares_at = case()
    suspects, decided = find_suspects(predictions, squares_at, [])
    assert decided == 0
    return predictions, squares_at, suspects


def of(suspects, kind, attribute=""):
    return [one for one in suspects if (one.kind, one.attribute) == (kind, attribute)]


def age_of(suspects, name):
    return next(one for one in suspects if (one.attribute, one.id) == ("age", name))


def test_what_is_wrong_comes_before_what_is_right(found):
    predictions, _, suspects = found
    names = predictions.groups.names

    genders = of(suspects, LABEL, "gender")
    assert {one.id for one in genders if one.confidence > 0.5} == {names[k] for k in WRONG_GENDERS}
    ages = of(suspects, LABEL, "age")
    assert {one.id for one in ages[:2]} == {names[k] for k in WRONG_AGES}
    assert min(one.confidence for one in ages[:2]) > 0.5
    assert [one.id for one in of(suspects, SWAPPED, "mask") if one.confidence > 0.5] == [
        one.id for one in of(suspects, SWAPPED, "mask")[: len(SWAPPED_GROUPS)]
    ]
    swapped = of(suspects, SWAPPED, "mask")[: len(SWAPPED_GROUPS)]
    assert {one.id for one in swapped} == {f"{names[k]}/incorrect_mask" for k in SWAPPED_GROUPS}
    masks = of(suspects, LABEL, "mask")
    assert masks[0].id == f"{names[WRONG_MASK]}/normal"
    assert not {one.id for one in masks} & {row.id for one in swapped for row in one.accept}
    assert of(suspects, TWO_PEOPLE)[0].id == names[TWO]
    assert len(of(suspects, TWO_PEOPLE)) <= 2
    assert [one.id for one in of(suspects, NO_CLASS)] == [predictions.ids[BLANK]]
    assert [one.id for one in of(suspects, DUPLICATE)] == [predictions.ids[min(COPY)]]
    assert [one.confidence for one in suspects] == sorted((one.confidence for one in suspects), reverse=True)
    assert len({one.key for one in suspects}) == len(suspects)


def test_what_accepting_and_rejecting_write(found):
    predictions, _, suspects = found
    by_id = {(one.kind, one.id): one for one in suspects}
    names = predictions.groups.names
    gender = by_id[LABEL, names[3]]
    assert (gender.given, gender.suggested, gender.unit) == ("male", "female", "group")
    assert [(one.id, one.attribute, one.value) for one in gender.accept] == [(names[3], "gender", "female")]
    assert [(one.id, one.attribute, one.value) for one in gender.keep] == [(names[3], "gender", "male")]
    assert gender.evidence.startswith("7 photographs together: female ")
    assert len(gender.files) == 7
    assert gender.files[0].stem == age_of(suspects, names[12]).files[0].stem == "normal"  # the bare face
    age = age_of(suspects, names[12])
    assert (age.given, age.suggested) == ("under 30", "60 and over")
    assert 60 <= int(age.accept[0].value) <= 69
    assert age.keep[0].value == "21"
    assert age.evidence.startswith("stated age 21; 7 photographs together: about 6")
    assert (age.other, gender.other, gender.instead) == ("30 to 59", "", ())
    assert 30 <= int(age.instead[0].value) < 60
    mask = by_id[LABEL, f"{names[WRONG_MASK]}/normal"]
    assert (mask.given, mask.suggested, mask.other) == ("not_worn", "worn", "incorrect")
    assert [(one.id, one.value) for one in mask.instead] == [(f"{names[WRONG_MASK]}/normal", "incorrect")]
    swap = by_id[SWAPPED, f"{names[20]}/incorrect_mask"]
    assert [(one.id.partition("/")[2], one.value) for one in swap.accept] == [
        ("incorrect_mask", "not_worn"), ("normal", "incorrect"),
    ]  # fmt: skip
    assert [one.value for one in swap.keep] == ["incorrect", "not_worn"]
    assert [file.stem for file in swap.files[:2]] == ["incorrect_mask", "normal"]
    pair = by_id[DUPLICATE, predictions.ids[min(COPY)]]
    assert [str(file) for file in pair.files] == [
        f"data/train/images/{predictions.ids[row]}.jpg" for row in sorted(COPY)
    ]
    assert pair.accept == ()
    two = by_id[TWO_PEOPLE, names[TWO]]
    assert "looks male" in two.evidence
    assert "looks female" in two.evidence


def test_two_people_are_seen_though_masks_change_what_everybody_looks_like():
    genders, ages = people()
    true = np.repeat(genders, 7)
    true[7 * TWO : 7 * TWO + 3] = 1 - true[7 * TWO]
    log_probs = looks(true, np.repeat(ages, 7), np.tile(MASKS, len(ages)), 0).reshape(-1, 3, 2, 3)
    log_probs[np.tile(MASKS, len(ages)) == 0, :, 0] += 12  # whoever wears a mask looks like a man
    predictions = predictions_of(
        photographs_of(genders.tolist(), ages.tolist()), log_softmax(log_probs.reshape(-1, 18))
    )
    assert two_people_suspects(predictions)[0].id == predictions.groups.names[TWO]


def test_the_same_picture_twice_in_a_group_is_a_duplicate_under_different_labels_only():
    predictions, _ = case()
    pixels = np.random.default_rng(2).integers(0, 256, (840, 32, 32, 3), dtype=np.uint8)
    pixels[7 * 9 + 1] = pixels[7 * 9 + 2]  # both with a mask
    assert duplicate_suspects(predictions, lambda rows: pixels[rows]) == []
    pixels[7 * 9 + 6] = pixels[7 * 9 + 3]
    pixels[7 * 9 + 6, 0, 0] ^= 1  # as after compressing it again
    (pair,) = duplicate_suspects(predictions, lambda rows: pixels[rows])
    assert [file.stem for file in pair.files] == ["mask3", "normal"]
    assert {file.parent.name for file in pair.files} == {predictions.groups.names[9]}
    assert pair.confidence > 0.5


def test_a_number_beside_a_limit_is_no_suspect_of_weight():
    """Of people who all look ten years older than they are, nobody is labelled wrong, however many pass a limit."""
    genders, ages = people()
    photographs = photographs_of(genders.tolist(), ages.tolist())
    log_probs = looks(np.repeat(genders, 7), np.repeat(ages, 7) + 10, np.tile(MASKS, len(ages)), 0)
    by_looks = log_probs.reshape(-1, 3, 2, 3).sum((1, 2)).argmax(-1)
    near = np.isin(photographs.values["age"], [27, 28, 29, 57, 58, 59])
    assert (by_looks[near] > LABELLING.decode(photographs.labels(LABELLING))["age"][near]).mean() > 0.6
    about_age = [one for one in label_suspects(predictions_of(photographs, log_probs)) if one.attribute == "age"]
    beside = [one for one in about_age if int(one.keep[0].value) in (27, 28, 29, 57, 58, 59)]
    assert max((one.confidence for one in beside), default=0) < 0.05


def test_labels_worth_a_look_are_those_of_confident_learning(found):
    """cleanlab, asked directly about the groups with the mean log-odds as they are, points at the same ones first."""
    predictions, _, suspects = found
    groups = predictions.groups
    probs = np.exp(groups.mean(predictions.of_attribute("gender")))
    given = groups.most_frequent(predictions.given["gender"])
    issues = find_label_issues(given, probs / probs.sum(-1, keepdims=True), return_indices_ranked_by="self_confidence")
    mine = [one.id for one in of(suspects, LABEL, "gender")]
    assert mine[:3] == groups.names[issues[:3]].tolist()


def test_a_label_that_is_no_more_probably_wrong_than_any_is_not_worth_a_look():
    probs = np.repeat([[0.9, 0.1], [0.1, 0.9]], 10, axis=0)
    given = np.repeat([0, 1], 10)
    given[[0, 1]] = 1
    posterior = np.where(np.eye(2)[given] == 1, 0.99, 0.01)
    posterior[1] = 0.3, 0.7
    assert worth_a_look(Judged(probs, posterior, 0.03), given) == [(1, 0, 0.3)]
    assert [k for k, *_ in worth_a_look(Judged(probs, posterior, 0.001), given)] == [0, 1]


def test_the_same_suspects_have_the_same_keys_whatever_the_models(found):
    _, _, suspects = found
    again, squares_at = case(seed=5)
    others, _ = find_suspects(again, squares_at, [])
    sure = {one.key for one in suspects if one.confidence > 0.9}
    assert len(sure) > 8
    assert sure <= {one.key for one in others}


def claims_of(photographs, decisions: list[Decision]) -> list[Claim]:
    """As they are read from relabel.csv."""
    claims = []
    for line, one in enumerate(decisions, start=2):
        rows = np.flatnonzero((photographs.ids == one.id) | (photographs.names == one.id)).tolist()
        values = {"mask": ("worn", "incorrect", "not_worn"), "gender": ("male", "female")}.get(one.attribute)
        value = values.index(one.value) if values else int(one.value) if one.value.isdigit() else None
        claims.append(Claim(line, one, rows, value, "/" in one.id))
    return claims


def test_a_group_in_which_nobody_is_is_no_choice():
    genders, ages = people()
    ages = np.where(ages < 30, 70, ages)
    given = ages.copy()
    given[12] = 68 if ages[12] < 60 else 35
    photographs = photographs_of(genders.tolist(), given.tolist())
    log_probs = looks(np.repeat(genders, 7), np.repeat(ages, 7), np.tile(MASKS, len(ages)), 0)
    about_age = [one for one in label_suspects(predictions_of(photographs, log_probs)) if one.attribute == "age"]
    assert about_age
    assert {(one.other, one.instead) for one in about_age} == {("", ())}


def test_what_was_rejected_does_not_come_back_and_nothing_else_goes(found):
    predictions, squares_at, suspects = found
    sure = [one for one in suspects if one.confidence > 0.5]
    rejections = [Decision(row.id, row.attribute, row.value, "reviewed") for one in sure for row in one.keep]
    after, decided = find_suspects(predictions, squares_at, claims_of(predictions.photographs, rejections))
    assert decided >= len(sure)
    assert not {one.key for one in sure} & {one.key for one in after}
    rejected = {(row.id, row.attribute) for one in sure for row in one.keep}
    assert {one.key for one in after} == {
        one.key for one in suspects if not rejected & {(row.id, row.attribute) for row in one.keep}
    }


def test_corrections_that_are_sure_enough_are_written_and_no_decision_is_written_over(found, tmp_path):
    predictions, _, suspects = found
    path = tmp_path / "relabel.csv"
    kept = next(one for one in suspects if one.accept and one.attribute == "gender")
    earlier = [Decision(kept.id, "gender", kept.keep[0].value, "reviewed"), Decision(kept.id, "age", "33")]
    accepted, rows = accept_above(path, suspects, 0.5, claims_of(predictions.photographs, earlier))
    assert {one.key for one in accepted} == {
        one.key for one in suspects if one.accept and one.confidence > 0.5 and one is not kept
    }
    with open(path) as file:
        written = [tuple(row.values()) for row in csv.DictReader(file)]
    assert written[:2] == [tuple(vars(one).values()) for one in earlier]
    assert written == [tuple(vars(one).values()) for one in rows]
    assert len(written) == 2 + sum(len(one.accept) for one in accepted)
    assert {row[3] for row in written[2:]} == {"corrected"}
    assert accept_above(tmp_path / "none.csv", suspects, 1.0, []) == ([], [])
    assert not (tmp_path / "none.csv").exists()


def test_the_table_has_all_suspects_and_the_facts_count_them(found, tmp_path):
    _, _, suspects = found
    path = write_suspects(tmp_path / "suspects.csv", suspects, suspects[:1])
    with open(path) as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [one.id for one in suspects]
    assert [int(row["rank"]) for row in rows] == list(range(1, len(suspects) + 1))
    ages = [row for row in rows if row["attribute"] == "age"]
    assert all(row["other_corrections"].startswith(f"{row['id']} age ") for row in ages)
    assert len({*ages[0].values()} & {"under 30", "30 to 59", "60 and over"}) == 3
    assert [row["decision"] for row in rows] == ["corrected"] + [""] * (len(rows) - 1)
    assert float(rows[0]["confidence"]) == pytest.approx(suspects[0].confidence, rel=1e-6)
    first = next(row for row in rows if row["attribute"] == "gender")
    assert first["corrections"] == f"{first['id']} gender {first['suggested']}"
    assert Path(first["files"].split("; ")[0]).parent.name == first["id"]
    facts = fact_lines(suspects, 4)
    assert f"label (gender) {len(of(suspects, LABEL, 'gender'))}" in facts[0]
    assert facts[1] == "decided in relabel.csv, and not to come back: 4 other suspects"
    assert fact_lines(suspects, 1)[1].endswith(": 1 other suspect")
    assert len(fact_lines([], 0)) == 1
