"""Models across folds are averages over members and folds, and each fold's part is its own members' average."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOWER, checkpoint_record
from test_averaging import floats, same

from utils.base.digests import digest_of
from utils.base.errors import InputError
from utils.base.options import ALL_FOLDS
from utils.data import competition
from utils.data.preprocessing import preprocessing
from utils.models.averaging import Mixture
from utils.models.checkpoints import Checkpoint
from utils.models.folded import FoldedModel, check_folds, everyone_split, folded_model, read_model, soup_across_folds
from utils.models.weights import digest, save_archive

FOLDS, RECIPES = 3, 4
PEOPLE = [f"p{k}" for k in range(7)]
NAMES = "classification_head.weight", "classification_head.bias"


def split_record(fold: int, partition: str = "0" * 16) -> dict:
    held_out = PEOPLE[fold::FOLDS]
    train = sorted(set(PEOPLE) - set(held_out))
    record = {"by": "person", "seed": 42, "val_ratio": 1 / FOLDS, "train_ids": train, "held_out_ids": held_out}
    record["digest"] = digest_of(["person", train, held_out])
    return record | {"fold": fold, "folds": FOLDS, "partition": partition}


def part(recipe: int, fold: int, **changes) -> Checkpoint:
    """The model of a recipe without a fold, of a few numbers, as a file of ours."""
    state_dict = floats(100 * recipe + fold)
    family = {"anchor": "x", "head_init": "probe", "inputs": f"fold {fold}", "folds": "common"}
    record = checkpoint_record(TOWER, format=1, digest=digest(state_dict), split=split_record(fold), family=family)
    path = Path(f"a_seed{recipe}_i0_fold{fold}of{FOLDS}_epoch2.pt")
    save_archive(path, {"state_dict": state_dict, "meta": record | changes})
    return Checkpoint(
        path=path,
        config={},
        shapes={name: tuple(tensor.shape) for name, tensor in state_dict.items()},
        meta=record | changes,
        preprocessing=preprocessing(32),
        digest=digest(state_dict),
        classes=competition.labelling(),
    )


@pytest.fixture
def recipes() -> list[FoldedModel]:
    return [
        folded_model(Path(f"a_seed{recipe}_i0_epoch2.pt"), [part(recipe, fold) for fold in range(FOLDS)])
        for recipe in range(RECIPES)
    ]


def weighted(states: list[dict], weights: list[float]) -> dict[str, torch.Tensor]:
    """The mean in float64, rounded once, written out."""
    total = sum(weights)
    return {
        name: sum(w / total * one[name].double() for one, w in zip(states, weights, strict=True)).float()
        for name in states[0]
    }


def near(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("weights", [None, [1, 1, 1, 1], [3, 1, 2, 1], [0.25, 0, 0.5, 0.25]])
def test_a_soup_of_folds_is_the_mean_over_members_and_folds(recipes, weights):
    mixture = Mixture.of(recipes, weights)
    shares = weights or [1] * RECIPES
    every = [(floats(100 * recipe + fold), shares[recipe]) for recipe in range(RECIPES) for fold in range(FOLDS)]
    near(mixture.state_dict(), weighted(*map(list, zip(*every, strict=True))))
    for fold, own in enumerate(mixture.parts):
        near(own.state_dict(), weighted([floats(100 * recipe + fold) for recipe in range(RECIPES)], shares))
        assert {one.split["fold"] for one in own.members} == {fold}
    near(mixture.state_dict(), weighted([own.state_dict() for own in mixture.parts], [1] * FOLDS))


def test_weights_by_tensor_are_those_of_every_fold(recipes):
    weights = {NAMES[0]: [1, 0, 0, 3], NAMES[1]: [0, 1, 1, 0]}
    mixture = Mixture.of(recipes, weights)
    for name in NAMES:
        each = [floats(100 * recipe + fold)[name] for recipe in range(RECIPES) for fold in range(FOLDS)]
        shares = [w for w in weights[name] for _ in range(FOLDS)]
        expected = weighted([{name: one} for one in each], shares)[name]
        torch.testing.assert_close(mixture.state_dict()[name], expected)
    folds = [own.state_dict() for own in mixture.parts]
    near(mixture.state_dict(), weighted(folds, [1] * FOLDS))
    assert mixture.flat.parts == (mixture.flat,)


def test_folds_may_weigh_their_members_in_their_own_ways(recipes):
    """As model stock does: each fold's weights, whatever they add up to, make one part, and the parts count alike."""
    rng = np.random.default_rng(0)
    each = []
    for fold in range(FOLDS):
        members = [one.parts[fold] for one in recipes]
        each.append(Mixture.of(members, {name: rng.integers(1, 5, RECIPES).tolist() for name in NAMES}))
    mixture = Mixture.across_folds(each)
    assert mixture.parts == tuple(each)
    near(mixture.state_dict(), weighted([own.state_dict() for own in each], [1] * FOLDS))
    assert sum(mixture.shares) == pytest.approx(1)
    assert len(mixture.members) == RECIPES * FOLDS


