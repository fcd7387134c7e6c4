"""Trackers: wandb or TensorBoard through accelerate; no account and no network ever stop a run."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image

from utils.base.options import Options

log = logging.getLogger(__name__)


@contextmanager
def tracked_run(accelerator: Accelerator, options: Options, run_name: str, run_id: str = "") -> Iterator[None]:
    """A run of the tracker, ended with the block however that ends; with the `run_id` of an earlier one it goes on.

    wandb goes through accelerate; without an account or a network it is kept offline, and nothing asks.
    """
    if options.report_to == "wandb":
        mode = os.environ.get("WANDB_MODE") or ("online" if _can_log_in(accelerator) else "offline")
        one = {"name": run_name, "mode": mode, "settings": {"silent": True}}
        one |= {"id": run_id, "resume": "allow"} if run_id else {}
        accelerator.init_trackers("model-soups", config=options.plain, init_kwargs={"wandb": one})
    elif options.report_to == "tensorboard":
        accelerator.init_trackers(f"tensorboard/{run_name}")
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def log_picture(accelerator: Accelerator, name: str, path: Path) -> None:
    """Send a picture to the tracker, if there is one."""
    for one in accelerator.trackers:
        with Image.open(path, formats=("PNG",)) as image:
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
