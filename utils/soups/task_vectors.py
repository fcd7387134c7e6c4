"""Where fine-tuned weights lie, seen from their start (task vectors, Ilharco et al. 2023)."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from utils.models.averaging import blocks_of

BLOCK = 64 * 2**20  # numbers held at once over all ingredients, in float64: 512 MiB

Opener = Callable[[], Mapping[str, torch.Tensor]]


def task_gram(openers: Sequence[Opener], start: Opener, block: int = BLOCK) -> dict[str, np.ndarray]:
    """For each floating-point tensor the (N, N) float64 inner products of the ingredients' differences from `start`.

    Tensors are read in pieces, so that peak memory does not grow with N. The Gram matrix of all weights is the sum.
    """
    first = start()
    sizes = {name: tensor.numel() for name, tensor in first.items() if tensor.is_floating_point()}
    grams = {name: np.zeros((len(openers), len(openers))) for name in sizes}
    limit = max(1, block // (len(openers) + 1))
    for pieces in blocks_of(sizes, limit):
        base = start()
        differences = [torch.empty(len(openers), high - low, dtype=torch.float64) for _, low, high in pieces]
        for k, opener in enumerate(openers):
            tensors = opener()
            for vectors, (name, low, high) in zip(differences, pieces, strict=True):
                vectors[k] = tensors[name].reshape(-1)[low:high]
                vectors[k] -= base[name].reshape(-1)[low:high]
        for vectors, (name, _, _) in zip(differences, pieces, strict=True):
            grams[name] += (vectors @ vectors.T).numpy()
    return grams


def norms_and_cosines(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (N,) of vectors and the cosines (N, N) between them, from their inner products; 0 for a zero vector."""
    norms = np.sqrt(np.diag(gram))
    sizes = np.outer(norms, norms)
    return norms, np.divide(gram, sizes, out=np.zeros_like(gram), where=sizes > 0)
