"""Training on mixtures of two photographs: mixup, CutMix, and halves of two faces.

A mixture is, like all augmentation here, a function of (seed, epoch, sample): each sample draws its own partner and
share. So it does not depend on batches, workers or processes.
"""

from collections.abc import Callable

import cv2
import numpy as np


def mixup(square: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """`share` of one square and the rest of another (Zhang et al. 2018, "mixup"), both (S, S, 3) uint8."""
    return cv2.addWeighted(square, share, other, 1 - share, 0)


def cutmix(square: np.ndarray, other: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A square with a rectangle of another one pasted in at a random place (Yun et al. 2019, "CutMix").

    The rectangle has about `1 - share` of the area; what does not fit is cut off. Returns the share that is left, too.
    """
    size = len(square)
    half = round(size * (1 - share) ** 0.5 / 2)
    y, x = rng.integers(0, size, 2)
    rows, columns = (slice(max(0, c - half), min(size, c + half)) for c in (y, x))
    mixed = square.copy()
    mixed[rows, columns] = other[rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - area / size**2


def halves(square: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The left half of one square beside the right half of another."""
    middle = square.shape[1] // 2
    return np.concatenate([square[:, :middle], other[:, middle:]], axis=1)


class Mixing:
    """Draws how a sample is mixed: halves with probability `half_cutmix`, else mixup or CutMix if `alphas` name them.

    `labels` (N,) are class ids, `masks` (N,) the mask class of each sample: halves come from two people who wear it
    alike. `alphas` gives the parameter of the Beta distribution of the share by kind, `mixup` and `cutmix`; of both
    one is drawn.
    """

    def __init__(
        self, labels: np.ndarray, masks: np.ndarray, num_classes: int, alphas: dict[str, float], half_cutmix: float
    ):
        self.labels, self.num_classes, self.half_cutmix = labels, num_classes, half_cutmix
        self.alphas = {kind: alpha for kind, alpha in alphas.items() if alpha}
        self.masks, self.alike = masks, {mask: np.flatnonzero(masks == mask) for mask in np.unique(masks)}

    def __call__(
        self, rng: np.random.Generator, position: int, square_of: Callable[[int], np.ndarray]
    ) -> tuple[np.ndarray, int, float]:
        """The mixed square of the sample at `position`, the position of the other sample in it, and its own share."""
        square, share, partner = square_of(position), 1.0, position
        if rng.random() < self.half_cutmix:
            partner, share = int(rng.choice(self.alike[self.masks[position]])), 0.5
            square = halves(square, square_of(partner))
        elif self.alphas:
            kind = rng.choice(sorted(self.alphas))
            partner, share = int(rng.integers(len(self.labels))), rng.beta(self.alphas[kind], self.alphas[kind])
            if kind == "mixup":
                square = mixup(square, square_of(partner), share)
            else:
                square, share = cutmix(square, square_of(partner), share, rng)
        return square, partner, share

    def target(self, position: int, partner: int, share: float) -> np.ndarray:
        """(C,) float32 shares of the classes in a mixture."""
        target = np.zeros(self.num_classes, np.float32)
        target[self.labels[position]] += share
        target[self.labels[partner]] += 1 - share
        return target
