"""What file names alone tell of checkpoints, and how long those that are joined of others get."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from utils.base.files import LONGEST_STEM
from utils.ensembles.members import soft_voting_name, weighted_name
from utils.models.model_files import Ingredient
from utils.models.sweeps import Several, Sweep, check_names, find_checkpoint

MODEL = Path("model")
OPTIONS = SimpleNamespace(model_location=MODEL)


@pytest.mark.parametrize(
    ("stems", "several"),
    [
        (["a_seed1_i0_epoch2", "a_seed1_i1_epoch2", "Age_a_seed1_i0_epoch2"], True),
        (["a_seed1_i0_epoch2", "best"], False),  # which may be a greedy soup that was renamed
        (["a_seed1_epoch2_greedysoup_num3", "a_seed1_i0_epoch2", "best"], False),
        (["a_seed1_epoch2_greedysoup_num3", "b_seed1-2_epoch2_greedysoup_num3", "best"], True),
    ],
)
def test_names_call_for_an_error_only_where_records_cannot_help(stems, several):
    MODEL.mkdir()
    for stem in stems:
        (MODEL / f"{stem}.pt").touch()
    look = partial(check_names, OPTIONS, partial(find_checkpoint, None, MODEL))
    if several:
        with pytest.raises(Several, match="several checkpoints, choose one with --model-name"):
            look()
    else:
        look()


@pytest.mark.parametrize("name", ["n" * 80, "한" * 26, "short"])
@pytest.mark.parametrize("seeds", [1, 40])
def test_what_comes_of_a_sweep_has_names_that_fit_and_that_tell_the_recipe(name, seeds):
    sweeps = [Sweep([Ingredient(MODEL, name, 10**9 + k, 0, epoch, epoch) for k in range(seeds)]) for epoch in (20, 21)]
    stems = [sweep.soup_file(MODEL, kind).stem for sweep in sweeps for kind in ("greedy", "greedy-replacement")]
    assert len(set(stems)) == 4
    assert stems[0].endswith(f"_greedysoup_num{seeds}")
    logs = [sweep.log_name() for sweep in sweeps]
    assert logs[0] != logs[1]
    models = [SimpleNamespace(name=stem) for stem in stems]
    age = [SimpleNamespace(name=f"Age_{name}_seed{k}_i0_epoch20") for k in range(5)]
    joined = [
        weighted_name(models[0], age[:1]),
        weighted_name(models[0], age),
        soft_voting_name(models[0], models[2:]),
    ]
    joined += [soft_voting_name(models[0], models[2:], "log"), weighted_name(models[0], age[1:2])]
    assert len(set(joined)) == 5
    assert all(len(one.encode()) <= LONGEST_STEM for one in (*stems, *logs, *joined))


def test_short_names_are_joined_as_they_always_were():
    one, two = SimpleNamespace(name="a"), SimpleNamespace(name="b")
    assert weighted_name(one, [two]) == "a_WE_b"
    assert soft_voting_name(one, [two, two], "log") == "a_SV_b_b_log"
    assert soft_voting_name(one, [two] * 4).startswith("a_SV_4models_")
