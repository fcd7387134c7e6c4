"""One call each for all that a sweep submits: validation.py, inference.py and hard_voting.py with `--sweep`."""

import csv
import json
from pathlib import Path

import pytest
from conftest import AGE, OTHER, SOUP, in_a_copy, infer, validate

import hard_voting
import summary
from utils.base.errors import InputError
from utils.evaluation.hand_in import submission_rows
from utils.evaluation.manifest import AUTO_ENSEMBLE, BEST_SINGLE, GREEDY, HARD_VOTE, SOFT_VOTE, WEIGHTED, read_manifest
from utils.evaluation.manifest import SOUP as SOUP_ALONE
from utils.models.checkpoints import read_checkpoint

pytestmark = pytest.mark.slow

NAME = "finetune_cp"


def vote(*arguments):
    return hard_voting.run(hard_voting.parser().parse(list(map(str, arguments))))


def best_single():
    return Path(read_manifest(NAME).best).stem


def test_a_sweep_submits_in_one_call_what_single_calls_write(trained, faces, monkeypatch, capsys):
    in_a_copy(trained, monkeypatch)
    validate(faces, "--sweep", NAME)
    best = best_single()
    written = infer(faces, "--sweep", NAME, "--save-probs")
    assert list(written) == [BEST_SINGLE, SOUP_ALONE, GREEDY, WEIGHTED, SOFT_VOTE, AUTO_ENSEMBLE]
    chosen = SOUP.replace("greedy", "uniform")  # six people cannot tell the greedy soup from it
    single = {
        BEST_SINGLE: ["--model-name", best],
        SOUP_ALONE: ["--model-name", chosen],
        GREEDY: ["--model-name", SOUP],
        WEIGHTED: ["--model-name", chosen, "--weighted-ensemble", AGE],
        SOFT_VOTE: ["--model-name", chosen, "--soft-voting", best],
        AUTO_ENSEMBLE: ["--ensemble", f"logs/ensemble_{NAME}_auto.json"],
    }
    for way, arguments in single.items():
        alone = infer(faces, *arguments, "--save-probs", "--output-dir", "alone")
        assert alone.name == written[way].name
        for name in (alone.name, f"{alone.stem}_probs.csv"):
            assert (alone.parent / name).read_bytes() == (written[way].parent / name).read_bytes(), way
        assert json.loads(written[way].with_name(f"{written[way].name}.json").read_text())["sweep"] == NAME

    voted = vote("--sweep", NAME)
    by_name = vote(*(written[way] for way in (SOUP_ALONE, WEIGHTED, SOFT_VOTE)), "--output", "by_name.csv")
    assert voted.read_bytes() == by_name.read_bytes()
    assert read_manifest(NAME).submissions == {way: str(path) for way, path in written.items()} | {
        HARD_VOTE: str(voted)
    }

    capsys.readouterr()
    summary.run(summary.parser().parse(["--name", NAME]))
    told = capsys.readouterr().out.splitlines()
    assert len(told) <= 15
    assert told[-1].startswith("hand in output/")
    files = [line.split(" | ")[-1].strip() for line in told if " | output/" in line]
    assert files == [*map(str, written.values()), str(voted)]


