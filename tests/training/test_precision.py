"""The precision of a training step: TF32, whose switch a CPU has too, and bf16."""

from types import SimpleNamespace

import pytest
import torch
from conftest import train

from utils.models.checkpoints import read_checkpoint
from utils.models.clip import Classifier
from utils.training import setup


def test_tf32_is_for_the_training_step_and_for_no_score(faces, pretrained, monkeypatch):
    seen = {"forward": set(), "outputs": set()}  # of a training step, and of whatever is evaluated

    def noting(name):
        plain = getattr(Classifier, name)

        def noted(self, *arguments, **how):
            seen[name].add(torch.backends.cuda.matmul.allow_tf32)
            return plain(self, *arguments, **how)

        return noted

    for name in seen:
        monkeypatch.setattr(Classifier, name, noting(name))
    path, _ = train(faces, pretrained, "--epochs", 1, "--tf32")
    assert seen == {"forward": {True}, "outputs": {False}}
    assert read_checkpoint(path).meta["options"]["tf32"] is True

    seen["forward"].clear()
    other, _ = train(faces, pretrained, "--epochs", 1, "--name", "plain")
    assert seen == {"forward": {False}, "outputs": {False}}
    assert read_checkpoint(other).digest == read_checkpoint(path).digest  # on a CPU
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("device", "precision", "told", "warned"),
    [
        ("cpu", "bf16", {"avx512_bf16": False}, True),
        ("cpu", "bf16", {"avx512_bf16": True}, False),
        ("cpu", "bf16", {}, False),
        ("cpu", "no", {"avx512_bf16": False}, False),
        ("cuda", "bf16", {"avx512_bf16": False}, False),
    ],
)
def test_bf16_is_warned_of_on_a_cpu_without_it(monkeypatch, device, precision, told, warned):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told)
    accelerator = SimpleNamespace(device=torch.device(device), mixed_precision=precision)
    assert [line.startswith("this CPU has no instructions for bf16") for line in setup.slowness(accelerator)] == [
        True
    ] * warned
