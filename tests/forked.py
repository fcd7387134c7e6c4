"""Scripts in processes of their own, forked from a server that has imported what takes long.

They can be killed, limited and told to work together like any others. Only their start is another one, so that a test
of a start calls `subprocess`.
"""

import atexit
import multiprocessing
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

REPOSITORY = Path(__file__).resolve().parent.parent
SERVER = multiprocessing.get_context("forkserver")
HEAVY = "accelerate", "albumentations", "datasets", "matplotlib.pyplot", "optuna", "sklearn.model_selection"
SERVER.set_forkserver_preload([*HEAVY, "transformers.models.clip.modeling_clip"])


def _run(script: str, arguments: list[str], folder: str, env: dict[str, str], limit: int | None, told: Path) -> None:
    """What the process does: the script, with what it tells in two files."""
    multiprocessing.set_start_method("fork", force=True)  # of loader processes, as usual on Linux
    os.setsid()  # a group of its own, for signals
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(told / name, os.O_WRONLY | os.O_CREAT), number)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv, sys.path[:0] = [script, *arguments], [os.path.dirname(script)]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing would end it without


class Forked:
    """A script that runs; `limit` caps the size of files that it may write."""

    def __init__(self, script: Path, *arguments, limit: int | None = None, **env):
        self.folder = tempfile.TemporaryDirectory()
        self.script, self.told = script, Path(self.folder.name)
        given = list(map(str, arguments)), os.getcwd(), {**os.environ, "ACCELERATE_USE_CPU": "true", **env}, limit
        self.process = SERVER.Process(target=_run, args=(str(script), *given, self.told))
        self.process.start()

    def stop(self, reached: Callable[[], object], how: signal.Signals = signal.SIGKILL) -> CompletedProcess:
        """Send it, and what it has started, a signal as soon as `reached()`; what it came to."""
        until = time.monotonic() + 120
        while not reached() and self.process.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        os.killpg(self.process.pid, how)
        return self.end()

    def end(self, timeout: float = 240) -> CompletedProcess:
        """What it came to, when it has ended."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(f"{self.script} ran for more than {timeout} s: {(self.told / 'err').read_text()}")
        out, err = ((self.told / name).read_text() for name in ("out", "err"))
        return CompletedProcess(self.script, self.process.exitcode, out, err)


def together(script: Path, *arguments, processes: int = 2, **env) -> CompletedProcess:
    """What several processes come to that work together, as torchrun would have started them, and ended them as soon
    as one has failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    address |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    started = [
        Forked(script, *arguments, RANK=str(rank), LOCAL_RANK=str(rank), **address, **env) for rank in range(processes)
    ]
    until = time.monotonic() + 240
    while None in (codes := [one.process.exitcode for one in started]) and not any(codes) and time.monotonic() < until:
        time.sleep(0.01)
    for one in started:
        one.process.terminate()
    ended = [one.end() for one in started]
    out, err = ("".join(getattr(one, name) for one in ended) for name in ("stdout", "stderr"))
    return CompletedProcess(script, next((one.returncode for one in ended if one.returncode), 0), out, err)


def command(script, *arguments, processes=1, **how):
    """Run a script in its own process, or in several that work together; gives what it came to."""
    if processes > 1:
        return together(REPOSITORY / script, *arguments, processes=processes, **how)
    return Forked(REPOSITORY / script, *arguments, **how).end()


def torchrun(script, *arguments):
    """Run a script in two processes under torchrun."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*start, str(REPOSITORY / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        timeout=240,
    )
