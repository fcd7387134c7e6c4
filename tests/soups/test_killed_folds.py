"""A folded sweep whose training or search is killed ends as one that was left in peace; so do two processes."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from conftest import FAST, REPOSITORY
from forked import Forked, command
from test_resumed_search import ARGUMENTS, journal, killed_after

import finetune
from utils.models.checkpoints import read_checkpoint

pytestmark = pytest.mark.slow

RUNS = ["--folds", "2", "--resume", "--runs", *(f"42:{i}:{k}" for i in range(3) for k in range(2))]
SOUP = Path("model/finetune_cp_seed42_epoch2_greedyreplacementsoup_num3.pt")


def arguments(faces, pretrained) -> list[str]:
    return ["--data-location", str(faces), "--pretrained-location", str(pretrained), *FAST, *RUNS]


@pytest.fixture(scope="module")
def sweep(faces, pretrained, tmp_path_factory) -> Path:
    """A folder with a finished folded sweep."""
    folder, before = tmp_path_factory.mktemp("folded"), Path.cwd()
    os.chdir(folder)
    try:
        finetune.main(arguments(faces, pretrained))
    finally:
        os.chdir(before)
    return folder


def digests(folder: Path = Path()) -> dict[str, str]:
    return {path.name: read_checkpoint(path).digest for path in sorted((folder / "model").glob("*.pt"))}


def killed_in(fold: int, faces, pretrained) -> None:
    """Start the whole sweep and kill it with SIGKILL in the middle of a fold, as soon as this fold leaves a state."""
    sweep = Forked(REPOSITORY / "finetune.py", *arguments(faces, pretrained), "--checkpointing-steps", 3)
    state = Path(f"model/states/finetune_cp_seed42_i0_fold{fold}of2_epoch2.pt")
    assert sweep.stop(state.is_file).returncode == -signal.SIGKILL
    assert state.is_file()


def test_a_folded_sweep_that_is_killed_trains_the_same_models(sweep, faces, pretrained):
    for fold in range(2):
        killed_in(fold, faces, pretrained)
        assert len(digests()) == fold
    finetune.main(arguments(faces, pretrained))
    assert digests() == digests(sweep)
    assert len(digests()) == 6
    assert not any(Path("model/states").iterdir())


def from_the_start(sweep) -> None:
    """A copy of the sweep in which nothing was evaluated yet."""
    for name in ("model", "logs"):
        shutil.rmtree(name, ignore_errors=True)
    shutil.copytree(sweep, ".", dirs_exist_ok=True)
    shutil.rmtree("logs/logits")


@pytest.fixture(scope="module")
def in_peace(sweep, faces, tmp_path_factory):
    """What a search ends with that one process did in peace, and how many evaluations that took."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("peace"))
    try:
        from_the_start(sweep)
        assert killed_after(sys.maxsize, faces) == 0
        return journal(), digests(), len(Path("evaluated.txt").read_text().splitlines())
    finally:
        os.chdir(before)


def test_a_search_over_folds_that_is_killed_again_and_again_decides_the_same(sweep, faces, in_peace):
    from_the_start(sweep)
    decisions, models, evaluations = in_peace
    each, kills = evaluations // 3, 0
    while killed_after(each, faces):
        kills += 1
        assert kills < 5
    assert kills >= 2
    assert (journal(), digests()) == (decisions, models)
    assert SOUP.name in digests()


def test_one_and_two_processes_decide_alike_over_folds(sweep, faces, in_peace):
    from_the_start(sweep)
    result = command("main.py", *ARGUMENTS, faces, processes=2)
    assert result.returncode == 0, result.stderr
    assert digests() == in_peace[1]

    def without_effort(lines):  # two processes look at two batches at a time, and so at more photographs
        return [
            {name: value for name, value in json.loads(line).items() if name not in ("seen", "correct")}
            for line in lines
        ]

    assert without_effort(journal()) == without_effort(in_peace[0])
