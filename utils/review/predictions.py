"""What the models say of the photographs that are reviewed, attribute by attribute, and of a group all together.

Shapes: N photographs, U groups, V values of an attribute. A group is a person's folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import logsumexp

from utils.data.labels import Labelling
from utils.data.photographs import Photographs
from utils.evaluation.scores import log_softmax


@dataclass(frozen=True)
class Predictions:
    """(N, C) `log_probs` of the photographs at `rows` by models that were not trained on their people."""

    photographs: Photographs
    rows: np.ndarray
    log_probs: np.ndarray
    labelling: Labelling

    @cached_property
    def ids(self) -> np.ndarray:
        return self.photographs.ids[self.rows]

    @cached_property
    def persons(self) -> np.ndarray:
        return self.photographs.persons[self.rows]

    @cached_property
    def files(self) -> list[Path]:
        return [self.photographs.folder / name for name in self.photographs.files[self.rows]]

    @cached_property
    def given(self) -> dict[str, np.ndarray]:
        """(N,) the index of the given value of each attribute."""
        return self.labelling.decode(self.photographs.labels(self.labelling)[self.rows])

    @cached_property
    def kinds(self) -> np.ndarray:
        """(N,) what sets the photographs of a group apart by their labels: of a person's seven, the mask."""
        own = [name for name in self.labelling.attributes if name not in self.photographs.shared]
        rows = np.stack([self.given[name] for name in own], axis=1) if own else np.zeros((len(self.rows), 1), int)
        return np.unique(rows, axis=0, return_inverse=True)[1]

    @cached_property
    def groups(self) -> "Groups":
        folders = self.photographs.names[self.rows]
        names, first, group_of = np.unique(folders, return_index=True, return_inverse=True)
        members = np.split(np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1])
        return Groups(names, self.persons[first], group_of, members)

    def of_attribute(self, attribute: str) -> np.ndarray:
        """(N, V) log-probabilities of the values of an attribute, whatever the others."""
        axis = self.labelling.attributes.index(attribute)
        others = tuple(1 + k for k in range(len(self.labelling.shape)) if k != axis)
        return logsumexp(self.log_probs.reshape(-1, *self.labelling.shape), axis=others)


@dataclass(frozen=True)
class Groups:
    """The (U,) folders and persons of groups, the (N,) group of each photograph, and the positions of its members."""

    names: np.ndarray
    persons: np.ndarray
    group_of: np.ndarray
    members: list[np.ndarray]

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(U, ...) the mean over the photographs of each group, which are not independent: seven that agree are no
        seven times surer than one.
        """
        return np.stack([values[one].mean(0) for one in self.members])

    def most_frequent(self, values: np.ndarray) -> np.ndarray:
        """(U,) the value that most photographs of each group have; of equals the smallest."""
        return np.array([np.bincount(values[one]).argmax() for one in self.members])


def mean_log_probs(logits: Sequence[np.ndarray]) -> np.ndarray:
    """(N, C) log-probabilities of several models together: normalised means of theirs."""
    return log_softmax(np.mean([log_softmax(one) for one in logits], axis=0))


def log_odds(log_probs: np.ndarray) -> np.ndarray:
    """(..., V - 1) log-odds of each value but the first against the first."""
    return log_probs[..., 1:] - log_probs[..., :1]
