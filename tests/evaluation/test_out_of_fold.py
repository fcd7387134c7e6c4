"""Everybody out of fold: each person is predicted by the model of the own fold, and by no other."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import DIM, TOWER, checkpoint_record, make_people, openai_vision_state

from utils.data import competition
from utils.data.preprocessing import preprocessing
from utils.data.reading import read_photographs
from utils.data.splits import make_folds
from utils.evaluation import held_out as held_out_module
from utils.evaluation.folded import OutOfFold
from utils.evaluation.held_out import HeldOut
from utils.models.averaging import Mixture
from utils.models.checkpoints import read_checkpoint, save_checkpoint
from utils.models.folded import folded_model
from utils.models.foreign import from_openai

FOLDS = 3
OPTIONS = SimpleNamespace(batch_size=64, workers=0, no_cache=False)


@pytest.fixture
def folded():
    """Nine people in three folds, two random recipes, and everybody out of fold."""
    photographs = read_photographs(make_people(Path("data"), 9))
    splits = make_folds(photographs, FOLDS, 42)
    how = competition.labelling(), preprocessing(TOWER["image_size"])
    parts = [HeldOut(Accelerator(cpu=True), photographs, split.held_out, *how, OPTIONS) for split in splits]
    recipes = []
    for i in range(2):
        models = []
        for k, split in enumerate(splits):
            state = from_openai(openai_vision_state(10 * i + k))
            generator = torch.Generator().manual_seed(k)
            state["classification_head.weight"] = torch.randn(18, DIM, generator=generator)
            state["classification_head.bias"] = torch.zeros(18)
            family = {"inputs": str(k), "folds": "one"}
            path = Path(f"model/a_seed1_i{i}_fold{k}of{FOLDS}_epoch1.pt")
            save_checkpoint(path, state, checkpoint_record(TOWER, split=split.record(), family=family))
            models.append(read_checkpoint(path))
        recipes.append(folded_model(Path(f"model/a_seed1_i{i}_epoch1.pt"), models))
    return OutOfFold(parts), recipes


@pytest.fixture
def predicted(monkeypatch):
    """The photographs of each call for predictions."""
    calls, plain = [], held_out_module.predict

    def predict(accelerator, model, squares, rows, *rest, **options):
        calls.append(sorted(rows.tolist()))
        return plain(accelerator, model, squares, rows, *rest, **options)

    monkeypatch.setattr(held_out_module, "predict", predict)
    return calls


def test_the_logits_of_everybody_are_those_of_the_model_of_each_ones_fold(folded, predicted):
    everybody, (recipe, _) = folded
    logits = everybody.logits(recipe)
    assert logits.shape == (63, 18)
    assert predicted == [sorted(part.rows.tolist()) for part in everybody.parts]  # nobody is predicted by another fold
    for fold, (part, model) in enumerate(zip(everybody.parts, recipe.parts, strict=True)):
        own = logits[everybody.fold_of == fold]
        np.testing.assert_array_equal(own, part.logits(model))
        np.testing.assert_allclose(own, part.predict(model.build()), atol=1e-5)
    assert sorted(everybody.ids.tolist()) == sorted(set(everybody.ids.tolist()))


@pytest.mark.parametrize("count", [1, 2])
def test_a_soup_is_evaluated_where_it_is_asked_for_and_one_model_is_in_memory(folded, predicted, count):
    everybody, recipes = folded
    mixture = Mixture.of(recipes[:count])
    partial = everybody.partial(mixture)
    positions = np.array([60, 3, 45, 4, 61, 2])  # of the folds 2, 0, 2, 0, 2, 0
    some = partial.evaluate(positions)
    assert predicted == [sorted(everybody.rows[[3, 4, 2]].tolist()), sorted(everybody.rows[[60, 45, 61]].tolist())]
    assert {part.resident for part in everybody.parts} == {everybody.parts[0].resident}
    assert everybody.parts[0].resident._digest == mixture.parts[2].digest
    partial.evaluate(np.array([0, 59]))
    assert predicted[2:] == [[everybody.rows[59]], [everybody.rows[0]]]  # the model in memory comes first
    assert everybody.parts[0].resident._digest == mixture.parts[0].digest
    assert (partial.evaluate(positions) == some).all()
    assert len(predicted) == 4  # and never twice
    whole = everybody.partial(mixture).evaluate(np.arange(63))
    np.testing.assert_allclose(whole[positions], some, atol=1e-5)
    for fold, own in enumerate(mixture.parts):
        alone = everybody.parts[fold].partial(own).evaluate(np.arange(21))
        np.testing.assert_allclose(whole[everybody.fold_of == fold], alone, atol=1e-5)


def test_logits_of_everybody_are_kept_by_fold_and_never_under_the_soup_of_all(folded):
    everybody, recipes = folded
    mixture = Mixture.of(recipes)
    partial = everybody.partial(mixture)
    partial.evaluate(np.arange(63))
    partial.let_go()
    everybody.keep(mixture.digest, np.zeros((63, 18), np.float32))
    kept = {path.stem for path in Path("logs/logits").iterdir()}
    assert kept == {part.key(own.digest) for part, own in zip(everybody.parts, mixture.parts, strict=True)}


def test_pixels_are_those_of_the_persons_fold(folded):
    everybody, _ = folded
    for fold, part in enumerate(everybody.parts):
        inside = np.flatnonzero(everybody.fold_of == fold)[[5, 2]]
        torch.testing.assert_close(everybody.pixel_values(inside), part.pixel_values(np.array([5, 2])))
