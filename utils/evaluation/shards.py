"""Logits of the photographs to predict: each model's are kept shard by shard, so that a killed run goes on.

A shard is `unlabelled.SHARD` photographs in the order of the list, evaluated by one process. Its logits are
(n, C) float32, NaN in the rows of images that cannot be read.
"""

import errno
import logging
from collections.abc import Container, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from utils.base.errors import InputError
from utils.base.files import CACHE, atomic
from utils.base.runtime import from_main, linger, loader_workers
from utils.base.terminal import ProgressBar
from utils.data.images import decode
from utils.data.unlabelled import TestImages
from utils.evaluation.logit_cache import cache_key
from utils.evaluation.prediction import SEARCH_BATCH, forward
from utils.models.checkpoints import Checkpoint

log = logging.getLogger(__name__)


NO_IMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


class ShardedLogits:
    """One model's logits of the photographs to predict, a file for each shard in `cache/logits`.

    The folder is named by what they depend on: the weights, the preprocessing, and the folder and list of photographs
    with every file's length and times of change.
    """

    def __init__(self, checkpoint: Checkpoint, test: TestImages, cache: Path = CACHE):
        key = cache_key(checkpoint.digest, test.digest, (), checkpoint.preprocessing)
        self.folder, self.sizes = Path(cache) / "logits" / key, test.shard_sizes
        self.num_classes = checkpoint.labelling.num_classes

    def __contains__(self, shard: int) -> bool:
        return self._load(shard) is not None

    def __getitem__(self, shard: int) -> np.ndarray:
        if (logits := self._load(shard)) is None:
            raise InputError(
                f"{self._file(shard)} is not there, though another process wrote it: let all processes run in one "
                "folder that they share"
            )
        return logits

    def _load(self, shard: int) -> np.ndarray | None:
        """The logits of a shard, or None when its file is not there or not whole."""
        try:
            logits = np.load(self._file(shard))
        except (OSError, ValueError, EOFError):
            return None
        return logits if logits.shape == (self.sizes[shard], self.num_classes) else None

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
            if getattr(error.__cause__, "errno", None) not in (None, *NO_IMAGE):
                raise  # the disk or the network failed, which says nothing of the image
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
    lacking = from_main(accelerator, lambda: _lacking(kept, test.shard_sizes))
    photographs = sum(test.shard_sizes[shard] for shard in lacking)
    log.info(
        "%d photographs to predict with %d models, %d are there", photographs, len(kept), test.count - photographs
    )
    mine = dict(list(lacking.items())[accelerator.process_index :: accelerator.num_processes])
    if mine:
        _predict(accelerator, checkpoints, kept, mine, test, batch_size, workers, skip_bad)
    try:
        accelerator.wait_for_everyone()
    except RuntimeError as error:  # another process has stopped, and says why
        raise SystemExit(1) from error
    return kept


def _lacking(kept: Sequence[ShardedLogits], sizes: Sequence[int]) -> dict[int, list[int]]:
    """The shards that a model lacks, and which models."""
    models = {shard: [k for k, one in enumerate(kept) if shard not in one] for shard in range(len(sizes))}
    return {shard: some for shard, some in models.items() if some}


def _predict(
    accelerator: Accelerator,
    checkpoints: Sequence[Checkpoint],
    kept: Sequence[ShardedLogits],
    missing: dict[int, list[int]],
    test: TestImages,
    batch_size: int,
    workers: int | None,
    skip_bad: bool,
) -> None:
    """Evaluate for each shard the models that it is `missing`, and keep their logits."""
    asked = [checkpoints[k] for k in sorted({k for models in missing.values() for k in models})]
    distinct = {one.digest: one for one in asked}  # a model and its mirrored variant share one
    built = {digest: one.build().to(accelerator.device).eval() for digest, one in distinct.items()}
    sizes = sorted({one.preprocessing["size"] for one in asked})
    loader = torch.utils.data.DataLoader(
        Decoded(test.folder, sizes, skip_bad),
        batch_sampler=_batches(test, missing, batch_size),
        num_workers=min(loader_workers(accelerator, workers), len(missing)),
        worker_init_fn=linger,
        pin_memory=accelerator.device.type == "cuda",
    )
    total = sum(test.shard_sizes[shard] for shard in missing)
    with (
        torch.inference_mode(),
        ProgressBar(what="predicting", total=total, speaks=accelerator.is_main_process) as bar,
    ):
        for shard, batches in groupby(loader, key=lambda batch: int(batch[0][0])):
            parts = {k: [] for k in missing[shard]}
            for _, readable, squares in batches:
                squares = {size: one.to(accelerator.device, non_blocking=True) for size, one in squares.items()}
                for k, outputs in parts.items():
                    one = checkpoints[k]
                    logits = forward(built[one.digest], squares[one.preprocessing["size"]], one.preprocessing)
                    outputs.append((logits, readable))
            for k, outputs in parts.items():
                kept[k].keep(shard, _joined(outputs, checkpoints[k])[: test.shard_sizes[shard]])
            bar.update(test.shard_sizes[shard])


def _batches(test: TestImages, shards: Container[int], batch_size: int) -> Iterator[list[tuple[int, str]]]:
    """Batches of (shard, file) of some shards, the last one of a shard filled up with its last file."""
    for shard, files in enumerate(test.shards()):
        if shard in shards:
            files += files[-1:] * (-len(files) % min(batch_size, SEARCH_BATCH))
            for start in range(0, len(files), batch_size):
                yield [(shard, name) for name in files[start : start + batch_size]]


def _joined(parts: list[tuple[torch.Tensor, torch.Tensor]], checkpoint: Checkpoint) -> np.ndarray:
    """(n, C) logits of a shard's batches."""
    logits = torch.cat([outputs for outputs, _ in parts]).cpu().numpy()
    readable = torch.cat([readable for _, readable in parts]).numpy()
    if not np.isfinite(logits[readable]).all():
        raise InputError(f"{checkpoint.path}: logits that are no finite numbers, so it diverged: take another model")
    logits[~readable] = np.nan
    return logits
