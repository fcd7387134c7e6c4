"""The demo as a user gets it, whole and killed on the way."""

import contextlib
import csv
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import REPOSITORY, files

from demo.faces import write_data_set


def demo(**env):
    """`bash training.sh` with no data: the process."""
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(REPOSITORY / "training.sh")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**inherited, "PATH": path, **env},
    )


def kill_when(process, reached, timeout=300):
    """`kill -9` the process and all its descendants as soon as `reached()`."""
    until = time.monotonic() + timeout
    while not reached():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate()


@pytest.mark.slow
def test_the_demo_and_the_same_killed_three_times_end_in_the_same_files(tmp_path):
    small = {"INDICES": "0 1", "EPOCHS": "1"}
    done, broken = tmp_path / "whole", tmp_path / "broken"
    write_data_set(done / "demo_run" / "data", train=80, test=40)  # fewer people than the demo draws by itself
    os.chdir(done)
    process = demo(**small)
    told, _ = process.communicate(timeout=600)
    assert process.returncode == 0, told
    for name in ("hard_voting_demo.csv", "output_demo_auto.csv"):
        with open(f"demo_run/output/{name}") as file:
            assert len(list(csv.DictReader(file))) == 280
    assert re.match(
        r"hand in output/\S+\.csv: .*the .* has the best macro-F1 on \d+ held-out people", told.splitlines()[-1]
    )

    for kept in ("data", "model/Age_demo_seed42_i0_epoch1.pt", "logs"):  # what the stages left out would make
        target = broken / "demo_run" / kept
        target.parent.mkdir(parents=True, exist_ok=True)
        source = done / "demo_run" / kept
        shutil.copytree(source, target, ignore=no_logits) if source.is_dir() else shutil.copy(source, target)
    os.chdir(broken)
    stages = {**small, "STAGES": "finetune soup inference vote"}
    for reached in (
        lambda: Path("demo_run/model/demo_seed42_i0_epoch1.pt").is_file(),  # index 1 is being trained
        lambda: list(Path("demo_run/model").glob("*uniformsoup*")),  # the greedy soup is being made
        lambda: list(Path("demo_run/output").glob("output_*.csv")),  # the second prediction is under way
    ):
        kill_when(demo(**stages), reached)
    process = demo(**stages)
    told, _ = process.communicate(timeout=600)
    assert process.returncode == 0, told
    assert not [path for path in files() if path.endswith(".tmp")]
    assert not list(Path("demo_run/model/states").iterdir())
    for folder in ("model", "output"):
        made, expected = (
            {path.name: path for path in sorted((root / "demo_run" / folder).glob("*.*"))} for root in (broken, done)
        )
        assert made.keys() == expected.keys()
        for name, path in made.items():
            assert path.read_bytes() == expected[name].read_bytes(), name


def no_logits(folder, names):
    """For `copytree`: all but the cached logits."""
    return {"logits"} & set(names)
