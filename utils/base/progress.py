"""How far long work is."""

import logging
import sys
import time
from collections.abc import Iterable

from tqdm import tqdm

from utils.base.errors import visible
from utils.base.terminal import duration

MINUTE = 60.0  # seconds between two lines where there is no terminal

log = logging.getLogger(__name__)


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
        behind: int = 0,
    ):
        """`behind` counts what other bars will do after this one, at the same pace."""
        self.behind = behind
        self.by_line, self.begun = not sys.stderr.isatty(), time.monotonic()
        every = MINUTE if self.by_line else 0.1
        super().__init__(
            iterable,
            visible(what),
            total=total,
            unit=unit,
            disable=not speaks,
            initial=initial,
            leave=False,
            mininterval=every,
        )

    def begin_at(self, done: int) -> None:
        """What is done already, when it was not under this bar, is no measure of the speed."""
        if done > self.n and not self.disable:
            self.initial, self.n = self.initial + done - self.n, done

    def display(self, msg=None, pos=None) -> None:
        """Overrides tqdm's: with what is left for all, and a line where there is no terminal."""
        elapsed = time.monotonic() - self.begun
        speed = (self.n - self.initial) / elapsed if elapsed else 0

        def left(count: float) -> str:
            return f"about {duration(count / speed)} left" if speed else "an unknown time left"

        to_do = (self.total or 0) - self.n
        for_all = f"{left(to_do + self.behind)} for all" if self.behind else ""
        if not self.by_line:
            self.postfix = for_all or self.postfix
            super().display(msg, pos)
        elif elapsed >= MINUTE and self.total:
            place = f"{self.n} of {self.total}" if self.unit == "image" else f"{self.unit} {self.n} of {self.total}"
            log.info("%s", ", ".join(filter(None, (f"{self.desc.removesuffix(': ')}: {place}", left(to_do), for_all))))

    def close(self) -> None:
        """Overrides tqdm's, which would end the lines with a carriage return."""
        self.disable = self.disable or self.by_line
        super().close()
