"""The files of a folded sweep: what their names tell, which of them make up an ingredient, and which ones stay."""

from itertools import product
from pathlib import Path

import pytest
from conftest import TOWER, checkpoint_record
from test_averaging import floats
from test_folded_models import split_record

from utils.base.errors import InputError
from utils.base.options import ALL_FOLDS
from utils.data import competition
from utils.models.folded import parts_on_disk
from utils.models.keep_top import keep_top
from utils.models.model_files import model_files, named_place
from utils.models.sweeps import Several, across_folds, find_specialists, find_sweep, latest_of_each, whole_folds
from utils.models.weights import digest, save_archive
from utils.training.records import already_done

MODEL = Path("model")


@pytest.mark.parametrize(
    ("stem", "place"),
    [
        ("a_seed1_i2_epoch3", ("a", 1, 2, 3, None, None)),
        ("a_seed1_i2_fold0of5_epoch3", ("a", 1, 2, 3, 0, 5)),
        ("a_seed1_i2_fold12of20_epoch3", ("a", 1, 2, 3, 12, 20)),
        ("a_seed1_i2_foldallof5_epoch3", ("a", 1, 2, 3, ALL_FOLDS, 5)),
        ("Age_a_seed1_i2_fold4of5_epoch3", ("a", 1, 2, 3, 4, 5)),
        ("a_fold1of2_seed1_i2_epoch3", ("a_fold1of2", 1, 2, 3, None, None)),
        ("a_fold1of2_seed1_i2_fold0of5_epoch3", ("a_fold1of2", 1, 2, 3, 0, 5)),
        ("a_seed9_i9_fold1of2_epoch9_seed1_i2_foldallof2_epoch3", ("a_seed9_i9_fold1of2_epoch9", 1, 2, 3, "all", 2)),
        ("a_seed1_i2_fold1_epoch3", None),
        ("a_seed1_i2_foldof5_epoch3", None),
        ("a_seed1_i2_foldeachof5_epoch3", None),
        ("a_seed1_fold0of5_epoch3", None),
        ("a_seed1_epoch3_greedysoup_num2", None),
        ("a_seed1_epoch3_greedysoup_num2_fold0of5", None),
    ],
)
def test_a_name_tells_the_place(stem, place):
    found = named_place(Path(f"{stem}.pt"))
    assert (found and (found.name, found.seed, found.i, found.epoch, found.fold, found.folds)) == place


def touch(*stems):
    MODEL.mkdir(exist_ok=True)
    for stem in stems:
        (MODEL / f"{stem}.pt").touch()


def folded(name="a", seeds=(1,), indices=(0,), folds=range(3), count=3, epoch=2):
    touch(*(f"{name}_seed{s}_i{i}_fold{k}of{count}_epoch{epoch}" for s, i, k in product(seeds, indices, folds)))


def found(**asked):
    return find_sweep(MODEL, by_name=True, **asked).ingredients


def test_an_ingredient_is_what_all_folds_of_a_seed_and_an_index_make_up():
    folded(seeds=(1, 2), indices=(0, 10), count=11, folds=range(11))
    folded(epoch=1, count=11, folds=range(11))  # an earlier epoch, as --save-every leaves it
    folded(seeds=(3,), count=11, folds=range(10))  # still under way
    touch("a_seed1_i0_foldallof11_epoch2", "Age_a_seed4_i0_fold0of11_epoch2", "a_seed1_epoch2_greedysoup_num4")
    places = found()
    assert [(one.seed, one.i, one.fold, one.epoch) for one in places] == [
        (1, 0, None, 2), (1, 10, None, 2), (2, 0, None, 2), (2, 10, None, 2),
    ]  # fmt: skip
    for one in places:
        assert one.path.name == f"a_seed{one.seed}_i{one.i}_epoch2.pt"
        assert [part.fold for part in one.parts] == list(range(11))
        assert parts_on_disk(one.path) == [one]
    assert [one.epoch for one in found(epoch=1)] == [1]
    assert parts_on_disk(MODEL / "a_seed3_i0_epoch2.pt") == []
    sweep = find_sweep(MODEL, by_name=True)
    assert sweep.soup_file(MODEL, "greedy").name == "a_seed1-2_epoch2_greedysoup_num4.pt"


def test_a_file_across_folds_is_called_as_one_of_a_single_split_whatever_the_sweep_is_called():
    name = "x_fold0of3_epoch7"
    folded(name=name)
    (one,) = found()
    assert (one.name, one.path.stem) == (name, f"{name}_seed1_i0_epoch2")
    assert parts_on_disk(one.path) == [one]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_latest_epoch_of_each_fold_counts(order):
    folded(epoch=1)
    folded(folds=(1,), epoch=2)
    files = model_files(MODEL, by_name=True)
    latest = latest_of_each(files[k].place for k in (*order, 3))
    assert [(one.fold, one.epoch) for one in latest] == [(0, 1), (1, 2), (2, 1)]
    (whole,) = whole_folds(latest)
    assert [one.fold for one in whole.parts] == [0, 1, 2]
    assert across_folds(whole.parts) == whole


