import pickle

import albumentations as A
import numpy as np
import pytest
import torch

from utils.data.augmentation import EpochSampler, LabelledSquares, pipeline, square_root_weights
from utils.data.preprocessing import CLIP_MEAN, CLIP_STD, normalised

SQUARES = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), np.uint8)


def labelled(seed=0, strength=1.0):
    pipelines = [pipeline("train", strength=strength), pipeline("train2", strength=strength)]
    return LabelledSquares(SQUARES, np.arange(6), np.arange(6), pipelines, np.array([0, 0, 0, 1, 1, 1]), seed)


def test_normalisation_is_albumentations_own():
    pixel_values = normalised(torch.from_numpy(SQUARES))
    steps = A.Compose([A.Normalize(CLIP_MEAN, CLIP_STD), A.ToTensorV2()])
    assert pixel_values.dtype == torch.float32
    assert pixel_values.is_contiguous()
    for square, values in zip(SQUARES, pixel_values, strict=True):
        torch.testing.assert_close(values, steps(image=square)["image"], rtol=0, atol=1e-5)


def test_augmentation_is_a_function_of_seed_epoch_and_sample():
    one, two = labelled(), pickle.loads(pickle.dumps(labelled()))
    forward = [one[1, k][0] for k in range(6)]
    backward = [two[1, k][0] for k in reversed(range(6))][::-1]
    for first, second in zip(forward, backward, strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(one[2, 0][0], forward[0])
    assert not torch.equal(labelled(seed=1)[1, 0][0], forward[0])


def test_strength_zero_leaves_augmentation_out():
    for position in (2, 4):
        np.testing.assert_array_equal(labelled(strength=0)[1, position][0].numpy(), SQUARES[position])


def test_the_strongest_augmentation_is_one():
    assert pipeline("train2", strength=3.0)(image=SQUARES[0])["image"].shape == (32, 32, 3)


def test_sampler_order_is_a_function_of_seed_and_epoch():
    sampler = EpochSampler(10, 3)
    sampler.set_epoch(1)
    first = list(sampler)
    assert sorted(first) == [(1, k) for k in range(10)]
    assert list(sampler) == first
    sampler.skip = 4
    assert list(sampler) == first[4:]
    sampler.skip = 0
    whole_steps = EpochSampler(10, 3, per_step=4)
    whole_steps.set_epoch(1)
    assert list(whole_steps) == first[: len(whole_steps)] == first[:8]
    assert len(EpochSampler(10, 3, per_step=16)) == 10
    sampler.set_epoch(2)
    assert [position for _, position in sampler] != [position for _, position in first]


def test_balanced_sampling_draws_by_the_square_root():
    labels = np.repeat([0, 1, 2], [400, 100, 25])
    sampler = EpochSampler(len(labels), 0, square_root_weights(labels))
    drawn = np.array([labels[position] for _, position in sampler])
    assert len(drawn) == 525
    shares = np.bincount(drawn) / len(drawn)
    assert shares == pytest.approx(np.array([20, 10, 5]) / 35, abs=0.08)
