"""Batches to train on, epoch after epoch without a pause: loader processes go on to the next epoch by themselves."""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, DataLoaderStateMixin
from accelerate.state import GradientState
from accelerate.utils import send_to_device
from torch.utils.data import BatchSampler, DataLoader

from utils.base.runtime import linger
from utils.data.augmentation import EpochSampler, LabelledSquares


class EpochLoader(DataLoaderStateMixin):
    """This process's batches of each epoch, on the accelerator's device; `epochs` is the last one's number.

    One iteration of a `DataLoader` goes over all epochs that are left, so that its `workers` prepare the first batches
    of an epoch while the held-out people are evaluated behind the one before. Which photographs make a batch, and how
    they are augmented, is a function of (seed, epoch) as `sampler` and `train_set` have it. On a GPU a batch is copied
    while the step before is computed. As accelerate's own loaders it tells accelerate of the last batch of an epoch.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        train_set: LabelledSquares,
        sampler: EpochSampler,
        batch_size: int,
        epochs: int,
        workers: int,
    ):
        self.gradient_state, self.device = GradientState(), accelerator.device
        self.sampler, self.epochs = sampler, epochs
        self.batches = BatchSampler(sampler, batch_size, drop_last=False)
        if accelerator.num_processes > 1:  # each takes its share, as of any loader that accelerate prepares
            self.batches = BatchSamplerShard(self.batches, accelerator.num_processes, accelerator.process_index)
        self.per_batch = batch_size * accelerator.num_processes
        on_gpu = self.device.type == "cuda"
        self.source = DataLoader(
            train_set, batch_sampler=_Endless(self), num_workers=workers, worker_init_fn=linger, pin_memory=on_gpu
        )
        self.copies = torch.cuda.Stream(self.device) if on_gpu else None
        self._running, self._next = None, None

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.batches)

    def of_epoch(self, epoch: int, seen: int = 0) -> Iterator[list[torch.Tensor]]:
        """The batches of an epoch, behind its first `seen` photographs on all processes together."""
        if self._next != (epoch, seen):
            self.sampler.set_epoch(epoch)
            self.sampler.skip = seen
            self._running = iter(self.source)
        self._next = None
        left = -(-(len(self.sampler) - seen) // self.per_batch)
        self.begin()
        for k in range(left):
            batch = self._moved(next(self._running))
            self.end_of_dataloader = k == left - 1
            yield batch
        self.end()
        self._next = epoch + 1, 0

    def _moved(self, batch: list[torch.Tensor]) -> list[torch.Tensor]:
        if self.copies is None:
            return send_to_device(batch, self.device)
        with torch.cuda.stream(self.copies):
            batch = send_to_device(batch, self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.copies)
        for tensor in batch:
            tensor.record_stream(computing)
        return batch


class _Endless(torch.utils.data.Sampler):
    """The batches of all epochs from the sampler's on, one epoch behind the other."""

    def __init__(self, loader: EpochLoader):
        self.batches, self.sampler, self.epochs = loader.batches, loader.sampler, loader.epochs

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.sampler.epoch, self.epochs + 1):
            self.sampler.set_epoch(epoch)
            yield from self.batches
            self.sampler.skip = 0
