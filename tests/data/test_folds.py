"""Folds: everybody is held out once, strata in proportion, the same people in every script."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import make_people
from test_splits import people

from utils.base.errors import InputError
from utils.base.options import ALL_FOLDS, RECORDED
from utils.base.records import check_record
from utils.data.reading import read_photographs
from utils.data.splits import evaluation_splits, make_folds, recorded_split, split_of, splits_digest, trained_on_all
from utils.models.record import SplitRecord

ASKED = SimpleNamespace(val_ratio=RECORDED, split_seed=None, split_by=None)


def drawn(seed: int):
    """People in random strata, how many folds, and by what they are divided."""
    rng = np.random.default_rng(seed)
    photographs = people({stratum: int(rng.integers(0, 12)) for stratum in range(6)} | {2: int(rng.integers(8, 12))})
    return photographs, int(rng.integers(2, 8)), ("person", "image")[seed % 5 == 0]


def shuffled(photographs, seed: int):
    """The same photographs in another order."""
    order = np.random.default_rng(seed).permutation(len(photographs))
    fields = ("files", "ids", "persons", "names", "strata")
    values = {name: column[order] for name, column in photographs.values.items()}
    return replace(photographs, values=values, **{name: getattr(photographs, name)[order] for name in fields})


def units(photographs, rows, by):
    return set((photographs.persons if by == "person" else photographs.ids)[rows].tolist())


@pytest.mark.parametrize("seed", range(60))
def test_everyone_is_held_out_once_and_strata_are_in_proportion(seed):
    photographs, count, by = drawn(seed)
    folds = make_folds(photographs, count, seed, by)
    held_out = np.concatenate([fold.held_out for fold in folds])
    assert sorted(held_out.tolist()) == list(range(len(photographs)))
    sizes, of_strata = [], []
    for fold in folds:
        assert sorted([*fold.train, *fold.held_out]) == list(range(len(photographs)))
        inside = units(photographs, fold.held_out, by)
        assert not inside & units(photographs, fold.train, by)
        assert not set(fold.train_ids) & set(fold.held_out_ids)
        sizes.append(len(inside))
        of_strata.append(Counter(int(name[0]) for name in inside))
    assert max(sizes) - min(sizes) <= 1
    for stratum in range(6):
        counts = [counted[stratum] for counted in of_strata]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("seed", range(10))
def test_folds_are_a_function_of_seed_and_ids_alone(seed):
    photographs, count, by = drawn(seed)
    others = {name: 1 - column for name, column in photographs.values.items()}
    relabelled = replace(photographs, values=others)
    folds = make_folds(photographs, count, seed, by)
    for others in (shuffled(photographs, seed), relabelled):
        again = make_folds(others, count, seed, by)
        assert [one.held_out_ids for one in again] == [one.held_out_ids for one in folds]
        assert [one.digest for one in again] == [one.digest for one in folds]
        assert splits_digest(again) == splits_digest(folds)
    other_seed = make_folds(photographs, count, seed + 1000, by)
    assert splits_digest(other_seed) != splits_digest(folds)


def test_folders_of_one_id_are_held_out_together(tmp_path):
    folder = make_people(tmp_path, 12) / "train" / "images"
    for k in range(0, 12, 2):
        one = next(folder.glob(f"{k:06d}_*"))
        (folder / f"{k:06d}_female_Asian_62").mkdir()
        next(one.iterdir()).rename(folder / f"{k:06d}_female_Asian_62" / "normal.jpg")
    photographs = read_photographs(tmp_path)
    folds = make_folds(photographs, 5, 42)
    ids = [{name[:6] for name in fold.held_out_ids} for fold in folds]
    assert sum(map(len, ids)) == len(set.union(*ids)) == 12
    assert sorted(map(len, ids)) == [2, 2, 2, 3, 3]
    again = make_folds(shuffled(photographs, 0), 5, 42)
    assert [one.held_out_ids for one in again] == [one.held_out_ids for one in folds]


def test_a_run_asks_for_its_fold_and_all_trains_on_everyone():
    photographs = people({0: 20, 3: 20})
    folds = make_folds(photographs, 4, 7)

    def options(**given):
        return SimpleNamespace(
            **{"folds": 4, "fold": 0, "split_seed": 7, "split_by": "person", "val_ratio": 0.2} | given
        )

    for k in range(4):
        split = split_of(photographs, options(fold=k))
        assert split.digest == folds[k].digest
        assert (split.folded.fold, split.folded.folds) == (k, 4)
    everyone = split_of(photographs, options(fold=ALL_FOLDS))
    assert (len(everyone.train), len(everyone.held_out), everyone.held_out_ids) == (80, 0, ())
    assert everyone.folded == replace(folds[0].folded, fold=ALL_FOLDS)
    assert split_of(photographs, options(folds=None, fold=None)).folded is None


@pytest.mark.parametrize("by", ["person", "image"])
def test_more_folds_than_there_are_people_is_an_error(by):
    photographs = people({0: 3, 3: 1})
    most = {"person": 4, "image": 8}[by]
    assert [len(fold.held_out_ids) for fold in make_folds(photographs, most, 0, by)] == [1] * most
    with pytest.raises(InputError, match=f"--folds {most + 1} of {most} {by}s leaves folds empty: use at most {most}"):
        make_folds(photographs, most + 1, 0, by)


def test_a_record_tells_the_fold_again():
    photographs = people({0: 9, 2: 4})
    folds = make_folds(photographs, 3, 42)
    for split in (*folds, trained_on_all(photographs, folds)):
        record = json.loads(json.dumps(split.record()))
        check_record(record, SplitRecord, "x.pt", "is damaged", "remove it")
        again = recorded_split(photographs, record)
        assert again.record() == split.record()
        assert again.held_out.tolist() == split.held_out.tolist()
        assert again.train.tolist() == split.train.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": 3}, "there is no fold 3 of 3"),
        ({"fold": None}, "there is no fold None of 3"),
        ({"folds": None}, "there is no fold 1 of None"),
        ({"folds": 1}, "folds: input should be greater than or equal to 2"),
        ({"fold": -1}, "fold"),
        ({"fold": "each"}, "fold"),
        ({"fold": True}, "fold"),
        ({"partition": None}, "folds and partition belong together"),
        ({"partition": "no digest"}, "partition"),
        ({"fold": None, "folds": None}, "folds and partition belong together"),
        ({"held_out_ids": []}, "not that of the ids beside it"),
    ],
)
def test_a_damaged_record_of_a_fold_is_one_error(changes, message):
    record = make_folds(people({0: 9}), 3, 42)[1].record() | changes
    with pytest.raises(InputError, match=r"^x\.pt is damaged \(") as caught:
        check_record(record, SplitRecord, "x.pt", "is damaged", "remove it")
    assert message.lower() in str(caught.value).lower()


def model(split, name="a.pt", parts=()):
    one = SimpleNamespace(name=name, split=split and split.record())
    one.parts = parts or (one,)
    return one


def test_models_across_folds_are_scored_by_everybody_and_never_by_people_they_have_seen():
    photographs = people({0: 9, 4: 9})
    folds = make_folds(photographs, 3, 42)
    folded = model(None, "folded.pt", [model(fold, f"fold{k}.pt") for k, fold in enumerate(folds)])
    splits, who = evaluation_splits(photographs, ASKED, [folded, folded])
    assert [split.held_out.tolist() for split in splits] == [fold.held_out.tolist() for fold in folds]
    assert who == "all people, each scored by models trained without their fold (3 folds)"
    others = make_folds(photographs, 3, 43)
    for other, message in (
        (model(folds[0], "single.pt"), r"single\.pt is no model of the 3 folds of folded\.pt"),
        (model(None, "other.pt", [model(one, "o.pt") for one in others]), r"o\.pt was trained on \d+ of the people"),
        (
            model(None, "turned.pt", [model(one, "t.pt") for one in folds[::-1]]),
            r"t\.pt was trained on 6 of the people",
        ),
    ):
        with pytest.raises(InputError, match=message):
            evaluation_splits(photographs, ASKED, [folded, other])
    for flag, value in (("val_ratio", 0.3), ("split_seed", 1), ("split_by", "image")):
        asked = SimpleNamespace(**{**vars(ASKED), flag: value})
        with pytest.raises(InputError, match=f"folded.pt is scored on the people of its folds: leave --{flag[:3]}"):
            evaluation_splits(photographs, asked, [folded])
    everyone = SimpleNamespace(**{**vars(ASKED), "val_ratio": None})
    ((split,), who) = evaluation_splits(photographs, everyone, [folded])
    assert (len(split.held_out), who) == (len(photographs), "everyone, training people included")


def test_what_is_trained_on_everyone_has_nobody_to_score_it():
    photographs = people({0: 9})
    everyone = trained_on_all(photographs, make_folds(photographs, 3, 42))
    with pytest.raises(InputError, match="nobody is left to score on"):
        evaluation_splits(photographs, ASKED, [model(everyone)])