def test_folds_that_are_missing_are_named_where_they_were_asked_for_or_nothing_is_left():
    folded(folds=(0, 2))
    message = r"a: seed 1, index 0 has no model of fold 1 of 3: fine-tune it \(finetune.py --folds 3 --fold 1\)"
    with pytest.raises(InputError, match=message):
        found()
    folded(indices=(1,))
    assert [one.i for one in found()] == [1]
    with pytest.raises(InputError, match=message):
        found(indices=[0, 1])
    folded(seeds=(5,), folds=())
    with pytest.raises(InputError, match="no ingredients with --random-seed 5 in model"):
        found(seeds=[1, 5])
    with pytest.raises(InputError, match="a: seed 1 has no index 7"):
        found(indices=[1, 7])


def test_models_trained_on_everyone_are_no_ingredients():
    touch("a_seed1_i0_foldallof3_epoch2")
    with pytest.raises(InputError, match=r"no ingredients in model: there are a_seed1_i0_foldallof3_epoch2"):
        found()


@pytest.mark.parametrize(("count", "kinds"), [(5, "3 folds and 5 folds"), (None, "a single split and 3 folds")])
def test_two_kinds_of_sweeps_under_one_name_are_not_mixed(count, kinds):
    folded()
    if count:
        folded(seeds=(2,), count=count, folds=range(count))
    else:
        touch("a_seed2_i0_epoch2")
    with pytest.raises(Several, match=f"model has models of a of {kinds}: keep them in two folders"):
        found()
    assert [one.seed for one in found(seeds=[1])] == [1]


def test_two_sweeps_are_told_apart_by_their_names():
    folded()
    folded(name="b")
    with pytest.raises(Several, match="holds several sweeps, choose one with --name: a, b"):
        found()
    assert [one.name for one in found(name="b")] == ["b"]


def write(
    seed: int, fold: int, score: float | None, epoch: int = 2, i: int = 0, attributes=("mask", "gender", "age")
) -> Path:
    """A checkpoint that has a record and a few numbers."""
    place = {"name": "a", "seed": seed, "i": i, "epoch": epoch, "fold": fold, "folds": 3}
    labelling = competition.labelling(attributes).record()
    meta = checkpoint_record(
        TOWER,
        format=1,
        digest=digest(floats(seed)),
        split=split_record(fold),
        options={"name": "a", "random_seed": seed, "i": i, "epochs": 2, "fold": fold, "folds": 3, "lr": 0.1},
        ingredient=place,
        scores=score and {"macro_f1": score},
        labelling=labelling,
    )
    stem = f"{'' if len(attributes) > 1 else 'Age_'}a_seed{seed}_i{i}_fold{fold}of3_epoch{epoch}"
    save_archive(MODEL / f"{stem}.pt", {"state_dict": floats(seed), "meta": meta})
    return MODEL / f"{stem}.pt"


def test_keep_top_goes_by_the_mean_of_the_folds_and_takes_all_of_them():
    scores = {1: (0.9, 0.1, 0.2), 2: (0.4, 0.5, 0.5), 3: (0.5, 0.4, 0.5), 4: (0.1, 0.9, None)}
    files = {
        (seed, fold): write(seed, fold, score)
        for seed, of_folds in scores.items()
        for fold, score in enumerate(of_folds)
    }
    earlier = write(1, 0, 0.9, epoch=1)
    everyone = MODEL / "a_seed1_i0_foldallof3_epoch2.pt"
    everyone.write_bytes(files[1, 0].read_bytes())
    files[4, 2].unlink()  # under way: neither counted nor touched
    removed = keep_top(MODEL, "a", 2, "macro_f1")  # of the equal ones both stay
    assert sorted(removed) == sorted([earlier, *(files[1, fold] for fold in range(3))])
    assert not any(path.exists() for path in removed)
    assert all(files[seed, fold].is_file() for seed in (2, 3) for fold in range(3))
    assert files[4, 0].is_file()
    assert keep_top(MODEL, "a", 2, "macro_f1") == []
    assert keep_top(MODEL, "a", 1, "macro_f1") == [files[3, fold] for fold in range(3)]  # of equal ones the lower seed


def test_a_recipe_that_keep_top_removed_is_skipped_fold_by_fold_and_is_not_missed():
    for seed, fold in product((1, 2), range(3)):
        write(seed, fold, seed / 10)
    keep_top(MODEL, "a", 1, "macro_f1")
    options = {"name": "a", "random_seed": 1, "i": 0, "epochs": 2, "folds": 3, "lr": 0.1}
    for fold in range(3):
        gone = MODEL / f"a_seed1_i0_fold{fold}of3_epoch2.pt"
        assert already_done(gone, options | {"fold": fold}, overwrite=False)["scores"] == {"macro_f1": 0.1}
        assert already_done(gone, options | {"fold": fold, "lr": 0.2}, overwrite=False) is None
    assert [one.seed for one in found(seeds=[1, 2], indices=[0])] == [2]
    for fold in range(3):
        write(1, fold, 0.5, i=1)
    assert [(one.seed, one.i) for one in found(seeds=[1], indices=[0, 1])] == [(1, 1)]


def test_specialists_of_all_folds_are_found_whole():
    for fold in range(3):
        write(1, fold, 0.5, attributes=("age",))
        write(1, fold, 0.5)
    write(2, 0, 0.5, attributes=("age",))
    ((specialist,),) = find_specialists(MODEL, "a").values()
    assert [part.path.name for part in specialist.parts] == [f"Age_a_seed1_i0_fold{k}of3_epoch2.pt" for k in range(3)]
