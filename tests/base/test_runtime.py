"""Several processes: an error of one ends all of them, with one message."""

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY, command

pytestmark = pytest.mark.slow


def ends_all(result: subprocess.CompletedProcess, message: str) -> None:
    """One line of ours and no traceback; torchrun adds a report of its own, without a rank in front of its lines."""
    assert result.returncode == 1
    assert "]: Traceback" not in result.stderr, result.stderr
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in error


def fine_tune(faces: Path, pretrained: Path, *extra) -> subprocess.CompletedProcess:
    where = ["--data-location", faces, "--pretrained-location", pretrained, "--epochs", 1, "--batch-size", 8]
    return command("finetune.py", *where, "--report-to", "none", "--workers", 0, *extra, processes=2)


def test_a_bad_photograph_is_one_message(faces, pretrained):
    shutil.copytree(faces, "data")
    bad = sorted(Path("data").rglob("mask1.jpg"))[3]
    bad.write_bytes(bad.read_bytes()[:600])
    ends_all(fine_tune(Path("data"), pretrained), str(bad))


@pytest.mark.parametrize("place", ["logs/heads", "model/states"])
def test_what_the_main_process_cannot_write_is_one_message(faces, pretrained, place):
    Path(place).parent.mkdir()
    Path(place).touch()
    ends_all(fine_tune(faces, pretrained), place)


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
    ends_all(command(script, processes=2), "bad part")