def test_for_a_linear_model_the_logits_of_the_soup_are_the_mean_of_all(recipes):
    inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))

    def logits(state):
        return inputs @ state[NAMES[0]].T + state[NAMES[1]]

    every = [logits(floats(100 * recipe + fold)) for recipe in range(RECIPES) for fold in range(FOLDS)]
    torch.testing.assert_close(logits(Mixture.of(recipes).state_dict()), torch.stack(every).mean(0))


def test_a_soup_of_one_recipe_is_the_mean_of_its_folds_and_order_plays_no_part(recipes):
    alone = Mixture.of(recipes[:1])
    assert alone.digest == recipes[0].digest == Mixture.of(recipes[0].parts).digest
    near(alone.state_dict(), weighted([floats(fold) for fold in range(FOLDS)], [1] * FOLDS))
    assert [own.digest for own in alone.parts] == [one.digest for one in recipes[0].parts]
    one, other = Mixture.of(recipes), Mixture.of(recipes[::-1])
    assert one.digest == other.digest
    assert [own.digest for own in one.parts] == [own.digest for own in other.parts]
    assert same(one.state_dict(), other.state_dict())
    twice = Mixture.of([recipes[0], recipes[1], recipes[0]])
    assert [dict(zip((m.name for m in p.members), p.shares, strict=True)) for p in twice.parts] == [
        {f"a_seed0_i0_fold{fold}of3_epoch2": 2 / 3, f"a_seed1_i0_fold{fold}of3_epoch2": 1 / 3} for fold in range(FOLDS)
    ]


def test_folds_of_other_divisions_are_not_joined(recipes):
    folds = recipes[0].parts
    check_folds(folds)
    other = replace(folds[1], meta={**folds[1].meta, "split": split_record(1, partition="1" * 16)})
    unknown = replace(folds[1], meta=None)
    for wrong in ((folds[0], other, folds[2]), folds[::-1], (folds[0], unknown, folds[2])):
        with pytest.raises(InputError, match="are of different divisions of the people into folds: retrain one"):
            check_folds(wrong)
    alone = replace(folds[1], meta={**folds[1].meta, "family": {"folds": "other", "inputs": "z"}})
    with pytest.raises(InputError, match="do not share a start"):
        check_folds((folds[0], alone, folds[2]))


def test_all_folds_together_have_trained_on_everyone(recipes):
    split = everyone_split(recipes[0].parts)
    assert split["train_ids"] == PEOPLE
    assert (split["held_out_ids"], split["fold"], split["folds"]) == ([], ALL_FOLDS, FOLDS)


def soup_of(recipes, weights=None) -> Checkpoint:
    """The soup of some recipes as a file beside their folds, with the record that is kept of it."""
    flat = Mixture.of(recipes, weights).flat
    made_from = [
        {"name": one.path.name, "digest": one.digest, "weight": share, "fold": one.split["fold"]}
        for one, share in zip(flat.members, flat.shares, strict=True)
    ]
    by_tensor = None if isinstance(flat.weights, tuple) else flat.record()
    meta = {"split": everyone_split(recipes[0].parts), "made_from": made_from, "options": {"weights": by_tensor}}
    return replace(recipes[0].parts[0], path=Path("a_soup.pt"), meta=checkpoint_record(TOWER, **meta))


@pytest.mark.parametrize("weights", [None, [3, 1, 0, 2], {NAMES[0]: [1, 0, 0, 3], NAMES[1]: [0, 1, 2, 0]}])
def test_the_record_of_a_soup_gives_its_folds_back(recipes, weights, monkeypatch):
    known = {one.path: one for recipe in recipes for one in recipe.parts}
    monkeypatch.setattr("utils.models.folded.read_checkpoint", known.__getitem__)
    again = soup_across_folds(soup_of(recipes, weights))
    for own, part_again in zip(Mixture.of(recipes, weights).parts, again.parts, strict=True):
        near(part_again.state_dict(), own.state_dict())
    known[recipes[0].parts[1].path] = recipes[0].parts[2]
    with pytest.raises(InputError, match=r"a_seed0_i0_fold1of3_epoch2\.pt has other weights than a_soup\.pt was made"):
        soup_across_folds(soup_of(recipes, weights))
    recipes[0].parts[1].path.unlink()
    with pytest.raises(InputError, match=r"a_seed0_i0_fold1of3_epoch2\.pt, which is not beside it"):
        soup_across_folds(soup_of(recipes, weights))


def test_what_has_no_folds_stays_as_it_is(recipes):
    plain = recipes[0].parts[0]
    assert soup_across_folds(plain) is plain
    with pytest.raises(InputError, match=r"a_seed9_i0_epoch2\.pt"):
        read_model(Path("a_seed9_i0_epoch2.pt"))
