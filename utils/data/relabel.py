"""Corrections of labels: `relabel.csv`, which people write by hand, and which a review of the labels adds to."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.base.errors import InputError
from utils.base.tables import read_dicts, tell_once, write_table

if TYPE_CHECKING:
    from utils.data.photographs import Photographs

log = logging.getLogger(__name__)

COLUMNS = ["id", "attribute", "value"]
CORRECTED, REVIEWED = DECISIONS = ("corrected", "reviewed")
FINDINGS = ("duplicate", "two people", "no class")  # that a reviewed row may reject: they are about no attribute
REJECTED = "no"  # its value then


@dataclass(frozen=True)
class Decision:
    """A row of relabel.csv: `id` is that of a photograph, or the name of a group, such as a person's folder, and
    `value` is right for its `attribute`. It differs from the given one if it is `CORRECTED`; `REVIEWED` confirms the
    given one, or rejects one of the `FINDINGS`, and changes nothing.
    """

    id: str
    attribute: str
    value: str
    decision: str = CORRECTED


@dataclass(frozen=True)
class Claim:
    """What a row of relabel.csv says of the photographs at the positions `rows`; `value` is as in the column of
    `Photographs.values` that `attribute` names, None of a finding.
    """

    line: int
    decision: Decision
    rows: list[int]
    value: int | None
    of_one_photograph: bool


def relabel_file(photographs: Photographs, relabel: Path | None) -> Path | None:
    """The corrections of photographs: the file that was named, else the usual one, if it is there."""
    return relabel or (photographs.corrections if os.path.lexists(photographs.corrections) else None)


def read_claims(photographs: Photographs, path: Path) -> list[Claim]:
    """The rows of a CSV with the columns `id,attribute,value`, and perhaps `decision`.

    `id` is that of a photograph, or the name of a group; of the competition's a person's folder name or leading id
    (claims have the folder's name), or `person/file-stem`. `value` is one of the names of the attribute's values, or a
    number such as an age in years. An unknown id, attribute, value or decision is an `InputError` that names the line,
    two different values of one photograph one that names both lines.
    """
    header, lines = read_dicts(path)
    if header not in (COLUMNS, [*COLUMNS, "decision"]):
        raise InputError(f"{path}: the columns are {','.join(header)}, expected id,attribute,value[,decision]")
    exact, zeros_lost = (_rows_by_name(photographs, zeros) for zeros in (True, False))
    claims, said = [], defaultdict(dict)  # (attribute, whether of single photographs): {row: (line, value)}
    for number, line in lines:
        where, name, attribute = f"{path} line {number}", line["id"].strip(" \t"), line["attribute"]
        if name not in exact and name in zeros_lost:
            tell_once(f"{path}: ids without their leading zeros are read with them")
        rows, single = exact.get(name) or zeros_lost.get(name, ([], False))
        _check_found(sorted(set(photographs.names[rows])), name, where)
        decision = line.get("decision", "").strip() or CORRECTED
        if decision not in DECISIONS:
            raise InputError(f"{where}: decision {decision!r} is none of {', '.join(DECISIONS)}")
        finding = decision == REVIEWED and attribute in FINDINGS
        value = None if finding else _value_of(photographs, attribute, line["value"], where)
        whole = str((photographs.ids if single else photographs.names)[rows[0]])
        claims.append(Claim(number, Decision(whole, attribute, line["value"], decision), rows, value, single))
        for row in rows:
            earlier, other = said[attribute, single].setdefault(row, (number, value))
            if other != value:
                raise InputError(
                    f"{path} lines {earlier} and {number} give {photographs.ids[row]} two values of {attribute}: "
                    "remove one of them"
                )
    return claims


def apply_relabel(photographs: Photographs, path: Path) -> Photographs:
    """Correct labels from a CSV, as `read_claims` reads it; what is said of a photograph counts more than what is said
    of its person.
    """
    corrections = [one for one in read_claims(photographs, path) if one.decision.decision == CORRECTED]
    names = sorted({one.decision.attribute for one in corrections})
    columns = {name: photographs.values[name].copy() for name in names}
    for one in sorted(corrections, key=lambda one: one.of_one_photograph):
        columns[one.decision.attribute][one.rows] = one.value
    changed = {name: values != photographs.values[name] for name, values in columns.items()}
    counts = ", ".join(f"{flags.sum()} of {name}" for name, flags in changed.items()) or "nothing"
    log.info("relabelled from %s: %s", path, counts)
    relabelled = np.logical_or.reduce([photographs.relabelled, *changed.values()])
    return replace(photographs, relabelled=relabelled, values=photographs.values | columns)


def decided(photographs: Photographs, claims: Iterable[Claim]) -> dict[str, np.ndarray]:
    """(N,) flags by attribute and finding: of which photographs a row says that what is given now is right, or that
    what was found is not so.
    """
    flags = {name: np.zeros(len(photographs), bool) for name in (*photographs.values, *FINDINGS)}
    for one in claims:
        name, rows = one.decision.attribute, np.array(one.rows)
        flags[name][rows if one.value is None else rows[photographs.values[name][rows] == one.value]] = True
    return flags


def write_decisions(path: Path, decisions: Iterable[Decision]) -> Path:
    """Write relabel.csv, atomically; of several decisions about the same id and attribute the last counts."""
    rows = {(one.id, one.attribute): one for one in decisions}
    return write_table(path, [*COLUMNS, "decision"], (list(astuple(one)) for one in rows.values()))


def _rows_by_name(photographs: Photographs, zeros: bool) -> dict[str, tuple[list[int], bool]]:
    """The photographs that each name means, and whether it is that of a single one and not of a group; spreadsheets
    lose leading `zeros`.

    Where photographs are called `group/stem`, the part of a group's name before the first `_` will do.
    """
    groups, singles = defaultdict(list), defaultdict(list)
    for row, (identifier, group) in enumerate(zip(photographs.ids.tolist(), photographs.names.tolist(), strict=True)):
        stem, whole = identifier.removeprefix(f"{group}/"), [group]
        if stem != identifier:
            whole.append(group.partition("_")[0])
        for name in dict.fromkeys(name if zeros else name.lstrip("0") or "0" for name in whole):
            groups[name].append(row)
            singles[f"{name}/{stem}" if stem != identifier else identifier].append(row)
    return {name: (rows, True) for name, rows in singles.items()} | {n: (rows, False) for n, rows in groups.items()}


def _check_found(folders: list[str], name: str, where: str) -> None:
    if not folders:
        raise InputError(f"{where}: no photograph has the id {name!r}")
    if len(folders) > 1:
        raise InputError(f"{where}: id {name!r} fits {', '.join(folders)}: give the folder's whole name")


def _value_of(photographs: Photographs, attribute: str, value: str, where: str) -> int:
    """What a `value` is in the column of `Photographs.values` that `attribute` names."""
    known = photographs.labelling
    if attribute not in known.attributes:
        raise InputError(f"{where}: attribute {attribute!r} is none of {', '.join(known.attributes)}")
    return known[attribute].parse(value, where)
