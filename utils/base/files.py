"""Files that appear whole or not at all."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from utils.base.digests import digest_of
from utils.base.errors import InputError

log = logging.getLogger(__name__)

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # of file systems without flock
NO_FLUSH = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}  # of those that cannot flush a folder
TEMPORARY_BYTES = 24  # that a temporary file's name is longer than the final one, at most


@contextmanager
def atomic(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """Yield a new, empty file beside `path`; it is moved into place when the block ends well, removed when it fails.

    It is on the disk before it is moved, so that a power cut leaves the old file or the whole new one; not so with
    `durable` off, for what is verified whenever it is read. What a killed process left behind for the same `path` on
    this machine is removed first. A full disk, a quota or a file-size limit is raised as an `OSError` that names
    `path`.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
        yield temporary
        if durable:
            flush_to_disk(temporary)
        os.replace(temporary, path)
        if durable:
            flush_to_disk(path.parent)
    except OSError as error:
        if str(error.filename or path) not in (str(temporary), str(path)):
            raise  # of another file, which was read meanwhile
        raise OSError(error.errno, f"{error.strerror or error}; nothing was written", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """Where to make what is to become `path`; what killed processes of this machine left there is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    begin = f".{path.name}.{digest_of(socket.gethostname(), 8)}."
    for stale in path.parent.iterdir():
        pid = stale.name.removeprefix(begin).removesuffix(".tmp")
        if stale.name == f"{begin}{pid}.tmp" and re.fullmatch(r"\d{1,9}", pid) and not _is_of_another(int(pid)):
            if stale.is_dir() and not stale.is_symlink():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)
    return path.parent / f"{begin}{os.getpid()}.tmp"


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in NO_FLUSH:
            raise
    finally:
        os.close(number)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Keep other processes that want the same lock waiting while the block runs; a kill frees it, too.

    Where the file system has no locks the block runs all the same, and the log says so: a lock saves double work, and
    no result depends on it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open_own(path) as file:
            lock(file)
            if not _is_open(path, file):  # who held it has removed it meanwhile, and others may have made a new one
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def open_own(path: Path) -> IO[bytes]:
    """Open a file to read it and to append to it, made if it is not there; what a link points at is not touched."""
    number = None
    try:
        number = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            raise
    if number is None or not stat.S_ISREG(os.fstat(number).st_mode):
        raise InputError(f"{path} is a link, a folder or a pipe: remove it")
    return open(number, "a+b")


def lock(file: IO) -> None:
    """Wait for the lock of an open file, which is freed when it is closed, also by a kill."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.debug("%s: the file system has no locks (%s): going on without", file.name, error.strerror)


def _is_open(path: Path, file: IO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def identity(path: Path) -> list[tuple[str, int, int, int, int]]:
    """What tells whether a file, or the files of a folder, were replaced or changed: names, places on the disk,
    lengths, and times of change.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = ((one.name, one.stat()) for one in files)
    return [(name, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) for name, now in stats]


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes; raises `InputError` for a longer one, a pipe or a device."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes into must not keep us waiting
    with open(number, "rb") as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise InputError(f"{path} is no file: remove it")
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path} is longer than {most // 2**20} MiB, which no such file is: remove it")
    return content


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
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as probe:  # it has no name, so that a kill leaves nothing
                probe.write(b"1")
        except OSError as error:
            raise InputError(f"cannot write into {folder} ({error.strerror}): choose another folder") from error


def _is_of_another(pid: int) -> bool:
    """Whether another process of this number runs on this machine."""
    return pid != os.getpid() and is_alive(pid)


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def fitted(stem: str, behind: str = "", longest: int | None = None) -> str:
    """The stem of a file name and what stands `behind` it; a stem that is too long is cut, and a digest of it stands
    for what is gone. The whole is at most `LONGEST_STEM` bytes, or `longest`.

    Every name that is joined of others goes through here, since the names of two sweeps may be long, and seeds many.
    """
    room = (longest or LONGEST_STEM) - len(behind.encode())
    if len(stem.encode()) > room:
        mark = f"_{hashlib.sha256(stem.encode()).hexdigest()[:8]}"
        stem = stem.encode()[: room - len(mark)].decode(errors="ignore") + mark
    return stem + behind


# A file system takes 255 bytes, of which `atomic` wants TEMPORARY_BYTES and scripts up to 34, as for
# `everyone_individual_results_` and `.jsonl`; older systems for a disk or a page in a browser take fewer.
LONGEST_STEM = 130
LONGEST_RUN_NAME = 80  # with `Age_` before it, and seed, index and epoch behind it, it is no longer than a stem
LONGEST_PREFIX = 40  # of a specialist of other attributes
LOGS = Path("logs")  # scores, logits and heads, relative to where the command is run
CACHE = Path("cache")  # decoded photographs, safe to delete
OUTPUT = Path("output")  # submissions
PICTURES = Path("val_img")  # sheets, confusion matrices, reports
