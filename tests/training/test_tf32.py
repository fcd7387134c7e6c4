"""Where products of float32 may be in TF32: a GPU looks at this switch of torch, which a CPU has too."""

import torch
from conftest import train

from utils.models.checkpoints import read_checkpoint
from utils.models.clip import Classifier


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
