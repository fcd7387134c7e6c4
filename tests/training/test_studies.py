"""The tuner on small faces, and studies that are gone on with."""

import json
import os
import re
import shutil
import socket
import time
from pathlib import Path

import optuna
import pytest
import torch
from conftest import REPOSITORY, fails_cleanly, make_people, soup
from forked import Forked, command

import optuna_script
from utils.base.errors import Diverged, InputError, Interrupted
from utils.training import studies

pytestmark = pytest.mark.slow

SMALL = "--epochs-limits 1 2 --batch-sizes 16 --lr-limits 1e-3 3e-3 --indices 0 1 --report-to none --workers 0"


def arguments(faces, pretrained, *extra):
    where = ["--data-location", faces, "--pretrained-location", pretrained]
    return [str(one) for one in [*where, *SMALL.split(), *extra]]


def search(faces, pretrained, *extra):
    return optuna_script.run(optuna_script.parser().parse(arguments(faces, pretrained, *extra)))


def numbers(study):
    return [trial.number for trial in study.trials if trial.state.is_finished()]


def without_plots(request, monkeypatch) -> None:
    """For a test of what a study does, and not of its pictures, which take a second each time."""
    if "plotted" not in request.fixturenames:
        monkeypatch.setattr(studies, "save_pictures", lambda *_: {})


@pytest.fixture
def fake_training(request, monkeypatch):
    """Training that takes no time; its score after each epoch is the learning rate times the epoch."""
    calls = []

    def run(options, after_epoch):
        calls.append(options)
        for epoch in range(1, options.epochs + 1):
            after_epoch(epoch, {"macro_f1": options.lr * epoch, "accuracy": 0.5})
        return Path(f"{options.name}_seed{options.random_seed}.pt"), {"macro_f1": options.lr * options.epochs}

    monkeypatch.setattr("finetune.run", run)
    without_plots(request, monkeypatch)
    return calls


def test_a_real_search_leaves_pictures_and_checkpoints_to_soup(faces, pretrained, drawn):
    study = search(faces, pretrained, "--n-trials", 3)
    assert numbers(study) == [0, 1, 2]
    complete = studies.best_trials(study, 9)
    assert len(complete) >= 2
    for trial in complete:
        assert (Path("model") / trial.user_attrs["checkpoint"]).is_file()
        assert trial.user_attrs["checkpoint"].startswith(f"search_seed{trial.number}_i{trial.params['i']}_epoch")
    pictures = {path.stem for path in Path("val_img/optuna_search").glob("*.png")}
    assert {"history", "importance", "parallel_coordinate", "slice"} <= pictures
    results = soup(faces, "--greedy-soup", "--name", "search", "--random-seed", *(t.number for t in complete))
    single = results[Path(complete[0].user_attrs["checkpoint"]).stem]
    assert single["macro_f1"] == complete[0].value  # the objective is the score of the whole held-out set


def test_a_study_is_gone_on_with_and_n_trials_counts_all(faces, pretrained, fake_training):
    search(faces, pretrained, "--n-trials", 3)
    study = search(faces, pretrained, "--n-trials", 5)
    assert numbers(study) == [0, 1, 2, 3, 4]
    assert numbers(search(faces, pretrained, "--n-trials", 5)) == [0, 1, 2, 3, 4]
    assert len(fake_training) == 5


def test_a_study_of_before_an_option_is_gone_on_with(faces, pretrained, fake_training):
    study = search(faces, pretrained, "--n-trials", 1)
    settings = json.loads(study.user_attrs["settings"])
    for name in ("ema_decay", "wd_limits"):  # as if the program had not known them
        del settings[name]
    study.set_user_attr("settings", json.dumps(settings))
    assert len(search(faces, pretrained, "--n-trials", 2).trials) == 2
    with pytest.raises(InputError, match=r"other settings \(ema_decay 0.0 -> 0.9; wd_limits \[0.0, 0.3\] -> \[0.1,"):
        search(faces, pretrained, "--n-trials", 3, "--ema-decay", 0.9, "--wd-limits", 0.1, 0.2)


def test_a_search_tells_a_line_for_each_trial(faces, pretrained, fake_training, capsys, plotted):
    search(faces, pretrained, "--n-trials", 3, "--best", 2)
    study, *trials, plots, best, second, following, log = capsys.readouterr().out.splitlines()
    assert study.startswith("study search: 168 photographs to train on, 42 held out")
    assert [line.split(":")[0] for line in trials] == [f"trial {k} ({k + 1} of 3)" for k in range(3)]
    assert plots == "plots of the study: val_img/optuna_search"
    assert best.startswith("macro_f1 ")
    assert second.startswith("macro_f1 ")
    assert following.startswith("next, a soup of these: accelerate launch main.py --greedy-soup --metric macro_f1")
    assert log == "log: logs/optuna_search.log"
    assert "trial 2 (3 of 3) begins" in Path("logs/optuna_search.log").read_text()


