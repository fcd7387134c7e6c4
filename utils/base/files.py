"""Files that appear whole or not at all."""

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from utils.base.errors import InputError


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is moved into place when the block ends well, removed when it fails.

    What a killed process left behind for the same `path` on this machine is removed first. A full disk, a quota or a
    file-size limit is raised as an `OSError` that names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    for stale in path.parent.glob(f".{path.name}.{host}.*.tmp"):
        if not is_alive(int(stale.name.split(".")[-2])):
            stale.unlink(missing_ok=True)
    temporary = path.parent / f".{path.name}.{host}.{os.getpid()}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}; nothing was written", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Keep other processes that want the same lock waiting while the block runs; a kill frees it, too."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_open(path, file):  # who held it has removed it meanwhile, and others may have made a new one
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_open(path: Path, file: IO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 `text` to `path` atomically and return the path."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json_lines(path: str | Path, rows: list[dict]) -> Path:
    """Write one JSON object per line, atomically."""
    return write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def require_writable(*folders: str | Path) -> None:
    """Create each folder and write a byte into it, so that a run fails in its first second and not after its last."""
    for folder in map(Path, folders):
        probe = folder / f".writable.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"1")
        except OSError as error:
            raise InputError(f"cannot write into {folder} ({error.strerror}): choose another folder") from error
        finally:
            if folder.is_dir():
                probe.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def fitted(stem: str, behind: str = "") -> str:
    """The stem of a file name and what stands `behind` it; a stem that is too long is cut, and a digest of it stands
    for what is gone.

    Every name that is joined of others goes through here, since the names of two sweeps may be long, and seeds many.
    """
    room = LONGEST_STEM - len(behind.encode())
    if len(stem.encode()) > room:
        mark = f"_{hashlib.sha256(stem.encode()).hexdigest()[:8]}"
        stem = stem.encode()[: room - len(mark)].decode(errors="ignore") + mark
    return stem + behind


# A file system takes 255 bytes. Of these up to 78 are for what `atomic` puts around a name (a host's name has at most
# 64), and 34 for what scripts do, as `everyone_individual_results_` and `.jsonl`; the rest is for a flip or a bias.
LONGEST_STEM = 130
LONGEST_RUN_NAME = 80  # with `Age_` before it, and seed, index and epoch behind it, it is no longer than a stem
LOGS = Path("logs")  # scores, logits and heads, relative to where the command is run
CACHE = Path("cache")  # decoded photographs, safe to delete
OUTPUT = Path("output")  # submissions
PICTURES = Path("val_img")  # sheets, confusion matrices, reports
