"""The logit cache: each model is evaluated on each photograph once, ever. What is damaged counts as not there."""

import hashlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.base.digests import digest_of
from utils.base.errors import InputError
from utils.base.files import atomic, read_bytes

log = logging.getLogger(__name__)

DIGEST = 32  # bytes of a SHA-256


def cache_key(weights_digest: str, images_digest: str, ids: Sequence[str], preprocessing: dict) -> str:
    """20 hex digits over what logits depend on: the weights, which photographs in which order, and their pixels.

    `images_digest` is that of the decoded photographs. The precision is always float32.
    """
    how = dict(sorted(preprocessing.items()))
    return digest_of([weights_digest, images_digest, list(map(str, ids)), how, "float32, normalised last"], 20)


def load_logits(folder: Path, key: str, ids: Sequence[str], num_classes: int) -> np.ndarray | None:
    """(N, C) float32 logits, or None when there are none or the file is damaged; rows that were never evaluated are
    NaN. The checksum is that of the zip archive, CRC-32.
    """
    path = Path(folder) / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as content:
            logits, kept_ids = content["logits"], content["ids"]
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy and zipfile have many ways of failing on damaged files
        log.info("%s is damaged (%s): evaluated anew", path, error)
        return None
    fits = logits.shape == (len(ids), num_classes) and logits.dtype == np.float32 and not np.isinf(logits).any()
    if not (fits and np.array_equal(kept_ids, ids)):
        log.info("%s holds other logits than its name tells of: evaluated anew", path)
        return None
    return logits


def store_logits(folder: Path, key: str, logits: np.ndarray, ids: np.ndarray) -> None:
    """Keep (N, C) logits with the ids of their rows."""
    with atomic(Path(folder) / f"{key}.npz", durable=False) as temporary, open(temporary, "wb") as file:
        np.savez(file, logits=logits.astype(np.float32), ids=np.asarray(ids, dtype=str))


def load_shard(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The float32 array of `shape` that `store_shard` kept, or None when the file is gone or is not what it wrote."""
    most = 2 * np.prod(shape) * 4 + 1024
    try:
        content = read_bytes(path, int(most))
        if hashlib.sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
            return None
        logits = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, InputError, ValueError, EOFError):
        return None
    return logits if logits.shape == shape and logits.dtype == np.float32 else None


def store_shard(path: Path, logits: np.ndarray) -> None:
    """Keep an array as NumPy writes it, and behind it the SHA-256 of these bytes."""
    content = io.BytesIO()
    np.save(content, logits)
    with atomic(path, durable=False) as temporary:
        temporary.write_bytes(content.getvalue() + hashlib.sha256(content.getvalue()).digest())
