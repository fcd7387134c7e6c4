"""Model soups: averages of fine-tuned weights (Wortsman et al. 2022, "Model soups").

They are meaningful only for checkpoints that share one start; `checkpoints.check_same_kind` sees to that.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from utils.errors import InputError


def average(ingredients: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of state dicts: summed in float64 tensor by tensor, rounded once to each tensor's own dtype.

    The dicts may be memory-mapped. Integer tensors are copied from the first. Raises `InputError` when keys or shapes
    differ.
    """
    first = ingredients[0]
    for other in ingredients[1:]:
        if first.keys() != other.keys():
            raise InputError(f"cannot average: tensor {min(first.keys() ^ other.keys())} is not in every ingredient")
    soup = {}
    for name, tensor in first.items():
        if not tensor.is_floating_point():
            soup[name] = tensor.clone()
            continue
        total = torch.zeros(tensor.shape, dtype=torch.float64)
        for ingredient in ingredients:
            if ingredient[name].shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)} and {tuple(ingredient[name].shape)}"
                raise InputError(f"cannot average: tensor {name} has the shapes {shapes}")
            total += ingredient[name]
        soup[name] = (total / len(ingredients)).to(tensor.dtype)
    return soup


@dataclass(frozen=True)
class Step:
    """One decision of the greedy search: `score` is that of the members before it plus the candidate."""

    candidate: Any
    score: Any
    accepted: bool


def greedy_soup(ingredients: Sequence, scores: Sequence, score: Callable[[list], Any]) -> Iterator[Step]:
    """The published greedy soup (Wortsman et al. 2022, recipe 1), with a strict rise asked for; yields each decision.

    Ingredients are sorted by their own `scores`, best first, equal ones in the order given. The best one starts the
    soup; each next one stays if `score(members)` of the average with it is strictly better than the best so far.
    Scores are compared exactly, so pass exact ones (`Fraction`).
    """
    order = sorted(range(len(ingredients)), key=lambda k: -scores[k])
    members, best = [], None
    for k in order:
        candidate = [*members, ingredients[k]]
        candidate_score = score(candidate) if members else scores[k]
        accepted = best is None or candidate_score > best
        if accepted:
            members, best = candidate, candidate_score
        yield Step(ingredients[k], candidate_score, accepted)
