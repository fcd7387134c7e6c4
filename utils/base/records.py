"""Records: what our own files tell in plain values, each kind declared once and checked whenever one is read.

A kind is a pydantic model: its fields say what a value must be, and everything else about damaged files is here. A
field that a record lacks has its default, one that the program does not know is passed over.
"""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from utils.base.errors import InputError
from utils.base.files import read_bytes

LONGEST = 256 * 2**20  # bytes; no record of ours comes near


class Record(BaseModel):
    """Nothing is converted (`true` and `"0.5"` are no numbers), and NaN and infinity are no numbers either."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


def _plain_name(name: str) -> str:
    if name != Path(name).name or "\0" in name or len(name.encode()) > 255:
        raise ValueError(f"{name!r} is no plain file name")
    return name


Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]+$")]
FileName = Annotated[str, AfterValidator(_plain_name)]  # beside others of its kind, never elsewhere on the disk

Kind = TypeVar("Kind", bound=BaseModel)


def read_record(path: Path, kind: type[Kind], what: str, remedy: str) -> Kind:
    """The JSON in a file as a record. Raises `InputError` that names the file and the first wrong value."""
    try:
        return kind.model_validate_json(read_bytes(path, LONGEST))
    except ValidationError as error:
        raise InputError(f"{path} is no {what} ({first_error(error)}): {remedy}") from error


def read_records(path: Path, kind: type[Kind], what: str, remedy: str) -> list[Kind]:
    """The records in a file of one JSON object per line. Raises `InputError` that names the line, too."""
    found = []
    for number, line in enumerate(read_bytes(path, LONGEST).splitlines(), start=1):
        try:
            found.append(kind.model_validate_json(line))
        except ValidationError as error:
            raise InputError(f"{path} is no {what} (line {number}, {first_error(error)}): {remedy}") from error
    return found


def check_record(content: Any, kind: type[Kind], where: Path | str, what: str, remedy: str) -> Kind:
    """Plain values, read from another format, as a record. Raises `InputError` that begins with `where`."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where} {what} ({first_error(error)}): {remedy}") from error


def first_error(error: ValidationError) -> str:
    """The first thing that is wrong, in words: `members.0.weight: input should be a finite number`."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    told = first["msg"].removeprefix("Value error, ")
    return f"{place}: {told[0].lower()}{told[1:]}" if place else told
