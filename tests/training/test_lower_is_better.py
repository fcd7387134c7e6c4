"""What `--metric log_loss` keeps: a loss that is lower is better, from epochs to trials."""

import csv
from pathlib import Path

import pytest
import torch
from conftest import TOWER, checkpoint_record, soup, train

import optuna_script
from utils.models.checkpoints import read_checkpoint, save_checkpoint
from utils.models.clip import Classifier
from utils.models.keep_top import keep_top
from utils.training import studies
from utils.training.history import save_history
from utils.training.resume_state import Progress


def test_the_epoch_of_the_lowest_loss_is_the_best():
    progress = Progress()
    for epoch, loss in enumerate([0.9, 0.3, 0.3, 0.5], start=1):
        assert not progress.finished(epochs=9, patience=2)
        progress.note_best({"epoch": epoch, "log_loss": loss}, "log_loss", None)
        progress.epoch_done({"epoch": epoch})
    assert progress.best["epoch"] == 2
    assert progress.finished(epochs=9, patience=2)


def recorded(seed: int, **scores) -> Path:
    """A checkpoint of one epoch with these scores in its record."""
    path = Path(f"model/s_seed{seed}_i0_epoch1.pt")
    place = {"name": "s", "seed": seed, "i": 0, "epoch": 1}
    record = checkpoint_record(TOWER, options={"epochs": 1, "random_seed": seed}, ingredient=place, scores=scores)
    torch.manual_seed(seed)
    save_checkpoint(path, Classifier(TOWER, 18).state_dict(), record)
    return path


def test_the_lowest_losses_stay_and_a_record_of_before_the_metric_is_left_alone():
    low, high, old = recorded(0, log_loss=0.5), recorded(1, log_loss=1.5), recorded(2, accuracy=0.5)
    assert keep_top(Path("model"), "s", 1, "log_loss") == [high]
    assert low.is_file()
    assert old.is_file()


def test_the_columns_of_a_run_that_began_before_a_metric_was_there():
    save_history("a", [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "log_loss": 0.4, "loss": 0.4}])
    with open("logs/training/a.csv") as file:
        assert next(csv.DictReader(file)) == {"epoch": "1", "log_loss": "", "loss": "0.5"}


@pytest.mark.slow
def test_the_checkpoint_of_the_epoch_of_the_lowest_loss(faces, pretrained, capsys):
    asked = ["--epochs", 8, "--lr", "5e-2", "--metric", "log_loss", "--report-to", "csv", "--keep", "best"]
    path, scores = train(faces, pretrained, *asked)
    with open(f"logs/training/{path.stem}.csv") as file:
        losses = [float(row["log_loss"]) for row in csv.DictReader(file)]
    assert scores["log_loss"] == min(losses) != losses[-1]  # else this shows nothing
    assert scores["log_loss"] == pytest.approx(scores["loss"], abs=1e-6)
    assert read_checkpoint(path).meta["epoch"] == 1 + losses.index(min(losses))
    assert soup(faces, "--eval-individual-models")[path.stem]["log_loss"] == scores["log_loss"]
    said = capsys.readouterr().out
    assert f"log-loss {losses[-1]:.4f}" in said  # of the last epoch
    assert f"log_loss {scores['log_loss']:.4f} on held-out people" in said


@pytest.mark.slow
def test_a_study_looks_for_the_lowest_loss(faces, pretrained, monkeypatch, capsys):
    def run(options, after_epoch):
        loss = 3.0 if options.random_seed >= 4 else 1.3 - options.random_seed / 10
        for epoch in range(1, options.epochs + 1):
            after_epoch(epoch, {"log_loss": loss})
        return Path(f"{options.name}_seed{options.random_seed}.pt"), {"log_loss": loss}

    monkeypatch.setattr("finetune.run", run)
    where = ["--data-location", faces, "--pretrained-location", pretrained, "--report-to", "none", "--workers", 0]
    asked = ["--n-trials", 6, "--epochs-limits", 6, 6, "--indices", 0, "--metric", "log_loss", "--best", 1]
    study = optuna_script.run(optuna_script.parser().parse([str(one) for one in [*where, *asked]]))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4 + ["PRUNED"] * 2
    assert [trial.number for trial in studies.best_trials(study, 2)] == [3, 2]
    assert "\nlog_loss 1.0000: search_seed3.pt, " in capsys.readouterr().out
