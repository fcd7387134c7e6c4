"""A run that is stopped and resumed ends in the bits of one that was not."""

import os
import re
import signal
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, fails_cleanly, train
from forked import Forked, command

from utils.base.errors import Diverged, InputError, Interrupted
from utils.models.checkpoints import read_checkpoint
from utils.training.resume_state import state_file

pytestmark = pytest.mark.slow

STATE = state_file(Path("model/finetune_cp_seed42_i0_epoch2.pt"))
EVERYTHING = [
    "--epochs", 3, "--ema-decay", 0.8, "--gradient-accumulation-steps", 2, "--mixup", 0.4, "--sampler", "balanced",
    "--checkpointing-steps", 2, "--keep", "best",
]  # fmt: skip


class Killed(BaseException):
    """As sudden as kill -9: nothing of ours catches it."""


def kill_after(monkeypatch, steps: int) -> None:
    """The run ends without warning once it has taken so many steps since it was started."""
    from utils.training.guard import StepGuard

    taken, plain = [], StepGuard.after_step

    def after_step(watch):
        plain(watch)
        taken.append(None)
        if len(taken) == steps:
            raise Killed

    monkeypatch.setattr(StepGuard, "after_step", after_step)


@pytest.mark.parametrize("extra", [EVERYTHING, [*EVERYTHING, "--workers", 2], ["--epochs", 3]])
def test_killed_runs_end_in_the_same_bits(faces, pretrained, monkeypatch, extra):
    whole, scores = train(faces, pretrained, *extra)
    expected, history = whole.read_bytes(), next(Path("logs/training").glob("*.csv"), None)
    history = history and history.read_text()
    whole.unlink()
    for steps in (7, 22):  # in the first epoch, and in a later one
        with monkeypatch.context() as patch:
            kill_after(patch, steps)
            with pytest.raises(Killed):
                train(faces, pretrained, *extra, "--resume")
    path, resumed_scores = train(faces, pretrained, *extra, "--resume")
    assert path.read_bytes() == expected
    assert resumed_scores == scores
    assert not list(STATE.parent.iterdir())
    assert history is None or next(Path("logs/training").glob("*.csv")).read_text() == history


def test_without_resume_a_run_begins_anew(faces, pretrained, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        kill_after(patch, 30)
        with pytest.raises(Killed):
            train(faces, pretrained)
    state = torch.load(STATE, weights_only=True)
    assert (state["progress"]["epoch"], state["progress"]["seen"], state["progress"]["step"]) == (1, 168, 21)
    train(faces, pretrained)
    said = capsys.readouterr().out
    assert f"{STATE} was left by a run that was stopped: --resume goes on from it; begun anew" in said
    assert "going on behind step" not in said


def test_an_epoch_of_which_nothing_was_left_has_no_speed(faces, pretrained, capsys):
    def break_off(epoch, scores):
        raise Killed  # the first epoch is trained, and its state is saved, but it is not in the history

    with pytest.raises(Killed):
        train(faces, pretrained, after_epoch=break_off)
    capsys.readouterr()
    train(faces, pretrained, "--resume")
    said = capsys.readouterr().out
    assert "going on behind step 21, in epoch 1" in said
    assert ["images/s" in line for line in said.splitlines() if line.startswith("epoch ")] == [False, True]


def test_the_state_of_other_options_is_not_gone_on_from(faces, pretrained, monkeypatch, capsys):
    expected = read_checkpoint(train(faces, pretrained, "--lr", "1e-3", "--name", "b")[0]).digest
    with monkeypatch.context() as patch:
        kill_after(patch, 30)
        with pytest.raises(Killed):
            train(faces, pretrained)
    other = r"other options \(lr 0.002 -> 0.001\): go on with those, or pass --overwrite to begin anew"
    capsys.readouterr()
    with pytest.raises(InputError, match=other):
        train(faces, pretrained, "--lr", "1e-3", "--resume")
    assert "photographs to train on" not in capsys.readouterr().out  # told before anything is built
    path, _ = train(faces, pretrained, "--lr", "1e-3", "--resume", "--overwrite")
    assert "of a run with other options (lr 0.002 -> 0.001): begun anew" in capsys.readouterr().out
    assert read_checkpoint(path).digest == expected
    assert not STATE.exists()


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 20000), lambda path: torch.save({"a": 1}, path)])
def test_a_damaged_state_is_named(faces, pretrained, monkeypatch, damage):
    with monkeypatch.context() as patch:
        kill_after(patch, 30)
        with pytest.raises(Killed):
            train(faces, pretrained)
    damage(STATE)
    with pytest.raises(InputError, match=f"{STATE} is damaged: remove it, or pass --overwrite to begin anew"):
        train(faces, pretrained, "--resume")
    assert train(faces, pretrained, "--resume", "--overwrite")[0].is_file()


