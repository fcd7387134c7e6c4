"""What main.py and validation.py say: a short story on the terminal, all of it in the log file that they name."""

from pathlib import Path

import pytest
from conftest import AGE, OTHER, SOUP, in_a_copy, soup, validate

pytestmark = pytest.mark.slow

MOST = 15  # lines
DETAILS = {  # of each call, what only the log file tells
    "greedy soup": ("accepted finetune_cp", "averaged log-probabilities of all 3: accuracy", "looked at | seconds"),
    "two soups": ("0.3333 of finetune_cp", "greedy chosen on 3 people", "looked at | seconds"),
    "model": ("mask     not_worn", "class    worn, male, under 30", "age      60 and over"),
    "ensemble": (
        "pairwise disagreement",
        "half 20: +[",
        "bias chosen without each fold",
        "gain in accuracy over the best",
    ),
}
CALLS = {
    "greedy soup": lambda faces, *extra: soup(faces, "--greedy-soup", *extra),
    "two soups": lambda faces, *extra: soup(faces, "--greedy-soup", "--uniform-soup", "--nested", "--plot", *extra),
    "model": lambda faces, *extra: validate(
        faces, "--weighted-ensemble", AGE, "--soft-voting", OTHER, "--report", *extra
    ),
    "ensemble": lambda faces, *extra: validate(faces, "--ensemble", "auto", *extra),
}


def said(call: str, capsys, faces, *extra) -> list[str]:
    capsys.readouterr()
    CALLS[call](faces, *extra)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("call", CALLS)
def test_a_plain_call_is_short_and_its_log_file_holds_the_rest(trained, faces, monkeypatch, capsys, call):
    in_a_copy(trained, monkeypatch)
    lines = said(call, capsys, faces)
    assert len(lines) <= MOST
    assert len(set(lines)) == len(lines)
    words, _, file = lines[-1].rpartition(" ")
    assert words == "everything else:"
    logged = Path(file).read_text()
    for line in lines:
        assert line in logged
    for detail in DETAILS[call]:
        assert detail in logged
        assert not any(detail in line for line in lines)


@pytest.mark.parametrize("call", CALLS)
def test_a_verbose_call_says_all_that_the_log_file_holds(trained, faces, monkeypatch, capsys, call):
    in_a_copy(trained, monkeypatch)
    lines = said(call, capsys, faces, "--verbose")
    for detail in DETAILS[call]:
        assert any(detail in line for line in lines)


def test_the_last_lines_say_what_to_type_next(trained, faces, monkeypatch, capsys):
    in_a_copy(trained, monkeypatch)
    after_soup, after_model = (said(call, capsys, faces)[-2] for call in ("greedy soup", "model"))
    assert after_soup == f"next: python validation.py --data-location {faces} --sweep finetune_cp"
    inference = f"python inference.py --data-location {faces} --model-name model/{SOUP}.pt"
    assert after_model == f"next: {inference} --weighted-ensemble {AGE}"
    after_ensemble = said("ensemble", capsys, faces)[-2]
    file = "logs/ensemble_finetune_cp_auto.json"
    assert after_ensemble == f"next: python inference.py --data-location {faces} --ensemble {file}"
    soup(faces, "--eval-individual-models", "--val-ratio", "None")
    *_, after_scores, _ = capsys.readouterr().out.splitlines()
    assert after_scores == f"next: python main.py --data-location {faces} --greedy-soup --workers 0"


def test_the_story_of_a_sweep_has_two_parts(trained, faces, monkeypatch, capsys):
    in_a_copy(trained, monkeypatch)
    soup(faces, "--greedy-soup")
    capsys.readouterr()
    validate(faces, "--sweep", "finetune_cp")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= MOST
    assert any(line.startswith("single ") for line in lines)
    assert any(line.startswith("auto ensemble ") for line in lines)
    assert lines[-2] == f"next: python inference.py --data-location {faces} --sweep finetune_cp"
    assert "most often wrong: " in Path(lines[-1].rpartition(" ")[2]).read_text()