def test_a_model_is_evaluated_once_for_all_submissions(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    infer(faces, "--sweep", NAME)
    manifest = read_manifest(NAME)
    names = manifest.best, manifest.soup, f"{AGE}.pt"
    models = {read_checkpoint(Path("model") / name).digest for name in names}
    assert len(list(Path("cache/logits").iterdir())) == len(models)


def test_a_sweep_without_an_age_specialist_goes_on_without_one(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    specialist = Path(f"model/{AGE}.pt")
    kept = specialist.rename("kept.pt")
    validate(faces, "--sweep", NAME)
    assert WEIGHTED not in infer(faces, "--sweep", NAME)
    assert vote("--sweep", NAME).is_file()
    kept.rename(specialist)  # one that is trained later is found
    assert WEIGHTED in infer(faces, "--sweep", NAME)


def test_what_changed_since_it_was_scored_is_never_handed_in(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    validate(faces, "--sweep", NAME)
    written = infer(faces, "--sweep", NAME)
    vote("--sweep", NAME).write_text("another vote")
    soup_alone = written[SOUP_ALONE].rename("away.csv")
    record = written[BEST_SINGLE].with_name(f"{written[BEST_SINGLE].name}.json")
    content = json.loads(record.read_text())
    content["members"][0]["digest"] = "0" * 64
    record.write_text(json.dumps(content))
    states = {way: row for way, _, row in submission_rows(read_manifest(NAME))}
    assert states[HARD_VOTE] == "changed since"
    assert states[SOUP_ALONE] == "gone"
    assert states[BEST_SINGLE] == "scored with other weights"
    assert states[WEIGHTED]["kind"] == "weighted"  # of those with equal answers the first one that is still there
    soup_alone.rename(written[SOUP_ALONE])
    vote("--sweep", NAME, "--mode", "class")  # which nobody scored
    assert HARD_VOTE not in read_manifest(NAME).submissions


def test_an_auto_ensemble_of_other_weights_is_left_out(trained, faces, monkeypatch, capsys):
    in_a_copy(trained, monkeypatch)
    validate(faces, "--sweep", NAME)
    path = Path(f"logs/ensemble_{NAME}_auto.json")
    content = json.loads(path.read_text())
    content["members"][0]["digest"] = "0" * 64
    path.write_text(json.dumps(content))
    assert AUTO_ENSEMBLE not in infer(faces, "--sweep", NAME)
    assert "the auto ensemble is left out: " in capsys.readouterr().out


def test_what_names_models_itself_takes_no_other(trained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    for flags in (["--model-name", SOUP], ["--flip"], ["--soft-voting-rule", "log"], ["--weighted-ensemble", AGE]):
        with pytest.raises(InputError, match=f"--sweep {NAME} names all models itself: leave {flags[0]} out"):
            infer(Path("nowhere"), "--sweep", NAME, *flags)


def test_the_vote_of_a_sweep_takes_its_files_only_and_leaves_them(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    written = infer(faces, "--sweep", NAME)
    for more in (written[SOUP_ALONE], "--weights=1"):
        with pytest.raises(InputError, match="one vote each: leave other files and --weights out"):
            vote("--sweep", NAME, more)
    with pytest.raises(InputError, match="is an input and the output"):
        vote("--sweep", NAME, "--output", written[SOUP_ALONE])


def test_an_unknown_sweep_is_told_with_the_flags(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        hard_voting.parser().parse(["--sweep", "nothing"])
    assert "no scores of a sweep nothing in" in capsys.readouterr().err


def test_voters_that_are_gone_are_named(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    with pytest.raises(InputError, match=f"cannot vote, there are none: run inference.py --sweep {NAME}"):
        vote("--sweep", NAME)
    written = infer(faces, "--sweep", NAME)
    written[SOUP_ALONE].unlink()
    with pytest.raises(InputError, match=r"cannot vote, output/.* is gone"):
        vote("--sweep", NAME)


def test_submissions_of_two_sweeps_do_not_vote_unasked(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    first = infer(faces, "--model-name", OTHER)
    record = first.with_name(f"{first.name}.json")
    assert json.loads(record.read_text())["sweep"] == NAME
    other = first.with_name("output_mine.csv")
    other.write_bytes(first.read_bytes())
    vote()  # nothing tells of another sweep
    other.with_name(f"{other.name}.json").write_text(json.dumps({"sweep": "mine"}))
    with pytest.raises(InputError, match=r"several sweeps \(finetune_cp, mine\): name one with --sweep"):
        vote()
    with open(first) as file:
        assert len(list(csv.DictReader(file))) == 10