def test_a_defect_ends_the_loader_processes_too(faces, pretrained):
    script = Path("broken.py").resolve()
    script.write_text(
        "import finetune, utils.training.guard\n"
        "def broken(*_): raise ZeroDivisionError\n"
        "utils.training.guard.StepGuard.after_step = broken\n"
        "finetune.run(finetune.parser().parse())"
    )
    arguments = ["--data-location", faces, "--pretrained-location", pretrained, "--workers", 2, "--report-to", "none"]
    assert "ZeroDivisionError" in Forked(script, *arguments).end(timeout=90).stderr


def test_sigterm_saves_a_state(faces, pretrained):
    def told_to_stop(epoch, scores):
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped in step 22; --resume goes on from"):  # the first of epoch 2
        train(faces, pretrained, after_epoch=told_to_stop)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert torch.load(STATE, weights_only=True)["progress"]["step"] == 22


def test_a_signal_to_the_whole_group_saves_a_state(faces, pretrained):
    where = ["--data-location", faces, "--pretrained-location", pretrained, "--batch-size", 8, "--workers", 2]
    run = Forked(REPOSITORY / "finetune.py", *where, "--epochs", 500, "--report-to", "csv")
    stopped = run.stop(Path("logs/training/finetune_cp_seed42_i0_epoch500.csv").is_file, signal.SIGTERM)
    assert stopped.returncode == 143, stopped.stderr
    told = r"stopped in step \d+; --resume goes on from model/states/.*_epoch500\.pt\n"
    assert re.fullmatch(told, stopped.stderr)


def test_numbers_that_are_none_stop_the_run_with_its_good_weights(faces, pretrained, monkeypatch):
    from utils.data import augmentation

    plain = augmentation.LabelledSquares.__getitem__
    ids = []

    def poisoned(self, key):
        square, label = plain(self, key)
        return square.float() * (float("nan") if key == ids[0] else 1), label

    from utils.data.augmentation import EpochSampler

    order = EpochSampler(168, 42).order(2)
    ids.append((2, int(order[17])))  # in the third batch of the second epoch
    monkeypatch.setattr(augmentation.LabelledSquares, "__getitem__", poisoned)
    with pytest.raises(
        Diverged, match=r"in step 24 \(epoch 2\) on \d+_\w+/\w+, .* and 5 others: the last good state, of "
    ):
        train(faces, pretrained)
    parts = torch.load(STATE, weights_only=True)["parts"]
    assert all(tensor.isfinite().all() for tensor in parts["model"].values())


def test_a_last_step_to_infinity_leaves_no_checkpoint(faces, pretrained):
    with pytest.raises(Diverged, match="its held-out logits are NaN or infinite: use a lower --lr"):
        train(faces, pretrained, "--epochs", 1, "--batch-size", 1000, "--lr", "1e38")
    assert not list(Path("model").glob("*.pt"))


def test_a_full_disk_leaves_the_earlier_state(faces, pretrained, monkeypatch):
    with monkeypatch.context() as patch:
        kill_after(patch, 30)
        with pytest.raises(Killed):
            train(faces, pretrained)
    before = STATE.read_bytes()
    fast = ["--lr", "2e-3", "--epochs", "2", "--batch-size", "8", "--workers", "0", "--report-to", "none"]
    arguments = ["--data-location", faces, "--pretrained-location", pretrained, *fast, "--resume"]
    arguments += ["--checkpointing-steps", 2]
    fails_cleanly(command("finetune.py", *arguments, limit=len(before) // 2), "finetune_cp_seed42_i0_epoch2.pt")
    assert STATE.read_bytes() == before
