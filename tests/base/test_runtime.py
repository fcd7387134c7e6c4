"""Loader processes, and several processes: an error of one ends all of them, with one message."""

import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from conftest import REPOSITORY, infer, train
from forked import command, torchrun

from utils.base import runtime
from utils.base.errors import run_script

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def shared_memory(monkeypatch):
    """Sets how many bytes of shared memory are free."""
    runtime._tell_lack.cache_clear()
    plain = shutil.disk_usage

    def has(free: int) -> None:
        there = Usage(free, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: there if path == runtime.SHARED_MEMORY else plain(path))

    return has


@pytest.mark.parametrize(("free", "workers"), [(2**30, 8), (330_000_000, 8), (326_000_000, 7), (2**27, 2), (2**16, 0)])
def test_loader_processes_are_as_many_as_shared_memory_has_room_for(shared_memory, caplog, free, workers):
    shared_memory(free)  # twice 8 processes, 2 batches each and one with the model, of 64 squares of 224 px: 330 MB
    for _ in range(3):
        assert runtime.loader_workers(Accelerator(cpu=True), 8, 64, [224]) == workers
    assert len(caplog.records) == (workers < 8)
    assert all("--shm-size" in record.message for record in caplog.records)
    assert runtime.loader_workers(Accelerator(cpu=True), 8, 64, [224], most=1) == min(workers, 1)
    assert runtime.loader_workers(Accelerator(cpu=True), 8, 64, [224, 224, 224]) <= workers
    assert runtime.loader_workers(Accelerator(cpu=True), None, 64, [224]) == 0


@pytest.mark.slow
def test_every_loader_asks_whether_there_is_room(faces, pretrained, shared_memory, monkeypatch):
    shared_memory(10_000)
    used, plain = [], torch.utils.data.DataLoader.__init__

    def noting(self, *arguments, **how):
        used.append(how.get("num_workers"))
        plain(self, *arguments, **how)

    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", noting)
    monkeypatch.setattr("utils.training.task.EVALUATION_BATCH", 1)
    path, _ = train(faces, pretrained, "--epochs", 1, "--workers", 2)
    infer(faces, "--model-name", path, "--workers", 2)
    assert len(used) > 3
    assert not any(used)


@pytest.mark.parametrize(
    "error",
    [
        "DataLoader worker (pid 5) is killed by signal: Bus error. It is possible that dataloader's workers are",
        "DataLoader worker (pid(s) 5, 6) exited unexpectedly",
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_5>: No space left on device (28)",
    ],
)
def test_a_loader_process_that_ends_is_one_line(capfd, error):
    def main():
        raise RuntimeError(error)

    with pytest.raises(SystemExit, match="1"):
        run_script(main)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: a loader process stopped (")
    assert "--workers" in line


def test_a_defect_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run_script(lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))


def ends_all(result: subprocess.CompletedProcess, message: str) -> None:
    """One line of ours and no traceback; torchrun adds a report of its own, without a rank in front of its lines."""
    assert result.returncode == 1
    assert "]: Traceback" not in result.stderr, result.stderr
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in error


def fine_tuning(faces: Path, pretrained: Path) -> list:
    where = ["finetune.py", "--data-location", faces, "--pretrained-location", pretrained]
    return [*where, "--epochs", 1, "--batch-size", 8, "--report-to", "none", "--workers", 0]


@pytest.mark.slow
def test_a_bad_photograph_is_one_message(faces, pretrained):
    shutil.copytree(faces, "data")
    bad = sorted(Path("data").rglob("mask1.jpg"))[3]
    bad.write_bytes(bad.read_bytes()[:600])
    ends_all(torchrun(*fine_tuning(Path("data"), pretrained)), str(bad))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["logs/heads", "model/states"])
def test_what_the_main_process_cannot_write_is_one_message(faces, pretrained, place):
    Path(place).parent.mkdir()
    Path(place).touch()
    ends_all(command(*fine_tuning(faces, pretrained), processes=2), place)


@pytest.mark.slow
def test_one_of_the_others_alone_is_one_message(tmp_path):
    script = tmp_path / "alone.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from utils.base import errors, runtime\n"
        "def main():\n"
        "    accelerator = runtime.start_runtime('alone')\n"
        "    if not accelerator.is_main_process:\n"
        "        raise errors.InputError('bad part')\n"
        "    accelerator.wait_for_everyone()\n"
        "errors.run_script(main)"
    )
    ends_all(torchrun(script), "bad part")
