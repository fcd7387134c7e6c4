"""validation.py --ensemble auto and what inference.py makes of its file, on the trained models of the fixture."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import AGE, SOUP, answers, in_a_copy, infer, probs_of, train, validate

import finetune_age
from utils.base.errors import InputError
from utils.ensembles.candidates import find_candidates
from utils.evaluation.manifest import read_manifest
from utils.evaluation.results import latest_rows
from utils.evaluation.scores import log_softmax
from utils.models.checkpoints import read_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow

AUTO = "logs/ensemble_finetune_cp_auto.json"


def auto(faces, *extra):
    return validate(faces, "--ensemble", "auto", *extra)


def rewrite(path, **changes):
    Path(path).write_text(json.dumps({**json.loads(Path(path).read_text()), **changes}))


def by_hand(faces, chosen):
    """Probabilities from the single models' own submissions; an age specialist's from its logits, spread by hand."""
    total = 0
    for one in chosen["members"]:
        how = ["--flip"] if one["flip"] else []
        if one["kind"] == "age":
            soup = ["--model-name", SOUP, "--save-probs", *how]
            with_age, alone = (
                probs_of(infer(faces, *soup, "--weighted-ensemble", one["file"])),
                probs_of(infer(faces, *soup)),
            )
            log_probs = np.log(with_age) - np.log(alone)  # log p_age(age of class), up to each row's constant
        else:
            log_probs = np.log(probs_of(infer(faces, "--model-name", one["file"], "--save-probs", *how)))
        total = total + one["weight"] * log_probs
    return np.exp(log_softmax(log_softmax(total / chosen["temperature"]) + np.array(chosen["bias"])))


def test_an_ensemble_is_chosen_told_of_and_applied(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    rows = auto(faces)
    assert [row["kind"] for row in rows] == ["best member", "auto ensemble", "auto ensemble, bias"]
    chosen = json.loads(Path(AUTO).read_text())
    assert sum(one["weight"] for one in chosen["members"]) == pytest.approx(1)
    for one in chosen["members"]:
        assert one["digest"] == read_checkpoint(Path("model") / one["file"]).digest
    assert chosen["scores"] == json.loads(json.dumps(rows))
    assert chosen["metric"] == "macro_f1"
    assert chosen["split"] == read_checkpoint(Path(f"model/{SOUP}.pt")).split["digest"]
    assert len(chosen["fold_scores"]["plain"]) == len(chosen["fold_scores"]["biased"]) == 5
    said = Path("logs/validation.log").read_text()
    for told in (
        "pairwise disagreement",
        "half 20: +[",
        "spread",
        "temperature",
        "the bias ",
        "gain in accuracy over the best member",
    ):
        assert told in said
    for one in chosen["members"]:
        assert f"{one['weight']:.4f} of {one['name']}" in said
    told = latest_rows(read_manifest("finetune_cp"))[-3:]  # so the summary has them
    assert [{name: value for name, value in row.items() if name != "applied"} for row in told] == chosen["scores"]
    assert [row["applied"] for row in told[1:]] == [not any(chosen["bias"]), any(chosen["bias"])]
    model = next(one for one in chosen["members"] if one["kind"] != "age")
    with monkeypatch.context() as patch:  # trained again since
        patch.setitem(model, "digest", "0" * 64)
        rewrite(AUTO, members=chosen["members"])
        assert "auto ensemble" not in [row["kind"] for row in latest_rows(read_manifest("finetune_cp"))]
    rewrite(AUTO, members=chosen["members"])
    # one of the fixture's candidates may weigh nothing: give all some weight, and a bias that turns predictions
    members = [*chosen["members"]]
    for candidate in find_candidates(Path("model")):
        if candidate.name not in {one["name"] for one in members}:
            path, digest = candidate.checkpoint.path.name, candidate.checkpoint.digest
            members.append({"name": candidate.name, "file": path, "digest": digest, "kind": candidate.kind,
                            "flip": False, "weight": 0.5})  # fmt: skip
    whole = sum(one["weight"] for one in members)
    members = [{**one, "weight": one["weight"] / whole} for one in members]
    rewrite(AUTO, members=members, temperature=0.7, bias=np.linspace(-3, 3, 18).tolist())
    chosen = json.loads(Path(AUTO).read_text())
    assert {"single", "age"} <= {one["kind"] for one in members}
    submission = infer(faces, "--ensemble", AUTO, "--save-probs")
    assert submission.name == "output_finetune_cp_auto.csv"
    probs = probs_of(submission)
    np.testing.assert_allclose(probs, by_hand(faces, chosen), atol=1e-5)
    assert list(answers(submission).values()) == probs.argmax(1).tolist()
    plain = infer(faces, "--ensemble", AUTO, "--no-bias", "--save-probs")
    assert plain.name == "output_finetune_cp_auto_nobias.csv"
    np.testing.assert_allclose(probs_of(plain), by_hand(faces, {**chosen, "bias": [0] * 18}), atol=1e-5)
    assert (probs_of(plain).argmax(1) != probs.argmax(1)).any()


def test_the_file_says_what_validation_chose(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    auto(faces)
    submission = infer(faces, "--ensemble", AUTO, "--save-probs")
    chosen = json.loads(Path(AUTO).read_text())
    np.testing.assert_allclose(probs_of(submission), by_hand(faces, chosen), atol=1e-5)


def test_nothing_is_evaluated_twice_and_the_choice_is_the_same(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    auto(faces, "--name", "finetune_cp")
    first = Path(AUTO).read_bytes()

    def fail(*_, **__):
        raise AssertionError("evaluated again")

    monkeypatch.setattr("utils.evaluation.held_out.predict", fail)
    auto(faces)
    assert Path(AUTO).read_bytes() == first


def test_with_flip_each_candidate_comes_a_second_time(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    plain, both = (find_candidates(Path("model"), flip=flip) for flip in (False, True))
    assert len(both) == 2 * len(plain)
    assert {one.name for one in both} == {one.name + end for one in plain for end in ("", "_flip")}
    auto(faces, "--flip")
    path = "logs/ensemble_finetune_cp_auto_flip.json"
    chosen = json.loads(Path(path).read_text())
    assert any(one["flip"] for one in chosen["members"])
    submission = infer(faces, "--ensemble", path, "--save-probs")
    assert submission.name == "output_finetune_cp_auto_flip.csv"
    np.testing.assert_allclose(probs_of(submission), by_hand(faces, chosen), atol=1e-5)


def test_candidates_are_the_latest_ingredients_the_soups_and_the_age_specialists(
    trained, faces, pretrained, monkeypatch
):
    in_a_copy(trained, monkeypatch)
    earlier, latest = (f"finetune_cp_seed42_i1_epoch{epoch}" for epoch in (2, 10))  # which sorts before the earlier
    path, _ = train(faces, pretrained, "--epochs", 1, "--i", 1)
    meta = read_checkpoint(path).meta
    later = {**meta, "ingredient": {**meta["ingredient"], "epoch": 10}}
    save_checkpoint(Path(f"model/{latest}.pt"), read_checkpoint(path).state_dict(), later)
    path.unlink()
    Path("model/notes.pt").write_text("not named as a checkpoint of ours")
    found = {one.name: one.kind for one in find_candidates(Path("model"))}
    assert found[latest] == "single"
    assert earlier not in found
    assert found[AGE] == "age"
    assert found[SOUP.replace("greedy", "uniform")] == "soup"
    files = [path for path in Path("model").glob("*_epoch*.pt") if path.stem != earlier]
    assert len(found) == len({read_checkpoint(path).digest for path in files})  # a soup of one is that one


def test_what_nothing_is_known_of_and_what_does_not_fit_is_left_out_with_a_warning(
    trained, faces, pretrained, monkeypatch, capsys
):
    in_a_copy(trained, monkeypatch)
    state = read_checkpoint(Path(f"model/{SOUP}.pt")).state_dict()
    torch.save({**state, "classification_head.bias": torch.zeros(18)}, "model/finetune_cp_seed42_i7_epoch2.pt")
    train(faces, pretrained, "--epochs", 1, "--i", 1, "--age-limits", "29,57", script=finetune_age)
    before = {one.name for one in find_candidates(Path("model"))}
    said = capsys.readouterr().out
    assert "finetune_cp_seed42_i7_epoch2.pt is left out: no record of its split" in said
    assert "Age_finetune_cp_seed42_i1_epoch1.pt is left out: " in said
    assert AGE in before
    assert not before & {"finetune_cp_seed42_i7_epoch2", "Age_finetune_cp_seed42_i1_epoch1"}


def test_who_has_seen_held_out_people_is_no_candidate(trained, faces, pretrained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    train(faces, pretrained, "--epochs", 1, "--name", "other", "--split-seed", 7)
    with pytest.raises(InputError, match=r"were trained on different splits .* choose one sweep with --name"):
        auto(faces)
    assert not Path(AUTO).exists()
    auto(faces, "--name", "finetune_cp")
    assert not any("other" in one["name"] for one in json.loads(Path(AUTO).read_text())["members"])
    with pytest.raises(InputError, match="was trained on"):
        auto(faces, "--name", "other", "--split-seed", 42, "--val-ratio", 0.5)


def test_an_ensemble_of_several_sweeps_says_so(trained, faces, pretrained, monkeypatch, capsys):
    in_a_copy(trained, monkeypatch)
    train(faces, pretrained, "--epochs", 1, "--name", "other")
    capsys.readouterr()
    auto(faces)
    assert "several sweeps, --name keeps to one: finetune_cp, other\n" in capsys.readouterr().out
    assert Path("logs/ensemble_all_auto.json").is_file()
    auto(faces, "--name", "other")
    assert "several sweeps" not in capsys.readouterr().out
    assert Path("logs/ensemble_other_auto.json").is_file()


def test_members_that_are_gone_or_were_trained_again_are_named(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    auto(faces)
    whole = Path(AUTO).read_text()
    rewrite(AUTO, bias=[0.0] * 17)
    with pytest.raises(InputError, match=f"{AUTO} has a bias of 17 classes, and its models tell 18"):
        infer(faces, "--ensemble", AUTO)
    Path(AUTO).write_text(whole)
    file = Path("model") / json.loads(whole)["members"][0]["file"]
    checkpoint = read_checkpoint(file)
    state = {name: tensor + 1 for name, tensor in checkpoint.state_dict().items()}
    save_checkpoint(file, state, {key: checkpoint.meta[key] for key in checkpoint.meta if key != "versions"})
    with pytest.raises(InputError, match=f"{file} has other weights than {AUTO} was chosen with .* choose anew"):
        infer(faces, "--ensemble", AUTO)
    file.unlink()
    with pytest.raises(InputError, match=f"{AUTO} needs {file}, which is not there: give --model-location"):
        infer(faces, "--ensemble", AUTO)
    for broken in ({"members": []}, {"temperature": 0}, {"temperature": "warm"}, {"bias": None}):
        before = Path(AUTO).read_text()
        rewrite(AUTO, **broken)
        with pytest.raises(InputError, match="is no chosen ensemble"):
            infer(faces, "--ensemble", AUTO)
        Path(AUTO).write_text(before)
    Path(AUTO).write_text('{"weight": 0.5}')
    with pytest.raises(InputError, match=r"is no chosen ensemble \(members: field required\)"):
        infer(faces, "--ensemble", AUTO)


def test_several_age_specialists_are_averaged(trained, faces, pretrained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    second = "Age_finetune_cp_seed42_i1_epoch2"
    train(faces, pretrained, "--i", 1, script=finetune_age)
    alone = [probs_of(infer(faces, "--weighted-ensemble", age, "--save-probs")) for age in (AGE, second)]
    both = infer(faces, "--weighted-ensemble", AGE, second, "--save-probs")
    assert both.name == f"output_{SOUP}_WE_{AGE}_{second}.csv"
    log_ratio = np.log(probs_of(both)) - np.log(alone).mean(0)
    np.testing.assert_allclose(log_ratio - log_ratio.mean(1, keepdims=True), 0, atol=1e-4)
    rows = validate(faces, "--weighted-ensemble", AGE, second)
    assert [row["kind"] for row in rows] == ["single", "age specialist", "age specialist", "weighted"]
    tuned = json.loads(Path(f"logs/ensemble_{SOUP}_WE_{AGE}_{second}.json").read_text())
    assert [tuned[place]["name"] for place in ("model", "age", "age2")] == [f"{n}.pt" for n in (SOUP, AGE, second)]


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (validate, "--ensemble auto --i 0", "--ensemble auto has members of its own: leave --i out"),
        (validate, f"--ensemble auto --model-name {SOUP}", "leave --model-name out"),
        (validate, f"--ensemble auto --weighted-ensemble {AGE}", "leave --weighted-ensemble out"),
        (validate, "--ensemble auto --val-ratio None", "--val-ratio None leaves none"),
        (validate, "--ensemble auto --name nobody", "no models of nobody with a record in model"),
        (infer, "--ensemble nowhere.json", "nowhere.json does not exist: validation.py --ensemble auto"),
        (infer, f"--ensemble {AUTO} --flip", "leave --flip out"),
        (infer, "--no-bias", "--no-bias leaves the bias of an ensemble out: give --ensemble"),
    ],
)
def test_a_mistake_is_told_with_its_remedy(trained, faces, monkeypatch, script, arguments, message):
    monkeypatch.chdir(trained[0])
    with pytest.raises(InputError, match=message):
        script(faces, *arguments.split())
    assert not Path("output").exists() or not list(Path("output").iterdir())
