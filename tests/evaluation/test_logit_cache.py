"""Kept logits are those that were written, or count as not there."""

import io
import os
from pathlib import Path

import numpy as np
import pytest

from utils.evaluation.logit_cache import load_logits, load_shard, store_logits, store_shard

IDS = np.array([f"p{k}/normal" for k in range(40)])
LOGITS = np.random.default_rng(0).standard_normal((40, 18)).astype(np.float32)


def npz(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def flipped(content, at):
    changed = bytearray(content)
    changed[int(len(content) * at)] ^= 1
    return bytes(changed)


DAMAGE = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) * 3 // 5],
    "one bit": lambda content: flipped(content, 0.5),
    "one bit near the begin": lambda content: flipped(content, 0.1),
    "zeros": lambda content: bytes(len(content)),
    "random": lambda content: np.random.default_rng(1).bytes(len(content)),
}
OTHERS = {
    "of another number of photographs": LOGITS[:3],
    "of other classes": LOGITS[:, :3],
    "whole numbers": np.ones((40, 18), int),
    "text": np.full((40, 18), "x"),
    "infinite": np.full((40, 18), np.inf, np.float32),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_logits_count_as_not_there(damage, caplog):
    store_logits(Path("logits"), "key", LOGITS, IDS)
    np.testing.assert_array_equal(load_logits(Path("logits"), "key", IDS, 18), LOGITS)
    path = Path("logits/key.npz")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with caplog.at_level("INFO"):
        assert load_logits(Path("logits"), "key", IDS, 18) is None
    assert "logits/key.npz is damaged" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        *(npz(logits=logits, ids=IDS) for logits in OTHERS.values()),
        npz(logits=LOGITS, ids=IDS[::-1]),
        npz(x=np.zeros(3)),
        npz(logits=LOGITS),
    ],
)
def test_logits_of_something_else_count_as_not_there(content):
    assert load_logits(Path("logits"), "key", IDS, 18) is None
    Path("logits").mkdir()
    Path("logits/key.npz").write_bytes(content)
    assert load_logits(Path("logits"), "key", IDS, 18) is None


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_counts_as_not_there(damage):
    path = Path("000000.npy")
    store_shard(path, LOGITS)
    np.testing.assert_array_equal(load_shard(path, (40, 18)), LOGITS)
    np.testing.assert_array_equal(np.load(path), LOGITS)  # the checksum is behind what NumPy reads
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert load_shard(path, (40, 18)) is None


def test_a_shard_of_something_else_counts_as_not_there():
    path = Path("000000.npy")
    assert load_shard(path, (40, 18)) is None
    for array in OTHERS.values():
        if array.dtype.kind != "f" or array.shape != (40, 18):
            store_shard(path, array)
            assert load_shard(path, (40, 18)) is None
    path.write_bytes(npy(LOGITS))  # of a program that wrote no checksum
    assert load_shard(path, (40, 18)) is None
    path.unlink()
    os.mkfifo(path)
    assert load_shard(path, (40, 18)) is None
