"""The probability that a label is wrong, against Bayes' rule where everything about the labels is known."""

import numpy as np
import pytest
from scipy.stats import logistic, norm

from utils.review import noise
from utils.review.exchanged import judge_exchanges
from utils.review.noise import Judged, judge_numbers, judge_outliers, judge_values


def two_values(count: int, share: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """The true log-odds (U, 1), given labels, flags of the wrong ones, and by Bayes' rule how probably each is."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 2, count)
    readings = rng.normal(np.where(true == 1, 1.5, -1.5), 1.0)
    wrong = rng.random(count) < share
    given = np.where(wrong, 1 - true, true)
    likelihood = norm.pdf(readings[:, None], [-1.5, 1.5], 1.0)
    other, own = likelihood[np.arange(count), 1 - given], likelihood[np.arange(count), given]
    return 3 * readings[:, None], given, wrong, share * other / (share * other + (1 - share) * own)


@pytest.mark.parametrize("temperature", [1, 0.3, 4])
def test_labels_are_wrong_as_probably_as_bayes_rule_says_whatever_the_temperature(temperature):
    features, given, wrong, by_bayes = two_values(3000, 0.05)
    judged = judge_values(features * temperature, given, np.arange(3000).astype(str), 2)
    found = 1 - judged.posterior[np.arange(3000), given]
    assert np.abs(found - by_bayes).mean() < 0.01
    assert found.sum() == pytest.approx(by_bayes.sum(), rel=0.25)  # the share of wrong labels is fitted as well
    assert np.allclose(judged.posterior.sum(-1), 1)
    sure = found > 0.8
    assert wrong[sure].mean() == pytest.approx(found[sure].mean(), abs=0.12)


def test_nothing_that_is_said_of_a_person_is_fitted_on_the_same_person(monkeypatch):
    features, given, _, _ = two_values(200, 0.1)
    parts = [(np.arange(100, 200), np.arange(100)), (np.arange(100), np.arange(100, 200))]
    monkeypatch.setattr(noise, "cross_folds", lambda labels, persons: parts)
    before = judge_values(features, given, np.arange(200).astype(str), 2)
    changed = given.copy()
    changed[:100] = 1 - changed[:100]
    after = judge_values(features, changed, np.arange(200).astype(str), 2)
    assert np.array_equal(before.probs[:100], after.probs[:100])
    assert not np.allclose(before.probs[100:], after.probs[100:])


def test_one_value_alone_is_never_wrong():
    judged = judge_values(np.ones((20, 1)), np.zeros(20, int), np.arange(20).astype(str), 2)
    assert judged.posterior[:, 0].min() == 1


def test_numbers_are_wrong_as_probably_as_bayes_rule_says_and_a_limit_changes_nothing():
    rng = np.random.default_rng(0)
    true = rng.integers(18, 76, 1500)
    readings = 0.1 * true + logistic.rvs(0, 0.5, 1500, random_state=rng)
    wrong = rng.random(1500) < 0.025
    stated = np.where(wrong, rng.integers(18, 76, 1500), true)
    ranges = np.searchsorted([30, 60], stated, side="right")
    judged = judge_numbers(readings[:, None], stated, ranges, np.arange(1500).astype(str), 3)
    density = logistic.pdf(readings[:, None], 0.1 * np.arange(18, 76), 0.5)
    right = logistic.pdf(readings, 0.1 * stated, 0.5)
    by_bayes = 0.025 * density.mean(-1) / (0.025 * density.mean(-1) + 0.975 * right)
    in_range = np.searchsorted([30, 60], np.arange(18, 76), side="right")[None] == ranges[:, None]
    elsewhere = by_bayes * (density * ~in_range).sum(-1) / density.sum(-1)
    found = 1 - judged.posterior[np.arange(1500), ranges]
    assert np.abs(found - elsewhere).mean() < 0.01
    assert np.corrcoef(found, elsewhere)[0, 1] > 0.95

    near = (stated >= 57) & (stated < 60) & (judged.looks > 62)
    assert near.sum() > 10
    assert judged.probs[near, 2].min() > 0.5  # by the photographs these are old
    assert found[near & (judged.looks < 65)].max() < 0.05  # and 59 judged old is no suspect
    far = (stated < 25) & (judged.looks > 62)
    assert far.any()
    assert found[far].min() > 0.9
    assert all(60 <= one < 76 for one in judged.suggested[far, 2])


def test_faces_that_cannot_be_read_are_not_taken_for_wrong_numbers():
    rng = np.random.default_rng(0)
    stated = rng.integers(18, 76, 1000)
    unread = rng.random(1000) < 0.2
    read = np.where(unread, rng.integers(18, 76, 1000), stated)
    readings = 0.1 * read + logistic.rvs(0, 0.3, 1000, random_state=rng)
    ranges = np.searchsorted([30, 60], stated, side="right")
    judged = judge_numbers(readings[:, None], stated, ranges, np.arange(1000).astype(str), 3)
    found = 1 - judged.posterior[np.arange(1000), ranges]
    assert found.sum() < 1000 / 30
    assert found.max() < 0.25
    assert found[unread].mean() > 5 * found[~unread].mean()


def test_a_few_far_ones_are_found_and_where_all_are_equal_none():
    ordinary = logistic.rvs(3, 1, 500, random_state=0)
    found = judge_outliers(np.concatenate([ordinary, [20, 22, 24]]))
    assert found[-3:].min() > 0.9
    assert (found[:-3] > 0.5).sum() <= 2
    assert not judge_outliers(np.ones(9)).any()
    assert (judge_outliers(-ordinary)[ordinary > 3] < 0.01).all()  # low ones only


def test_an_exchange_is_told_from_a_label_that_is_wrong_by_itself():
    count = 60
    given = np.tile([0, 1, 2], count)
    probs = np.where(np.eye(3)[given] == 1, 0.98, 0.01)
    probs[[1, 2]] = [[0.01, 0.01, 0.98], [0.01, 0.98, 0.01]]  # exchanged in the first group
    probs[4] = [0.998, 0.001, 0.001]  # the second photograph of the second group looks like the first
    posterior = probs * np.where(np.eye(3)[given] == 1, 0.98, 0.01)
    judged = Judged(probs, posterior / posterior.sum(-1, keepdims=True), 0.02)
    groups = np.split(np.arange(3 * count), count)
    after, swaps = judge_exchanges(judged, given, groups)
    sure = {(one, other): confidence for confidence, one, other in swaps}
    assert len(swaps) == count
    assert sure[1, 2] > 0.9
    assert max(confidence for pair, confidence in sure.items() if pair != (1, 2)) < 0.1
    wrong = 1 - after.posterior[np.arange(3 * count), given]
    assert wrong[[1, 2]].max() < 0.1  # what is exchanged is not wrong by itself as well
    assert wrong[4] > 0.7
    assert after.posterior[4].argsort()[::-1][:2].tolist() in ([0, 1], [1, 0])
    assert np.allclose(after.posterior.sum(-1), 1)


def test_groups_of_one_value_have_nothing_to_exchange():
    judged = Judged(np.full((4, 2), 0.5), np.full((4, 2), 0.5), 0.1)
    assert judge_exchanges(judged, np.zeros(4, int), [np.arange(2), np.arange(2, 4)]) == (judged, [])


def test_of_one_value_those_come_first_who_look_least_like_it_in_whichever_part_of_the_people_they_are(monkeypatch):
    features, given, _, _ = two_values(400, 0)
    given[:30] = 1 - given[:30]  # all that is wrong is in one part
    parts = [(np.arange(200, 400), np.arange(200)), (np.arange(200), np.arange(200, 400))]
    monkeypatch.setattr(noise, "cross_folds", lambda labels, persons: parts)
    judged = judge_values(features, given, np.arange(400).astype(str), 2)
    by_photographs, right = judged.probs[np.arange(400), given], judged.posterior[np.arange(400), given]
    assert (np.diff(right[np.argsort(by_photographs)]) >= 0).all()
