"""What is shown to whoever reviews labels: a suspect, and the corrections that a decision about it writes."""

from dataclasses import dataclass
from pathlib import Path

from utils.data.relabel import FINDINGS

DUPLICATE, TWO_PEOPLE, NO_CLASS = FINDINGS
LABEL, SWAPPED = "label", "swapped"
KINDS = (LABEL, SWAPPED, DUPLICATE, TWO_PEOPLE, NO_CLASS)
GROUP, IMAGE = "group", "image"


@dataclass(frozen=True)
class Correction:
    """What a row of relabel.csv says: the value of an attribute of a person, or of one photograph (`folder/stem`)."""

    id: str
    attribute: str
    value: str


@dataclass(frozen=True)
class Suspect:
    """Something about the labels that is probably wrong, to be accepted or rejected.

    `key` is the same in every run. `unit` is `GROUP` or `IMAGE` and `id` that of the group or the image; `given` and
    `suggested` are names of values, empty where the kind has none. `confidence` is the calibrated probability that the
    suggestion, or the suspicion, is right; `evidence` says in a sentence what speaks for it. `files` are photographs
    to show, the telling ones first. `accept` and `keep` are what accepting and rejecting write, and `instead` what
    choosing the `other` value writes, where there is a third one.
    """

    key: str
    kind: str
    unit: str
    id: str
    attribute: str
    given: str
    suggested: str
    confidence: float
    evidence: str
    files: tuple[Path, ...]
    accept: tuple[Correction, ...] = ()
    keep: tuple[Correction, ...] = ()
    other: str = ""
    instead: tuple[Correction, ...] = ()
