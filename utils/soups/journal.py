"""The journal of a search: each decision is appended when it is taken, so that a killed search can go on."""

import json
import logging
import os
from fractions import Fraction
from pathlib import Path

from accelerate import Accelerator

from utils.base.digests import digest_of
from utils.base.files import lock, open_own
from utils.base.runtime import from_main

log = logging.getLogger(__name__)

CHECK = "check"  # the last value of a line: a digest of the others


class Journal:
    """Decisions by (digest of the candidate, score to beat), one JSON object per line of `path`.

    Only the main process writes. A line that a kill cut short, or that is not as it was written, is dropped, and its
    decision is taken again. Two searches may append to one file at the same time: they take turns, and neither writes
    a decision that the other has written.
    """

    def __init__(self, path: Path, accelerator: Accelerator):
        self.path, self.writes = Path(path), accelerator.is_main_process
        self._decisions = from_main(accelerator, self._read_and_tell)

    def find(self, digest: str, best: Fraction) -> dict | None:
        """The decision on this candidate against this score, or None when it has not been taken yet."""
        return self._decisions.get((digest, str(best)))

    def append(self, entry: dict) -> None:
        """Write a decision down: a dict of plain values, among them `digest` and `best`, both as text."""
        key = entry["digest"], entry["best"]
        self._decisions[key] = entry
        if not self.writes:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open_own(self.path) as file:
            lock(file)
            content = _content(file)
            if key in _decisions(content):
                return
            file.truncate(content.rfind(b"\n") + 1)
            file.write(json.dumps({**entry, CHECK: digest_of(entry)}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read_and_tell(self) -> dict[tuple[str, str], dict]:
        if not self.path.exists():
            return {}
        with open_own(self.path) as file:
            content = _content(file)
        kept, lines = _decisions(content), content.count(b"\n")
        if len(kept) < lines:
            log.info("%s: %d lines are not as they were written, decided again", self.path, lines - len(kept))
        return kept


def _content(file) -> bytes:
    file.seek(0)
    return file.read()


def _decisions(content: bytes) -> dict[tuple[str, str], dict]:
    """The decisions in whole lines whose check fits."""
    found = {}
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        try:
            entry = json.loads(line)
            if entry.pop(CHECK) == digest_of(entry):
                found[entry["digest"], entry["best"]] = entry
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return found
