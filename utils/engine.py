"""Running under accelerate: the runtime, the tracker, and evaluation that does not depend on how it is spread."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from PIL import Image
from tqdm import tqdm

from utils.clip import CLIPClassifier
from utils.options import Options
from utils.transforms import pipeline

log = logging.getLogger(__name__)

TRIAL_BATCH = 16  # small, so that a search can stop soon after it knows; a last batch is filled up to a multiple of it


def start(random_seed: int = 0, **accelerator_options) -> Accelerator:
    """The accelerate runtime: logging on the main process, seeds set, float32 in full where float32 is asked for."""
    accelerator = Accelerator(**accelerator_options)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("utils").setLevel(logging.INFO if accelerator.is_main_process else logging.ERROR)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    set_seed(random_seed)
    return accelerator


@contextmanager
def tracker(accelerator: Accelerator, options: Options, run_name: str) -> Iterator[None]:
    """A run of the tracker, ended with the block however that ends.

    wandb goes through accelerate; without an account or a network it is kept offline, and nothing asks.
    """
    if options.report_to != "none":
        mode = os.environ.get("WANDB_MODE") or ("online" if _can_log_in(accelerator) else "offline")
        accelerator.init_trackers(
            "model-soups",
            config=options.as_dict(),
            init_kwargs={"wandb": {"name": run_name, "mode": mode, "settings": {"silent": True}}},
        )
    try:
        yield
    finally:
        accelerator.end_training()


def log_picture(accelerator: Accelerator, name: str, path: Path) -> None:
    """Send a picture to the tracker, if there is one."""
    for one in accelerator.trackers:
        with Image.open(path) as image:
            one.log_images({name: [np.asarray(image.convert("RGB"))]})


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


class Squares(torch.utils.data.Dataset):
    """Rows of `squares` as normalised pixel values."""

    def __init__(self, squares, rows: np.ndarray, preprocessing: dict):
        self.squares, self.rows = squares, rows
        self.transform = pipeline("val", preprocessing["mean"], preprocessing["std"])

    def __getitem__(self, position: int) -> torch.Tensor:
        return self.transform(image=self.squares[self.rows[position]])["image"]


@torch.inference_mode()
def predict(
    accelerator: Accelerator,
    model: CLIPClassifier,
    squares,
    rows: np.ndarray,
    preprocessing: dict,
    batch_size: int,
    workers: int = 0,
    progress: str = "",
    output: str = "classify",
) -> np.ndarray:
    """(N, C) float32 logits of `squares[rows]` (or with `output="embed"` (N, D) features), the same on every process.

    The batches are fixed by `batch_size` alone, the last one filled up to a multiple of 16 with its last row, and
    dealt out to the processes; each fills in its rows and the zeros of the others are added. So the result does not
    depend on the number of processes, and mixed precision plays no part. In batches of 16 all have one shape, so that
    it does not depend on the order of the rows either.
    """
    model = accelerator.unwrap_model(model).to(accelerator.device).eval()
    count, rows = len(rows), np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % min(batch_size, TRIAL_BATCH))])
    batches = [range(k, min(k + batch_size, len(rows))) for k in range(0, len(rows), batch_size)]
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    loader = torch.utils.data.DataLoader(
        Squares(squares, rows, preprocessing), batch_sampler=mine, num_workers=min(workers, len(mine) // 8)
    )
    width = model.classification_head.out_features if output == "classify" else model.config["projection_dim"]
    outputs = torch.zeros(len(rows), width, device=accelerator.device)
    silent = None if progress and accelerator.is_main_process else True  # None: a bar on a terminal only
    for batch, pixel_values in zip(
        mine, tqdm(loader, progress, unit="batch", disable=silent, leave=False), strict=True
    ):
        outputs[batch.start : batch.stop] = getattr(model, output)(pixel_values.to(accelerator.device)).float()
    return accelerator.reduce(outputs)[:count].cpu().numpy()
