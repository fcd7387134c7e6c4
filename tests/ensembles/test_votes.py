"""Laws of the vote, and a count row by row."""

import numpy as np
import pytest

from utils.base.errors import InputError
from utils.data import competition
from utils.ensembles import votes
from utils.ensembles.votes import class_votes, most_disputed, whole_weights


def attribute_votes(answers, weights):
    return votes.attribute_votes(answers, weights, competition.labelling())


VOTES = pytest.mark.parametrize("vote", [class_votes, attribute_votes])


def ones(answers):
    return np.ones(len(answers), np.int64)


def plain_vote(values, weights):
    """One row, as one would count by hand: the most weight; among equals the earliest file's value."""
    sums = {}
    for value, weight in zip(values, weights, strict=True):
        sums[value] = sums.get(value, 0) + weight
    return next(value for value in values if sums[value] == max(sums.values()))


def plain_attribute_vote(values, weights):
    parts = [[v // 6 for v in values], [v // 3 % 2 for v in values], [v % 3 for v in values]]
    mask, gender, age = (plain_vote(part, weights) for part in parts)
    return mask * 6 + gender * 3 + age


@VOTES
def test_unanimous_files_keep_their_answers(vote):
    answers = np.tile(np.arange(18), (5, 1))
    np.testing.assert_array_equal(vote(answers, np.array([1, 9, 2, 3, 1])), np.arange(18))
    np.testing.assert_array_equal(vote(answers[:1], np.array([3])), np.arange(18))


@VOTES
def test_order_of_files_does_not_matter_without_ties(vote):
    rng = np.random.default_rng(0)
    answers, weights = rng.integers(0, 18, (6, 500)), np.array([1, 2, 4, 8, 16, 32])  # no two sums are equal
    order = rng.permutation(6)
    np.testing.assert_array_equal(vote(answers[order], weights[order]), vote(answers, weights))


def test_a_tie_goes_to_the_value_with_more_weight():
    answers = np.array([[4], [4], [9], [9]])
    assert class_votes(answers, np.array([1, 2, 2, 2])).tolist() == [9]
    assert class_votes(answers, np.array([2, 2, 1, 2])).tolist() == [4]


def test_a_tie_of_equal_weight_goes_to_the_first_file_of_the_tied_values():
    answers = np.array([[0, 9, 17], [9, 4, 2], [4, 4, 2], [9, 9, 5], [4, 17, 17]])
    assert class_votes(answers, ones(answers)).tolist() == [9, 9, 17]  # file 0 says 0, which is not among the tied


@VOTES
def test_decimal_weights_tie_exactly(vote):
    answers = np.array([[17], [0], [0]])
    assert 0.1 + 0.2 > 0.3
    assert vote(answers, whole_weights([0.3, 0.1, 0.2], 3)).tolist() == [17]
    assert whole_weights([0.3, 0.1, 0.2], 3).tolist() == [3, 1, 2]
    assert whole_weights([4, 2.0, 6], 3).tolist() == [2, 1, 3]


def test_attribute_voting_recombines_and_may_find_a_class_that_no_file_gives():
    answers = np.array([[0 * 6 + 1 * 3 + 2], [0 * 6 + 0 * 3 + 1], [2 * 6 + 1 * 3 + 1]])
    assert attribute_votes(answers, ones(answers)).tolist() == [0 * 6 + 1 * 3 + 1]
    assert class_votes(answers, ones(answers)).tolist() == [0 * 6 + 1 * 3 + 2]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("vote", "plain"), [(class_votes, plain_vote), (attribute_votes, plain_attribute_vote)], ids=["class", "attribute"]
)
def test_votes_equal_a_plain_count_row_by_row(vote, plain, seed):
    rng = np.random.default_rng(seed)
    answers = rng.choice(rng.choice(18, 4), (rng.integers(1, 8), 300))  # few classes, many ties
    weights = rng.integers(1, 4, len(answers))
    expected = [plain(column, weights.tolist()) for column in answers.T.tolist()]
    assert vote(answers, weights).tolist() == expected


def test_most_disputed_rows_come_first_and_unanimous_ones_not_at_all():
    answers = np.array([[1, 1, 1, 1, 7], [1, 2, 2, 1, 7], [1, 2, 3, 4, 7]])
    assert most_disputed(answers, ones(answers), 9).tolist() == [2, 1, 3]
    assert most_disputed(answers, ones(answers), 2).tolist() == [2, 1]
    assert most_disputed(answers, np.array([1, 1, 2]), 9).tolist() == [2, 3, 1]


def test_whole_weights_refuses_what_is_not_above_0():
    with pytest.raises(InputError, match="weight 0 is not above 0"):
        whole_weights([1, 0], 2)
