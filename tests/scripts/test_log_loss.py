"""A sweep that is chosen by log-loss from the soup to the file to hand in, on the trained models of the fixture."""

import json
import re
from pathlib import Path

import pytest
from conftest import AGE, SOUP, in_a_copy, infer, soup, validate

import hard_voting
import summary
from utils.evaluation.hand_in import submission_rows
from utils.evaluation.manifest import HARD_VOTE, read_manifest
from utils.models.checkpoints import read_checkpoint
from utils.soups.report import _rows_with_how

pytestmark = pytest.mark.slow

BY = ("--metric", "log_loss")
ROWS = Path("logs/soup_results_finetune_cp_seed42_num3_epoch2.jsonl")


def losses(results):
    single = [scores["log_loss"] for name, scores in results.items() if "soup" not in name]
    return single, results[SOUP]["log_loss"]


def test_the_greedy_soup_loses_no_more_than_the_best_and_a_second_call_decides_nothing(
    trained, faces, monkeypatch, capsys
):
    in_a_copy(trained, monkeypatch)
    single, reached = losses(results := soup(faces, "--greedy-soup", "--nested", "--plot", *BY))
    assert reached <= min(single)
    said = capsys.readouterr().out
    assert re.search(rf"^log-loss: best {min(single):.4f} |log-loss {min(single):.3f} \[", said, re.MULTILINE)
    assert f"log-loss {reached:.3f} [" in said
    assert read_checkpoint(Path(f"model/{SOUP}.pt")).meta["options"]["metric"] == "log_loss"
    assert read_manifest("finetune_cp").metric == "log_loss"
    journals = {path: path.read_bytes() for path in Path("logs/journals").glob("greedy_log_loss_*.jsonl")}
    assert len(journals) == 3  # all people, and each half
    assert all(line for content in journals.values() for line in content.splitlines())
    monkeypatch.setattr("utils.soups.evaluator.score_above", None)  # which would raise
    assert soup(faces, "--greedy-soup", "--nested", *BY) == results
    assert {path: path.read_bytes() for path in Path("logs/journals").glob("greedy_log_loss_*.jsonl")} == journals


def test_rows_of_before_the_metric_stay_in_the_table(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    soup(faces, "--greedy-soup", "--uniform-soup")
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    for row in rows:
        for part in (row, row.get("ensemble", {}), row.get("gain_on_others") or {}):
            for name in ("log_loss", "log_loss_interval", "balanced_accuracy", "balanced_accuracy_interval"):
                part.pop(name, None)
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(_rows_with_how(ROWS)) == 2
    soup(faces, "--greedy-soup", *BY)
    table = Path("logs/recipes_finetune_cp_seed42_num3_epoch2.txt").read_text()
    assert "gain in log-loss on other people" in table
    uniform = next(line for line in table.splitlines() if line.startswith("uniform"))
    assert re.search(r"\| 3 +\| 0\.\d{3} \[", uniform)  # its members, as the earlier call told them


def test_the_file_to_hand_in_is_compared_by_macro_f1_where_a_vote_has_no_log_loss(trained, faces, monkeypatch, capsys):
    in_a_copy(trained, monkeypatch)
    soup(faces, "--greedy-soup", "--uniform-soup", *BY)
    rows = validate(faces, "--sweep", "finetune_cp", *BY)
    told = {row["kind"]: "log_loss" in row for row in rows}
    assert told.pop("hard vote", False) is False
    assert all(told.values())
    chosen = json.loads(Path("logs/ensemble_finetune_cp_auto.json").read_text())
    assert chosen["metric"] == "log_loss"
    plain = next(row for row in rows if row["kind"] == "auto ensemble")
    assert plain["log_loss"] == pytest.approx(chosen["log_loss"]["with temperature"], abs=1e-6)
    chosen_soup = Path(read_manifest("finetune_cp").soup).stem
    tuned = json.loads(Path(f"logs/ensemble_{chosen_soup}_WE_{AGE}.json").read_text())
    assert tuned["tuned"]["log_loss"] <= rows[0]["log_loss"]  # the weight may be zero
    infer(faces, "--sweep", "finetune_cp")
    hard_voting.run(hard_voting.parser().parse(["--sweep", "finetune_cp"]))
    capsys.readouterr()
    summary.run(summary.parser().parse(["--name", "finetune_cp"]))
    lines = capsys.readouterr().out.splitlines()
    (voted,) = (row for way, _, row in submission_rows(read_manifest("finetune_cp")) if way == HARD_VOTE)
    by = "macro-F1" if isinstance(voted, dict) else "log-loss"  # else its answers are those of another file
    assert f"| {by}, people who chose" in next(line for line in lines if line.startswith("submission"))
    assert ("compared by macro-F1: hard vote has no log-loss" in lines) == (by == "macro-F1")
    assert lines[-1].startswith("hand in output/")
