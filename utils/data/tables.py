"""Photographs that a table lists: CSV or Parquet, with a column of files, columns of labels, and perhaps of groups."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.base.errors import InputError
from utils.base.tables import read_dicts
from utils.data import competition
from utils.data.image_names import SUFFIXES
from utils.data.photographs import TEST, Photographs, from_columns

if TYPE_CHECKING:
    from utils.data.reading import Reading

FILES = ("file", "image", "path", "file_name", "filename")
GROUPS = ("group", "person")
PART = "split of datasets"  # a column of unpacked sets alone, with the part that an image was in


def read_table(
    path: Path, reading: Reading, order: dict[str, tuple[str, ...]] | None = None, kept_in: Path | None = None
) -> Photographs:
    """The photographs of a table, in the order of their ids; files are relative to the table's folder.

    `order` has the values of label columns in the order of class numbers, unless `reading` tells another; `kept_in` is
    the set that the table was unpacked from. Without a column `label` and without a word those of the competition's
    attributes are meant, if they are there. Raises `InputError` that names the line for what is missing, blank or
    listed twice, and for an image that is not there.
    """
    columns, lines = read_dicts(path)
    if reading.split_column != PART:  # what is to be predicted is so, whatever another column says
        lines = [(number, row) for number, row in lines if row.get(PART) != TEST]
    shown = f"{kept_in} (unpacked into {path})" if kept_in else path
    file = column(shown, columns, reading.image_column, FILES, "--image-column")
    usual = None if reading.label_columns or "label" in columns else competition.told_by(columns)
    labels = reading.label_columns or (usual.attributes if usual else ("label",))
    for name in labels:
        column(shown, columns, name if reading.label_columns else None, (name,), "--label-columns")
    group, split = reading.group_column, reading.split_column
    for name, flag in ((group, "--group-column"), (split, "--split-column")):
        if name:
            column(shown, columns, name, (), flag)
        if name in labels:
            raise InputError(f"{flag} {name} is a column of labels, too: leave it out, or name another one")
    group = group or next((name for name in GROUPS if name in columns and name not in labels), None)
    if not lines:
        raise InputError(f"{shown} lists no images")
    numbers, rows = zip(*lines, strict=True)
    for number, row in lines:
        told = labels if not split or row[split].strip() != TEST else ()  # nobody knows those of a test
        for name in filter(None, (file, *told, group, split)):
            if not row[name].strip():
                raise InputError(f"{shown} line {number}: the column {name} is blank: fill it in")
    names = [os.path.normpath(row[file].strip()) for row in rows]
    check_images(shown, path.parent, names, numbers)
    return from_columns(
        folder=path.parent,
        files=names,
        groups=[row[group].strip() for row in rows] if group else None,
        told={name: [row[name].strip() for row in rows] for name in labels},
        where=[f"{shown} line {number}" for number in numbers],
        order={name: usual[name].values for name in labels if usual} | (order or {}) | reading.order,
        limits=(usual.limits if usual else {}) | reading.numbers,
        sides=[row[split].strip() for row in rows] if split else None,
        whose="people" if group == "person" else "groups",
        listed_in=kept_in or path,
    )


def check_images(shown: Path | str, folder: Path, names: Sequence[str], numbers: Sequence[int]) -> None:
    """Raise `InputError` for an image that the lines with these `numbers` list twice, that is none by its name, or
    that is not in `folder`.
    """
    doubled = [path for path, count in Counter(os.path.abspath(folder / name) for name in names).items() if count > 1]
    if doubled:
        first = os.path.relpath(doubled[0], os.path.abspath(folder))
        raise InputError(f"{shown} lists {len(doubled)} images twice, the first: {first}")
    for number, name in zip(numbers, names, strict=True):
        if Path(name).suffix.lower() not in SUFFIXES:
            raise InputError(f"{shown} line {number}: {name} is none of {', '.join(SUFFIXES)}")
        if not os.path.isfile(folder / name):  # which takes names that no disk can have
            raise InputError(f"{shown} line {number}: {folder / name} is not there")


def column(path: Path | str, columns: list[str], asked: str | None, usual: tuple[str, ...], flag: str) -> str:
    """The column that is asked for, or the first of the usual ones."""
    found = [asked] if asked else list(usual)
    for name in found:
        if columns.count(name) > 1:
            raise InputError(f"{path} has {columns.count(name)} columns {name}: rename all but one")
        if name in columns:
            return name
    shown = ", ".join(columns[:8]) + (", ..." if len(columns) > 8 else "")
    raise InputError(f"{path} has the columns {shown}, and no {' or '.join(found)}: name one with {flag}")
