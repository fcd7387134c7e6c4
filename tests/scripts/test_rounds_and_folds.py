"""FOLDS and ROUNDS of training.sh, with a stand-in for `accelerate`."""

import re
import subprocess

import pytest
from conftest import REPOSITORY


def runs(calls, script="finetune.py"):
    """The runs of each call of a script, as they were asked for."""
    found = (re.search(rf"/{script} .*--runs ((?:\S+:\S+ )+)--epochs", call) for call in calls)
    return [match[1].split() for match in found if match]


def test_every_index_and_the_specialist_are_trained_once_for_each_fold(sweep):
    result, calls = sweep(SEEDS="1 2", INDICES="0 3", FOLDS="3")
    assert result.returncode == 0, result.stderr
    assert all("--folds 3 " in call for call in calls)
    grid = [f"{seed}:{i}:{fold}" for seed in (1, 2) for i in (0, 3) for fold in range(3)]
    assert runs(calls) == [grid]
    assert runs(calls, "finetune_age.py") == [["1:0:0", "1:0:1", "1:0:2"]]


def test_the_tasks_of_an_array_share_the_folds_too(sweep):
    shares = []
    for task in range(4):
        env = {"ID": task, "MIN": 0, "MAX": 3, "COUNT": 4}
        env = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in env.items()}
        result, calls = sweep(SEEDS="1", INDICES="0 1", FOLDS="3", STAGES="", **env)
        assert result.returncode == 0, result.stderr
        shares += [run for asked in runs(calls) for run in asked]
    assert sorted(shares) == [f"1:{i}:{fold}" for i in (0, 1) for fold in range(3)]


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        ([], {"FOLDS": "x"}, "FOLDS has x, expected whole numbers"),
        ([], {"FOLDS": "1"}, "--folds: 1 is not at least 2"),
        (["--folds", "3"], {}, "--folds is set by the environment"),
        (["--val-ratio", "0.3"], {"FOLDS": "3", "STAGES": "finetune"}, "leave --val-ratio out"),
        (["--keep", "best"], {"FOLDS": "3"}, "--keep best goes by the people held out"),
        ([], {"ROUNDS": "x"}, "ROUNDS has x, expected whole numbers"),
        ([], {"STAGES": "refit"}, "STAGES has refit, which is none of"),
    ],
)
def test_what_does_not_go_with_folds_is_refused_before_anything_runs(sweep, arguments, env, message):
    result, calls = sweep(*arguments, **env)
    assert result.returncode != 0
    assert message in result.stderr
    assert calls == []


@pytest.mark.parametrize(
    ("arguments", "half"),
    [("", "5e-06"), ("--lr 8e-4 --wd 1", "0.0004"), ("--lr=2e-3", "0.001"), ("--lr 1 --lr 3", "1.5")],
)
def test_a_second_round_has_half_the_learning_rate(arguments, half):
    code = f'HERE=. stages=() runs=(); source "{REPOSITORY}/utils/jobs.sh"; half_of_lr {arguments}'
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert result.stdout == half, result.stderr


@pytest.mark.parametrize(
    ("stages", "told"), [("soup refit", "no ingredients of --name unknown"), ("refit", "no scores of a sweep unknown")]
)
def test_a_refit_without_a_scored_sweep_is_one_error(sweep, stages, told):
    result, calls = sweep(FOLDS="3", STAGES=stages, NAME="unknown")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert told in result.stderr
    assert calls == []


def test_the_tasks_of_an_array_begin_no_second_round(sweep):
    result, calls = sweep(INDICES="0", ROUNDS="2", STAGES="finetune")
    assert result.returncode == 0, result.stderr
    assert "second round" not in result.stdout
    assert len(calls) == 1
