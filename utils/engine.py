"""Running under accelerate: the runtime, the tracker, and evaluation that does not depend on how it is spread."""

import logging
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import (
    DataLoaderConfiguration,
    broadcast_object_list,
    find_executable_batch_size,
    get_cpu_distributed_information,
    is_tensorboard_available,
    set_seed,
)
from joblib import cpu_count
from PIL import Image
from tqdm import tqdm

from utils.clip import CLIPClassifier
from utils.errors import InputError, NoRoom
from utils.options import LOGS, Options
from utils.transforms import normalised

log = logging.getLogger(__name__)

TRACKERS = ("wandb", "tensorboard")
GRACE = 20  # seconds that a loader process goes on when it is told to stop
TRIAL_BATCH = 16  # small, so that a search can stop soon after it knows; a last batch is filled up to a multiple of it


def start(random_seed: int = 0, **accelerator_options) -> Accelerator:
    """The accelerate runtime: logging on the main process, seeds set, float32 in full where float32 is asked for, no
    more threads than there are cores for this process.
    """
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(non_blocking=True), **accelerator_options)
    if "OMP_NUM_THREADS" not in os.environ:  # torch counts the machine's cores, and a container may have fewer
        torch.set_num_threads(min(torch.get_num_threads(), _cores()))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("utils").setLevel(logging.INFO if accelerator.is_main_process else logging.ERROR)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    set_seed(random_seed)
    return accelerator


def start_training(options: Options) -> Accelerator:
    """The runtime of a fine-tuning run, with its tracker. Raises `InputError` when that is not installed."""
    if options.report_to == "tensorboard" and not is_tensorboard_available():
        raise InputError("--report-to tensorboard needs the package: pip install tensorboard")
    if options.compile and not shutil.which(shlex.split(os.environ.get("CXX", "g++"))[0]):
        raise InputError("--compile needs a C++ compiler: install g++, or name one with CXX")
    return start(
        options.random_seed,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        log_with=options.report_to if options.report_to in TRACKERS else None,
        project_dir=LOGS,
        mixed_precision=options.mixed_precision,
    )


def fitting_batch_size(accelerator: Accelerator, model: CLIPClassifier, options: Options) -> int:
    """How many photographs a forward and backward pass has room for: the batch size, or a half, a quarter and so on.

    What is left of the batch is accumulated, so that a step stays the same. Only a GPU tells that it has no room.
    """
    if accelerator.device.type == "cpu":
        return options.batch_size
    sizes = [options.batch_size >> k for k in range(options.batch_size.bit_length())]
    sizes = [size for size in sizes if options.batch_size % size == 0]
    smaller = iter([*sizes[1:], 0])

    @find_executable_batch_size(starting_batch_size=sizes[0], reduce_batch_size_fn=lambda: next(smaller))
    def room_for(batch_size: int) -> int:
        moments = [torch.empty_like(parameter) for parameter in model.parameters() for _ in range(2)]  # AdamW's
        shape = batch_size, 3, model.config["image_size"], model.config["image_size"]
        with accelerator.autocast():
            logits, _ = model.train()(torch.zeros(shape, device=accelerator.device))
        logits.float().sum().backward()
        del moments
        return batch_size

    try:
        batch_size = room_for()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        raise NoRoom("no room on the GPU for a single photograph: pass --gradient-checkpointing") from error
    finally:
        model.zero_grad()
    batch_size = int(accelerator.gather(torch.tensor([batch_size], device=accelerator.device)).min())
    parts = options.batch_size // batch_size
    if parts > 1:
        log.warning("no room for %d photographs: %d times %d make a step", options.batch_size, parts, batch_size)
        accelerator.gradient_accumulation_steps = options.gradient_accumulation_steps * parts
    return batch_size


def bar(accelerator: Accelerator, loader, what: str, done: int = 0) -> tqdm:
    """The batches of an epoch behind its first `done`, under a progress bar."""
    silent = None if accelerator.is_local_main_process else True  # None: a bar on a terminal only
    return tqdm(loader, what, total=len(loader), initial=done, disable=silent, leave=False)


