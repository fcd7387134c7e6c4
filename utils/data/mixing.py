"""Training on mixtures of two photographs: mixup, and halves of two faces.

A mixture is, like all augmentation here, a function of (seed, epoch, sample): each sample draws its own partner and
share. So it does not depend on batches, workers or processes.
"""

from collections.abc import Callable

import cv2
import numpy as np


def mixup(square: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """`share` of one square and the rest of another (Zhang et al. 2018, "mixup"), both (S, S, 3) uint8."""
    return cv2.addWeighted(square, share, other, 1 - share, 0)


def halves(square: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The left half of one square beside the right half of another."""
    middle = square.shape[1] // 2
    return np.concatenate([square[:, :middle], other[:, middle:]], axis=1)


class Mixing:
    """Draws how a sample is mixed: halves with probability `half_cutmix`, else mixup if `mixup` is above 0.

    `labels` (N,) are class ids, `alike` (N,) what two samples must have in common whose halves
    are put together, such as how the mask is worn. `mixup` is the parameter of the share's Beta distribution.
    """

    def __init__(self, labels: np.ndarray, alike: np.ndarray, num_classes: int, mixup: float, half_cutmix: float):
        self.labels, self.num_classes, self.mixup, self.half_cutmix = labels, num_classes, mixup, half_cutmix
        self.alike, self.with_value = alike, {value: np.flatnonzero(alike == value) for value in np.unique(alike)}

    def __call__(
        self, rng: np.random.Generator, position: int, square_of: Callable[[int], np.ndarray]
    ) -> tuple[np.ndarray, int, float]:
        """The mixed square of the sample at `position`, the position of the other sample in it, and its own share."""
        square = square_of(position)
        if rng.random() < self.half_cutmix:
            partner = int(rng.choice(self.with_value[self.alike[position]]))
            return halves(square, square_of(partner)), partner, 0.5
        if not self.mixup:
            return square, position, 1.0
        partner, share = int(rng.integers(len(self.labels))), rng.beta(self.mixup, self.mixup)
        return mixup(square, square_of(partner), share), partner, share

    def target(self, position: int, partner: int, share: float) -> np.ndarray:
        """(C,) float32 shares of the classes in a mixture."""
        target = np.zeros(self.num_classes, np.float32)
        target[self.labels[position]] += share
        target[self.labels[partner]] += 1 - share
        return target
