"""The doctor tells far ingredients from near ones, and says what to do."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import in_a_copy, soup

from utils.models.checkpoints import read_checkpoint, save_checkpoint
from utils.soups import doctor

NAME = "finetune_cp_seed42"
FILES = [Path(f"model/{NAME}_i{i}_epoch2.pt") for i in range(3)]


def replace(path: Path, change, source: Path | None = None) -> None:
    """Give a checkpoint changed weights of `source`, by default its own; it keeps its record."""
    checkpoint = read_checkpoint(path)
    weights = read_checkpoint(source or path).state_dict()
    state = {name: change(name, tensor.clone()) for name, tensor in weights.items()}
    save_checkpoint(
        path, state, {key: value for key, value in checkpoint.meta.items() if key not in ("digest", "format")}
    )


def report(sweep: str = f"{NAME}_num3_epoch2") -> str:
    return Path(f"logs/recipes_{sweep}.txt").read_text()


def permuted(seed: int):
    """A change of weights that keeps the function: features and head are permuted alike."""
    order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))

    def change(name, tensor):
        if name == "visual_projection.weight":
            return tensor[order]
        return tensor[:, order] if name == "classification_head.weight" else tensor

    return change


def test_near_ingredients_have_no_barrier_and_the_start_is_measured(trained, faces, pretrained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    soup(faces, "--greedy-soup", "--start-from", pretrained / "model_0.pt")
    assert "doctor: 3 ingredients with the same tensors, classes and preprocessing" in report()
    assert "no barrier" in report()
    assert re.search(
        r"doctor: 6 people: the standard error of accuracy is 0\.[01]\d\d, that of the difference", report()
    )
    assert "distance from the start" in report()
    assert "cosine between their differences from it" in report()


def test_ingredients_in_different_basins_are_told_with_numbers_and_the_remedy(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    for seed, path in enumerate(FILES[1:], start=1):
        replace(path, permuted(seed), FILES[0])
    results = soup(faces, "--greedy-soup", "--uniform-soup")
    singles = [results[path.stem]["accuracy"] for path in FILES]
    assert max(singles) - min(singles) < 0.03  # the same predictions but for rounding
    assert "a BARRIER: their average will not do" in report()
    told = Path(f"logs/greedy_soup_log_{NAME}_num3_epoch2.txt").read_text()
    assert "greedy kept one of 3: no average has a better accuracy than" in told
    assert "so they lie in different basins: share one start and lower the learning rate (now 0.002)" in told


def test_one_bad_ingredient_is_named(trained, faces, monkeypatch, capsys):
    in_a_copy(trained, monkeypatch)
    replace(FILES[2], lambda name, tensor: -3 * tensor if name.startswith("classification_head") else tensor)
    soup(faces, "--uniform-soup")
    told = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("the uniform soup's accuracy")
    )
    assert "is worse than its members' mean" in told
    assert f"{FILES[2].stem} scores" in told
    assert told.endswith("far worse than the others: drop it (--indices)")


def test_folds_in_different_basins_are_told_though_out_of_fold_scores_are_the_same(trained_folds, faces, monkeypatch):
    in_a_copy(trained_folds, monkeypatch)

    def told_with(change) -> tuple[str, float]:
        """What the doctor says of folds whose models are those of the first fold but for a change, and a score."""
        for fold in (1, 2):
            for i in range(2):
                first, path = (Path(f"model/{NAME}_i{i}_fold{k}of3_epoch1.pt") for k in (0, fold))
                replace(path, change(fold), first)
        score = soup(faces, "--uniform-soup")[f"{NAME}_i0_epoch1"]["accuracy"]
        (line,) = [one for one in report(f"{NAME}_num2_epoch1").splitlines() if "of two folds" in one]
        return line, score

    near, score = told_with(lambda fold: lambda name, tensor: tensor)
    assert near.endswith("no barrier")
    far, same_score = told_with(permuted)
    assert "a BARRIER between folds: their mean will not do; hand in the refit soup" in far
    assert abs(same_score - score) < 0.01


@pytest.mark.parametrize(("wrong", "bad"), [((8, 9, 11), False), ((8, 9, 38), True)])
def test_an_ingredient_is_bad_only_where_the_people_can_tell(wrong, bad):
    labels = np.arange(40) % 2
    evaluator = SimpleNamespace(metric_name="accuracy", labels=labels, positions=np.arange(40))
    evaluator.held_out = SimpleNamespace(persons=np.arange(40))
    evaluator.logits = [np.eye(2)[np.where(np.arange(40) < count, 1 - labels, labels)] for count in wrong]
    scores = np.array([1 - count / 40 for count in wrong])
    assert doctor._far_below(evaluator, scores, 2) == bad
