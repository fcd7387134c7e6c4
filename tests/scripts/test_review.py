"""validation.py --review, and what corrections change in scores and comparisons."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import OTHER, in_a_copy, validate

from utils.base.errors import InputError
from utils.data.reading import read_photographs
from utils.data.splits import Split
from utils.models.checkpoints import read_checkpoint
from utils.review.reviewers import scope_line

pytestmark = pytest.mark.slow

ONE, TWO = "finetune_cp_seed42_i0_epoch1", "finetune_cp_seed42_i1_epoch1"


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch):
    monkeypatch.setattr("utils.reports.mistakes.save_report", lambda *_: [])


def rows_of(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_review_lists_suspects_of_everybody_and_accepted_ones_do_not_come_back(
    trained_folds, faces, monkeypatch, capsys
):
    in_a_copy(trained_folds, monkeypatch)
    wrong = Path("relabel.csv")
    wrong.write_text("id,attribute,value\n000003,age,61\n")
    suspects = validate(faces, "--review", "--relabel", wrong, "--accept-above", 0)
    told = capsys.readouterr().out
    assert "finetune_cp, 2 models: all 30 people are reviewed, each by models that were trained without them" in told
    assert "relabel.csv has changed the labels of 7 of their photographs" in told
    assert told.count("was trained under other labels of these people") == 2  # each model once, and not each fold
    table = rows_of("logs/suspects_finetune_cp.csv")
    assert [row["id"] for row in table] == [one["id"] for one in suspects]
    assert not [one for one in suspects if one["attribute"] == "age" and one["id"].startswith("000003")]
    correctable = [one for one in suspects if one["accept"]]
    assert correctable
    assert f"accepted {len(correctable)} suspects above 0, in relabel.csv" in told
    decisions = rows_of(wrong)
    assert decisions[0] == {"id": "000003_female_Asian_48", "attribute": "age", "value": "61", "decision": "corrected"}
    assert len(decisions) == 1 + sum(len(one["accept"]) for one in correctable)
    page = Path("val_img/finetune_cp/review.html").read_text()
    assert "000003_female_Asian_48" in page

    changed = read_photographs(faces, wrong).relabelled
    again = validate(faces, "--review", "--relabel", wrong)
    about = {(row.id, row.attribute) for one in correctable for row in one["accept"]}
    assert not about & {(row.id, row.attribute) for one in again for row in one["accept"]}

    (row,) = validate(faces, "--i", 0, "--relabel", wrong)
    assert row["relabelled"] == changed.sum() > 7
    kept = [json.loads(line) for line in Path(f"logs/validation_results_{ONE}.jsonl").read_text().splitlines()]
    assert kept[0]["relabelled"] == changed.sum()
    assert f"{changed.sum()} of them relabelled" in capsys.readouterr().out


def test_one_model_reviews_alone_and_a_single_split_only_whom_it_holds_out(trained, faces, monkeypatch, capsys):
    in_a_copy(trained, monkeypatch)
    suspects = validate(faces, "--review", "--model-name", OTHER)
    assert f"{OTHER}, 1 model: only the 6 held-out people of 30 can be reviewed" in capsys.readouterr().out
    held_out = read_checkpoint(Path(f"model/{OTHER}.pt")).split["held_out_ids"]
    assert {one["id"].partition("/")[0] for one in suspects} <= set(held_out)
    assert Path(f"logs/suspects_{OTHER}.csv").is_file()


def test_people_whose_labels_the_models_have_learned_are_not_reviewed():
    split = Split("image", 42, 0.2, np.arange(2), np.arange(2, 4), ("a/1", "b/1"), ("a/2", "b/2"))
    with pytest.raises(InputError, match="the split is by image, so that the models have learned the labels"):
        scope_line([split], 0)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--accept-above"], "--accept-above 0.5 accepts suspects of --review: add --review"),
        (["--review", "--val-ratio", "None"], "leave --val-ratio out"),
        (["--review", "--report"], "--review goes by the models of a sweep, or by --model-name: leave --report out"),
        (["--review", "--compare-with", "x"], "leave --compare-with out"),
        (["--review", "--ensemble", "auto"], "leave --ensemble out"),
    ],
)
def test_what_a_review_cannot_do_is_said_at_once(extra, message):
    with pytest.raises(InputError, match=message):
        validate("nowhere", *extra)


def test_the_gain_over_a_model_is_told_with_and_without_the_people_whose_labels_were_corrected(
    trained_folds, faces, monkeypatch, capsys
):
    in_a_copy(trained_folds, monkeypatch)
    rows = "000000,gender,female,corrected\n000001/normal,mask,worn,\n000002,gender,male,reviewed\n"
    Path("relabel.csv").write_text(f"id,attribute,value,decision\n{rows}")
    validate(faces, "--i", 1, "--compare-with", ONE, "--relabel", "relabel.csv", "--report")
    told = capsys.readouterr().out
    assert f"gain over {ONE}: " in told
    line = "relabel.csv changes 8 of these photographs, of 2 people; on the 28 other people the gain is accuracy "
    assert line in told
    page = (Path("val_img") / TWO / "report.html").read_text()
    assert line.removesuffix("accuracy ") in page
    assert "relabel.csv changed the labels of 8 of these photographs" in page
    validate(faces, "--i", 1, "--compare-with", ONE)
    assert "relabel.csv changes" not in capsys.readouterr().out
