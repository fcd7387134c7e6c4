"""Logits of the photographs to predict: each model's are kept shard by shard, so that a killed run goes on.

A shard is `unlabelled.SHARD` photographs in the order of the list, evaluated by one process. Its logits are
(n, C) float32, NaN in the rows of images that cannot be read.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from utils.checkpoints import Checkpoint
from utils.clip import build
from utils.engine import TRIAL_BATCH, forward, linger, loader_workers
from utils.errors import InputError
from utils.files import atomic
from utils.images import decode
from utils.logits import cache_key
from utils.options import CACHE
from utils.unlabelled import TestImages

log = logging.getLogger(__name__)


class ShardedLogits:
    """One model's logits of the photographs to predict, a file for each shard in `cache/logits`.

    The folder is named by what they depend on: the weights, the preprocessing, and the listing with every file's
    length and time of change.
    """

    def __init__(self, checkpoint: Checkpoint, test: TestImages, cache: Path = CACHE):
        key = cache_key(checkpoint.digest, test.digest, (), checkpoint.preprocessing)
        self.checkpoint, self.folder = checkpoint, Path(cache) / "logits" / key

    def __contains__(self, shard: int) -> bool:
        return self._file(shard).is_file()

    def __getitem__(self, shard: int) -> np.ndarray:
        try:
            return np.load(self._file(shard))
        except FileNotFoundError as error:
            raise InputError(
                f"{self._file(shard)} is not there, though another process wrote it: let all processes run in one "
                "folder that they share"
            ) from error

    def keep(self, shard: int, logits: np.ndarray) -> None:
        with atomic(self._file(shard)) as temporary, open(temporary, "wb") as file:
            np.save(file, logits)

    def _file(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.npy"


class Decoded(torch.utils.data.Dataset):
    """Photographs asked for as `(shard, file)`: the shard again, whether the file can be read, and its (S, S, 3) uint8
    square of each of `sizes`, black if not.
    """

    def __init__(self, folder: Path, sizes: Sequence[int], skip_bad: bool):
        self.folder, self.sizes, self.skip_bad = folder, sizes, skip_bad

    def __getitem__(self, asked: tuple[int, str]) -> tuple[int, bool, dict[int, np.ndarray]]:
        shard, name = asked
        try:
            return shard, True, {size: decode(self.folder / name, size) for size in self.sizes}
        except InputError as error:
            if not self.skip_bad:
                raise InputError(f"{error}, or pass --skip-bad") from error
        return shard, False, {size: np.zeros((size, size, 3), np.uint8) for size in self.sizes}


def evaluate(
    accelerator: Accelerator,
    checkpoints: Sequence[Checkpoint],
    test: TestImages,
    batch_size: int,
    workers: int | None,
    skip_bad: bool,
) -> list[ShardedLogits]:
    """The logits of each model, evaluated where they are not kept yet; every process takes its part of the shards.

    A photograph is decoded once for all models. Batches are fixed by `batch_size` within a shard, the last one filled
    up to a multiple of 16, so that neither the number of processes nor a kill changes the result.
    """
    kept = [ShardedLogits(one, test) for one in checkpoints]
    sizes = test.shard_sizes
    mine = range(accelerator.process_index, len(sizes), accelerator.num_processes)
    missing = {shard: [k for k, one in enumerate(kept) if shard not in one] for shard in mine}
    missing = {shard: models for shard, models in missing.items() if models}
    if len(missing) < len(mine):
        log.info("%d of %d shards of %d photographs are there already", len(mine) - len(missing), len(mine), sizes[0])
    models = {
        k: build(one.config, one.state_dict(), one.path.name).to(accelerator.device).eval()
        for k, one in enumerate(checkpoints)
        if any(k in asked for asked in missing.values())
    }
    size_of = [one.preprocessing["size"] for one in checkpoints]

    def batches() -> Iterator[list[tuple[int, str]]]:
        for shard, files in enumerate(test.shards()):
            if shard in missing:
                files += files[-1:] * (-len(files) % min(batch_size, TRIAL_BATCH))
                for start in range(0, len(files), batch_size):
                    yield [(shard, name) for name in files[start : start + batch_size]]

    loader = torch.utils.data.DataLoader(
        Decoded(test.folder, sorted({size_of[k] for k in models}), skip_bad),
        batch_sampler=batches(),
        num_workers=min(loader_workers(accelerator, workers), len(missing)),
        worker_init_fn=linger,
        pin_memory=accelerator.device.type == "cuda",
    )
    silent = None if accelerator.is_main_process else True  # None: a bar on a terminal only
    bar = tqdm(total=sum(sizes[k] for k in missing), desc="predicting", unit="image", disable=silent, leave=False)
    with torch.inference_mode():
        for shard, group in groupby(loader if missing else (), key=lambda batch: int(batch[0][0])):
            logits = {k: [] for k in missing[shard]}
            for _, readable, squares in group:
                squares = {size: one.to(accelerator.device, non_blocking=True) for size, one in squares.items()}
                for k, parts in logits.items():
                    outputs = forward(models[k], squares[size_of[k]], checkpoints[k].preprocessing)
                    parts.append((outputs, readable))
            for k, parts in logits.items():
                kept[k].keep(shard, _joined(parts, checkpoints[k])[: sizes[shard]])
            bar.update(sizes[shard])
    bar.close()
    accelerator.wait_for_everyone()
    return kept


def _joined(parts: list[tuple[torch.Tensor, torch.Tensor]], checkpoint: Checkpoint) -> np.ndarray:
    """(n, C) logits of a shard's batches."""
    logits = torch.cat([outputs for outputs, _ in parts]).cpu().numpy()
    readable = torch.cat([readable for _, readable in parts]).numpy()
    if not np.isfinite(logits[readable]).all():
        raise InputError(f"{checkpoint.path}: logits that are no finite numbers, so it diverged: take another model")
    logits[~readable] = np.nan
    return logits