def test_every_trial_is_asked_within_the_limits_on_one_split(faces, pretrained, fake_training, plotted):
    search(faces, pretrained, "--n-trials", 6, "--wd-limits", 0.05, 0.05)
    assert {options.wd for options in fake_training} == {0.05}
    assert all(1e-3 <= options.lr <= 3e-3 and options.epochs in (1, 2) for options in fake_training)
    assert len({options.random_seed for options in fake_training}) == 6
    assert {(options.split_seed, options.val_ratio, options.name) for options in fake_training} == {
        (42, 0.2, "search")
    }


def test_a_trial_below_the_median_is_pruned(faces, pretrained, monkeypatch):
    epochs_run = []

    def run(options, after_epoch):
        value = 0.1 if options.random_seed >= 4 else 0.5
        for epoch in range(1, options.epochs + 1):
            epochs_run.append((options.random_seed, epoch))
            after_epoch(epoch, {"macro_f1": value})
        return Path("x.pt"), {"macro_f1": value}

    monkeypatch.setattr("finetune.run", run)
    study = search(faces, pretrained, "--n-trials", 6, "--epochs-limits", 6, 6)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 4 + ["PRUNED"] * 2
    assert max(epoch for seed, epoch in epochs_run if seed == 5) < 6
    assert [trial.number for trial in studies.best_trials(study, 3)] == [0, 1, 2]  # ties: the earlier one first


@pytest.mark.parametrize("error", [Diverged("training diverged"), torch.OutOfMemoryError("no memory")])
def test_a_diverged_or_too_large_trial_does_not_end_the_search(faces, pretrained, monkeypatch, error):
    def run(options, after_epoch):
        if options.random_seed == 0:
            raise error
        return Path("x.pt"), {"macro_f1": 0.5}

    monkeypatch.setattr("finetune.run", run)
    study = search(faces, pretrained, "--n-trials", 2)
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "COMPLETE"]


def test_other_settings_under_the_same_name_are_an_error(faces, pretrained, fake_training):
    search(faces, pretrained, "--n-trials", 1)
    with pytest.raises(
        InputError, match=r"other settings \(sampler shuffle -> balanced\): choose another --study-name"
    ):
        search(faces, pretrained, "--n-trials", 2, "--sampler", "balanced")
    with pytest.raises(InputError, match="metric macro_f1 -> accuracy"):
        search(faces, pretrained, "--n-trials", 2, "--metric", "accuracy")


def test_the_trial_of_a_killed_worker_is_taken_up_again(faces, pretrained):
    worker = Forked(REPOSITORY / "optuna_script.py", *arguments(faces, pretrained, "--n-trials", 2))
    journal = Path("logs/optuna/search.journal")
    worker.stop(lambda: journal.is_file() and '"i"' in journal.read_text())  # all is suggested
    left = optuna.load_study(study_name="search", storage=studies.open_storage(str(journal)))
    assert [trial.state.name for trial in left.trials] == ["RUNNING"]
    study = search(faces, pretrained, "--n-trials", 2)
    states = [(trial.number, studies.original_number(trial), trial.state.name) for trial in study.trials]
    assert states == [(0, 0, "FAIL"), (1, 0, "COMPLETE"), (2, 2, "COMPLETE")]
    assert study.trials[1].params == study.trials[0].params
    assert study.trials[1].user_attrs["checkpoint"].startswith("search_seed0_")


def test_the_lock_of_a_worker_killed_while_it_wrote_is_taken_away(faces, pretrained, fake_training, monkeypatch):
    monkeypatch.setattr(studies, "LOCK_GRACE", 1)
    search(faces, pretrained, "--n-trials", 1)
    journal = Path("logs/optuna/search.journal").resolve()
    journal.with_name("search.journal.lock").symlink_to(journal)  # as optuna makes it, given an absolute path
    assert len(search(faces, pretrained, "--n-trials", 2).trials) == 2


def test_a_line_that_a_killed_worker_left_unfinished_is_removed(faces, pretrained, fake_training):
    search(faces, pretrained, "--n-trials", 2)
    journal = Path("logs/optuna/search.journal")
    os.truncate(journal, journal.stat().st_size - 20)
    assert len(search(faces, pretrained, "--n-trials", 3).trials) >= 3
    assert len(search(faces, pretrained, "--n-trials", 4).trials) >= 4  # and the journal can still be read


def test_a_trial_of_a_living_worker_is_left_alone(faces, pretrained, fake_training):
    study = search(faces, pretrained, "--n-trials", 1)
    other = study.ask()
    other.set_user_attr("worker", f"{socket.gethostname()} {os.getppid()}")
    study = search(faces, pretrained, "--n-trials", 3)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "RUNNING", "COMPLETE"]


