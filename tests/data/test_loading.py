"""Batches of all epochs from one iteration: the same ones, wherever it begins, and prepared ahead."""

import time
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import GradientState
from torch.utils.data import DataLoader

from utils.data.augmentation import EpochSampler
from utils.data.loading import EpochLoader


class Keys(torch.utils.data.Dataset):
    """What is asked for is what one gets."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


@pytest.fixture
def begun(monkeypatch) -> list[DataLoader]:
    """The loaders that were begun."""
    begun, plain = [], DataLoader.__iter__
    monkeypatch.setattr(DataLoader, "__iter__", lambda self: begun.append(self) or plain(self))
    return begun


def loader(count: int = 22, batch_size: int = 4, per_step: int = 8, processes: int = 1, index: int = 0) -> EpochLoader:
    GradientState()
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=processes, process_index=index)
    return EpochLoader(accelerator, Keys(), EpochSampler(count, 3, None, per_step), batch_size, epochs=3, workers=0)


def keys(batches) -> list[list[tuple[int, int]]]:
    return [list(zip(*(part.tolist() for part in batch), strict=True)) for batch in batches]


def expected(epoch: int, seen: int = 0) -> list[list[tuple[int, int]]]:
    order = EpochSampler(22, 3, None, 8).order(epoch)[seen:].tolist()
    return [[(epoch, position) for position in order[k : k + 4]] for k in range(0, len(order), 4)]


def test_epochs_follow_each_other_in_one_iteration(begun):
    Accelerator(cpu=True)
    batches = loader()
    assert len(batches) == 4  # of 22 photographs, 16 fill two steps of 8
    for epoch in (1, 2, 3):
        assert keys(batches.of_epoch(epoch)) == expected(epoch)
    assert len(begun) == 1


def test_an_epoch_is_the_same_wherever_one_begins(begun):
    Accelerator(cpu=True)
    batches = loader()
    assert keys(batches.of_epoch(2, 8)) == expected(2, 8)
    assert keys(batches.of_epoch(3)) == expected(3)
    assert len(begun) == 1
    assert keys(batches.of_epoch(1)) == expected(1)
    next(batches.of_epoch(2))  # one that is left before its end
    assert keys(batches.of_epoch(2)) == expected(2)
    assert keys(batches.of_epoch(1, 16)) == []  # killed behind its last step
    assert keys(batches.of_epoch(2)) == expected(2)
    assert len(begun) == 4


def test_loader_processes_work_on_the_next_epoch_meanwhile(tmp_path):
    class Noted(Keys):
        def __getitem__(self, key):
            (tmp_path / f"{key}").touch()
            return key

    Accelerator(cpu=True)
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)
    batches = EpochLoader(accelerator, Noted(), EpochSampler(8, 3, None, 8), 4, epochs=2, workers=1)
    assert len(list(batches.of_epoch(1))) == 2
    for _ in range(1000):  # nobody asks for it
        if (tmp_path / f"{(2, int(EpochSampler(8, 3).order(2)[0]))}").exists():
            return
        time.sleep(0.02)
    raise AssertionError


def test_processes_share_each_batch_and_accumulation_ends_with_the_epoch():
    Accelerator(cpu=True)
    first, second = (loader(processes=2, index=k) for k in (0, 1))
    for epoch in (1, 2):
        mine, others = keys(first.of_epoch(epoch)), keys(second.of_epoch(epoch))
        assert [batch for pair in zip(mine, others, strict=True) for batch in pair] == expected(epoch)
        last = [GradientState().end_of_dataloader for _ in first.of_epoch(epoch)]
        assert last == [False, True]
        assert not GradientState().in_dataloader
