"""Standard output that is full, closed, or of few letters; and a log file that cannot be written."""

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

SAYS = {
    "print": "print('한' * 10_000)",
    "log": "terminal.start_log('says'); logging.getLogger('utils.x').info('한')",
    "help": "Parser('what it is for', 'x.py').parse(['--help'])",
    "inside": "terminal.start_log('says')\n    with files.atomic('x'): logging.getLogger('utils.x').info('한')",
}


def says(how: str, output: int | None, close="", **env) -> tuple[int, str]:
    """The exit code and standard error of a script that says something in this way."""
    lines = [
        "import logging, sys",
        f"sys.path.insert(0, {str(REPOSITORY)!r})",
        "from utils.base import files, terminal",
    ]
    lines += ["from utils.base.errors import InputError, run_script", "from utils.base.options import Parser"]
    lines += ["def main():", f"    {how}", "run_script(main)"]
    start = ["bash", "-c", f'exec "$0" "$@" {close}', sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(
        start, stdout=output, stderr=subprocess.PIPE, text=True, env={**os.environ, **env}, timeout=60
    )
    return done.returncode, done.stderr


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def unbuffered(request):
    return {"PYTHONUNBUFFERED": request.param, "PYTHONIOENCODING": "utf-8"}


@pytest.mark.parametrize("how", ["print", "log", "inside"])
def test_a_full_output_is_one_line_and_a_failure(how, unbuffered):
    with open("/dev/full", "w") as full:
        told = says(SAYS[how], full, **unbuffered)
    assert told == (1, "error: standard output: No space left on device\n")
    assert not os.path.exists("x")


@pytest.mark.parametrize("how", SAYS)
def test_an_output_that_nobody_reads_is_a_quiet_end(how, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert says(SAYS[how], writer, **unbuffered) == (141, "")
    finally:
        os.close(writer)


def test_a_mistake_is_told_all_the_same():
    with open("/dev/full", "w") as full:
        told = says("print('a'); raise InputError('bad value')", full, PYTHONUNBUFFERED="")
    assert told == (1, "error: bad value\n")


def test_an_output_that_is_closed_is_named():
    code, told = says(SAYS["print"], None, close=">&-")
    assert (code, told) == (1, "error: standard output is closed: send it to a file, or to /dev/null\n")
    assert says(SAYS["log"], subprocess.DEVNULL, close="2>&-")[0] == 0


def test_an_output_of_few_letters_gets_the_others_as_escapes():
    assert says(SAYS["log"], subprocess.DEVNULL, PYTHONIOENCODING="ascii") == (0, "")
    assert says("raise InputError('한')", subprocess.DEVNULL, PYTHONIOENCODING="ascii") == (1, "error: \\ud55c\n")


def test_a_log_file_on_a_full_disk_is_named():
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))"
    code = SAYS["log"].replace("logging.getLogger", f"{full}; logging.getLogger", 1)
    assert code != SAYS["log"]
    assert says(code, subprocess.DEVNULL) == (1, "error: File too large: logs/says.log\n")
