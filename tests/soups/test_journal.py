"""The journal survives kills and company."""

import json
import multiprocessing
import os
from fractions import Fraction
from pathlib import Path

import pytest
from accelerate import Accelerator

from utils.base.errors import InputError
from utils.soups.journal import Journal

PATH = Path("journal.jsonl")


def entry(digest: str, accepted: bool = True, best: str = "1/2") -> dict:
    return {"candidate": [digest], "digest": digest, "best": best, "seen": 7, "correct": 4, "accepted": accepted}


def journal() -> Journal:
    return Journal(PATH, Accelerator(cpu=True))


def test_what_was_decided_is_found_again_by_candidate_and_score_to_beat():
    journal().append(entry("a"))
    again = journal()
    assert again.find("a", Fraction(2, 4)) == entry("a")
    assert again.find("a", Fraction(1, 3)) is None
    assert again.find("b", Fraction(1, 2)) is None


def test_a_line_cut_short_by_a_kill_is_dropped_and_written_again():
    first = journal()
    for name in "abc":
        first.append(entry(name))
    whole = PATH.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]) + 2):
        PATH.write_bytes(whole[:-cut])
        again = journal()
        assert again.find("b", Fraction(1, 2))
        assert again.find("c", Fraction(1, 2)) is None
        again.append(entry("c"))
        assert PATH.read_bytes() == whole


def test_a_decision_that_another_search_wrote_is_not_written_twice():
    one, other = journal(), journal()
    one.append(entry("a"))
    other.append(entry("a"))
    other.append(entry("b"))
    assert [json.loads(line)["digest"] for line in PATH.read_text().splitlines()] == ["a", "b"]


def _write_all(names):
    mine = journal()
    for name in names:
        mine.append(entry(name))


def test_searches_that_write_at_the_same_time_take_turns():
    names = [f"{k:03d}" for k in range(60)]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write_all, args=(names,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(json.loads(line)["digest"] for line in PATH.read_text().splitlines()) == names


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(b'"accepted": true', b'"accepted": false'),
        lambda line: line.replace(b'"seen": 7', b'"seen": 8'),
        lambda line: line.replace(b'"best": "1/2"', b'"best": "1/3"'),
        lambda line: line[: line.rfind(b",")] + b"}",  # of a program that wrote no check
        lambda line: line.replace(b"b", b"\xe9"),
        lambda line: b"[" * 100_000,
        lambda line: b"9" * 6_000,
        lambda line: b"null",
    ],
)
def test_a_line_that_is_not_as_it_was_written_is_decided_again(change, caplog):
    for name in "abc":
        journal().append(entry(name))
    first, second, third = PATH.read_bytes().splitlines()
    PATH.write_bytes(b"\n".join([first, change(second), third, b""]))
    with caplog.at_level("INFO"):
        again = journal()
    assert "journal.jsonl: 1 lines are not as they were written, decided again" in caplog.text
    assert again.find("a", Fraction(1, 2)) == entry("a")
    assert again.find("b", Fraction(1, 2)) is again.find("b", Fraction(1, 3)) is None
    again.append(entry("b"))
    assert journal().find("b", Fraction(1, 2)) == entry("b")


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("elsewhere"), os.mkfifo])
def test_what_is_no_file_in_its_place_is_named_and_not_touched(make):
    make(PATH)
    with pytest.raises(InputError, match=r"journal.jsonl is a link, a folder or a pipe: remove it"):
        journal().append(entry("a"))
    assert not Path("elsewhere").exists()
