"""Models of a search, as a GPU has them: from checkpoints that are held in memory, one after the other."""

from pathlib import Path

import pytest
import torch
from conftest import TOWER, checkpoint_record

from utils.models.averaging import Mixture
from utils.models.checkpoints import Checkpoint, read_checkpoint, save_checkpoint
from utils.models.clip import Classifier
from utils.models.resident import Resident

PLENTY = 10**9


@pytest.fixture
def members() -> list[Checkpoint]:
    paths = [Path(f"c{k}.pt") for k in range(3)]
    for path in paths:
        save_checkpoint(path, Classifier(TOWER, 18).state_dict(), checkpoint_record(TOWER))
    return [read_checkpoint(path) for path in paths]


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The names of the files that were opened for their tensors."""
    read, plain = [], Checkpoint.state_dict
    monkeypatch.setattr(Checkpoint, "state_dict", lambda self: read.append(self.name) or plain(self))
    return read


def as_on_gpu(limit: int) -> Resident:
    resident = Resident(torch.device("cpu"), limit)
    resident.on_gpu = True
    return resident


def check(resident: Resident, mixture: Mixture) -> Classifier:
    """The model, whose weights are those of the mixture bit for bit."""
    model, expected = resident.model(mixture), mixture.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    return model


@pytest.mark.parametrize("limit", [PLENTY, 0])
def test_one_model_takes_the_weights_of_each_mixture(members, limit):
    resident = as_on_gpu(limit)
    mixtures = [Mixture.of(members[:k]) for k in (1, 2, 3)] + [Mixture.of(members, [2, 1, 1])]
    models = {id(check(resident, mixture)) for mixture in [*mixtures, mixtures[0], mixtures[0]]}
    assert len(models) == 1
    for name, tensor in members[0].state_dict().items():  # what is held was not overwritten
        assert torch.equal(resident.read(members[0])[name], tensor)


def test_each_file_is_read_once_and_no_more_are_held_than_memory_has_room_for(members, read):
    resident = as_on_gpu(PLENTY)
    for mixture in (Mixture.of(members[:2]), Mixture.of(members), Mixture.of(members[1:])):
        resident.model(mixture)
    assert sorted(read) == ["c0", "c1", "c2"]

    read.clear()
    taken = resident.taken // 3
    for limit, held in ((2 * taken, 2), (2 * taken - 1, 1), (0, 0)):
        resident = as_on_gpu(limit)
        for one in members:
            resident.read(one)
        read.clear()
        for one in members:
            resident.read(one)
        assert len(read) == 3 - held


def test_a_cpu_maps_the_files_and_lets_each_model_go(members, read):
    resident = Resident(torch.device("cpu"), PLENTY)
    one, other = Mixture.of(members[:2]), Mixture.of(members[1:])
    first = check(resident, one)
    assert resident.model(one) is first
    assert check(resident, other) is not first
    assert not resident.taken
    resident.let_go()
    assert resident._model is None


def test_another_kind_of_tower_is_another_model(members):
    resident = as_on_gpu(PLENTY)
    model = resident.model(Mixture.of(members[:1]))
    config = {**TOWER, "num_hidden_layers": 1}
    save_checkpoint(Path("other.pt"), Classifier(config, 18).state_dict(), checkpoint_record(config))
    other = check(resident, Mixture.of([read_checkpoint(Path("other.pt"))]))
    assert other is not model
