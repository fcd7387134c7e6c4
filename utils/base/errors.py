"""What a user did wrong, or the machine lacks, said in one line."""

import gc
import multiprocessing
import os
import re
import signal
import sys
import time
import unicodedata
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from typing import TextIO

WAIT = 10.0  # seconds that the other processes leave to the first one, to say what all of them have met


class InputError(ValueError):
    """A mistake of the user's: bad data, a bad value, a bad combination. The message names it and the remedy."""


class Diverged(InputError):
    """Training went to infinity under the options given."""


class NoRoom(InputError):
    """Not even the smallest piece of the work fits into memory."""


class Interrupted(KeyboardInterrupt):
    """A signal to stop came, and what was done is saved; the first argument is the signal's number."""


def run_script(main) -> None:
    """Call a script's `main`; a user's mistake, a failing disk, the end of another process and an output that is full
    become one line on stderr and exit code 1. Nobody who reads (`| head`) is a quiet end.

    Any other exception is a defect of ours and keeps its traceback.
    """
    if sys.stdout is None:  # what is opened next would get its number
        sys.exit("error: standard output is closed: send it to a file, or to /dev/null")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal may not know all letters of a file's name
    output = _Output(sys.stdout)
    try:
        with redirect_stdout(output):
            told, code = _outcome(main, output)
    finally:
        _end_loaders()
        gc.freeze()  # else Python looks for garbage in all that was imported when it ends, which takes a second
    if told:
        if _is_one_more():  # all processes have met this, and the first one says it and ends them
            time.sleep(WAIT)
        print(told, file=sys.stderr, flush=True)
    if code:
        sys.exit(code)


class _Output:
    """Standard output that keeps in mind when it took no more: `lost` is the error then."""

    def __init__(self, stream: TextIO):
        self.stream, self.lost = stream, None

    def write(self, text: str) -> int:
        return self._try(self.stream.write, text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def _try(self, do: Callable, *arguments):
        try:
            return do(*arguments)
        except OSError as error:
            self.lost = error
            raise

    def loss(self) -> tuple[str, int] | None:
        """What to say and the exit code when it took no more, else None."""
        with suppress(OSError):
            self.flush()
        if self.lost is None:
            return None
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())  # Python tries once more when it ends
        if isinstance(self.lost, BrokenPipeError):
            return "", 128 + signal.SIGPIPE
        return f"error: standard output: {self.lost.strerror}", 1


def _outcome(main, output: _Output) -> tuple[str, int | str | None]:
    """What `main` comes to: a line to say, or none, and the exit code."""
    told, code = "", 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    except InputError as error:
        told, code = f"error: {one_line(error)}", 1
    except OSError as error:
        told, code = output.loss() or (f"error: {one_line(error)}", 1)
    except RuntimeError as error:
        if (reason := _reason_outside(error)) is None:
            raise
        told, code = reason, 1
    except Interrupted as stop:
        number, message = stop.args
        told, code = "" if _is_one_more() else visible(message), 128 + number
    except KeyboardInterrupt:
        told, code = "" if _is_one_more() else "interrupted", 130
    lost = output.loss()
    return (told, code) if code or lost is None else lost


def _end_loaders() -> None:
    """End the loader processes that an error has left, which would linger and then be reported as killed."""
    if children := multiprocessing.active_children():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for child in children:
            child.kill()


def _is_one_more() -> bool:
    """Whether this process is not the first of several."""
    return int(os.environ.get("RANK", "0")) > 0


def _reason_outside(error: RuntimeError) -> str | None:
    """The line to say of a library's error that no defect of ours has caused; None for all others, and nothing where
    another process has ended, which says why.
    """
    message = str(error)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and re.search("(closed|reset) by peer|Broken pipe", message):
        return ""
    if found := re.search("unable to allocate shared memory|killed by signal: [^.]*|exited unexpectedly", message):
        return (
            f"error: a loader process stopped ({found[0]}): pass fewer --workers (0 needs none), or give a container "
            "more shared memory (docker run --shm-size=1g)"
        )
    return None


def visible(text: object) -> str:
    """Text with control characters, which could move a terminal's cursor or hide what stands there, shown as `\\x1b`;
    line breaks and tabs stay. So are shown the bytes of a file's name that are no UTF-8, which nothing could print.
    """
    return "".join(one if one in "\n\t" or _is_shown(one) else ascii(one)[1:-1] for one in str(text))


def _is_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # spaces of all widths


def one_line(error: Exception) -> str:
    """The message without line breaks; an operating-system error keeps its reason and its file."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return visible(f"{error.strerror}{where}").replace("\n", "\\n")
    lines = [line for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Caught "):  # a loader process sends its whole traceback along
        lines = [lines[-1].partition("InputError: ")[2] or lines[-1]]
    return visible(" ".join(" ".join(lines).split()))
