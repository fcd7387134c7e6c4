"""Laws of averages and of mixtures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOWER, checkpoint_record
from torch import nn

from utils.base.errors import InputError
from utils.data import competition
from utils.data.preprocessing import preprocessing
from utils.models.averaging import Mixture, average
from utils.models.checkpoints import Checkpoint
from utils.models.weights import digest, save_archive


def ingredient(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(4, 3, generator=generator),
        "bias": torch.randn(4, generator=generator),
        "steps": torch.tensor(7),
    }


def mean(states, *arguments, **options):
    return average([lambda state=state: state for state in states], *arguments, **options)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_soup_of_one_is_itself():
    assert same(mean([ingredient(0)]), ingredient(0))


@pytest.mark.parametrize("copies", [2, 3, 7, 10])
def test_copies_give_the_same(copies):
    assert same(mean([ingredient(0)] * copies), ingredient(0))


def test_order_does_not_matter():
    members = [ingredient(seed) for seed in range(7)]
    assert same(mean(members), mean(members[::-1]))


def test_the_mean_is_rounded_once():
    members = [
        {"x": torch.tensor([value])} for value in (1.0, 2.0**-24, 2.0**-24)
    ]  # float32 sums would lose the small ones
    expected = np.float32((1 + 2 * 2.0**-24) / 3)
    assert mean(members)["x"].item() == expected


def test_integer_buffers_are_copied():
    soup = mean([ingredient(0), {**ingredient(1), "steps": torch.tensor(9)}])
    assert soup["steps"].item() == 7
    assert soup["steps"].dtype == torch.int64


def test_for_a_linear_model_the_soups_logits_are_the_mean_of_the_logits():
    members = [{k: v for k, v in ingredient(seed).items() if k != "steps"} for seed in range(5)]
    x = torch.randn(6, 3)
    model = nn.Linear(3, 4)

    def logits(state):
        model.load_state_dict(state)
        return model(x)

    torch.testing.assert_close(logits(mean(members)), torch.stack([logits(m) for m in members]).mean(0))


def test_unequal_keys_and_shapes_raise():
    with pytest.raises(InputError, match="tensor extra is not in every ingredient"):
        mean([ingredient(0), {**ingredient(1), "extra": torch.ones(1)}])
    with pytest.raises(InputError, match=r"tensor bias has the shapes \(4,\) and \(5,\)"):
        mean([ingredient(0), {**ingredient(1), "bias": torch.ones(5)}])


@pytest.mark.parametrize("block", [1, 5, 12, 1000])
def test_blocks_play_no_part(block):
    members = [ingredient(seed) for seed in range(5)]
    assert same(mean(members, block=block), mean(members))


def test_weights_count_relative_to_their_sum_and_the_ends_are_the_ingredients():
    zero, one = ingredient(0), ingredient(1)
    assert same(mean([zero, one], [1, 0]), zero)
    assert same(mean([zero, one], [0, 0.3]), one)
    quarter = mean([zero, one], [3, 1])
    assert same(quarter, mean([zero, zero, zero, one]))
    torch.testing.assert_close(quarter["bias"], 0.75 * zero["bias"] + 0.25 * one["bias"])


def test_each_tensor_can_have_weights_of_its_own():
    zero, one = ingredient(0), ingredient(1)
    soup = mean([zero, one], {"weight": [1, 0], "bias": [0, 1]})
    assert torch.equal(soup["weight"], zero["weight"])
    assert torch.equal(soup["bias"], one["bias"])


def test_what_weighs_nothing_is_not_read():
    def broken():
        raise AssertionError("read")

    assert same(average([lambda: ingredient(0), broken], [1, 0]), ingredient(0))


@pytest.fixture
def checkpoints(tmp_path):
    """Five checkpoints of a few numbers each."""
    return [checkpoint(tmp_path / f"c{seed}.pt", floats(seed)) for seed in range(5)]


def floats(seed: int) -> dict[str, torch.Tensor]:
    """An ingredient as our files hold one, without whole numbers and with a head."""
    given = ingredient(seed)
    return {"classification_head.weight": given["weight"], "classification_head.bias": given["bias"]}


def checkpoint(path: Path, state_dict: dict[str, torch.Tensor]) -> Checkpoint:
    record = checkpoint_record(TOWER, format=1, digest=digest(state_dict))
    save_archive(path, {"state_dict": state_dict, "meta": record})
    return Checkpoint(
        path=path,
        config={},
        shapes={name: tuple(tensor.shape) for name, tensor in state_dict.items()},
        meta=None,
        classes=competition.labelling(),
        preprocessing=preprocessing(32),
        digest=digest(state_dict),
    )


def test_a_mixture_does_not_depend_on_the_order(checkpoints):
    one, other = Mixture.of(checkpoints), Mixture.of(checkpoints[::-1])
    assert one.digest == other.digest
    assert same(one.state_dict(), other.state_dict())
    some = Mixture.of(checkpoints[:3], [0.2, 0.3, 0.5])
    assert some.digest == Mixture.of(checkpoints[2::-1], [0.5, 0.3, 0.2]).digest != one.digest


def test_members_given_twice_count_twice_and_weightless_ones_not_at_all(checkpoints):
    first, second, third, *_ = checkpoints
    twice = Mixture.of([first, second, first])
    assert dict(zip((one.name for one in twice.members), twice.shares, strict=True)) == {"c0": 2 / 3, "c1": 1 / 3}
    assert same(twice.state_dict(), mean([floats(0), floats(0), floats(1)]))
    assert Mixture.of([first, second, third], [1, 1, 0]).digest == Mixture.of([first, second]).digest
    assert Mixture.of([first, second, first, second]).digest == Mixture.of([first, second]).digest


def test_a_mixture_of_one_is_its_member(checkpoints):
    alone = Mixture.of(checkpoints[:1])
    assert alone.digest == checkpoints[0].digest
    assert same(alone.state_dict(), floats(0))


def test_shares_of_a_mixture_by_tensor_are_means_over_the_numbers(checkpoints):
    mixture = Mixture.of(
        checkpoints[:2], {"classification_head.weight": [1, 0], "classification_head.bias": [0, 1]}
    )  # 12 numbers and 4
    assert dict(zip((one.name for one in mixture.members), mixture.shares, strict=True)) == {"c0": 0.75, "c1": 0.25}
