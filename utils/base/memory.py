"""How much memory there is, so that what can never fit is refused before it is tried."""

import os
import resource
from contextlib import suppress
from pathlib import Path

from utils.base.errors import InputError

CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory() -> int:
    """Bytes that this process can have at most: of the machine, of its container, or of a limit of its own."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    own, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits += [own] if own != resource.RLIM_INFINITY else []
    for path in CONTAINER:
        with suppress(OSError, ValueError):  # another system, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def limit_of(gigabytes: float | None) -> int:
    """Bytes in which each process of a run on this machine may hold what it reads often: its part of so many GB, or of
    half of what there is.
    """
    every = memory() // 2 if gigabytes is None else int(gigabytes * 1e9)
    return every // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def require_memory(needed: int, what: str) -> None:
    """Raise `InputError` that begins with `what` when it needs more bytes than there can be."""
    if needed > (there := memory()):
        raise InputError(f"{what} needs about {needed / 1e9:.1f} GB of memory, and {there / 1e9:.1f} GB are there")
