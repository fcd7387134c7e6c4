"""The runs of one process: what is to be trained yet, how long it takes, and whose name is taken."""

import logging
from pathlib import Path

import pytest
from tqdm import tqdm

import finetune
from utils.base import progress
from utils.base.errors import InputError
from utils.training import grid, preflight

ASKED = ["--model", "tower.pt", "--name", "x", "--runs", "1:0", "1:1", "2:0"]  # index 1 draws its own epochs


@pytest.fixture
def options():
    Path("model").mkdir()
    Path("tower.pt").touch()
    return finetune.parser().parse(["--epochs", "10", *ASKED])


def at(options, seed, i):
    return options.replace(random_seed=seed, i=i)


def test_runs_count_by_their_own_epochs_and_what_is_there_by_none(options):
    drawn = grid.epochs_to_do(at(options, 1, 1))
    assert drawn != 10
    assert grid.epochs_behind(at(options, 1, 0)) == drawn + 10
    Path(f"model/x_seed1_i1_epoch{drawn}.pt").touch()
    assert grid.epochs_behind(at(options, 1, 0)) == 10
    assert grid.epochs_behind(at(options, 1, 0).replace(attributes=("age",))) == drawn + 10
    assert grid.epochs_behind(at(options, 1, 0).replace(overwrite=True)) == drawn + 10
    assert grid.epochs_behind(at(options, 2, 0)) == 0
    assert grid.epochs_behind(options.replace(runs=None)) == 0


def test_the_time_left_for_all_runs_goes_by_the_pace_of_those_that_were_trained(options, monkeypatch):
    now = 0
    monkeypatch.setattr(grid.time, "monotonic", lambda: now)
    runs = [at(options, seed, 0) for seed in (1, 2, 3, 4)]
    Path("model/x_seed1_i0_epoch10.pt").touch()
    told = []
    for _, left in grid.one_by_one(runs):
        told.append(left)
        now += 0 if len(told) == 1 else 600  # the first is skipped
    assert told == ["", "", ", about 20 min left for all", ", about 10 min left for all"]


@pytest.fixture
def bar(monkeypatch):
    """A bar of 28 steps with 56 behind it, after 12 steps in 120 seconds; the first 2 were done before."""

    def make(terminal):
        now = 0.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: now)
        monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: terminal, raising=False)
        one = progress.ProgressBar(what="run", total=28, unit="step", behind=56)
        one.begin_at(2)
        one.n, now = 12, 120.0
        return one

    return make


def test_a_log_has_the_step_and_the_time_left_for_the_run_and_for_all(bar, caplog):
    caplog.set_level(logging.INFO)
    bar(terminal=False).display()
    assert caplog.messages == ["run: step 12 of 28, about 3 min left, about 14 min left for all"]


def test_a_terminal_has_the_time_left_for_all_too(bar, monkeypatch):
    shown = []
    monkeypatch.setattr(tqdm, "display", lambda bar, *_: shown.append(bar.postfix))
    bar(terminal=True).display()
    assert shown[-1] == "about 14 min left for all"


def test_a_name_that_a_rehearsal_has_taken_is_told_with_both_epochs(options):
    (drawn,) = [grid.epochs_to_do(at(options, 1, 1))]
    for stem in ("x_seed1_i0_epoch10", f"x_seed9_i1_epoch{drawn}", "Age_x_seed1_i0_epoch10", "y_seed1_i0_epoch3"):
        Path(f"model/{stem}.pt").touch()
    preflight.check_name_is_free(options)
    Path("model/Age_x_seed1_i0_epoch5.pt").touch()  # an earlier epoch of a run that is done
    preflight.check_name_is_free(options)
    for left in ("x_seed3_i7_epoch5", "Age_x_seed2_i0_epoch5"):
        path = Path(f"model/{left}.pt")
        path.touch()
        with pytest.raises(InputError, match=rf"{path} is of 5 epochs, and with EPOCHS=10 .* choose another NAME"):
            preflight.check_name_is_free(options)
        path.unlink()
    Path("model/Mask_x_seed2_i0_epoch5.pt").touch()
    preflight.check_name_is_free(options)  # it may as well be of a sweep called Mask_x
    with pytest.raises(InputError, match=r"Mask_x_seed2_i0_epoch5.pt is of 5 epochs"):
        preflight.check_name_is_free(options.replace(attributes=("mask",)))
    Path("model/x_seed1_i0_epoch5.pt").touch()
    preflight.check_name_is_free(options.replace(save_every=5))  # of this very run
