"""The journal of a search: each decision is appended when it is taken, so that a killed search can go on."""

import fcntl
import json
import os
from fractions import Fraction
from pathlib import Path

from accelerate import Accelerator

from utils.base.errors import InputError
from utils.base.runtime import from_main


class Journal:
    """Decisions by (digest of the candidate, score to beat), one JSON object per line of `path`.

    Only the main process writes. A line that a kill cut short is dropped. Two searches may append to one file at the
    same time: they take turns, and neither writes a decision that the other has written.
    """

    def __init__(self, path: Path, accelerator: Accelerator):
        self.path, self.accelerator = Path(path), accelerator
        self._decisions = from_main(accelerator, self._read)

    def find(self, digest: str, best: Fraction) -> dict | None:
        """The decision on this candidate against this score, or None when it has not been taken yet."""
        return self._decisions.get((digest, str(best)))

    def append(self, entry: dict) -> None:
        """Write a decision down: a dict of plain values, among them `digest` and `best`, both as text."""
        key = entry["digest"], entry["best"]
        self._decisions[key] = entry
        from_main(self.accelerator, lambda: self._write(key, entry))

    def _write(self, key: tuple[str, str], entry: dict) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, also by a kill
            if key in self._read():
                return
            file.truncate(self._whole())
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _whole(self) -> int:
        """Bytes up to the last line end."""
        return self.path.read_bytes().rfind(b"\n") + 1

    def _read(self) -> dict[tuple[str, str], dict]:
        if not self.path.is_file():
            return {}
        lines = self.path.read_bytes()[: self._whole()].decode("utf-8").splitlines()
        try:
            entries = [json.loads(line) for line in lines]
            return {(entry["digest"], entry["best"]): entry for entry in entries}
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{self.path} is no journal of a search ({error}): remove it") from error
