"""validation.py and inference.py on models across folds: everybody is scored by models that have not seen them."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    FOLDS,
    answers,
    in_a_copy,
    infer,
    probs_of,
    soup,
    train_folds,
    validate,
)

import finetune
import finetune_age
import inference
import summary
import validation
from utils.base.errors import InputError
from utils.base.runtime import start_runtime
from utils.data.decoding import decode
from utils.data.reading import read_photographs
from utils.data.splits import recorded_split
from utils.ensembles.candidates import find_candidates
from utils.evaluation.held_out import views
from utils.evaluation.manifest import AUTO_ENSEMBLE, BEST_SINGLE, GREEDY, HARD_VOTE, SOFT_VOTE, WEIGHTED, read_manifest
from utils.evaluation.manifest import SOUP as SOUP_ALONE
from utils.evaluation.people import read_people
from utils.evaluation.scores import log_softmax
from utils.models.checkpoints import read_checkpoint, save_checkpoint
from utils.models.folded import everyone_split, read_model, soup_across_folds
from utils.models.starts import fold_file
from utils.models.sweeps import Several, choose_checkpoint, find_checkpoint

pytestmark = pytest.mark.slow

NAME, MODEL = "finetune_cp", Path("model")
SOUP, UNIFORM, ONE, TWO, AGE = (
    "finetune_cp_seed42_epoch1_greedysoup_num2",
    "finetune_cp_seed42_epoch1_uniformsoup_num2",
    "finetune_cp_seed42_i0_epoch1",
    "finetune_cp_seed42_i1_epoch1",
    "Age_finetune_cp_seed42_i0_epoch1",
)
AUTO = f"logs/ensemble_{NAME}_auto.json"


@pytest.fixture(autouse=True)
def _few_pictures(request, monkeypatch):
    """Sheets of mistakes are drawn for the page only: they take seconds."""
    if "page" not in request.node.name:
        monkeypatch.setattr("utils.reports.mistakes.save_report", lambda *_: [])


def fold_names(name: str) -> list[str]:
    return [name.replace("_epoch", f"_fold{fold}of{FOLDS}_epoch") for fold in range(FOLDS)]


def read(name: str):
    return soup_across_folds(read_model(MODEL / f"{name}.pt"))


def people(faces, *names):
    """What validation.py scores these models on."""
    options = validation.parser().parse(["--data-location", str(faces), "--workers", "0"])
    return read_people(start_runtime("validation"), options, [read(name) for name in names])


def log_probs(faces, *arguments):
    """Of the submission that inference.py writes with these arguments."""
    return np.log(probs_of(infer(faces, "--save-probs", *arguments)))


def of_folds(faces, name: str):
    """The mean of the log-probabilities that the files of the folds give one by one."""
    return np.mean([log_probs(faces, "--model-name", one) for one in fold_names(name)], 0)


def save_again(path: Path, checkpoint, state_dict=None, **changes) -> str:
    """Write a checkpoint under another name and with changes to its record; returns its digest."""
    meta = {key: value for key, value in checkpoint.meta.items() if key != "versions"}
    return save_checkpoint(path, state_dict or checkpoint.state_dict(), {**meta, **changes})


def test_everybody_is_scored_by_the_fold_that_has_not_seen_them(trained_folds, faces, monkeypatch, caplog):
    in_a_copy(trained_folds, monkeypatch)
    everybody, photographs = people(faces, ONE), read_photographs(faces)
    held_out = everybody.view(read(ONE))
    assert sorted(held_out.ids) == sorted(photographs.ids)
    logits = dict(zip(held_out.ids, held_out.logits(read(ONE)), strict=True))
    seen = 0
    for name in fold_names(ONE):
        own = read_checkpoint(MODEL / f"{name}.pt")
        rows = np.flatnonzero(np.isin(photographs.names, own.split["held_out_ids"]))
        squares = np.stack([decode(photographs.folder / photographs.files[row], 32) for row in rows])
        with torch.inference_mode():
            by_hand = own.build().outputs(torch.from_numpy(squares), own.preprocessing).numpy()
        np.testing.assert_allclose([logits[photographs.ids[row]] for row in rows], by_hand, atol=1e-5)
        seen += len(rows)
    assert seen == len(photographs)
    labels = photographs.labels(read(ONE).labelling)
    np.testing.assert_array_equal(everybody.class_counts(read(ONE).labelling), np.bincount(labels, minlength=18))

    (row,) = validate(faces, "--i", 0)
    assert (row["model"], row["persons"], row["estimate"]) == (ONE, 30, "out of fold")
    right = [logits[one].argmax() == label for one, label in zip(photographs.ids, labels, strict=True)]
    assert row["accuracy"] == np.mean(right)
    (row,) = validate(faces)  # without --model-name it is the only greedy soup
    assert (row["model"], row["accuracy"]) == (SOUP, trained_folds[1][SOUP]["accuracy"])
    (one_fold,) = validate(faces, "--model-name", fold_names(ONE)[1])
    assert one_fold["persons"] == 10
    assert "estimate" not in one_fold
    (everyone,) = validate(faces, "--i", 0, "--val-ratio", "None")  # with the average of the folds
    assert everyone["persons"] == 30
    assert "estimate" not in everyone


def test_no_label_of_a_person_reaches_the_model_that_scores_this_person(
    trained_folds, faces, pretrained, tmp_path, monkeypatch
):
    in_a_copy(trained_folds, monkeypatch)
    before = [read_checkpoint(MODEL / f"{name}.pt") for name in fold_names(ONE)]
    held_out = before[0].split["held_out_ids"]
    poison = "".join(f"{one.split('_')[0]},gender,{'male' if 'female' in one else 'female'}\n" for one in held_out)
    Path("relabel.csv").write_text(f"id,attribute,value\n{poison}")
    how = ["--epochs", 1, "--relabel", "relabel.csv", "--model-location", "again"]
    train_folds(faces, pretrained, *how, runs=["42:0:0", "42:0:1"])
    after = [read_checkpoint(Path("again") / f"{name}.pt") for name in fold_names(ONE)[:2]]
    assert after[0].digest == before[0].digest
    assert after[0].family["inputs"] == before[0].family["inputs"]
    assert after[1].digest != before[1].digest  # which learned from these labels
    assert after[1].family["inputs"] != before[1].family["inputs"]

    options = validation.parser().parse(["--data-location", str(faces), "--workers", "0"])
    logits = []
    for location, checkpoint in ((MODEL, before[0]), (Path("again"), after[0])):
        photographs = read_photographs(faces, None if location == MODEL else Path("relabel.csv"))
        monkeypatch.setattr("utils.evaluation.held_out.load_logits", lambda *_: None)
        split = recorded_split(photographs, checkpoint.split)
        view = views(start_runtime("validation"), photographs, split.held_out, options)(checkpoint)
        logits.append(view.logits(checkpoint))
        labels = view.labels
    np.testing.assert_array_equal(*logits)
    assert (labels != read_photographs(faces).labels(checkpoint.labelling)[split.held_out]).all()


def test_inference_predicts_with_the_average_of_the_folds_or_with_all_of_them(trained_folds, faces, monkeypatch):
    in_a_copy(trained_folds, monkeypatch)
    states = [read_checkpoint(MODEL / f"{name}.pt").state_dict() for name in fold_names(ONE)]
    mean = {name: sum(one[name].double() for one in states).div(FOLDS).float() for name in states[0]}
    save_again(MODEL / "hand.pt", read_checkpoint(MODEL / f"{fold_names(ONE)[0]}.pt"), mean)
    by_soup = infer(faces, "--model-name", ONE, "--save-probs")
    np.testing.assert_array_equal(probs_of(by_soup), probs_of(infer(faces, "--model-name", "hand", "--save-probs")))
    by_folds = infer(faces, "--model-name", ONE, "--members", "folds", "--save-probs")
    assert (by_soup.name, by_folds.name) == (f"output_{ONE}.csv", f"output_{ONE}_folds.csv")
    wanted = log_softmax(of_folds(faces, ONE))
    np.testing.assert_allclose(np.log(probs_of(by_folds)), wanted, atol=1e-4)
    assert list(answers(by_folds).values()) == wanted.argmax(1).tolist()
    soup_record, folds_record = (json.loads(Path(f"{one}.json").read_text()) for one in (by_soup, by_folds))
    (member,) = folds_record["members"]
    assert member["folds"] == [read_checkpoint(MODEL / f"{name}.pt").digest for name in fold_names(ONE)]
    assert {key: value for key, value in member.items() if key != "folds"} == soup_record["members"][0]
    assert (soup_record["how"], folds_record["how"]) == ({}, {"members": "folds"})
    assert folds_record["sweep"] == NAME

    flipped = log_probs(faces, "--model-name", ONE, "--members", "folds", "--flip")
    each = [log_probs(faces, "--model-name", name, "--flip") for name in fold_names(ONE)]
    np.testing.assert_allclose(flipped, log_softmax(np.mean(each, 0)), atol=1e-4)


def test_the_age_specialist_is_tuned_out_of_fold_and_used_either_way(trained_folds, faces, monkeypatch, capsys):
    in_a_copy(trained_folds, monkeypatch)
    rows = validate(faces, "--model-name", ONE, "--weighted-ensemble", AGE, "--soft-voting", TWO)
    assert [row["kind"] for row in rows] == ["single", "soft vote", "age specialist", "weighted", "hard vote"]
    assert all(row["persons"] == 30 for row in rows)
    path = Path(f"logs/ensemble_{ONE}_WE_{AGE}.json")
    tuned = json.loads(path.read_text())
    assert (tuned["model"]["digest"], tuned["age"]["digest"]) == (read(ONE).digest, read(AGE).digest)
    assert tuned["people"].startswith("all people, each scored by models trained without their fold")
    path.write_text(json.dumps({**tuned, "weight": 0.5}))
    capsys.readouterr()
    one = ["--model-name", ONE, "--weighted-ensemble"]
    by_folds = log_probs(faces, *one, AGE, "--members", "folds")
    assert "1.0 is taken" not in capsys.readouterr().out
    # an age specialist of one fold beside the model of that fold tells log p_age, up to each row's constant
    ages = [
        log_probs(faces, "--model-name", name, "--weighted-ensemble", age) - log_probs(faces, "--model-name", name)
        for name, age in zip(fold_names(ONE), fold_names(AGE), strict=True)
    ]
    wanted = of_folds(faces, ONE) + 0.5 * np.mean(ages, 0)
    np.testing.assert_allclose(by_folds, log_softmax(wanted), atol=1e-4)


def test_an_ensemble_has_recipes_as_members_and_serves_either_way(trained_folds, faces, monkeypatch):
    in_a_copy(trained_folds, monkeypatch)
    rows = validate(faces, "--ensemble", "auto")
    assert all((row["persons"], row["estimate"]) == (30, "out of fold") for row in rows)
    chosen = json.loads(Path(AUTO).read_text())
    assert {one["name"] for one in chosen["members"]} <= {ONE, TWO, AGE, SOUP, UNIFORM}
    members = [
        {"name": name, "file": f"{name}.pt", "digest": read(name).digest, "kind": "single", "flip": False,
         "weight": weight} for name, weight in ((ONE, 0.5), (TWO, 0.25), (UNIFORM, 0.25))
    ]  # fmt: skip
    bias = np.linspace(-1, 1, 18)
    Path(AUTO).write_text(json.dumps({**chosen, "members": members, "temperature": 0.7, "bias": bias.tolist()}))
    for how, each in (
        ("soup", [log_probs(faces, "--model-name", one["name"]) for one in members]),
        ("folds", [log_probs(faces, "--model-name", one["name"], "--members", "folds") for one in members]),
    ):
        mean = sum(one["weight"] * own for one, own in zip(members, each, strict=True))
        wanted = log_softmax(log_softmax(mean / 0.7) + bias)
        np.testing.assert_allclose(log_probs(faces, "--ensemble", AUTO, "--members", how), wanted, atol=1e-4)
    (MODEL / f"{fold_names(TWO)[2]}.pt").unlink()
    with pytest.raises(InputError, match=f"needs model/{TWO}.pt, which is not there"):
        infer(faces, "--ensemble", AUTO)


def test_what_has_seen_everybody_or_one_fold_less_is_no_candidate(trained_folds, faces, monkeypatch):
    in_a_copy(trained_folds, monkeypatch)
    parts = [read_checkpoint(MODEL / f"{name}.pt") for name in fold_names(ONE)]
    whole = read(SOUP)
    everyone = everyone_split(parts)
    on_all = f"finetune_cp_seed42_i0_foldallof{FOLDS}_epoch1"
    save_again(MODEL / f"{on_all}.pt", parts[0], ingredient={**parts[0].meta["ingredient"], "fold": "all"},
               split=everyone)  # fmt: skip
    refit = {"made_from": [{"name": f"{on_all}.pt", "digest": "d", "weight": 1.0, "fold": "all"}], "split": everyone}
    options = {**whole.meta["options"], "recipe": "greedy refit"}
    save_again(MODEL / "finetune_cp_seed42_epoch1_greedyrefitsoup_num2.pt", whole, **refit, options=options)
    for fold, part in enumerate(whole.parts):
        of_fold = {"made_from": [{"name": f"{fold_names(ONE)[fold]}.pt", "digest": "d", "weight": 1.0, "fold": fold}]}
        save_again(fold_file(whole.path, fold, FOLDS), part, **of_fold, options=whole.meta["options"])
    found = find_candidates(MODEL)
    assert {one.name for one in found} <= {SOUP, UNIFORM, ONE, TWO, AGE}
    weights = [tuple(part.digest for part in read(name).parts) for name in (SOUP, UNIFORM, ONE, TWO, AGE)]
    assert {tuple(part.digest for part in one.checkpoint.parts) for one in found} == set(weights)
    assert len(found) == len(set(weights))  # a soup of one is that one
    assert find_checkpoint(None, MODEL) == MODEL / f"{SOUP}.pt"
    for name in (on_all, "finetune_cp_seed42_epoch1_greedyrefitsoup_num2"):
        with pytest.raises(InputError, match="trained on everyone"):
            validate(faces, "--model-name", name)
        with pytest.raises(InputError, match="is one model and has no folds: leave --members out"):
            infer(faces, "--model-name", name, "--members", "folds")
        assert infer(faces, "--model-name", name).name == f"output_{name}.csv"


def test_models_across_folds_go_by_the_name_without_the_fold(trained_folds, monkeypatch):
    in_a_copy(trained_folds, monkeypatch)

    def chosen(*arguments, by_name=False):
        return choose_checkpoint(validation.parser().parse(list(map(str, arguments))), by_name)

    for by_name in (False, True):
        for asked in (["--i", 1], ["--model-name", TWO], ["--model-name", f"model/{TWO}.pt"]):
            assert chosen(*asked, by_name=by_name) == MODEL / f"{TWO}.pt"
        assert chosen("--model-name", AGE, by_name=by_name) == MODEL / f"{AGE}.pt"
        assert chosen(by_name=by_name) == MODEL / f"{SOUP}.pt"
        with pytest.raises(Several, match=f"they mean {ONE}.pt, {TWO}.pt"):
            chosen("--random-seed", 42, by_name=by_name)
    assert chosen("--model-name", SOUP, "--random-seed", 42) == MODEL / f"{SOUP}.pt"
    with pytest.raises(InputError, match=r"was trained with --i 1, not 0: leave --i out"):
        chosen("--model-name", TWO, "--i", 0)
    for name in (SOUP, UNIFORM):
        (MODEL / f"{name}.pt").unlink()
    with pytest.raises(Several, match=f"choose one with --model-name: {ONE}.pt, {TWO}.pt"):
        chosen()
    for name in fold_names(ONE)[1:]:
        (MODEL / f"{name}.pt").unlink()
    assert chosen() == MODEL / f"{TWO}.pt"  # the other one lacks folds
    with pytest.raises(InputError, match=f"no checkpoint {ONE}, neither here nor in model"):
        chosen("--model-name", ONE)


def test_a_folded_and_an_unfolded_model_are_never_scored_together(trained, trained_folds, faces, monkeypatch):
    in_a_copy(trained_folds, monkeypatch)
    (MODEL / "plain.pt").write_bytes((trained[0] / "model" / "finetune_cp_seed42_i1_epoch2.pt").read_bytes())
    for flag in ("--soft-voting", "--compare-with"):
        for model, other in ((ONE, "plain"), ("plain", ONE)):
            with pytest.raises(InputError, match=f"{model}.pt and {other}.pt were trained on different splits"):
                validate(faces, "--model-name", model, flag, other)
    with pytest.raises(InputError, match="different splits"):
        validate(faces, "--model-name", ONE, "--compare-with", fold_names(TWO)[0])
    with pytest.raises(InputError, match="is scored on the people of its folds: leave --split-seed out"):
        validate(faces, "--model-name", ONE, "--split-seed", 7)


def test_a_soup_whose_members_are_gone_needs_the_soups_of_its_folds(trained_folds, faces, monkeypatch):
    in_a_copy(trained_folds, monkeypatch)
    by_folds = ["--model-name", UNIFORM, "--members", "folds"]
    wanted, whole = log_probs(faces, *by_folds), read(UNIFORM)
    saved = [fold_file(whole.path, fold, FOLDS) for fold in range(FOLDS)]
    for path, part in zip(saved, whole.parts, strict=True):
        save_again(path, part, folds_of=whole.meta["folds_of"], made_from=whole.meta["made_from"])
    for path in MODEL.glob("finetune_cp_*_fold?of3_epoch1.pt"):
        path.unlink()
    np.testing.assert_array_equal(log_probs(faces, *by_folds), wanted)
    assert validate(faces, "--model-name", UNIFORM)[0]["accuracy"] == trained_folds[1][UNIFORM]["accuracy"]
    save_again(saved[1], read_checkpoint(saved[1]), folds_of="0" * 64)
    with pytest.raises(InputError, match=f"{saved[1]} is of another soup than .*: make both again"):
        infer(faces, *by_folds)
    saved[1].unlink()
    for script in (lambda: infer(faces, *by_folds), lambda: validate(faces, "--model-name", UNIFORM)):
        with pytest.raises(InputError, match=r"not beside it, nor are the soups of its folds: main.py --save-folds"):
            script()
    assert validate(faces, "--model-name", UNIFORM, "--val-ratio", "None")[0]["persons"] == 30
    infer(faces, "--model-name", UNIFORM)
    with pytest.raises(InputError, match="no models of finetune_cp with a record"):
        find_candidates(MODEL, NAME)


def test_a_sweep_submits_with_either_and_keeps_both(trained_folds, faces, monkeypatch, capsys):
    in_a_copy(trained_folds, monkeypatch)
    validate(faces, "--sweep", NAME)
    ways = [BEST_SINGLE, SOUP_ALONE, GREEDY, WEIGHTED, SOFT_VOTE, AUTO_ENSEMBLE]
    by_soup = infer(faces, "--sweep", NAME)
    by_folds = infer(faces, "--sweep", NAME, "--members", "folds")
    assert list(by_soup) == ways
    assert list(by_folds) == [f"{way}, folds" for way in ways]
    manifest = read_manifest(NAME)
    manifest.add(HARD_VOTE, by_soup[SOUP_ALONE])
    manifest.write()
    infer(faces, "--sweep", NAME, "--members", "folds")
    both = {way: str(path) for way, path in (*by_soup.items(), *by_folds.items())}
    assert read_manifest(NAME).submissions == {**both, HARD_VOTE: both[SOUP_ALONE]}
    infer(faces, "--sweep", NAME)  # which leaves no vote that is older
    assert read_manifest(NAME).submissions == both
    summary.run(summary.parser().parse(["--name", NAME]))
    assert capsys.readouterr().out.splitlines()[-1].startswith("hand in output/")


def test_the_page_of_a_model_across_folds_shows_commands_that_work(trained_folds, faces, monkeypatch):
    in_a_copy(trained_folds, monkeypatch)
    validate(faces, "--i", 0, "--report", "--compare-with", TWO)
    page = (Path("val_img") / ONE / "report.html").read_text()
    parsers = {"finetune.py": finetune, "finetune_age.py": finetune_age, "validation.py": validation,
               "inference.py": inference}  # fmt: skip
    commands = [shlex.split(line)[1:] for line in re.findall(r"python \w+\.py [^<\n]*", page)]
    assert len(commands) > 2
    for script, *arguments in commands:
        options = parsers[script].parser().parse(arguments)
        if script.startswith("finetune"):
            assert options.runs == [(42, 0, fold) for fold in range(FOLDS)]
        elif options.model_name:
            assert choose_checkpoint(options) == MODEL / f"{ONE}.pt"
    assert "each scored by models trained without their fold" in page
    assert "that are not held out do not show here" not in page
    wrong = re.findall("data:image/jpeg;base64,", page)
    rows = [json.loads(line) for line in Path(f"logs/validation_results_{ONE}.jsonl").read_text().splitlines()]
    assert len(wrong) >= round(rows[0]["images"] * (1 - rows[0]["accuracy"]))
    assert (Path("val_img") / ONE / "misclassified_001.png").is_file()
    soup(faces, "--eval-individual-models")  # which reads the same models