def test_a_trial_under_this_very_process_number_is_an_earlier_ones(faces, pretrained, fake_training):
    study = search(faces, pretrained, "--n-trials", 1)
    study.ask({}).set_user_attr("worker", studies.worker())  # containers give every worker the number 1
    study = search(faces, pretrained, "--n-trials", 2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_two_workers_may_take_up_at_once(faces, pretrained, fake_training, monkeypatch):
    study = search(faces, pretrained, "--n-trials", 1)
    study.ask().set_user_attr("worker", studies.worker())
    before = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    assert studies.take_up_again(study) == [1]
    monkeypatch.setattr(study, "get_trials", lambda **_: before)  # what the slower one has read
    assert studies.take_up_again(study) == []


def test_a_database_fails_the_trials_that_are_left(faces, pretrained, fake_training, monkeypatch):
    monkeypatch.setattr(studies, "HEARTBEAT", 1)
    storage = ["--storage", "sqlite:///study.db"]
    study = search(faces, pretrained, "--n-trials", 1, *storage)
    left = study.ask()
    left.set_user_attr("worker", "elsewhere 1")
    study._storage.record_heartbeat(left._trial_id)
    time.sleep(3.5)
    study = search(faces, pretrained, "--n-trials", 2, *storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_other_photographs_are_another_study(faces, pretrained, fake_training):
    search(faces, pretrained, "--n-trials", 1)
    other = make_people(Path("other"), 20)
    with pytest.raises(InputError, match="other settings \\(held out"):
        search(other, pretrained, "--n-trials", 2)


def test_checkpoints_of_a_removed_study_are_not_taken_for_its_own(faces, pretrained, fake_training):
    Path("model").mkdir()
    Path("model/search_seed0_i0_epoch1.pt").touch()
    with pytest.raises(InputError, match=r"has checkpoints of its name .*: choose another --study-name"):
        search(faces, pretrained, "--n-trials", 1)


def test_a_password_is_not_sent_to_the_tracker(faces, pretrained, fake_training):
    search(faces, pretrained, "--n-trials", 1, "--storage", "sqlite:///secret.db", "--report-to", "wandb")
    sent = b"".join(path.read_bytes() for path in Path("wandb").rglob("*") if path.is_file())
    assert b"batch_sizes" in sent  # the study's options are there
    assert b"secret.db" not in sent


def test_a_database_can_be_the_storage(faces, pretrained, fake_training):
    study = search(faces, pretrained, "--n-trials", 2, "--storage", "sqlite:///study.db")
    assert numbers(study) == [0, 1]
    assert Path("study.db").is_file()
    assert json.loads(study.user_attrs["settings"])["indices"] == [0, 1]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--storage sqlite:////nowhere/study.db", "--storage sqlite:////nowhere/study.db cannot be reached"),
        ("--storage postgresql://user:secret@127.0.0.1:9/x", "--storage postgresql://127.0.0.1:9/x cannot be reached"),
        ("--lr-limits 1e-3 1e-4", "--lr-limits 0.001 0.0001: the first must not be above the second"),
        ("--pretrained-location nowhere --indices 0", "nowhere has no model_{i}.pt"),
        ("--val-ratio 0", "--val-ratio 0 leaves nobody to score trials on"),
        ("--data-location nowhere", "nowhere does not exist"),
    ],
)
def test_a_mistake_is_one_error(faces, pretrained, extra, message):
    result = command("optuna_script.py", *arguments(faces, pretrained, "--n-trials", 1, *extra.split()))
    fails_cleanly(result, message)
    assert "secret" not in result.stderr
    shutil.rmtree("logs", ignore_errors=True)
    assert not list(Path().rglob("*.pt"))


def test_trials_run_as_finetune_does(faces, pretrained):
    extra = ["--n-trials", 1, "--epochs-limits", 1, 1, "--report-to", "csv", "--mixed-precision", "bf16"]
    result = command("optuna_script.py", *arguments(faces, pretrained, *extra))
    assert result.returncode == 0, result.stderr
    assert re.search(r"macro_f1 0\.\d+: search_seed0_i\d_epoch1\.pt", result.stdout)
    assert "epoch 1 of 1: " not in result.stdout
    assert "epoch 1 of 1: " in next(Path("logs/training").glob("search_seed0_i?.log")).read_text()
    assert "trial 0 (1 of 1): macro_f1" in Path("logs/optuna_search.log").read_text()


def test_a_trial_that_a_signal_stopped_is_taken_up_again_once(faces, pretrained, monkeypatch, fake_training):
    def stopped(options, after_epoch):
        raise Interrupted(15, "stopped in step 4")

    with monkeypatch.context() as patch:
        patch.setattr("finetune.run", stopped)
        with pytest.raises(Interrupted):
            search(faces, pretrained, "--n-trials", 2)
    study = search(faces, pretrained, "--n-trials", 2)
    assert [options.random_seed for options in fake_training] == [0, 2]  # trial 1 takes up trial 0
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert len(search(faces, pretrained, "--n-trials", 2).trials) == 3


def test_indices_that_are_not_there_are_an_error(faces, pretrained):
    with pytest.raises(InputError, match="--indices 3: there is 0, 1, 2 to start from"):
        search(faces, pretrained, "--indices", 3)
    with pytest.raises(InputError, match="--indices 1: there is 0 to start from"):
        search(faces, pretrained, "--model", pretrained / "model_0.pt", "--indices", 1)
