"""The logit cache: each model is evaluated on each photograph once, ever."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.base.digests import digest_of
from utils.base.files import atomic


def cache_key(weights_digest: str, images_digest: str, ids: Sequence[str], preprocessing: dict) -> str:
    """20 hex digits over what logits depend on: the weights, which photographs in which order, and their pixels.

    `images_digest` is that of the decoded photographs. The precision is always float32.
    """
    how = dict(sorted(preprocessing.items()))
    return digest_of([weights_digest, images_digest, list(map(str, ids)), how, "float32, normalised last"], 20)


def load_logits(folder: Path, key: str) -> np.ndarray | None:
    """(N, C) float32 logits, or None when there are none; rows that were never evaluated are NaN."""
    path = Path(folder) / f"{key}.npz"
    if not zipfile.is_zipfile(path):
        return None
    with np.load(path, allow_pickle=False) as content:
        return content["logits"]


def store_logits(folder: Path, key: str, logits: np.ndarray, ids: np.ndarray) -> None:
    """Keep (N, C) logits with the ids of their rows."""
    with atomic(Path(folder) / f"{key}.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, logits=logits.astype(np.float32), ids=np.asarray(ids, dtype=str))
