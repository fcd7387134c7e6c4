"""What a script says: a short story on the terminal, and everything in a log file.

`log.info` is the story; `log.debug` is what only some want to read, on the terminal with `--verbose`.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path

from utils.base.errors import visible
from utils.base.files import LOGS, require_writable


def counted(count: int, noun: str) -> str:
    """`1 model`, `2 models`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def start_log(name: str, verbose: bool = False, speaks: bool = True) -> Path:
    """Send the story to standard output, and all of it to `logs/{name}.log`, which replaces an earlier one.

    One process of several `speaks`; the others tell of errors only. Raises `InputError` when the folder of logs cannot
    be written into.
    """
    terminal = _AboveBars(sys.stdout)
    terminal.setFormatter(_Visible("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[terminal], force=True)
    ours = logging.getLogger("utils")
    for handler in list(ours.handlers):  # of a script that ran before in this process
        ours.removeHandler(handler)
        handler.close()
    path = LOGS / f"{name}.log"
    if not speaks:
        ours.setLevel(logging.ERROR)
        return path
    require_writable(path.parent)
    ours.setLevel(logging.DEBUG)
    terminal.setLevel(logging.DEBUG if verbose else logging.INFO)
    file = _LogFile(path, mode="w", encoding="utf-8", delay=True)  # a mistake told at once leaves no file
    file.setFormatter(_Visible("%(asctime)s %(message)s", "%H:%M:%S"))
    ours.addHandler(file)
    return path


def log_file() -> str:
    """Where the process that speaks keeps its log, relative to where it runs; empty when no script has begun one."""
    files = [one.baseFilename for one in logging.getLogger("utils").handlers if isinstance(one, logging.FileHandler)]
    return os.path.relpath(files[0]) if files else ""


def say(text: str) -> None:
    """Print a line of a script that keeps no log."""
    print(visible(text), flush=True)


class _Visible(logging.Formatter):
    """No name of a file that a line tells of steers the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _Strict(logging.Handler):
    """Raises a disk or an output that takes no more, where logging prints a traceback and goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, self.place()) from error
        super().handleError(record)

    def place(self) -> str | None:
        """The file that an error names."""


class _LogFile(_Strict, logging.FileHandler):
    """A new file in place of an earlier one; of a link in its place, too, whose target is not touched."""

    def _open(self):
        Path(self.baseFilename).unlink(missing_ok=True)
        return open(self.baseFilename, "x", encoding=self.encoding)

    def place(self) -> str:
        return os.path.relpath(self.baseFilename)


class _AboveBars(_Strict, logging.StreamHandler):
    """Lines on a terminal come above its bars and not into them."""

    def emit(self, record: logging.LogRecord) -> None:
        with _bars_aside() if sys.stderr.isatty() else nullcontext():
            super().emit(record)


def _bars_aside():
    from tqdm import tqdm  # which a script without bars need not import

    return tqdm.external_write_mode()


@contextmanager
def aside(verbose: bool = False) -> Iterator[None]:
    """For a run inside another script: what it tells goes to its own log file, and to the terminal when `verbose`.

    Behind the block the script goes on with its own story and log file.
    """
    loggers = logging.getLogger(), logging.getLogger("utils")
    outer = [logger.handlers for logger in loggers]
    for logger in loggers:
        logger.handlers = []
    try:
        with nullcontext() if verbose else redirect_stdout(StringIO()):
            yield
    finally:
        for logger, handlers in zip(loggers, outer, strict=True):
            for handler in logger.handlers:
                handler.close()
            logger.handlers = handlers


def duration(seconds: float) -> str:
    """Seconds as people say them: `50 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def percent(count: int, rows: int) -> str:
    """`count` of `rows` with one decimal, rounded down."""
    return f"{1000 * int(count) // rows / 10:.1f}"


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines with aligned columns, the first of them a heading with a rule below it."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-|-".join("-" * width for width in widths), *lines[1:]]
