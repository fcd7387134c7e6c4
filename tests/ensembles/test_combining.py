import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold

from utils.base.errors import InputError
from utils.base.metrics import METRICS
from utils.data import competition, splits
from utils.ensembles import combining, members, specialist_weight
from utils.ensembles.calibration import log_loss
from utils.evaluation.scores import confusion_matrix
from utils.models import checkpoints

LABELLING = competition.labelling()
EVERY, AGE = ("mask", "gender", "age"), ("age",)
BOTH = LABELLING, competition.labelling(AGE)  # of a model and of an age specialist


def random_logits(count=60, classes=18, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (count, classes)).astype(np.float32)


def checkpoint(name="m", attributes=EVERY, limits=(30, 60), digest="d", split="s"):
    path = SimpleNamespace(name=f"{name}.pt", stem=name)
    split = split and {"digest": split}
    known = {"labelling": competition.labelling(attributes, limits), "digest": digest, "split": split, "meta": None}
    return SimpleNamespace(path=path, name=name, division=split and split["digest"], **known)


def test_weight_zero_leaves_the_model_as_it_is():
    logits = random_logits()
    scores = combining.corrected(logits, random_logits(classes=3, seed=1), 0.0, *BOTH)
    np.testing.assert_allclose(combining.as_probs(scores), combining.as_probs(logits))


def test_an_age_specialist_moves_age_and_by_a_large_weight_decides_it():
    logits, age_logits = random_logits(), random_logits(classes=3, seed=1)
    preds = combining.corrected(logits, age_logits, 1e6, *BOTH).argmax(-1)
    assert (LABELLING.decode(preds)["age"] == age_logits.argmax(-1)).all()
    one = combining.corrected(logits[:1], age_logits[:1], 0.5, *BOTH)[0]
    by_hand = np.log(combining.as_probs(logits))[0, 13] + 0.5 * np.log(combining.as_probs(age_logits))[0, 1]
    assert one[13] == pytest.approx(by_hand)  # class 13: not worn, male, middle age


def test_the_tuned_weight_never_scores_below_the_model_alone_and_ties_take_the_smallest():
    labels = np.random.default_rng(2).integers(0, 18, 60)
    logits, age_logits = random_logits(), random_logits(classes=3, seed=1)

    def score(weight):
        preds = combining.corrected(logits, age_logits, weight, *BOTH).argmax(-1)
        return METRICS["accuracy"](confusion_matrix(labels, preds, 18))

    weight = specialist_weight.tune_weight(logits, age_logits, labels, *BOTH, "accuracy")
    assert score(weight) == max(map(score, specialist_weight.WEIGHTS))
    assert weight == min(w for w in specialist_weight.WEIGHTS if score(w) == score(weight))
    by_loss = specialist_weight.tune_weight(logits, age_logits, labels, *BOTH, "log_loss")
    losses = {
        weight: log_loss(combining.corrected(logits, age_logits, weight, *BOTH), labels)
        for weight in specialist_weight.WEIGHTS
    }
    assert by_loss == min(losses, key=losses.get)
    perfect = np.eye(18, dtype=np.float32)[labels] * 50
    assert specialist_weight.tune_weight(perfect, age_logits, labels, *BOTH, "macro_f1") == 0


def test_a_persons_weight_is_tuned_on_other_people_only(monkeypatch):
    persons = np.repeat([f"p{k}" for k in range(12)], 5)
    logits, age_logits, labels = random_logits(), random_logits(classes=3, seed=1), np.arange(60)
    seen = []

    def tune(logits, own_logits, labels, whole, own, metric):
        seen.append(set(persons[labels]))  # the labels of this test are row numbers
        return float(len(seen))

    monkeypatch.setattr(specialist_weight, "tune_weight", tune)
    scores = specialist_weight.cross_fitted_scores(logits, age_logits, labels, persons, *BOTH, "accuracy")
    assert len(seen) == splits.FOLDS
    held_out = [set(persons) - people for people in seen]
    folds = GroupKFold(splits.FOLDS, shuffle=True, random_state=0).split(logits, labels, persons)
    assert held_out == [set(persons[fold]) for _, fold in folds]
    assert set().union(*held_out) == set(persons)
    assert sum(map(len, held_out)) == 12
    for weight, people in enumerate(held_out, start=1):
        rows = np.isin(persons, list(people))
        expected = combining.corrected(logits[rows], age_logits[rows], weight, *BOTH)
        np.testing.assert_array_equal(scores[rows], expected)


