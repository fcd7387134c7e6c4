"""The accelerate runtime: start-up, agreement between processes, loader processes."""

import atexit
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, broadcast_object_list, get_cpu_distributed_information, set_seed
from joblib import cpu_count

from utils.base.errors import InputError
from utils.base.terminal import start_log

log = logging.getLogger(__name__)

GRACE = 20  # seconds that a loader process goes on when it is told to stop
SHARED_MEMORY = Path("/dev/shm")  # where torch puts the batches of loader processes; a container often has 64 MB
PARTING = 0.2  # seconds
PREFETCH = 2  # batches that each of them is ahead, torch's default
LABELS = 2**16  # bytes of a batch, at most, that are no photographs


def start_runtime(
    log_name: str, verbose: bool = False, random_seed: int = 0, tf32: bool = False, **accelerator_options
) -> Accelerator:
    """The accelerate runtime: the main process tells its story (`terminal.start_log`), seeds are set, float32 is full
    float32 unless products may be in TF32, and there are no more threads than cores for this process.
    """
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(non_blocking=True), **accelerator_options)
    if "OMP_NUM_THREADS" not in os.environ:  # torch counts the machine's cores, and a container may have fewer
        torch.set_num_threads(min(torch.get_num_threads(), _cores()))
    main_first(accelerator, lambda: start_log(log_name, verbose, accelerator.is_main_process))
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = False
    set_seed(random_seed)
    if accelerator.num_processes > 1:
        _part_at_the_end()
    return accelerator


def computes_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 numbers itself; what torch cannot tell of a CPU is believed."""
    return device.type != "cpu" or bool(torch.cpu.get_capabilities().get("avx512_bf16", True))


@contextmanager
def full_float32() -> Iterator[None]:
    """Products of float32 are full float32 while the block runs, as they are for all scores that are recorded."""
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@cache  # a script may do several runs, all of them with the processes that its first one began with
def _part_at_the_end() -> None:
    """Part from the other processes when the script ends, and not after each run as `end_training` does.

    torch's threads need Python's lock to free what they sent last. Who parts holds this lock and waits for the
    threads, so they are given their time before (a deadlock of torch 2.13 with gloo).
    """

    def part() -> None:
        time.sleep(PARTING)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    atexit.register(part)


def _cores() -> int:
    """How many CPU cores this process has for itself."""
    return max(1, cpu_count() // get_cpu_distributed_information().local_world_size)


def loader_workers(
    accelerator: Accelerator, asked: int | None, photographs: int, sides: Sequence[int], most: int | None = None
) -> int:
    """How many loader processes, at `most` so many: as asked for, else on a GPU one for each core but one, up to 16,
    and none on a CPU, where the model already keeps all cores busy.

    Their batches, of so many `photographs` with a square of each of these `sides`, travel through shared memory. Where
    half of what is free has no room for all of them there are fewer. The other half is for a second set of loaders:
    those of training go on while held-out people are evaluated.
    """
    if asked is None:
        asked = 0 if accelerator.device.type == "cpu" else min(16, _cores() - 1)
    wanted = asked if most is None else min(asked, most)
    if not wanted or not SHARED_MEMORY.is_dir():
        return wanted
    batch = sum(3 * side**2 * photographs for side in sides) + LABELS
    free = shutil.disk_usage(SHARED_MEMORY).free // get_cpu_distributed_information().local_world_size
    possible = max(0, free // 2 // batch - 1) // PREFETCH  # one more batch is with the model
    if possible < wanted:
        _tell_lack(wanted, possible)
    return min(wanted, possible)


@cache  # a search asks for each candidate
def _tell_lack(wanted: int, possible: int) -> None:
    """Say that there is no room for as many loader processes as are wanted."""
    told = "%s has room for the batches of %d loader processes and not of %d (docker run --shm-size=1g gives more)"
    log.warning(told, SHARED_MEMORY, possible, wanted)


def linger(worker: int = 0) -> None:
    """For a loader process: a signal to the whole process group leaves the main process time to save its state."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


def all_agree(accelerator: Accelerator, condition: bool) -> bool:
    """Whether `condition` holds on every process; asked before work that they share, so that all or none begin it."""
    votes = accelerator.reduce(torch.tensor(int(condition), device=accelerator.device))
    return int(votes) == accelerator.num_processes


def from_main(accelerator: Accelerator, make: Callable[[], Any]) -> Any:
    """What `make()` returns on the main process, on every process; for work that one does while the others wait.

    What it raises there is raised on all of them, so that none waits for one that has ended.
    """
    if accelerator.num_processes == 1:
        return make()
    made = [None, None]
    if accelerator.is_main_process:
        try:
            made[0] = make()
        except Exception as error:
            broadcast_object_list([None, error if isinstance(error, (InputError, OSError)) else SystemExit(1)])
            raise
    value, error = broadcast_object_list(made)
    if error is not None:
        raise error
    return value


def main_first(accelerator: Accelerator, make: Callable[[], Any]) -> Any:
    """What `make()` returns, called on the main process and then on the others, who find its work done."""
    mine = []

    def make_mine() -> None:
        mine.append(make())

    from_main(accelerator, make_mine)
    return mine[0] if mine else make()
