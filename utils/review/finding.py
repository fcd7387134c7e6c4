"""All suspects in the order in which to look at them, what has been decided already, and the files of a review."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from utils.base.files import LOGS, PICTURES
from utils.base.tables import write_table
from utils.data.relabel import CORRECTED, FINDINGS, Claim, Decision, decided, write_decisions
from utils.review.other_kinds import duplicate_suspects, no_class_suspects, two_people_suspects
from utils.review.predictions import Predictions
from utils.review.suspects import GROUP, Suspect
from utils.review.wrong_labels import label_suspects

COLUMNS = [
    "rank",
    "kind",
    "attribute",
    "unit",
    "id",
    "given",
    "suggested",
    "confidence",
    "evidence",
    "accept",
    "files",
]


def suspects_file(name: str) -> Path:
    return LOGS / f"suspects_{name}.csv"


def review_page(name: str) -> Path:
    return PICTURES / name / "review.html"


def find_suspects(
    predictions: Predictions, squares_at: Callable[[np.ndarray], np.ndarray], claims: Iterable[Claim]
) -> tuple[list[Suspect], int]:
    """The suspects, the surest first, of equally sure ones those of more photographs; and how many are left out, since
    `claims`, the rows of relabel.csv, have decided about them.
    """
    found = label_suspects(predictions) + two_people_suspects(predictions) + no_class_suspects(predictions)
    found += duplicate_suspects(predictions, squares_at)
    flags = decided(predictions.photographs, claims)
    ids, folders = predictions.photographs.ids, predictions.photographs.folders

    def is_decided(suspect: Suspect) -> bool:
        """Of a group all photographs, of others one of those that are in question."""
        flag = flags[suspect.keep[0].attribute]
        if suspect.unit == GROUP:
            return bool(flag[folders == suspect.id].all())
        return bool(flag[np.isin(ids, [one.id for one in suspect.keep])].any())

    open_ones = [one for one in found if not is_decided(one)]
    stake = {one.key: len(one.files) if one.unit == GROUP else len(one.keep) for one in open_ones}
    return sorted(open_ones, key=lambda one: (-one.confidence, -stake[one.key], one.key)), len(found) - len(open_ones)


def count_words(suspects: Sequence[Suspect]) -> str:
    """How many there are of each kind, and how many are probably wrong: `36 of gender, 12 swapped`."""
    counts = Counter(
        one.kind if one.kind in FINDINGS or len(one.accept) > 1 else f"of {one.attribute}" for one in suspects
    )
    return ", ".join(f"{count} {what}" for what, count in counts.most_common()) or "none"


def expected_right(suspects: Sequence[Suspect]) -> float:
    """How many of the suspects are right by their confidence."""
    return sum(one.confidence for one in suspects)


def write_suspects(path: Path, suspects: Sequence[Suspect]) -> Path:
    """All suspects as a table; `accept` has the rows that accepting adds to relabel.csv, `id attribute value`."""
    rows = (
        [
            rank, one.kind, one.attribute, one.unit, one.id, one.given, one.suggested, one.confidence, one.evidence,
            "; ".join(f"{row.id} {row.attribute} {row.value}" for row in one.accept),
            "; ".join("/".join(file.parts[-2:]) for file in one.files),
        ]
        for rank, one in enumerate(suspects, start=1)
    )  # fmt: skip
    return write_table(path, COLUMNS, rows)


def accept_above(path: Path, suspects: Sequence[Suspect], least: float, claims: Iterable[Claim]) -> int:
    """Add to relabel.csv what accepting the suspects means that are surer than `least`; returns how many these are.

    What a row is there about is never written over.
    """
    earlier = [one.decision for one in claims]
    known = {(one.id, one.attribute) for one in earlier}
    sure = [one for one in suspects if one.accept and one.confidence > least]
    accepted = [one for one in sure if not known & {(row.id, row.attribute) for row in one.accept}]
    new = [Decision(row.id, row.attribute, row.value, CORRECTED) for one in accepted for row in one.accept]
    if new:
        write_decisions(path, earlier, new)
    return len(accepted)
