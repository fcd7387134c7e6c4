"""Where submissions come from: their sweep, their classes and their models, by the records beside them."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from utils.base.errors import InputError
from utils.base.files import OUTPUT, sha256_of, write_text
from utils.base.records import Record, read_record
from utils.data import competition
from utils.data.labels import Labelling, labelling_from_record

# as the scripts name it
OF_A_SWEEP = re.compile(r"output_(.+?)_(seed[\d-]+_(\w+_)?epoch\d.*|auto(_flip|_nobias|_folds)*)")


class Member(Record):
    """A model that a submission was made with."""

    digest: str


class SubmissionRecord(Record):
    """What lies beside a submission, as far as somebody reads it: whose it is, how it was made, of which photographs
    and by which options, and the limits of attributes that are numbers, such as `age_limits`.
    """

    model_config = ConfigDict(extra="allow")

    sweep: str | None = None
    sha256: str | None = None
    classes: list[str] | None = None  # without them they are the competition's
    attributes: list[str] | None = None
    answer: Literal["names", "ids"] = "ids"
    members: list[Member] = Field([])
    how: dict[str, Any] = Field({})
    photographs: dict[str, Any] = Field({})
    options: dict[str, Any] = Field({})


@dataclass(frozen=True)
class Origin:
    """What a submission's record tells: its classes, whether its answers are their names or their ids, and the
    digests of the models that gave them (of a vote there are none).
    """

    classes: Labelling
    answer: str
    models: frozenset[str]


def record_file(submission: Path) -> Path:
    return submission.with_name(f"{submission.name}.json")


def write_record(submission: Path, record: dict) -> Path:
    """Tell beside a submission what it was made from: `record`, and the SHA-256 of the file that it belongs to."""
    content = {"file": submission.name, "sha256": sha256_of(submission), **record}
    return write_text(record_file(submission), json.dumps(content, indent=2) + "\n")


def record_of(submission: Path) -> SubmissionRecord:
    """What `write_record` told; nothing without a record. Raises `InputError` for a damaged one."""
    path = record_file(submission)
    if not path.is_file():
        return SubmissionRecord()
    return read_record(path, SubmissionRecord, "record of a submission", "remove it")


def told_replaced(submission: Path, digest: str, data_location: Path) -> str:
    """In words that a submission which is about to be written replaces one of other images than those of `digest`
    (`TestImages.names_digest`), which older records do not tell, or of another location; else nothing.
    """
    with suppress(InputError):  # a damaged record is replaced, too
        before = record_of(submission)
        location = before.options.get("data_location")
        of_others = location is not None and Path(str(location)).resolve() != data_location.resolve()
        if "digest" in before.photographs:
            of_others = before.photographs["digest"] != digest
        if submission.is_file() and of_others:
            return (
                f"{submission} answers other images, or these as they were (--data-location {location}), and will be "
                "replaced: --output-dir DIR keeps both"
            )
    return ""


def origin_of(submission: Path) -> Origin | None:
    """What is known of a submission; None without a record, and with one of another file's content."""
    record = record_of(submission)
    if not (record.members or record.classes) or record.sha256 != sha256_of(submission):
        return None
    classes = labelling_from_record(record.model_dump()) if record.classes else competition.labelling()
    counted = record.members[:1] if record.how.get("age weight") == 0 else record.members
    return Origin(classes, record.answer, frozenset(one.digest for one in counted))


def told_classes(submissions: Sequence[Path]) -> tuple[Labelling, Path] | None:
    """The classes of submissions and the first whose record tells them; None when none does.

    Raises `InputError` for submissions of different classes; other limits of a number are the same question.
    """
    told = [(origin.classes, path) for path in submissions if (origin := origin_of(path))]
    for classes, path in told[1:]:
        if _meaning(classes) != _meaning(told[0][0]):
            raise InputError(f"{told[0][1]} and {path} are of different classes: leave one of them out")
    return told[0] if told else None


def _meaning(classes: Labelling) -> tuple:
    return classes.names, *((part.name, part.limits is None and part.values) for part in classes.parts)


def sweep_of(submission: Path) -> str | None:
    """The sweep that a submission comes from: its record tells, or in one without a record its name, as the scripts
    write it; None when nothing tells.
    """
    if name := record_of(submission).sweep:
        return name
    named = OF_A_SWEEP.fullmatch(submission.stem)
    return named[1] if named and named[1] != "all" else None


def of_one_sweep(submissions: Sequence[Path], flag: str) -> None:
    """Raise `InputError` when the submissions found are of several sweeps; it names the `flag` that chooses one."""
    sweeps = sorted({sweep for path in submissions if (sweep := sweep_of(path))})
    if len(sweeps) > 1:
        raise InputError(
            f"{OUTPUT} holds submissions of several sweeps ({', '.join(sweeps)}): name one with {flag}, or the files"
        )


def vote_file(sweep: str | None = None) -> Path:
    """Where a vote goes: that of a sweep to a file of its own, so that no sweep's vote replaces another's."""
    return OUTPUT / (f"hard_voting_{sweep}.csv" if sweep else "hard_voting.csv")
