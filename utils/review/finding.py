"""All suspects in the order in which to look at them, what has been decided already, and the files of a review."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np

from utils.base.files import LOGS, PICTURES
from utils.base.tables import write_table
from utils.base.terminal import counted
from utils.data.relabel import CORRECTED, Claim, Decision, decided, write_decisions
from utils.review.other_kinds import duplicate_suspects, no_class_suspects, two_people_suspects
from utils.review.predictions import Predictions
from utils.review.suspects import GROUP, Suspect
from utils.review.wrong_labels import label_suspects

COLUMNS = [
    "rank", "kind", "attribute", "unit", "id", "given", "suggested", "other", "confidence", "evidence", "corrections",
    "other_corrections", "files", "decision",
]  # fmt: skip


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
    ids, folders = predictions.photographs.ids, predictions.photographs.names

    def is_decided(suspect: Suspect) -> bool:
        """Of a group all photographs, of others one of those that are in question."""
        flag = flags[suspect.keep[0].attribute]
        if suspect.unit == GROUP:
            return bool(flag[folders == suspect.id].all())
        return bool(flag[np.isin(ids, [one.id for one in suspect.keep])].any())

    open_ones = [one for one in found if not is_decided(one)]
    stake = {one.key: len(one.files) if one.unit == GROUP else len(one.keep) for one in open_ones}
    return sorted(open_ones, key=lambda one: (-one.confidence, -stake[one.key], one.key)), len(found) - len(open_ones)


def fact_lines(suspects: Sequence[Suspect], decided: int) -> list[str]:
    """How many suspects there are of each kind, how many of them are probably right, and how many are decided."""
    counts = Counter(f"{one.kind} ({one.attribute})" if one.attribute else one.kind for one in suspects)
    words = ", ".join(f"{what} {count}" for what, count in counts.most_common()) or "none"
    right = sum(one.confidence for one in suspects)
    sure = sum(one.confidence > 0.5 for one in suspects)
    lines = [f"suspects: {words}; by their confidence about {right:.0f} are right, and {sure} more probably than not"]
    others = f"decided in relabel.csv, and not to come back: {counted(decided, 'other suspect')}"
    return lines + ([others] if decided else [])


def accept_above(
    path: Path, suspects: Sequence[Suspect], least: float, claims: Iterable[Claim]
) -> tuple[list[Suspect], list[Decision]]:
    """Add to relabel.csv what accepting the suspects means that are surer than `least`; these, and all its rows.

    What a row is there about is never written over.
    """
    earlier = [one.decision for one in claims]
    known = {(one.id, one.attribute) for one in earlier}
    sure = [one for one in suspects if one.accept and one.confidence > least]
    accepted = [one for one in sure if not known & {(row.id, row.attribute) for row in one.accept}]
    rows = earlier + [Decision(row.id, row.attribute, row.value, CORRECTED) for one in accepted for row in one.accept]
    if accepted:
        write_decisions(path, rows)
    return accepted, rows


def write_suspects(path: Path, suspects: Sequence[Suspect], accepted: Sequence[Suspect]) -> Path:
    """All suspects as a table; `corrections` are the rows that accepting adds to relabel.csv, `id attribute value`,
    and `other_corrections` those that the `other` value adds.
    """
    done = {one.key for one in accepted}
    rows = (
        [
            rank, one.kind, one.attribute, one.unit, one.id, one.given, one.suggested, one.other, one.confidence,
            one.evidence, *("; ".join(" ".join(astuple(row)) for row in rows) for rows in (one.accept, one.instead)),
            "; ".join("/".join(file.parts[-2:]) for file in one.files),
            CORRECTED if one.key in done else "",
        ]
        for rank, one in enumerate(suspects, start=1)
    )  # fmt: skip
    return write_table(path, COLUMNS, rows)