def test_min_max_scaling_by_hand():
    probs = np.array([[0.1, 0.3, 0.6], [0.2, 0.2, 0.6], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(combining.min_max_scaled(probs), [[0, 0.4, 1], [0, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize("rule", combining.RULES)
def test_soft_voting_of_copies_is_the_model_and_order_plays_no_part(rule):
    logits, other = random_logits(), random_logits(seed=3)
    assert (combining.soft_vote([logits] * 3, rule).argmax(-1) == logits.argmax(-1)).all()
    np.testing.assert_allclose(combining.soft_vote([logits, other], rule), combining.soft_vote([other, logits], rule))


def test_the_rules_of_soft_voting_differ_as_they_should():
    sure, unsure = np.log([[0.98, 0.01, 0.01]]), np.log([[0.2, 0.42, 0.38]])
    assert combining.soft_vote([sure, unsure], "mean").argmax() == 0
    assert combining.soft_vote([sure, unsure, unsure], "minmax").argmax() == 1  # each vote counts from 0 to 1
    np.testing.assert_allclose(combining.soft_vote([sure, unsure], "log"), (sure + unsure) / 2)


@pytest.mark.parametrize("rule", combining.RULES)
def test_probabilities_add_up_and_keep_the_order(rule):
    scores = combining.soft_vote([random_logits(), random_logits(seed=4)], rule)
    probs = combining.as_probs(scores, rule)
    np.testing.assert_allclose(probs.sum(-1), 1)
    assert (probs.argmax(-1) == scores.argmax(-1)).all()
    log_probs = combining.soft_vote_log_probs([random_logits(), random_logits(seed=4)], rule)
    np.testing.assert_allclose(np.exp(log_probs), probs)


def test_what_does_not_fit_together_is_named():
    model, age = checkpoint(), checkpoint("Age_m", AGE)
    checkpoints.check_specialist(model, age)
    checkpoints.check_ensemble(model, checkpoint("x"))
    for check, other, message in (
        (
            checkpoints.check_specialist,
            checkpoint("x"),
            "is a model of 18 classes, not a specialist of .*: finetune.py --attributes",
        ),
        (checkpoints.check_ensemble, age, "is an age specialist of 3 classes, not a model of all classes: --weighted"),
        (
            checkpoints.check_specialist,
            checkpoint("Age_x", AGE, limits=(29, 57)),
            "m.pt and Age_x.pt have other age l",
        ),
        (checkpoints.check_specialist, checkpoint("Age_x", AGE, split="t"), "trained on different splits"),
        (checkpoints.check_ensemble, checkpoint("x", ("mask", "age")), "m.pt and x.pt have other classes"),
    ):
        with pytest.raises(InputError, match=message):
            check(model, other)


def test_a_tuned_weight_belongs_to_the_two_models_it_was_tuned_for(caplog):
    model, age = checkpoint(), checkpoint("Age_m", AGE)
    assert members.load_weight(model, [age]) == 1.0
    assert "1.0 is taken" in caplog.text
    path = members.save_weight(model, [age], {"weight": 0.35, "metric": "accuracy"})
    assert members.load_weight(model, [age]) == 0.35
    caplog.clear()
    assert members.load_weight(checkpoint(digest="retrained"), [age]) == 1.0
    assert "tuned for other weights" in caplog.text
    whole = json.loads(path.read_text())
    for weight in ("0.5", True, None, [1], -3, 1e9, float("nan"), float("inf"), 10**400):
        path.write_text(json.dumps({**whole, "weight": weight}))
        with pytest.raises(InputError, match=r"WE_Age_m.json is no tuned weight \(weight: input should be"):
            members.load_weight(model, [age])


MEMBER = {"name": "a", "file": "a.pt", "digest": "ab", "kind": "single", "flip": False, "weight": 0.75}
CHOSEN = {
    "members": [MEMBER, {**MEMBER, "digest": "cd", "weight": 0.25}],
    "temperature": 1.5,
    "bias": [0.0] * 18,
    "bias_rule": "none",
    "people": "held-out people",
    "split": "ef",
    "scores": [],
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"members": []}, "members: "),
        ({"members": {"a": 1}}, "members: "),
        *(({"members": [{**MEMBER, "weight": 1.0, **odd}]}, f"members.0.{next(iter(odd))}: ") for odd in (
            {"file": "/etc/passwd"}, {"file": "../a.pt"}, {"digest": 5}, {"flip": "no"}, {"weight": float("nan")},
            {"weight": float("inf")}, {"weight": 10**400}, {"weight": "1"}, {"weight": -5}, {"weight": 0},
        )),
        ({"members": [{**MEMBER, "weight": 0.5}, {**MEMBER, "weight": 0.5}]}, "members: a member is there twice"),
        ({"members": [MEMBER]}, "members: the weights do not add up to 1"),
        *(({"temperature": value}, "temperature: ") for value in (1e-320, 0, -1, float("nan"), 1e9, "1")),
        *(({"bias": value}, "bias") for value in ([1e308] * 18, [float("nan")] * 18, None, "x")),
        ({"scores": [{"kind": "x"}]}, "scores.0.model: "),
    ],
)  # fmt: skip
def test_a_chosen_ensemble_is_read_only_if_it_can_be_one(changes, told):
    path = Path("ensemble_x_auto.json")
    path.write_text(json.dumps(CHOSEN))
    Path("model").mkdir()
    Path("model/a.pt").touch()
    assert members.read_auto_file(path, Path("model")).chosen.temperature == 1.5
    path.write_text(json.dumps({**CHOSEN, **changes}))
    with pytest.raises(InputError, match=rf"^ensemble_x_auto.json is no chosen ensemble \({told}"):
        members.read_auto_file(path, Path("model"))


def test_a_weight_tuned_with_one_age_specialist_is_not_that_of_several():
    model, ages = checkpoint(), [checkpoint("Age_m", AGE), checkpoint("Age_n", AGE, digest="e")]
    one = members.save_weight(model, ages[:1], {"weight": 0.35})
    both = members.save_weight(model, ages, {"weight": 0.7})
    assert [path.name for path in (one, both)] == ["ensemble_m_WE_Age_m.json", "ensemble_m_WE_Age_m_Age_n.json"]
    assert members.load_weight(model, ages[:1]) == 0.35
    assert members.load_weight(model, ages) == 0.7
    assert members.load_weight(model, [ages[0], checkpoint("Age_n", AGE, digest="retrained")]) == 1.0


def test_an_age_specialist_adds_to_every_class_of_an_age_alike():
    logits, age_logits = random_logits(), random_logits(classes=3, seed=1)
    spread = combining.class_log_probs(age_logits, *BOTH)
    both = combining.weighted_mean([combining.class_log_probs(logits, LABELLING, LABELLING), spread], [1.0, 0.5])
    np.testing.assert_allclose(both, combining.corrected(logits, age_logits, 0.5, *BOTH))
    by_hand = np.log(combining.as_probs(age_logits))
    np.testing.assert_allclose(spread[:, [2, 5, 17]], by_hand[:, [2, 2, 2]])


def test_a_weighted_mean_of_equal_weights_is_the_vote_of_log_probabilities():
    every = [random_logits(), random_logits(seed=3), random_logits(seed=4)]
    log_probs = [combining.class_log_probs(one, LABELLING, LABELLING) for one in every]
    np.testing.assert_allclose(combining.weighted_mean(log_probs, [1 / 3] * 3), combining.soft_vote(every, "log"))
    np.testing.assert_array_equal(combining.weighted_mean(log_probs, [0, 1, 0]), log_probs[1])


def test_names_of_many_models_stay_short():
    many = [checkpoint("finetune_cp_seed42_i0_epoch20" + "x" * 20)] * 12
    assert len(members.soft_voting_name(many[0], many[1:])) < 120
    assert len(members.weighted_name(many[0], many[1:])) < 120
    assert members.soft_voting_name(checkpoint("a"), [checkpoint("b"), checkpoint("c")]) == "a_SV_b_c"
