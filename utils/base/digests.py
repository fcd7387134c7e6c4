"""Digests of plain values."""

import hashlib
import json


def digest_of(content, digits: int = 16) -> str:
    """The first hex digits, 64 at most, of the SHA-256 of plain values (or an array of them), written as JSON.

    The order of a dict's keys counts.
    """
    plain = content.tolist() if hasattr(content, "tolist") else content
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:digits]
