"""albumentations pipelines from a uint8 square to normalised pixel values."""

import os

import cv2
import numpy as np
import torch

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # the library would ask the network for a newer version
import albumentations as A

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

cv2.setNumThreads(0)  # the loader has its own processes


def pipeline(kind: str, mean=CLIP_MEAN, std=CLIP_STD, strength: float = 1.0) -> A.Compose:
    """The pipeline `train`, `train2` (for oversampled photographs: stronger) or `val` (normalisation only).

    It takes and returns `image`: (S, S, 3) uint8 in, (3, S, S) float32 out. `strength` scales the augmentation.
    """
    steps = {"val": [], "train": _augmentation(strength), "train2": _augmentation(1.5 * strength)}[kind]
    return A.Compose([*steps, A.Normalize(mean, std), A.ToTensorV2()])


def _augmentation(strength: float) -> list[A.BasicTransform]:
    """Small shifts, zooms and turns, a flip, and colour changes: what a face in front of a camera does anyway."""
    if strength == 0:
        return []
    shift, turn, colour = 0.06 * strength, 8 * strength, 0.25 * strength
    return [
        A.HorizontalFlip(p=0.5),
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


class LabelledSquares(torch.utils.data.Dataset):
    """Photographs to train on. An item is asked for as `(epoch, position)`, so that augmentation is a function of
    (seed, epoch, sample) alone, whatever the worker, process or order.

    `rows` are positions into `squares`, `labels` the class id of each row, `pipelines` and `which` say which pipeline
    each row gets: `pipelines[which[position]]`.
    """

    def __init__(self, squares, rows: np.ndarray, labels: np.ndarray, pipelines: list[A.Compose], which, seed: int):
        self.squares, self.rows, self.labels = squares, rows, labels
        self.pipelines, self.which, self.seed = pipelines, which, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        epoch, position = key
        transform = self.pipelines[self.which[position]]
        transform.set_random_seed(int(np.random.SeedSequence([self.seed, epoch, position]).generate_state(1)[0]))
        return transform(image=self.squares[self.rows[position]])["image"], int(self.labels[position])


class EpochSampler(torch.utils.data.Sampler):
    """Yields `(epoch, position)`; the order is a function of (seed, epoch) alone.

    Without `weights` each position comes once per epoch; with them, as many positions are drawn with replacement.
    """

    def __init__(self, count: int, seed: int, weights: np.ndarray | None = None):
        self.count, self.seed, self.weights, self.epoch = count, seed, weights, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        rng = np.random.default_rng([self.seed, self.epoch])
        order = (
            rng.permutation(self.count) if self.weights is None else rng.choice(self.count, self.count, p=self.weights)
        )
        return iter([(self.epoch, int(position)) for position in order])


def square_root_weights(labels: np.ndarray) -> np.ndarray:
    """(N,) probabilities that draw each class in proportion to the square root of its size."""
    counts = np.bincount(labels)
    weights = 1 / np.sqrt(counts[labels])
    return weights / weights.sum()
