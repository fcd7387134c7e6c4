"""validation.py and both ensembles in inference.py, on the trained models of the fixture."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    AGE,
    OTHER,
    SOUP,
    answers,
    command,
    fails_cleanly,
    in_a_copy,
    infer,
    probs_of,
    soup,
    train,
    validate,
)

import finetune_age
import summary
from utils.base.errors import InputError
from utils.data import competition
from utils.evaluation.manifest import Manifest
from utils.models.checkpoints import read_checkpoint
from utils.reports.mistakes import confusions, error_rates

pytestmark = pytest.mark.slow


def test_error_rates_are_wrong_of_total_by_hand():
    labelling = competition.labelling()
    labels = np.array([0, 0, 0, 13, 13, 5])  # worn male young, not worn male middle, worn female old
    preds = np.array([0, 1, 0, 13, 4, 5])
    rates = {
        (rate.attribute, rate.value): rate for rate in error_rates(confusions(labels, preds, labelling), labelling)
    }
    assert len(rates) == 18 + 3 + 2 + 3
    by_hand = {
        ("class", "worn, male, under 30"): (1, 3),
        ("class", "not_worn, male, 30 to 59"): (1, 2),
        ("class", "incorrect, male, under 30"): (0, 0),
        ("mask", "worn"): (0, 4),
        ("mask", "not_worn"): (1, 2),
        ("gender", "male"): (1, 5),
        ("age", "under 30"): (1, 3),
        ("age", "30 to 59"): (0, 2),
    }
    assert {key: (rates[key].wrong, rates[key].total) for key in by_hand} == by_hand
    assert str(rates["mask", "not_worn"]).split() == ["mask", "not_worn", "1", "of", "2", "wrong", "50.0", "%"]
    assert str(rates["class", "incorrect, male, under 30"]).split()[-1] == "-"


def test_validation_shows_the_model_and_what_ensembles_change(trained, faces, monkeypatch, caplog):
    in_a_copy(trained, monkeypatch)
    rows = validate(faces, "--weighted-ensemble", AGE, "--soft-voting", OTHER)
    assert [row["kind"] for row in rows] == ["single", "soft vote", "age specialist", "weighted", "hard vote"]
    single = trained[1][SOUP]  # without --model-name it is the only greedy soup
    assert (rows[0]["model"], rows[0]["accuracy"], rows[0]["macro_f1"]) == (
        SOUP,
        single["accuracy"],
        single["macro_f1"],
    )
    assert all(row["accuracy_interval"][0] <= row["accuracy"] <= row["accuracy_interval"][1] for row in rows)
    recorded = read_checkpoint(Path(f"model/{AGE}.pt")).meta["scores"]
    assert rows[2]["accuracy"] == recorded["accuracy"]
    folder = Path("val_img") / SOUP
    wrong = round(rows[0]["images"] * (1 - rows[0]["accuracy"]))
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *(f"confusion_{name}.png" for name in ("class", "mask", "gender", "age")),
        *(f"misclassified_{sheet:03d}.png" for sheet in range(1, -(-wrong // 48) + 1)),
    }
    tuned = json.loads(next(Path("logs").glob("ensemble_*.json")).read_text())
    assert tuned["cross_fitted"]["accuracy"] == rows[3]["accuracy"]
    assert tuned["model"]["digest"] == read_checkpoint(Path(f"model/{SOUP}.pt")).digest
    saved = [json.loads(line) for line in Path(f"logs/validation_results_{SOUP}.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in saved] == [row["kind"] for row in rows]


def test_a_plain_call_keeps_what_an_earlier_one_said_of_ensembles(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    validate(faces, "--weighted-ensemble", AGE)
    validate(faces)
    validate(faces, "--soft-voting", OTHER)
    path = Path(f"logs/validation_results_{SOUP}.jsonl")
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert sorted(kinds) == ["age specialist", "single", "soft vote", "weighted"]


def test_sheets_that_are_no_longer_needed_are_removed(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    stale = Path("val_img") / SOUP / "misclassified_999.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    validate(faces)
    assert not stale.exists()


def test_pictures_and_tables_of_everyone_lie_in_a_place_of_their_own(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    validate(faces, "--report")
    soup(faces, "--uniform-soup", "--plot")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.suffix in (".png", ".html", ".txt")}
    validate(faces, "--report", "--val-ratio", "None")
    soup(faces, "--uniform-soup", "--plot", "--val-ratio", "None")
    assert {path: path.read_bytes() for path in before} == before
    made = {path.name for path in Path("val_img").rglob("*.*") if "everyone_" in str(path)}
    assert {"report.html", "confusion_class.png", "soups_everyone_finetune_cp_seed42_num3_epoch2.png"} <= made
    assert Path("logs/recipes_everyone_finetune_cp_seed42_num3_epoch2.txt").is_file()


def test_a_model_is_compared_with_another_one_of_the_same_split_only(trained, faces, pretrained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    with pytest.raises(InputError, match=r"--compare-with .* has the model's own weights"):
        validate(faces, "--model-name", OTHER, "--compare-with", OTHER)
    with pytest.raises(InputError, match="is an age specialist of 3 classes"):
        validate(faces, "--model-name", OTHER, "--compare-with", AGE)
    with pytest.raises(InputError, match="names all models itself: leave --compare-with out"):
        validate(faces, "--sweep", "finetune_cp", "--compare-with", OTHER)
    with pytest.raises(InputError, match="has members of its own: leave --compare-with out"):
        validate(faces, "--ensemble", "auto", "--compare-with", OTHER)


def test_a_checkpoint_is_found_by_index_and_seed(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    assert validate(faces, "--i", 1)[0]["model"] == OTHER
    assert validate(faces, "--model-name", OTHER, "--random-seed", 42)[0]["model"] == OTHER
    assert validate(faces, "--model-name", SOUP, "--random-seed", 42)[0]["model"] == SOUP
    with pytest.raises(InputError, match=r"--i \d.*, not 99: leave --i out"):
        validate(faces, "--model-name", SOUP, "--i", 99)
    with pytest.raises(InputError, match="give one of them"):
        validate(faces, "--model-name", SOUP, "--name", "finetune_cp")
    with pytest.raises(InputError, match="was trained with --random-seed 42, not 7: leave --random-seed out"):
        validate(faces, "--model-name", OTHER, "--random-seed", 7)
    with pytest.raises(InputError, match=r"must mean one checkpoint, they mean .*_i0_.*_i1_.*_i2_"):
        validate(faces, "--random-seed", 42)


def test_the_split_is_the_checkpoints_own(trained, faces, pretrained, monkeypatch):
    train(faces, pretrained, "--split-seed", 7, "--val-ratio", 0.3, "--epochs", 1)
    row = validate(faces)[0]
    assert row["persons"] == 9  # 0.3 of 30, without a word about the split
    with pytest.raises(InputError, match="was trained on"):
        validate(faces, "--split-seed", 42)
    everyone = validate(faces, "--val-ratio", "None")[0]
    assert everyone["persons"] == 30
    with pytest.raises(InputError, match="--val-ratio None leaves none"):
        validate(faces, "--val-ratio", "None", "--weighted-ensemble", "whatever.pt")


def test_inference_applies_the_weight_that_validation_tuned(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    single = probs_of(infer(faces, "--save-probs"))
    untuned = infer(faces, "--weighted-ensemble", AGE, "--save-probs")
    assert untuned.name == f"output_{SOUP}_WE_{AGE}.csv"
    by_one = probs_of(untuned)
    validate(faces, "--weighted-ensemble", AGE)
    path = next(Path("logs").glob("ensemble_*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "weight": 0.5}))
    by_half = probs_of(infer(faces, "--weighted-ensemble", AGE, "--save-probs"))
    # log p18 + w log p3: half the weight lies half-way between none and one, up to each row's constant
    log_ratio = np.log(by_half) - (np.log(single) + np.log(by_one)) / 2
    np.testing.assert_allclose(log_ratio - log_ratio.mean(1, keepdims=True), 0, atol=1e-4)
    assert list(answers(untuned).values()) == by_half.argmax(1).tolist()  # the file of the second call


def test_inference_soft_votes_over_any_number_of_models(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    names = [f"finetune_cp_seed42_i{i}_epoch2" for i in range(3)]
    singles = [probs_of(infer(faces, "--model-name", name, "--save-probs")) for name in names]
    arguments = ["--model-name", names[0], "--soft-voting", *names[1:], "--soft-voting-rule", "mean", "--save-probs"]
    voted = infer(faces, *arguments)
    assert voted.name == f"output_{names[0]}_SV_{names[1]}_{names[2]}_mean.csv"
    np.testing.assert_allclose(probs_of(voted), sum(singles) / 3, atol=1e-6)


def test_the_summary_tells_of_every_model_and_scores_submissions(trained, faces, monkeypatch, capsys):
    in_a_copy(trained, monkeypatch)
    validate(faces, "--weighted-ensemble", AGE, "--soft-voting", OTHER)
    submission = infer(faces)
    given = answers(submission)
    rows = "".join(f"{name},{answer},p{k // 2}\n" for k, (name, answer) in enumerate(given.items()))
    Path("truth.csv").write_text("ImageID,ans,person\n" + rows)
    capsys.readouterr()
    summary.main(["--name", "finetune_cp", "--truth", "truth.csv"])
    held_out, test = capsys.readouterr().out.strip().split("\n\n")  # one submission, so nothing to compare
    kinds = [line[:23].strip() for line in held_out.splitlines()[1:]]
    ensembles = ["soft vote", "age specialist", "weighted", "hard vote"]
    assert kinds == ["ingredient"] * 3 + ["expected single", "uniform soup", "greedy soup", "ensemble", *ensembles]
    scores = [float(line.split("accuracy ")[1].split()[0]) for line in held_out.splitlines()[1:4]]
    assert scores == sorted(scores, reverse=True)
    assert "accuracy 1.000 [1.000, 1.000]" in test.splitlines()[1]
    assert submission.name in test


def test_the_summary_leaves_out_what_is_stale_or_scored_on_others(trained, faces, pretrained, monkeypatch, capsys):
    in_a_copy(trained, monkeypatch)
    voting = ["--model-name", SOUP.replace("greedy", "uniform"), "--soft-voting", OTHER]
    validate(faces, *voting)
    validate(faces, *voting, "--val-ratio", "None")
    soup(faces, "--eval-individual-models", "--val-ratio", "None")

    def told():
        capsys.readouterr()
        summary.main(["--name", "finetune_cp"])
        return capsys.readouterr().out

    assert told().splitlines()[0].startswith("held-out people: 6 people")
    assert told().count("soft vote") == 1
    train(faces, pretrained, "--wd", 0.5, "--overwrite")  # index 0, so the uniform soup changes
    soup(faces, "--greedy-soup", "--uniform-soup")
    assert "soft vote" not in told()


def test_the_summary_of_one_sweep_lists_no_file_of_another(capsys):
    Path("output").mkdir()
    Path("logs").mkdir()
    Path("truth.csv").write_text("ImageID,ans,person\na.jpg,3,p\nb.jpg,3,q\n")
    for name in ("output_one_seed1_i0_epoch2", "output_two_seed1-2_epoch2_greedysoup_num2"):
        Path(f"output/{name}.csv").write_text("ImageID,ans\na.jpg,3\nb.jpg,4\n")
    with pytest.raises(InputError, match=r"several sweeps \(one, two\): name one with --name"):
        summary.main(["--truth", "truth.csv"])
    scores = {"accuracy": 0.5, "accuracy_interval": [0, 1], "macro_f1": 0.5, "macro_f1_interval": [0, 1]}
    known = {"people": "held-out people", "split": "s", "digest": "d", "images": 2, "persons": 2}
    Path("logs/rows.jsonl").write_text(json.dumps({"kind": "ingredient", "model": "m.pt", **known, **scores}) + "\n")
    for name in ("one", "three"):  # inference.py has written no submissions of them with --sweep
        Manifest(
            name=name, metric="macro_f1", best="m.pt", soups={"greedy": "g.pt"}, scores=["logs/rows.jsonl"]
        ).write()
    summary.main(["--name", "one", "--truth", "truth.csv"])
    told = capsys.readouterr().out
    assert "output_one_seed1_i0_epoch2.csv" in told
    assert "two" not in told
    with pytest.raises(InputError, match=r"no submissions of three for the images of truth\.csv"):
        summary.main(["--name", "three", "--truth", "truth.csv"])


def test_submissions_of_other_images_are_left_out_unless_they_are_named(capsys):
    Path("output").mkdir()
    files = {
        "truth": "a3 b3",
        "output/output_bad": "b4 a4",
        "output/output_good": "b3 a3",
        "output/output_old": "x3 y3",
    }
    for name, rows in files.items():
        lines = (f"{row[0]}.jpg,{row[1]}\n" for row in rows.split())
        Path(f"{name}.csv").write_text("ImageID,ans\n" + "".join(lines))
    with pytest.raises(InputError, match=r"truth\.csv has no column person"):
        summary.main(["--truth", "truth.csv"])
    Path("truth.csv").write_text("ImageID,ans,person\na.jpg,3,p\nb.jpg,3,\n")
    with pytest.raises(InputError, match=r"truth\.csv, line 3: the column person is blank"):
        summary.main(["--truth", "truth.csv", "output/output_good.csv"])
    Path("truth.csv").write_text("ImageID,ans,person\na.jpg,3,p\nb.jpg,3,q\n")
    summary.main(["--truth", "truth.csv"])
    told = capsys.readouterr().out
    assert "output_old" not in told
    above = told.split("above output_bad.csv")[1].splitlines()
    assert above[1] == (
        "accuracy +1.000 [+1.000, +1.000], a gain in 100%; macro-F1 +1.000 [+1.000, +1.000], a gain in 100%  "
        "output_good.csv"
    )
    with pytest.raises(InputError, match=r"output_old\.csv lacks 2 images"):
        summary.main(["--truth", "truth.csv", "output/output_old.csv"])


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("inference.py", f"--model-name {AGE}", "is an age specialist of 3 classes, not a model of all classes"),
        ("validation.py", f"--model-name {AGE}", "is an age specialist of 3 classes, not a model of all classes"),
        ("inference.py", f"--weighted-ensemble {OTHER}", "is a model of 18 classes, not a specialist of"),
        ("validation.py", f"--soft-voting {OTHER} {AGE}", "is an age specialist of 3 classes, not a model of"),
        ("inference.py", "--weighted-ensemble nowhere", "no checkpoint nowhere"),
        ("inference.py", f"--weighted-ensemble {AGE} --soft-voting {OTHER}", "not allowed with argument"),
        ("inference.py", "--soft-voting-rule log", "is for --soft-voting, which is not given"),
        ("summary.py", "--name nobody", "no scores of a sweep nobody"),
        ("summary.py", "", "nothing to sum up"),
    ],
)
def test_a_mistake_is_one_error(trained, faces, monkeypatch, script, arguments, message):
    in_a_copy(trained, monkeypatch)
    where = [] if script == "summary.py" else ["--data-location", faces]
    fails_cleanly(command(script, *where, *arguments.split()), message)
    assert not Path("output").exists() or not list(Path("output").iterdir())


def test_an_ensemble_under_other_age_limits_is_an_error(trained, faces, pretrained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    train(faces, pretrained, "--epochs", 1, "--name", "other", "--age-limits", "29,57", script=finetune_age)
    arguments = ["--data-location", faces, "--weighted-ensemble", "Age_other_seed42_i0_epoch1"]
    for script in ("validation.py", "inference.py"):
        fails_cleanly(command(script, *arguments), "other age limits ((30, 60) and (29, 57))")


def test_an_image_that_info_csv_names_and_that_is_not_there(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    Path("eval/images").mkdir(parents=True)
    Path("eval/info.csv").write_text("ImageID,ans\nghost.jpg,0\n")
    result = command("inference.py", "--data-location", "eval")
    fails_cleanly(result, "names 1 images that are not in eval/images, the first: ghost.jpg")
