"""Logits of the photographs to predict: each model's are kept shard by shard, so that a killed run goes on.

A shard is `unlabelled.SHARD` photographs in the order of the list, evaluated by one process. Its logits are
(n, C) float32, NaN in the rows of images that cannot be read.
"""

import errno
import logging
from collections.abc import Container, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from utils.base.errors import InputError
from utils.base.files import CACHE
from utils.base.progress import ProgressBar
from utils.base.runtime import linger
from utils.data.decoding import decode
from utils.data.unlabelled import TestImages
from utils.evaluation.logit_cache import cache_key, load_shard, store_shard
from utils.evaluation.prediction import SEARCH_BATCH
from utils.models.checkpoints import Checkpoint

log = logging.getLogger(__name__)


NO_IMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


class ShardedLogits:
    """One model's logits of the photographs to predict, a file for each shard in `cache/logits`.

    The folder is named by what they depend on: the weights, the preprocessing, and the folder and list of photographs
    with every file's length and times of change.
    """

    def __init__(self, checkpoint: Checkpoint, test: TestImages, cache: Path = CACHE):
        self.checkpoint, self.test, self.cache = checkpoint, test, cache
        self.sizes, self.num_classes = test.shard_sizes, checkpoint.labelling.num_classes

    @cached_property
    def folder(self) -> Path:
        key = cache_key(self.checkpoint.digest, self.test.digest, (), self.checkpoint.preprocessing)
        return Path(self.cache) / "logits" / key

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
        """The logits of a shard, or None when its file is not there or damaged."""
        return load_shard(self._file(shard), (self.sizes[shard], self.num_classes))

    def keep(self, shard: int, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Keep the logits of a shard, given batch by batch with whether each photograph could be read."""
        logits = torch.cat([outputs for outputs, _ in batches]).cpu().numpy()[: self.sizes[shard]]
        readable = torch.cat([readable for _, readable in batches]).numpy()[: self.sizes[shard]]
        if not np.isfinite(logits[readable]).all():
            path = self.checkpoint.path
            raise InputError(f"{path}: logits that are NaN or infinite, so it diverged: take another model")
        logits[~readable] = np.nan
        store_shard(self._file(shard), logits)

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
    workers: int,
) -> list[ShardedLogits]:
    """The logits of each model, evaluated where they are not kept yet; every process takes its part of the shards.

    A photograph is decoded once for all models. Batches are fixed by `batch_size` within a shard, the last one filled
    up to a multiple of 16, so that neither the number of processes nor a kill changes the result.
    """
    kept = [ShardedLogits(one, test) for one in checkpoints]
    lacking = _lacking(kept, test.shard_sizes)
    photographs, models = sum(test.shard_sizes[shard] for shard in lacking), len({one.folder for one in kept})
    log.info("%d photographs to predict with %d models", photographs, models)
    if photographs < test.count:
        log.info("%d photographs are predicted already", test.count - photographs)
    mine = {k: models for k, models in lacking.items() if k % accelerator.num_processes == accelerator.process_index}
    if mine:
        _predict(accelerator, checkpoints, kept, mine, test, batch_size, workers)
    try:
        accelerator.wait_for_everyone()
    except RuntimeError as error:  # another process has stopped, and says why
        raise SystemExit(1) from error
    return kept


def _lacking(kept: Sequence[ShardedLogits], sizes: Sequence[int]) -> dict[int, list[int]]:
    """The shards that a model lacks, and which models; of equal ones the first."""
    firsts = {one.folder: k for k, one in reversed(list(enumerate(kept)))}
    models = {shard: [k for k in sorted(firsts.values()) if shard not in kept[k]] for shard in range(len(sizes))}
    return {shard: some for shard, some in models.items() if some}


def _predict(
    accelerator: Accelerator,
    checkpoints: Sequence[Checkpoint],
    kept: Sequence[ShardedLogits],
    missing: dict[int, list[int]],
    test: TestImages,
    batch_size: int,
    workers: int,
) -> None:
    """Evaluate for each shard the models that it is `missing`, and keep their logits."""
    asked = [checkpoints[k] for k in sorted({k for models in missing.values() for k in models})]
    distinct = {one.digest: one for one in asked}  # a model and its mirrored variant share one
    built = {digest: one.build().to(accelerator.device).eval() for digest, one in distinct.items()}
    sizes = sorted({one.preprocessing["size"] for one in asked})
    loader = torch.utils.data.DataLoader(
        Decoded(test.folder, sizes, test.skip_bad),
        batch_sampler=_batches(test, missing, batch_size),
        num_workers=min(workers, len(missing)),
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
                    logits = built[one.digest].outputs(squares[one.preprocessing["size"]], one.preprocessing)
                    outputs.append((logits, readable))
            for k, outputs in parts.items():
                kept[k].keep(shard, outputs)
            bar.update(test.shard_sizes[shard])


def _batches(test: TestImages, shards: Container[int], batch_size: int) -> Iterator[list[tuple[int, str]]]:
    """Batches of (shard, file) of some shards, the last one of a shard filled up with its last file."""
    for shard, rows in enumerate(test.shards()):
        if shard in shards:
            files = [row[test.key] for row in rows]
            files += files[-1:] * (-len(files) % min(batch_size, SEARCH_BATCH))
            for start in range(0, len(files), batch_size):
                yield [(shard, name) for name in files[start : start + batch_size]]