def _cores() -> int:
    """How many CPU cores this process has for itself."""
    return max(1, cpu_count() // get_cpu_distributed_information().local_world_size)


def loader_workers(accelerator: Accelerator, asked: int | None) -> int:
    """How many loader processes: as asked for, else on a GPU up to eight, and none on a CPU, where the model already
    keeps all cores busy.
    """
    if asked is not None:
        return asked
    return 0 if accelerator.device.type == "cpu" else min(8, _cores() - 1)


def linger(worker: int = 0) -> None:
    """For a loader process: a signal to the whole process group leaves the main process time to save its state."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


@contextmanager
def tracker(accelerator: Accelerator, options: Options, run_name: str, run_id: str = "") -> Iterator[None]:
    """A run of the tracker, ended with the block however that ends; with the `run_id` of an earlier one it goes on.

    wandb goes through accelerate; without an account or a network it is kept offline, and nothing asks.
    """
    if options.report_to == "wandb":
        mode = os.environ.get("WANDB_MODE") or ("online" if _can_log_in(accelerator) else "offline")
        one = {"name": run_name, "mode": mode, "settings": {"silent": True}}
        one |= {"id": run_id, "resume": "allow"} if run_id else {}
        accelerator.init_trackers("model-soups", config=options.as_dict(), init_kwargs={"wandb": one})
    elif options.report_to == "tensorboard":
        accelerator.init_trackers(f"tensorboard/{run_name}")
    try:
        yield
    finally:
        accelerator.end_training()


def log_picture(accelerator: Accelerator, name: str, path: Path) -> None:
    """Send a picture to the tracker, if there is one."""
    for one in accelerator.trackers:
        with Image.open(path) as image:
            how = {"dataformats": "NHWC"} if one.name == "tensorboard" else {}
            one.log_images({name: np.asarray(image.convert("RGB"))[None]}, **how)


def _can_log_in(accelerator: Accelerator) -> bool:
    if not accelerator.is_main_process:
        return False
    import wandb

    try:
        return wandb.login(prompt=False, timeout=10)
    except (wandb.errors.Error, OSError) as error:
        log.warning("wandb stays offline: %s", str(error).splitlines()[0])
        return False


def all_agree(accelerator: Accelerator, condition: bool) -> bool:
    """Whether `condition` holds on every process; asked before work that they share, so that all or none begin it."""
    votes = accelerator.reduce(torch.tensor(int(condition), device=accelerator.device))
    return int(votes) == accelerator.num_processes


def from_main(accelerator: Accelerator, make: Callable[[], Any]) -> Any:
    """What `make()` returns on the main process, on every process: for files that may change meanwhile."""
    value = [make() if accelerator.is_main_process else None]
    return broadcast_object_list(value)[0] if accelerator.num_processes > 1 else value[0]


class Rows(torch.utils.data.Dataset):
    """`squares` at these rows, as (S, S, 3) uint8 tensors."""

    def __init__(self, squares, rows: np.ndarray):
        self.squares, self.rows = squares, rows

    def __getitem__(self, position: int) -> torch.Tensor:
        return torch.from_numpy(self.squares[self.rows[position]])


def forward(model: CLIPClassifier, squares: torch.Tensor, preprocessing: dict, output: str = "classify"):
    """(B, C) logits (or with `output="embed"` (B, D) features) of (B, S, S, 3) uint8 squares on the model's device.

    Where the preprocessing says `flip` they are means over each photograph and its mirror image.
    """
    pixel_values = normalised(squares, preprocessing["mean"], preprocessing["std"])
    outputs = getattr(model, output)(pixel_values)
    if preprocessing.get("flip"):
        outputs = (outputs + getattr(model, output)(pixel_values.flip(-1))) / 2
    return outputs


def predict(
    accelerator: Accelerator,
    model: CLIPClassifier,
    squares,
    rows: np.ndarray,
    preprocessing: dict,
    batch_size: int,
    workers: int | None = 0,
    progress: str = "",
    output: str = "classify",
) -> np.ndarray:
    """(N, C) float32 logits of `squares[rows]` (or with `output="embed"` (N, D) features), the same on every process.

    The batches are fixed by `batch_size` alone, the last one filled up to a multiple of 16 with its last row, and
    dealt out to the processes; each fills in its rows and the zeros of the others are added. So the result does not
    depend on the number of processes, and mixed precision plays no part. In batches of 16 all have one shape, so that
    it does not depend on the order of the rows either.
    """
    model = accelerator.unwrap_model(model).to(accelerator.device).eval()  # not in inference mode, which marks buffers
    count, rows = len(rows), np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % min(batch_size, TRIAL_BATCH))])
    batches = [range(k, min(k + batch_size, len(rows))) for k in range(0, len(rows), batch_size)]
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    loader = torch.utils.data.DataLoader(
        Rows(squares, rows),
        batch_sampler=mine,
        num_workers=min(loader_workers(accelerator, workers), len(mine) // 8),
        worker_init_fn=linger,
        pin_memory=accelerator.device.type == "cuda",
    )
    width = model.classification_head.out_features if output == "classify" else model.config["projection_dim"]
    outputs = torch.zeros(len(rows), width, device=accelerator.device)
    silent = None if progress and accelerator.is_main_process else True  # None: a bar on a terminal only
    bar = tqdm(loader, progress, unit="batch", disable=silent, leave=False)
    with torch.inference_mode():
        for batch, some in zip(mine, bar, strict=True):
            some = some.to(accelerator.device, non_blocking=True)
            outputs[batch.start : batch.stop] = forward(model, some, preprocessing, output)
    return accelerator.reduce(outputs)[:count].cpu().numpy()
