"""Models of a search: on a GPU averaged there, from checkpoints that main memory holds once."""

import torch

from utils.models.averaging import Mixture
from utils.models.checkpoints import Checkpoint
from utils.models.clip import Classifier, build


class Resident:
    """Models with the weights of mixtures, one at a time, on a device.

    On a CPU each is built from memory-mapped files. On a GPU there is one model, whose weights are replaced. The
    members are read into page-locked main memory when they are first asked for, as many as `limit` bytes hold, so that
    a search reads each file once and copies at the speed of the bus; the others are memory-mapped.

    Both averages are the same bit for bit where the weights of the members are whole numbers, as in every search for
    a soup of equal members: products are exact then, and the sums in float64 are made in the same order. Other weights
    may be rounded before the sum on one device and behind it on the other.
    """

    def __init__(self, device: torch.device, limit: int):
        self.device, self.on_gpu = device, device.type != "cpu"
        self.limit, self.taken = limit, 0
        self._held, self._model, self._digest = {}, None, None

    def model(self, mixture: Mixture) -> Classifier:
        """The model with the weights of a mixture, until another one is asked for."""
        if self._digest != mixture.digest:
            self.let_go()
            state_dict, first = mixture.state_dict(self.read, self.device), mixture.members[0]
            kind = first.config, len(state_dict["classification_head.weight"])
            if self._model is not None and kind == (self._model.config, self._model.classification_head.out_features):
                self._model.load_state_dict(state_dict, assign=True)
            else:
                self._model = build(first.config, state_dict, first.path.name, copy=False)
            self._digest = mixture.digest
        return self._model

    def let_go(self) -> None:
        """Free a model that is in main memory; it is made anew if it is asked for again."""
        if not self.on_gpu:
            self._model = self._digest = None

    def read(self, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
        """The tensors of a member, held or memory-mapped."""
        if not self.on_gpu:
            return checkpoint.state_dict()
        if checkpoint.digest not in self._held:
            tensors = checkpoint.state_dict()
            needed = sum(1 << (tensor.nbytes - 1).bit_length() for tensor in tensors.values())  # as torch locks them
            if self.taken + needed > self.limit:
                return tensors
            self._held[checkpoint.digest] = {name: self._locked(tensor) for name, tensor in tensors.items()}
            self.taken += needed
        return self._held[checkpoint.digest]

    def _locked(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory() if self.device.type == "cuda" else tensor.clone()
