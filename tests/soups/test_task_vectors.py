"""Inner products of task vectors, whatever the pieces they are read in."""

import numpy as np
import pytest
import torch

from utils.soups.task_vectors import norms_and_cosines, task_gram

SHAPES = {"a": (3, 4), "b": (5,), "c": (1,)}


def state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return {**tensors, "steps": torch.tensor(seed)}


@pytest.mark.parametrize("block", [1, 9, 16, 10_000])
def test_the_gram_matrix_is_that_of_the_differences(block):
    states = [state(seed) for seed in range(4)]
    grams = task_gram([lambda one=one: one for one in states[1:]], lambda: states[0], block)
    assert grams.keys() == SHAPES.keys()
    for name, gram in grams.items():
        differences = np.stack([(one[name].double() - states[0][name].double()).flatten() for one in states[1:]])
        np.testing.assert_allclose(gram, differences @ differences.T, rtol=1e-12)


def test_norms_and_cosines_by_hand():
    norms, cosines = norms_and_cosines(np.array([[9.0, 0, 0], [0, 4, 4], [0, 4, 4]]))
    assert norms.tolist() == [3, 2, 2]
    assert cosines.tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 1]]
    assert norms_and_cosines(np.zeros((1, 1)))[1].tolist() == [[0]]  # an ingredient that is the start
