"""What comes of a folded sweep beside its soup: the refit on everyone, and the second round."""

from pathlib import Path

import pytest
import torch
from conftest import FOLDS, in_a_copy, soup, train_folds, validate

from utils.base.errors import InputError
from utils.evaluation.manifest import read_manifest
from utils.evaluation.results import latest_rows
from utils.models.checkpoints import read_checkpoint
from utils.models.starts import fold_file

pytestmark = pytest.mark.slow

NAME = "finetune_cp"
SOUP, REFIT = (Path(f"model/{NAME}_seed42_epoch1_{kind}_num2.pt") for kind in ("uniformsoup", "uniformrefitsoup"))


def trained_on_everyone(i):
    (path,) = Path("model").glob(f"[Ff]{NAME[1:]}_seed42_i{i}_foldallof{FOLDS}_epoch*.pt")
    return read_checkpoint(path)


def test_a_refit_is_the_recipe_over_models_of_everyone_with_the_score_out_of_fold(
    trained_folds, faces, pretrained, monkeypatch
):
    in_a_copy(trained_folds, monkeypatch)
    train_folds(faces, pretrained, "--epochs", 1, runs=["42:0:all"])
    soup(faces, "--uniform-soup")
    assert not REFIT.is_file()  # one of two is no refit
    train_folds(faces, pretrained, "--epochs", 1, runs=["42:1:all"])
    path = trained_on_everyone(1).path
    path.rename(path.with_name(path.name.capitalize()))  # its record tells what it is, and not its name
    soup(faces, "--uniform-soup")
    refit, members = read_checkpoint(REFIT), [trained_on_everyone(i) for i in range(2)]
    for name, tensor in refit.state_dict().items():
        mean = (members[0].state_dict()[name].double() + members[1].state_dict()[name].double()) / 2
        torch.testing.assert_close(tensor, mean.float())
    assert refit.meta["options"]["recipe"] == "uniform refit"
    assert refit.meta["scores"]["estimate"] == "out of fold"
    assert (refit.split["fold"], refit.split["held_out_ids"]) == ("all", [])
    manifest = read_manifest(NAME)
    assert (manifest.folds, manifest.members, manifest.refits["uniform"]) == (FOLDS, ["42:0", "42:1"], REFIT.name)
    rows = {row["kind"]: row for row in latest_rows(manifest)}
    assert rows["uniform refit"]["estimate"] == "out of fold"
    assert rows["uniform refit"]["macro_f1"] == rows["uniform soup"]["macro_f1"]
    with pytest.raises(InputError, match="trained on everyone"):
        validate(faces, "--model-name", REFIT.name)


def test_in_a_second_round_each_fold_starts_from_the_soup_of_this_fold(trained_folds, faces, pretrained, monkeypatch):
    in_a_copy(trained_folds, monkeypatch)
    second = "--epochs", 1, "--name", "second", "--model", SOUP
    with pytest.raises(InputError, match="trained on everyone"):  # the soup of all folds has seen this fold's people
        train_folds(faces, pretrained, *second, runs=["42:0:0"])
    soup(faces, "--uniform-soup", "--save-folds")
    train_folds(faces, pretrained, *second, runs=[f"42:0:{fold}" for fold in range(FOLDS)])
    own = [read_checkpoint(fold_file(SOUP, fold, FOLDS)) for fold in range(FOLDS)]
    trained = [read_checkpoint(Path(f"model/second_seed42_i0_fold{k}of{FOLDS}_epoch1.pt")) for k in range(FOLDS)]
    for start, one in zip(own, trained, strict=True):
        assert one.meta["start"]["source"] == start.path.name
        assert not set(one.split["held_out_ids"]) & set(start.split["train_ids"])
    assert len({one.family["folds"] for one in trained}) == 1
    assert len({one.family["inputs"] for one in trained}) == FOLDS  # a head for each fold
    assert soup(faces, "--name", "second", "--uniform-soup").keys() == {
        "second_seed42_i0_epoch1",
        "second_seed42_epoch1_uniformsoup_num1",
    }
