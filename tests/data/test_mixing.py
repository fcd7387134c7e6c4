import numpy as np
import pytest

from utils.data.mixing import Mixing, halves, mixup

WHITE, BLACK = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)
LABELS, MASKS = np.array([0, 1, 2, 2, 1, 0]), np.array([0, 0, 0, 1, 1, 1])


def test_mixup_is_the_weighted_mean():
    assert np.unique(mixup(WHITE, BLACK, 0.25)).tolist() == [64]
    np.testing.assert_array_equal(mixup(WHITE, BLACK, 1.0), WHITE)


def test_halves_are_left_and_right():
    mixed = halves(WHITE, BLACK)
    assert mixed[:, :4].min() == 255
    assert mixed[:, 4:].max() == 0


@pytest.mark.parametrize(("alpha", "half"), [(0.4, 0), (0.4, 0.5), (0, 1.0), (0, 0.5)])
def test_targets_are_shares_and_a_mixture_is_a_function_of_its_generator(alpha, half):
    mixing = Mixing(LABELS, MASKS, 3, alpha, half)
    shade = [np.full((8, 8, 3), 40 * k, np.uint8) for k in range(6)]
    for seed in range(20):
        square, partner, share = mixing(np.random.default_rng(seed), seed % 6, shade.__getitem__)
        again, *same = mixing(np.random.default_rng(seed), seed % 6, shade.__getitem__)
        np.testing.assert_array_equal(square, again)
        assert [partner, share] == same
        target = mixing.target(seed % 6, partner, share)
        assert target.dtype == np.float32
        assert target.sum() == pytest.approx(1)
        assert target[LABELS[seed % 6]] > 0


def test_halves_come_from_faces_of_one_mask_class():
    mixing = Mixing(LABELS, MASKS, 3, 0.0, half_cutmix=1.0)
    for seed in range(50):
        asked = []
        mixing(np.random.default_rng(seed), 4, lambda k, asked=asked: asked.append(k) or WHITE)
        assert asked[0] == 4
        assert MASKS[asked[1]] == 1
