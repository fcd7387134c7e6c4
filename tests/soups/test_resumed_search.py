"""Searches that are killed, or that run beside each other, end as one that was left in peace."""

import shutil
from pathlib import Path

import pytest
from conftest import REPOSITORY, in_a_copy
from forked import Forked

import main
from utils.evaluation import held_out
from utils.models.checkpoints import read_checkpoint

pytestmark = pytest.mark.slow

SOUP = Path("model/finetune_cp_seed42_epoch2_greedyreplacementsoup_num3.pt")
ARGUMENTS = ("--recipe", "greedy-replacement", "--metric", "macro_f1", "--workers", "0", "--data-location")
KILLED_AT = """
import os, signal, sys
import main
from utils.evaluation import held_out
left, plain = int(sys.argv.pop(1)), held_out.predict
held_out.KEEP_EVERY = 0

def predict(accelerator, model, squares, rows, *rest, **options):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    with open("evaluated.txt", "a") as file:
        file.write(f"{len(rows)}\\n")
    return plain(accelerator, model, squares, rows, *rest, **options)

held_out.predict = predict
main.main()
"""


@pytest.fixture
def fresh(trained, monkeypatch):
    """A copy of the trained sweep in which nothing was evaluated yet."""
    in_a_copy(trained, monkeypatch)
    shutil.rmtree("logs/journals")
    for path in Path("model").glob("*soup*.pt"):
        path.unlink()
    for path in Path("logs/logits").iterdir():
        path.unlink()


def journal() -> list[str]:
    (path,) = Path("logs/journals").iterdir()
    return path.read_text().splitlines()


def killed_after(evaluations: int, faces) -> int:
    """Run the search until it has asked for so many evaluations, and kill it at the next; its exit code."""
    script = Path("killed_at.py").resolve()
    script.write_text(KILLED_AT)
    return Forked(script, evaluations, *ARGUMENTS, faces).end().returncode


def in_peace(faces, monkeypatch) -> tuple[list[str], str, list[int]]:
    """The journal, the digest of the soup, and how many photographs each evaluation was asked for; all is undone."""
    asked, plain = [], held_out.predict
    with monkeypatch.context() as patch:
        patch.setattr(held_out, "predict", lambda *args, **more: asked.append(len(args[3])) or plain(*args, **more))
        patch.setattr(held_out, "KEEP_EVERY", 0)
        main.run(main.parser().parse([*ARGUMENTS, str(faces)]))
    lines, digest = journal(), read_checkpoint(SOUP).digest
    for path in [SOUP, *Path("logs/journals").iterdir(), *Path("logs/logits").iterdir()]:
        path.unlink()
    return lines, digest, asked


def test_a_killed_search_goes_on_and_evaluates_nothing_twice(fresh, faces, monkeypatch):
    lines, digest, asked = in_peace(faces, monkeypatch)
    each, kills = len(asked) // 3, 0
    while killed_after(each, faces):
        kills += 1
        assert kills < 5
    assert kills == -(-len(asked) // each) - 1 >= 2  # no run had to begin anew
    assert journal() == lines
    assert read_checkpoint(SOUP).digest == digest
    again = Path("evaluated.txt").read_text().splitlines()
    assert sum(map(int, again)) == sum(asked)  # every photograph once per candidate


def test_two_searches_at_once_end_as_one(fresh, faces, monkeypatch):
    lines, digest, _ = in_peace(faces, monkeypatch)
    both = [Forked(REPOSITORY / "main.py", *ARGUMENTS, faces) for _ in range(2)]
    ended = [one.end() for one in both]
    assert [one.returncode for one in ended] == [0, 0], [one.stderr for one in ended]
    assert journal() == lines
    assert read_checkpoint(SOUP).digest == digest
