"""Difference hashes of photographs (ImageHash), by which nearly the same ones are found.

A hash is `HASH_SIDE` squared bits in (4,) uint64: whether each of so many places is darker than the next one.
"""

from collections.abc import Iterable

import imagehash
import numpy as np
from PIL import Image

HASH_SIDE = 16  # squared, the bits of a picture's hash
SAME = 4  # bits in which two files of the same picture differ at most, after compressing or scaling it again
BLOCK = 64  # photographs whose distances to all others are in memory at once


def difference_hashes(squares: Iterable[np.ndarray]) -> np.ndarray:
    """(N, 4) uint64 of N squares, (S, S, 3) uint8 each."""
    hashes = [imagehash.dhash(Image.fromarray(square), HASH_SIDE).hash.ravel() for square in squares]
    return np.packbits(hashes, axis=1).view(np.uint64)


def bits_apart(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """In how many bits hashes (..., 4) differ."""
    return np.bitwise_count(some ^ others).sum(-1, dtype=int)
