"""Laws of averages and of the greedy search."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from utils.errors import InputError
from utils.soups import average, greedy_soup


def ingredient(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(4, 3, generator=generator),
        "bias": torch.randn(4, generator=generator),
        "steps": torch.tensor(7),
    }


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_soup_of_one_is_itself():
    assert same(average([ingredient(0)]), ingredient(0))


@pytest.mark.parametrize("copies", [2, 3, 7, 10])
def test_copies_give_the_same(copies):
    assert same(average([ingredient(0)] * copies), ingredient(0))


def test_order_does_not_matter():
    members = [ingredient(seed) for seed in range(7)]
    assert same(average(members), average(members[::-1]))


def test_the_mean_is_rounded_once():
    members = [
        {"x": torch.tensor([value])} for value in (1.0, 2.0**-24, 2.0**-24)
    ]  # float32 sums would lose the small ones
    expected = np.float32((1 + 2 * 2.0**-24) / 3)
    assert average(members)["x"].item() == expected


def test_integer_buffers_are_copied():
    soup = average([ingredient(0), {**ingredient(1), "steps": torch.tensor(9)}])
    assert soup["steps"].item() == 7
    assert soup["steps"].dtype == torch.int64


def test_for_a_linear_model_the_soups_logits_are_the_mean_of_the_logits():
    members = [{k: v for k, v in ingredient(seed).items() if k != "steps"} for seed in range(5)]
    x = torch.randn(6, 3)
    model = nn.Linear(3, 4)

    def logits(state):
        model.load_state_dict(state)
        return model(x)

    torch.testing.assert_close(logits(average(members)), torch.stack([logits(m) for m in members]).mean(0))


def test_unequal_keys_and_shapes_raise():
    with pytest.raises(InputError, match="tensor extra is not in every ingredient"):
        average([ingredient(0), {**ingredient(1), "extra": torch.ones(1)}])
    with pytest.raises(InputError, match=r"tensor bias has the shapes \(4,\) and \(5,\)"):
        average([ingredient(0), {**ingredient(1), "bias": torch.ones(5)}])


def brute_force(own: list, table) -> list[int]:
    """The published procedure in its shortest form, over a table of scores by member set."""
    order = sorted(range(len(own)), key=lambda k: (-own[k], k))
    members, best = [order[0]], own[order[0]]
    for k in order[1:]:
        if table([*members, k]) > best:
            members.append(k)
            best = table(members)
    return members


@pytest.mark.parametrize("seed", range(50))
def test_greedy_equals_the_published_procedure_ties_included(seed):
    rng = np.random.default_rng(seed)
    scores = {}

    def table(members):
        key = frozenset(members)
        if key not in scores:
            scores[key] = Fraction(int(rng.integers(0, 6)), 6)
        return scores[key]

    own = [table([k]) for k in range(6)]
    steps = list(greedy_soup(range(6), own, table))
    accepted = [step.candidate for step in steps if step.accepted]
    assert accepted == brute_force(own, table)
    assert sorted(step.candidate for step in steps) == list(range(6))
    final = max(step.score for step in steps if step.accepted)
    assert final >= max(own)  # never below the best single


def test_an_equal_score_is_no_gain():
    steps = list(greedy_soup("ab", [Fraction(1, 2), Fraction(1, 3)], lambda members: Fraction(1, 2)))
    assert [step.accepted for step in steps] == [True, False]
