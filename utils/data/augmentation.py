"""From uint8 squares to what the model sees: albumentations pipelines on uint8, normalisation last.

Photographs stay uint8 until they are on the model's device: a quarter of the bytes to move, and nothing is normalised
image by image.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from utils.data.mixing import Mixing

if TYPE_CHECKING:
    import albumentations

cv2.setNumThreads(0)  # the loader has its own processes


def pipeline(kind: str, strength: float = 1.0, hflip: float = 0.5) -> albumentations.Compose | None:
    """The augmentation `train`, or `train2` for oversampled photographs: stronger.

    Small shifts, zooms and turns, a mirror image with the probability `hflip`, and colour changes: what a face in
    front of a camera does anyway. It takes and returns `image`, (S, S, 3) uint8. `strength` scales it, and 0 leaves it
    out: None.
    """
    if strength == 0:
        return None
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # the library would ask the network for a newer version
    import albumentations as A

    strength *= {"train": 1.0, "train2": 1.5}[kind]
    shift, turn, colour = 0.06 * strength, 8 * strength, min(1.0, 0.25 * strength)
    steps = [
        A.HorizontalFlip(p=hflip),
        A.Affine(
            scale=(1 - 1.5 * shift, 1 + 1.5 * shift),
            translate_percent=(-shift, shift),
            rotate=(-turn, turn),
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.9,
        ),
        A.ColorJitter(
            brightness=(1 - colour, 1 + colour), contrast=(1 - colour, 1 + colour), saturation=(1 - colour, 1 +
            colour), hue=(-0.08 * colour, 0.08 * colour), p=0.8,
        ),
    ]  # fmt: skip
    return A.Compose(steps)


class LabelledSquares(torch.utils.data.Dataset):
    """Photographs to train on. An item is asked for as `(epoch, position)`, so that augmentation is a function of
    (seed, epoch, sample) alone, whatever the worker, process or order.

    `rows` are positions into `squares`, `labels` the class id of each row, `pipelines` and `which` say which pipeline
    each row gets: `pipelines[which[position]]`. An item is an (S, S, 3) uint8 square and its label, or with `mixing`
    the mixture of two and its (C,) float32 target; and with `ages` (N,) in years the age, as a number of 15 years
    from 45.
    """

    def __init__(
        self,
        squares,
        rows: np.ndarray,
        labels: np.ndarray,
        pipelines: list[albumentations.Compose | None],
        which: np.ndarray,
        seed: int,
        mixing: Mixing | None = None,
        ages: np.ndarray | None = None,
    ):
        self.squares, self.rows, self.labels = squares, rows, labels
        self.pipelines, self.which, self.seed, self.mixing = pipelines, which, seed, mixing
        self.ages = None if ages is None else ((ages - 45) / 15).astype(np.float32)  # about -2 to 2

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int | np.ndarray]:
        epoch, position = key
        seed = np.random.SeedSequence([self.seed, epoch, position])
        augmentation = itertools.count(int(seed.generate_state(1)[0]))  # a partner's differs from the sample's own

        def augmented(position: int) -> np.ndarray:
            square, transform = self.squares[self.rows[position]], self.pipelines[self.which[position]]
            if transform is None:
                return square
            transform.set_random_seed(next(augmentation) % 2**32)
            return transform(image=square)["image"]

        if self.mixing is None:
            ages = () if self.ages is None else (self.ages[position],)
            return torch.from_numpy(augmented(position)), int(self.labels[position]), *ages
        square, partner, share = self.mixing(np.random.default_rng(seed), position, augmented)
        ages = (
            () if self.ages is None else (np.float32(share * self.ages[position] + (1 - share) * self.ages[partner]),)
        )
        return torch.from_numpy(square), self.mixing.target(position, partner, share), *ages


class EpochSampler(torch.utils.data.Sampler):
    """Yields `(epoch, position)`; the order is a function of (seed, epoch) alone.

    Without `weights` each position comes once per epoch; with them, as many positions are drawn with replacement.
    An epoch is as many positions as fill whole steps of `per_step`, or all where that would be none; one that was
    interrupted goes on behind its first `skip` positions.
    """

    def __init__(self, count: int, seed: int, weights: np.ndarray | None = None, per_step: int = 1):
        self.count, self.seed, self.weights, self.epoch, self.skip = count, seed, weights, 0, 0
        self.length = count - count % per_step or count

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def order(self, epoch: int) -> np.ndarray:
        """(M,) positions in the order of an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        drawn = (
            rng.permutation(self.count) if self.weights is None else rng.choice(self.count, self.count, p=self.weights)
        )
        return drawn[: self.length]

    def __iter__(self):
        return iter([(self.epoch, int(position)) for position in self.order(self.epoch)[self.skip :]])


def square_root_weights(labels: np.ndarray) -> np.ndarray:
    """(N,) probabilities that draw each class in proportion to the square root of its size."""
    counts = np.bincount(labels)
    weights = 1 / np.sqrt(counts[labels])
    return weights / weights.sum()
