"""Model soups: weighted averages of fine-tuned weights (Wortsman et al. 2022, "Model soups").

They are meaningful only for checkpoints that share one start; `checkpoints.check_same_kind` sees to that.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import methodcaller

import torch

from utils.base.digests import digest_of
from utils.base.errors import InputError
from utils.models.checkpoints import Checkpoint

BLOCK = 12 * 2**20  # numbers averaged at once: 48 MiB of float32, and twice that for their float64 sums

TensorWeights = Mapping[str, Sequence[float]]


def average(
    openers: Sequence[Callable[[], Mapping[str, torch.Tensor]]],
    weights: Sequence[float] | TensorWeights | None = None,
    block: int = BLOCK,
    device: torch.device | str = "cpu",
) -> dict[str, torch.Tensor]:
    """The weighted mean of state dicts: summed in float64, divided by the sum of the weights and rounded once to each
    tensor's own dtype, on `device`. Integer tensors are copied from the first.

    Each of `openers` returns a state dict, memory-mapped as a rule. The dicts are opened one after the other for each
    `block` of tensors and let go, so peak memory is that of the result and one block, however many there are.
    `weights` are one number per state dict, or for each tensor such a list; None weighs all alike. What weighs nothing
    is not read. Raises `InputError` when keys or shapes differ.
    """
    first = openers[0]()
    per_tensor = isinstance(weights, Mapping)
    weights_of = dict(weights) if per_tensor else dict.fromkeys(first, weights or [1] * len(openers))
    soup = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device=device) for name, tensor in first.items()}
    sizes = {name: tensor.numel() for name, tensor in soup.items() if tensor.is_floating_point()}
    for name in soup.keys() - sizes.keys():
        soup[name].copy_(first[name])
    del first
    for pieces in blocks_of(sizes, block):
        totals = [torch.zeros(high - low, dtype=torch.float64, device=device) for _, low, high in pieces]
        for k, opener in enumerate(openers):
            if not any(weights_of[name][k] for name, _, _ in pieces):
                continue
            tensors = opener()
            if tensors.keys() != soup.keys():
                odd = min(tensors.keys() ^ soup.keys())
                raise InputError(f"cannot average: tensor {odd} is not in every ingredient")
            for total, (name, low, high) in zip(totals, pieces, strict=True):
                if tensors[name].shape != soup[name].shape:
                    both = f"{tuple(soup[name].shape)} and {tuple(tensors[name].shape)}"
                    raise InputError(f"cannot average: tensor {name} has the shapes {both}")
                piece = tensors[name].reshape(-1)[low:high].to(device, non_blocking=True)
                total.add_(piece, alpha=weights_of[name][k])
        for total, (name, low, high) in zip(totals, pieces, strict=True):
            soup[name].view(-1)[low:high] = total.div_(sum(weights_of[name]))
    return soup


def blocks_of(sizes: dict[str, int], limit: int) -> Iterator[list[tuple[str, int, int]]]:
    """Tensors of these sizes, cut into blocks of at most `limit` numbers: each a list of (name, from, to)."""
    pieces, total = [], 0
    for name, size in sizes.items():
        low = 0
        while low < size:
            high = min(size, low + limit - total)
            pieces.append((name, low, high))
            total += high - low
            low = high
            if total == limit:
                yield pieces
                pieces, total = [], 0
    if pieces:
        yield pieces


@dataclass(frozen=True)
class Mixture:
    """What a soup is made of: checkpoints and their weights, one number each, or for each tensor such a list.

    Weights count relative to their sum, so whole numbers serve as well. Equal mixtures are one: `of` sorts the members
    by digest, which makes the average independent of the order in which they were found. Members may be models across
    folds; the average is then over members and folds.
    """

    members: tuple[Checkpoint, ...]
    weights: tuple[float, ...] | TensorWeights
    each: tuple["Mixture", ...] = ()  # of folds that do not all weigh their members alike

    @classmethod
    def of(cls, members: Sequence[Checkpoint], weights: Sequence[float] | TensorWeights | None = None) -> "Mixture":
        """Members that weigh nothing are left out; a member given several times counts as often."""
        order = sorted(range(len(members)), key=lambda k: members[k].digest)
        if isinstance(weights, Mapping):
            return cls(
                tuple(members[k] for k in order), {n: tuple(w[k] for k in order) for n, w in sorted(weights.items())}
            )
        totals, by_digest = {}, {}
        for k in order:
            by_digest.setdefault(members[k].digest, members[k])
            totals[members[k].digest] = totals.get(members[k].digest, 0) + (1 if weights is None else weights[k])
        kept = [key for key, weight in totals.items() if weight]
        if len({totals[key] for key in kept}) == 1:  # all alike: the plain mean
            totals = dict.fromkeys(kept, 1)
        return cls(tuple(by_digest[key] for key in kept), tuple(totals[key] for key in kept))

    @classmethod
    def across_folds(cls, each: Sequence["Mixture"]) -> "Mixture":
        """The mean of the mixtures of the folds, which weigh their members tensor by tensor."""
        members = [one for mixture in each for one in mixture.members]
        weights = {
            name: [weight / sum(one.weights[name]) for one in each for weight in one.weights[name]]
            for name in each[0].weights
        }
        return replace(cls.of(members, weights), each=tuple(each))

    @property
    def parts(self) -> tuple["Mixture", ...]:
        """The mixture of each fold's models; of a single split itself."""
        if self.each or len(self.members[0].parts) == 1:
            return self.each or (self,)
        of_folds = zip(*(one.parts for one in self.members), strict=True)
        return tuple(Mixture.of(members, self.weights) for members in of_folds)

    @property
    def flat(self) -> "Mixture":
        """The same average over the checkpoints of all folds."""
        if len(self.members[0].parts) == 1:
            return self
        members = [part for one in self.members for part in one.parts]
        if isinstance(self.weights, tuple):
            weights = [weight for one, weight in zip(self.members, self.weights, strict=True) for _ in one.parts]
            return Mixture.of(members, weights)
        folds = len(self.members[0].parts)
        return Mixture.of(members, {n: [w for w in ws for _ in range(folds)] for n, ws in self.weights.items()})

    @cached_property
    def digest(self) -> str:
        """Hex digits that stand for the averaged weights: a single member's own, else over what goes into them."""
        if len(self.members) == 1:
            return self.members[0].digest
        weights = self.weights if isinstance(self.weights, tuple) else dict(self.weights)
        return digest_of(["float64 mean", [one.digest for one in self.members], weights], 64)

    @property
    def shares(self) -> list[float]:
        """Each member's part of the whole, summing to 1; where it differs by tensor, the mean over the numbers."""
        if isinstance(self.weights, tuple):
            return [weight / sum(self.weights) for weight in self.weights]
        sizes = {name: torch.Size(self.members[0].shapes[name]).numel() for name in self.weights}
        parts = [[w / sum(weights) for w in weights] for weights in self.weights.values()]
        total = sum(sizes.values())
        return [
            sum(part[k] * size for part, size in zip(parts, sizes.values(), strict=True)) / total
            for k in range(len(self.members))
        ]

    def record(self) -> list[float] | dict[str, list[float]]:
        """The weights as a soup's record keeps them, in the order of its members."""
        if isinstance(self.weights, tuple):
            return list(self.weights)
        return {name: list(weights) for name, weights in self.weights.items()}

    def state_dict(
        self,
        read: Callable[[Checkpoint], Mapping[str, torch.Tensor]] = methodcaller("state_dict"),
        device: torch.device | str = "cpu",
    ) -> dict[str, torch.Tensor]:
        """The averaged weights, on `device`; `read` gives the tensors of a member."""
        if len(self.members) == 1:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in read(self.members[0]).items()}
        flat = self.flat
        return average([partial(read, one) for one in flat.members], flat.weights, device=device)
