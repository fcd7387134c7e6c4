"""What a script says: a short story on the terminal, everything in a log file, and how far long work is.

`log.info` is the story; `log.debug` is what only some want to read, on the terminal with `--verbose`.
"""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path

from tqdm import tqdm

from utils.base.files import LOGS, require_writable

MINUTE = 60.0  # seconds between two lines of progress where there is no terminal

log = logging.getLogger(__name__)


def start_log(name: str, verbose: bool = False, speaks: bool = True) -> Path:
    """Send the story to standard output, and all of it to `logs/{name}.log`, which replaces an earlier one.

    One process of several `speaks`; the others tell of errors only. Raises `InputError` when the folder of logs cannot
    be written into.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_AboveBars(sys.stdout)], force=True)
    ours, (terminal,) = logging.getLogger("utils"), logging.getLogger().handlers
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
    file = logging.FileHandler(path, mode="w", encoding="utf-8", delay=True)  # a mistake told at once leaves no file
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    ours.addHandler(file)
    return path


def log_file() -> str:
    """Where the process that speaks keeps its log, relative to where it runs; empty when no script has begun one."""
    files = [one.baseFilename for one in logging.getLogger("utils").handlers if isinstance(one, logging.FileHandler)]
    return os.path.relpath(files[0]) if files else ""


class ProgressBar(tqdm):
    """A bar with the time left on a terminal; elsewhere a line a minute. Only the process that `speaks` shows it."""

    def __init__(
        self,
        iterable: Iterable | None = None,
        what: str = "",
        total: int | None = None,
        unit: str = "image",
        speaks: bool = True,
        initial: int = 0,
    ):
        self.by_line, self.begun = not sys.stderr.isatty(), time.monotonic()
        every = MINUTE if self.by_line else 0.1
        super().__init__(
            iterable, what, total=total, unit=unit, disable=not speaks, initial=initial, leave=False, mininterval=every
        )

    def begin_at(self, done: int) -> None:
        """What is done already, when it was not under this bar, is no measure of the speed."""
        if done > self.n and not self.disable:
            self.initial, self.n = self.initial + done - self.n, done

    def display(self, msg=None, pos=None) -> None:
        """Overrides tqdm's: a line where there is no terminal."""
        if not self.by_line:
            super().display(msg, pos)
        elif (elapsed := time.monotonic() - self.begun) >= MINUTE and self.total:
            speed = (self.n - self.initial) / elapsed
            left = duration((self.total - self.n) / speed) if speed else "an unknown time"
            log.info("%s: %d of %d, about %s left", self.desc.removesuffix(": "), self.n, self.total, left)

    def close(self) -> None:
        """Overrides tqdm's, which would end the lines with a carriage return."""
        self.disable = self.disable or self.by_line
        super().close()


class _AboveBars(logging.StreamHandler):
    """Lines on a terminal come above its bars and not into them."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode() if sys.stderr.isatty() else nullcontext():
            super().emit(record)


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
