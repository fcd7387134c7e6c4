"""The names of what several models predict together, in the files that they write."""

import hashlib
from collections.abc import Sequence

from utils.models.checkpoints import Checkpoint


def weighted_name(model: Checkpoint, ages: Sequence[Checkpoint]) -> str:
    return f"{model.name}_WE_{_joined_names(ages)}"


def soft_voting_name(model: Checkpoint, others: Sequence[Checkpoint], rule: str = "minmax") -> str:
    """The names of all, and the rule when it is not the published one."""
    return f"{model.name}_SV_{_joined_names(others)}" + ("" if rule == "minmax" else f"_{rule}")


def _joined_names(checkpoints: Sequence[Checkpoint]) -> str:
    """Or, where a file name would become too long, their number and a digest of the names."""
    names = "_".join(one.name for one in checkpoints)
    if len(checkpoints) <= 3:
        return names
    return f"{len(checkpoints)}models_{hashlib.sha256(names.encode()).hexdigest()[:8]}"
