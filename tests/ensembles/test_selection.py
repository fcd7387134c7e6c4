"""Laws of ensemble selection, of the temperature and of the bias, on tables of log-probabilities."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from utils.base.errors import InputError
from utils.base.metrics import METRICS
from utils.ensembles import calibration, selection
from utils.ensembles.calibration import NO_BIAS, Calibration
from utils.ensembles.selection import Library, Selection, choose, cross_fit, fit, select
from utils.evaluation.scores import confusion_matrix, log_softmax

CLASSES, PEOPLE, EACH = 4, 20, 3


def library(*signals, labels=None, names=None, seed=0):
    """Members that see the labels with these strengths through noise of their own; `EACH` photographs per person."""
    rng = np.random.default_rng(seed)
    persons = np.repeat([f"p{k:02d}" for k in range(PEOPLE)], EACH)
    labels = rng.integers(0, CLASSES, len(persons)) if labels is None else labels
    noise = rng.normal(0, 1, (len(signals), len(labels), CLASSES))
    log_probs = log_softmax(noise + np.array(signals)[:, None, None] * np.eye(CLASSES)[labels])
    names = names or tuple(f"m{k}" for k in range(len(signals)))
    return Library(names, log_probs, np.ones(len(signals), bool), labels, persons, np.full(CLASSES, 10))


def table(preds, sure=0.7):
    """(N, C) log-probabilities that predict these classes, all as surely."""
    probs = np.full((len(preds), CLASSES), (1 - sure) / (CLASSES - 1))
    probs[np.arange(len(preds)), preds] = sure
    return np.log(probs)


def of_tables(labels, names, *tables):
    persons = np.array([f"p{k}" for k in range(len(labels))])
    every = np.ones(len(names), bool)
    return Library(names, np.stack(tables), every, np.array(labels), persons, np.full(CLASSES, 10))


def test_one_candidate_weighs_one():
    alone = library(1.0)
    assert select(alone, "macro_f1").weights(1) == [Fraction(1)]
    assert fit(alone, "macro_f1").weights == (Fraction(1),)


def test_a_perfect_member_wins_and_nothing_is_added_to_it():
    chosen = fit(library(0.3, 50.0, 0.5), "macro_f1")
    assert chosen.weights == (0, 1, 0)
    assert all(one.scores[0] == 1 and one.kept == 1 for one in chosen.selections)


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_the_order_of_candidates_plays_no_part(metric):
    given = library(0.5, 0.8, 1.0, 0.9)
    order = [2, 0, 3, 1]
    names = tuple(given.names[k] for k in order)
    turned = replace(given, names=names, log_probs=given.log_probs[order])
    before, after = fit(given, metric), fit(turned, metric)
    assert dict(zip(given.names, before.weights, strict=True)) == dict(zip(names, after.weights, strict=True))
    assert before.calibration.temperature == after.calibration.temperature
    np.testing.assert_array_equal(before.calibration.bias, after.calibration.bias)


def test_of_equal_scores_the_lower_log_loss_goes_first_and_then_the_name():
    labels = [0, 1, 2, 3]
    right, unsure = table(labels, 0.9), table(labels, 0.6)
    assert select(of_tables(labels, ("a", "b"), unsure, right), "accuracy", steps=1).picks == (1,)
    assert select(of_tables(labels, ("b", "a"), right, right), "accuracy", steps=1).picks == (1,)


def test_of_equal_scores_a_member_that_is_already_in_goes_before_a_lower_log_loss():
    labels = np.arange(4)
    first, other = table([0, 1, 2, 0], 0.6), table([1, 1, 2, 0], 0.6)
    first[3] = np.log([0.9, 0.04, 0.04, 0.02])  # wrong beyond doubt, the other one hardly
    other[[0, 3]] = np.log([[0.35, 0.4, 0.15, 0.1], [0.45, 0.1, 0.05, 0.4]])
    together = (first + other) / 2
    assert (together.argmax(-1) == first.argmax(-1)).all()
    assert calibration.log_loss(together, labels) < calibration.log_loss(first, labels)
    given = of_tables(labels, ("first", "other"), first, other)
    assert select(given, "accuracy", steps=2).picks == (0, 0)


def test_of_the_steps_those_up_to_the_best_score_are_kept():
    given = library(0.8, 0.7, 0.6, 0.5)
    chosen = select(given, "macro_f1", steps=8)
    assert chosen.scores[chosen.kept - 1] == max(chosen.scores)
    assert max(chosen.scores) not in chosen.scores[: chosen.kept - 1]
    preds = given.scores(chosen.weights(4)).argmax(-1)
    assert METRICS["macro_f1"](confusion_matrix(given.labels, preds, CLASSES)) == max(chosen.scores)
    single = [METRICS["accuracy"](confusion_matrix(given.labels, one.argmax(-1), CLASSES)) for one in given.log_probs]
    assert max(select(given, "accuracy").scores) >= max(single)


def test_by_log_loss_the_ensemble_that_loses_least_is_kept_and_the_bias_lowers_the_loss():
    given = library(0.8, 0.7, 0.6, 0.5)
    chosen = select(given, "log_loss", steps=8)
    losses = [calibration.log_loss(one, given.labels) for one in (*given.log_probs, given.scores(chosen.weights(4)))]
    assert losses[-1] == pytest.approx(-float(max(chosen.scores)), abs=1e-9)
    assert losses[-1] < min(losses[:-1])
    off = given.log_probs[0] + np.array([2.5, 0, 0, 0])
    bias = calibration.class_bias(off, given.labels, "log_loss")
    assert bias[0] - bias[1:].max() < -0.9
    assert calibration.log_loss(off + bias, given.labels) < calibration.log_loss(off, given.labels) - 0.1


def test_what_predicts_no_class_alone_never_comes_first():
    given = library(50.0, 0.1)
    given = replace(given, begins=np.array([False, True]))
    assert select(given, "macro_f1").picks[:2] == (1, 0)


def test_nobody_is_predicted_by_what_they_had_a_part_in(monkeypatch):
    given = library(0.9, 0.8, 0.7)
    asked = []

    def spied(others, metric):
        asked.append(set(others.persons))
        weights = np.eye(3, dtype=int)[len(asked) % 3].tolist()
        bias = np.eye(CLASSES)[len(asked) % CLASSES]
        return selection.Fit((), tuple(weights), Calibration(2.0, bias, f"rule {len(asked)}"))

    monkeypatch.setattr(selection, "fit", spied)
    crossed = cross_fit(given, "macro_f1")
    assert len(asked) == 5
    outside = [set(given.persons) - people for people in asked]
    assert sorted(person for people in outside for person in people) == sorted(set(given.persons))
    for number, people in enumerate(outside, start=1):
        rows = np.isin(given.persons, list(people))
        scores = given.log_probs[number % 3][rows]
        biased = log_softmax(scores / 2) + np.eye(CLASSES)[number % CLASSES]
        np.testing.assert_allclose(crossed.plain[rows], scores / 2)
        np.testing.assert_allclose(crossed.biased[rows], biased)
        best = select(given.at(~rows), "macro_f1", steps=1).picks[0]
        np.testing.assert_array_equal(crossed.single[rows], given.log_probs[best][rows])


def test_a_bias_is_decided_on_scores_of_people_that_selected_nothing(monkeypatch):
    given = library(0.9, 0.8, 0.7)
    asked, decided = [], []

    def spied(half, metric):
        asked.append(set(half.persons))
        return Selection((len(asked) % 3,), (Fraction(1),), 1)

    monkeypatch.setattr(selection, "select", spied)
    monkeypatch.setattr(selection, "calibrate", lambda scores, *_: decided.append(scores))
    weights = fit(given, "macro_f1").weights
    assert len(asked) == 2 * selection.HALVINGS
    assert sum(weights) == 1
    assert {Fraction(weight).denominator for weight in weights} <= {1, 2, 4, 5, 10, 20}
    for row, person in enumerate(given.persons):
        without = [given.log_probs[number % 3][row] for number, half in enumerate(asked, 1) if person not in half]
        assert len(without) == selection.HALVINGS
        np.testing.assert_allclose(decided[0][row], np.mean(without, 0))


def test_too_few_people_to_select_across_are_an_error():
    given = library(1.0)
    with pytest.raises(InputError, match="3 are held out: it needs 4 or more"):
        cross_fit(given.at(np.arange(3 * EACH)), "macro_f1")


@pytest.mark.parametrize("seed", range(4))
def test_on_random_labels_the_bias_is_zero(seed):
    given = library(0.0, 0.0, seed=seed)
    calibration = choose(given, "macro_f1").fit.calibration
    assert calibration.rule == NO_BIAS
    assert not calibration.bias.any()


def test_a_bias_that_models_have_is_taken_back():
    given = library(1.5, 1.5)
    off = np.array([2.5, 0, 0, 0])  # class 0 is predicted far too often
    given = replace(given, log_probs=log_softmax((given.log_probs + off).reshape(-1, CLASSES)).reshape(2, -1, CLASSES))
    choice = choose(given, "macro_f1")
    assert choice.bias_gain.low > 0
    assert choice.fit.calibration.rule != NO_BIAS
    scores = given.scores(choice.fit.weights)
    counts = [
        np.bincount(preds.argmax(-1), minlength=4)[0] for preds in (scores, choice.fit.calibration.apply(scores))
    ]
    assert counts[1] < counts[0] / 2


def test_the_temperature_of_calibrated_scores_is_one_and_that_of_scores_three_times_as_sure_three():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, CLASSES))
    labels = (log_softmax(logits) + rng.gumbel(size=logits.shape)).argmax(-1)  # drawn from the softmax
    assert calibration.fit_temperature(logits, labels) == pytest.approx(1, abs=0.03)
    assert calibration.fit_temperature(3 * logits, labels) == pytest.approx(3, abs=0.1)
    fitted = calibration.fit_temperature(logits[:200], labels[:200])
    losses = [calibration.log_loss(logits[:200] / t, labels[:200]) for t in (fitted, fitted * 1.02, fitted / 1.02)]
    assert losses[0] == min(losses)


def test_scores_that_are_always_right_stay_finite():
    temperature = calibration.fit_temperature(np.eye(CLASSES) * 5, np.arange(CLASSES))
    assert temperature == pytest.approx(calibration.COLDEST)


def test_logit_adjustment_by_hand():
    bias = calibration.post_hoc_adjustment(np.array([0, 9, 99, 9]), 0.5)
    np.testing.assert_allclose(bias - bias[1], [np.log(10) / 2, 0, -np.log(10) / 2, 0])
    assert bias.sum() == pytest.approx(0)
    assert not calibration.post_hoc_adjustment(np.full(4, 7), 1.0).any()


def test_a_fitted_bias_never_scores_below_none_and_of_equal_ones_is_the_smallest():
    given = library(0.7)
    scores = given.log_probs[0]
    bias = calibration.class_bias(scores, given.labels, "macro_f1")
    before, after = (
        METRICS["macro_f1"](confusion_matrix(given.labels, one.argmax(-1), CLASSES)) for one in (scores, scores + bias)
    )
    assert after > before
    assert not calibration.class_bias(table([0, 1, 2, 3]), np.arange(4), "macro_f1").any()
