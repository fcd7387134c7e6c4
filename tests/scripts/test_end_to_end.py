"""The scripts on small faces and small backbones, called as people call them."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAST, fails_cleanly, files, in_a_copy, infer, make_people, release_state, soup, train
from forked import command
from PIL import Image

from utils.base.errors import InputError
from utils.models.averaging import average
from utils.models.checkpoints import read_checkpoint
from utils.soups import report

pytestmark = pytest.mark.slow


def test_from_photographs_to_a_submission(trained, faces, monkeypatch):
    _, results = trained
    singles = {name: scores for name, scores in results.items() if "soup" not in name}
    assert len(singles) == 3
    assert results["finetune_cp_seed42_epoch2_greedysoup_num3"]["correct"] >= max(
        s["correct"] for s in singles.values()
    )
    in_a_copy(trained, monkeypatch)
    output = infer(faces, "--save-probs", "--output-dir", "output")
    assert output.name == "output_finetune_cp_seed42_epoch2_greedysoup_num3.csv"
    with open(output) as file:
        rows = list(csv.DictReader(file))
    with open(faces / "eval" / "info.csv") as file:
        assert [row["ImageID"] for row in rows] == [row["ImageID"] for row in csv.DictReader(file)]
    with open(output.with_name(f"{output.stem}_probs.csv")) as file:
        probs = np.array([[float(row[f"p{k}"]) for k in range(18)] for row in csv.DictReader(file)])
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    assert probs.argmax(1).tolist() == [int(row["ans"]) for row in rows]


def test_training_learns_and_keeps_its_logits(trained, faces, monkeypatch):
    folder, results = trained
    checkpoint = read_checkpoint(folder / "model" / "finetune_cp_seed42_i0_epoch2.pt")
    assert checkpoint.meta["scores"]["accuracy"] == results[checkpoint.name]["accuracy"]
    assert checkpoint.meta["scores"]["accuracy_gender"] > 0.7  # 0.5 by chance
    assert len(checkpoint.split["held_out_ids"]) == 6
    in_a_copy(trained, monkeypatch)
    monkeypatch.setattr("utils.models.resident.build", None)  # everything is in the logit cache already
    assert soup(faces, "--greedy-soup", "--uniform-soup") == results


def test_the_soups_log_tells_each_decision_and_what_was_gained(trained):
    lines = (trained[0] / "logs/greedy_soup_log_finetune_cp_seed42_num3_epoch2.txt").read_text().splitlines()
    assert lines[0].startswith("greedy soup by accuracy, 42 images of held-out people (split ")
    verdicts = [line.split()[0] for line in lines[1:4]]
    assert verdicts[0] == "accepted"
    singles = [scores["accuracy"] for name, scores in trained[1].items() if "soup" not in name]
    gained = trained[1]["finetune_cp_seed42_epoch2_greedysoup_num3"]["accuracy"] - sum(singles) / 3
    assert any(line.startswith(f"gain in accuracy over the expected single model: {gained:+.3f} [") for line in lines)
    if verdicts.count("accepted") == 1:
        assert lines[4].startswith("the soup is its best ingredient, finetune_cp_seed42_i")
        assert lines[-2].startswith("greedy kept one of 3: no average has a better accuracy than ")
    assert re.fullmatch(r"2 candidates, \d+ of 84 photographs looked at, [\d.]+ times the \d+ that .*", lines[-1])


def test_the_saved_soup_is_the_average_of_what_it_says(trained):
    for kind in ("uniform", "greedy"):
        saved = read_checkpoint(trained[0] / "model" / f"finetune_cp_seed42_epoch2_{kind}soup_num3.pt")
        members = [read_checkpoint(trained[0] / "model" / one["name"]) for one in saved.meta["made_from"]]
        assert [member.digest for member in members] == [one["digest"] for one in saved.meta["made_from"]]
        expected = average([member.state_dict for member in members])
        assert all(torch.equal(saved.state_dict()[name], tensor) for name, tensor in expected.items())


def test_a_rerun_replaces_logs_and_skips_training(trained, faces, pretrained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    log = Path("logs/individual_results_finetune_cp_seed42_num3_epoch2.jsonl")
    before = {
        path: path.read_bytes() for path in [log, Path("logs/greedy_soup_log_finetune_cp_seed42_num3_epoch2.txt")]
    }
    assert len(log.read_text().splitlines()) == 3
    assert json.loads(log.read_text().splitlines()[0])["people"] == "held-out people"
    stamp = Path("model/finetune_cp_seed42_i0_epoch2.pt").stat().st_mtime_ns
    monkeypatch.setattr("utils.models.clip.build", None)  # no model is made
    train(faces, pretrained, "--i", 0)
    assert Path("model/finetune_cp_seed42_i0_epoch2.pt").stat().st_mtime_ns == stamp
    soup(faces, "--greedy-soup")
    assert {path: path.read_bytes() for path in before} == before


def test_other_options_under_the_same_name_are_an_error(trained, faces, pretrained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    with pytest.raises(InputError, match=r"with other options \(wd 0.1 -> 0.5\).*--overwrite"):
        train(faces, pretrained, "--wd", 0.5)
    train(faces, pretrained, "--wd", 0.5, "--overwrite")
    assert read_checkpoint(Path("model/finetune_cp_seed42_i0_epoch2.pt")).meta["options"]["wd"] == 0.5


def test_a_finished_checkpoint_is_not_replaced_by_a_longer_run(trained, faces, pretrained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    with pytest.raises(InputError, match=r"epoch2.pt was trained with other options \(epochs 2 -> 4"):
        train(faces, pretrained, "--epochs", 4, "--save-every", 2)


def test_a_start_that_has_seen_the_held_out_people_is_an_error(trained, faces, pretrained):
    start = trained[0] / "model" / "finetune_cp_seed42_i0_epoch2.pt"
    with pytest.raises(InputError, match=r"was trained on \d+ of the people held out here"):
        train(faces, pretrained, "--model", start, "--split-seed", 7)


def test_changed_photographs_are_not_scored_from_the_cache(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    shutil.copytree(faces, "other")
    for path in Path("other").rglob("*.jpg"):
        Image.new("RGB", (48, 64), "gray").save(path)
    before = soup(faces, "--eval-individual-models")
    after = soup("other", "--eval-individual-models")
    assert all(after[name]["loss"] != before[name]["loss"] for name in before)


def test_training_is_deterministic_and_workers_play_no_part(trained, faces, pretrained):
    path, _ = train(faces, pretrained, "--i", 0, "--workers", 2)
    assert read_checkpoint(path).digest == read_checkpoint(trained[0] / path).digest


def test_pictures_are_written(trained):
    pictures = sorted(str(path.relative_to(trained[0])) for path in (trained[0] / "val_img").rglob("*.png"))
    assert pictures == [
        "val_img/Age_finetune_cp_seed42_i0_epoch2/predictions.png",
        "val_img/finetune_cp_seed42_i0_epoch2/predictions.png",
        "val_img/finetune_cp_seed42_i1_epoch2/predictions.png",
        "val_img/finetune_cp_seed42_i2_epoch2/augmented.png",
        "val_img/finetune_cp_seed42_i2_epoch2/predictions.png",
    ]


def test_a_plot_shows_ingredients_and_the_soups_of_earlier_calls(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    drawn = []
    monkeypatch.setattr(
        "utils.base.pictures.save_score_plot", lambda path, points, *rest: drawn.append((path, points))
    )
    assert soup(faces, "--plot") == trained[1]  # both soups come from their files
    path, points = drawn[0]
    assert path == Path("val_img/soups_finetune_cp_seed42_num3_epoch2.png")
    assert {kind: len(models) for kind, models in points.items()} == {
        "ingredient": 3,
        "expected single": 1,
        "uniform soup": 1,
        "greedy soup": 1,
        "ensemble": 1,
    }


def test_the_plot_is_drawn(tmp_path, drawn):
    rows = [
        {
            "kind": kind,
            "model": f"m_seed1_i{k}_epoch2.pt",
            "accuracy": 0.5,
            "macro_f1": 0.4 + k / 10,
            "accuracy_interval": (0.4, 0.6),
            "macro_f1_interval": (0.3, 0.7),
        }
        for k, kind in enumerate(("ingredient", "ingredient", "greedy soup"))
    ]
    with Image.open(report.plot(tmp_path / "plot.png", rows, "title")) as picture:
        assert picture.size[0] > 400


def test_a_soup_of_other_ingredients_is_not_told_of(trained, faces, pretrained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    train(faces, pretrained, "--wd", 0.5, "--overwrite")
    torch.save(release_state(0, num_classes=18), "model/finetune_cp_seed42_epoch2_greedysoup_num3.pt")  # no record
    assert not [name for name in soup(faces, "--eval-individual-models") if "soup" in name]


def test_other_labels_than_in_training_are_warned_of(trained, faces, monkeypatch, capsys):
    in_a_copy(trained, monkeypatch)
    soup(faces, "--eval-individual-models")
    assert "other labels" not in capsys.readouterr().out
    person = read_checkpoint(Path("model/finetune_cp_seed42_i0_epoch2.pt")).split["held_out_ids"][0]
    other = "male" if "female" in person else "female"
    Path("relabel.csv").write_text(f"id,attribute,value\n{person},gender,{other}\n")
    soup(faces, "--eval-individual-models", "--relabel", "relabel.csv")
    told = capsys.readouterr().out
    assert "i0_epoch2 was trained under other labels of these people: give the same --relabel" in told


def test_indices_choose_ingredients(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    results = soup(faces, "--uniform-soup", "--indices", 0, 2)
    assert [name[-9:] for name in results][:2] == ["i0_epoch2", "i2_epoch2"]
    assert "finetune_cp_seed42_epoch2_uniformsoup_num2" in results
    with pytest.raises(InputError, match="seed 42 has no index 7"):
        soup(faces, "--uniform-soup", "--indices", 0, 7)


def test_val_ratio_none_scores_everyone_and_selects_nothing(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    results = soup(faces, "--eval-individual-models", "--val-ratio", "None")
    assert {scores["images"] for scores in results.values()} == {210}
    with pytest.raises(InputError, match="--val-ratio None leaves none"):
        soup(faces, "--greedy-soup", "--val-ratio", "None")


def test_another_split_would_score_training_people(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    with pytest.raises(InputError, match=r"was trained on \d+ of the people held out here .*--split-seed 42"):
        soup(faces, "--greedy-soup", "--split-seed", 7)


def test_training_on_everyone_leaves_nobody_to_score_on(faces, pretrained):
    path, scores = train(faces, pretrained, "--val-ratio", 0, "--epochs", 1)
    assert scores is None
    assert path.is_file()
    with pytest.raises(InputError, match="trained on everyone"):
        soup(faces, "--greedy-soup")


def test_options_of_training_work_together(faces, pretrained):
    extra = "--loss-fn ContrastiveLoss --sampler balanced --label-smoothing 0.1 --gradient-accumulation-steps 2"
    extra += " --image-size 40 --head-init random --save-every 1 --aug-strength 0 --age-limits 29,57"
    path, scores = train(faces, pretrained, *extra.split())
    assert path.with_name(path.name.replace("epoch2", "epoch1")).is_file()
    checkpoint = read_checkpoint(path)
    assert checkpoint.config["image_size"] == 40
    assert checkpoint.labelling.limits == {"age": (29, 57)}
    assert np.isfinite(scores["loss"])


def test_the_tracker_runs_offline(faces, pretrained):
    train(faces, pretrained, "--epochs", 1, "--report-to", "wandb")
    assert list(Path("wandb").glob("offline-run-*"))


def test_two_processes_give_the_counts_and_the_soup_of_one(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    one = read_checkpoint(Path("model/finetune_cp_seed42_epoch2_greedysoup_num3.pt"))
    journal = next(Path("logs/journals").glob("greedy_*")).read_text()
    shutil.rmtree("logs")
    result = command("main.py", "--greedy-soup", "--data-location", faces, "--workers", 0, processes=2)
    assert result.returncode == 0, result.stderr
    two = read_checkpoint(Path("model/finetune_cp_seed42_epoch2_greedysoup_num3.pt"))
    assert two.digest == one.digest
    assert next(Path("logs/journals").glob("greedy_*")).read_text() == journal
    assert two.meta["scores"]["correct"] == one.meta["scores"]["correct"]
    rows = Path("logs/individual_results_finetune_cp_seed42_num3_epoch2.jsonl").read_text().splitlines()
    expected = (trained[0] / "logs/individual_results_finetune_cp_seed42_num3_epoch2.jsonl").read_text().splitlines()
    assert [json.loads(row)["correct"] for row in rows] == [json.loads(row)["correct"] for row in expected]


def test_the_originals_checkpoints_go_through_soup_and_inference(faces):
    Path("model").mkdir()
    for i in range(2):
        torch.save(release_state(i, num_classes=18, prefix="module."), f"model/orig_seed1_i{i}_epoch3.pt")
    results = soup(
        faces, "--uniform-soup", "--greedy-soup", "--mean", "0.56,0.524,0.501", "--std", "0.233,0.243,0.246"
    )
    assert "orig_seed1_epoch3_greedysoup_num2" in results
    assert infer(faces).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data-location nowhere --pretrained-location {pretrained}", "nowhere does not exist"),
        ("--data-location {faces} --pretrained-location {pretrained} --i 9", "python main.py --download-models"),
        (
            "--data-location {faces} --pretrained-location {pretrained} --model-location file/x",
            "cannot write into file/x",
        ),
        ("--data-location {faces} --learning-rate 1", "unrecognized arguments"),
        ("--data-location {faces} --lr -1", "-1 is not above 0"),
    ],
)
def test_a_mistake_is_one_error_before_any_work(faces, pretrained, arguments, message):
    Path("file").touch()
    filled = arguments.format(faces=faces, pretrained=pretrained).split()
    fails_cleanly(command("finetune.py", *FAST, *filled), message)
    assert [path for path in files() if not path.endswith(".log")] == ["file"]


def test_broken_photographs_are_one_error(pretrained):
    data = make_people(Path("data"), 6)
    broken = data / "train" / "images" / "000001_female_Asian_23" / "mask3.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    fails_cleanly(
        command("finetune.py", "--pretrained-location", pretrained, *FAST), "000001_female_Asian_23/mask3.jpg"
    )
    broken.write_bytes(whole)
    (data / "train" / "images" / "stranger").mkdir()
    fails_cleanly(command("finetune.py", "--pretrained-location", pretrained, *FAST), "'stranger' is not of the form")
    assert not files("model")


def test_a_full_disk_while_saving_is_one_error(faces, pretrained, monkeypatch):
    path, _ = train(faces, pretrained, "--epochs", 1)  # squares and head are there now
    limit = path.stat().st_size - 1  # so it is the checkpoint that does not fit
    where = ["--data-location", faces, "--pretrained-location", pretrained]
    result = command("finetune.py", *where, *FAST, "--i", 1, "--epochs", 1, limit=limit)
    fails_cleanly(result, "model/states/finetune_cp_seed42_i1_epoch1.pt")  # what is written first
    assert files("model") == ["model/finetune_cp_seed42_i0_epoch1.pt"]


def test_checkpoints_that_do_not_belong_together_are_one_error(trained, faces, pretrained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    before = files("model")
    train(faces, pretrained, "--i", 1, "--random-seed", 7, "--split-seed", 3, "--epochs", 1)
    result = command("main.py", "--greedy-soup", "--data-location", faces)
    fails_cleanly(result, "different splits")
    assert files("model") == sorted([*before, "model/finetune_cp_seed7_i1_epoch1.pt"])
