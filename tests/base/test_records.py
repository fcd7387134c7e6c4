"""One reader for all records: whatever a damaged file holds is one error that names it."""

import os
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from utils.base.errors import InputError
from utils.base.records import FileName, Record, read_record, read_records

PATH = Path("record.json")


class Thing(Record):
    weight: Annotated[float, Field(ge=0, le=2)]
    files: list[FileName] = Field(default_factory=list)


DAMAGED = {
    b"": "Invalid JSON: EOF",
    b"\0" * 50: "Invalid JSON",
    b"\xe9": "Invalid JSON",
    b"null": "input should be an object",
    b"[]": "input should be an object",
    b"[" * 200_000 + b"]" * 200_000: "recursion limit",
    b'{"weight":' * 100_000 + b"1" + b"}" * 100_000: "recursion limit",
    b"9" * 6_000: "number out of range",
    b"{}": "weight: field required",
    b'{"weight": true}': "weight: input should be a valid number",
    b'{"weight": "0.5"}': "weight: input should be a valid number",
    b'{"weight": null}': "weight: input should be a valid number",
    b'{"weight": NaN}': "weight: input should be a finite number",
    b'{"weight": 1e999}': "weight: input should be a finite number",
    b'{"weight": 1' + b"0" * 400 + b"}": "weight: input should be a finite number",
    b'{"weight": -3}': "weight: input should be greater than or equal to 0",
    b'{"weight": 1e9}': "weight: input should be less than or equal to 2",
    b'{"weight": 1, "files": "abc"}': "files: input should be a valid array",
    b'{"weight": 1, "files": ["/etc/passwd"]}': "files.0: '/etc/passwd' is no plain file name",
    b'{"weight": 1, "files": ["a.pt", "../a.pt"]}': r"files.1: '../a.pt' is no plain file name",
    b'{"weight": 1, "files": ["a\\u0000.pt"]}': "is no plain file name",
    b'{"weight": 1, "files": ["%s"]}' % (b"a" * 300): "is no plain file name",
}


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: str(content[:40]))
def test_a_damaged_record_is_one_error_that_names_file_and_value(content):
    PATH.write_bytes(content)
    with pytest.raises(InputError, match=r"^record.json is no thing \(") as caught:
        read_record(PATH, Thing, "thing", "remove it")
    assert DAMAGED[content].lower() in str(caught.value).lower()
    assert len(str(caught.value)) < 500
    assert str(caught.value).endswith("): remove it")


def test_what_a_later_program_adds_and_an_earlier_one_lacks_is_no_damage():
    PATH.write_text('{"weight": 1, "colour": "red"}')
    assert read_record(PATH, Thing, "thing", "remove it") == Thing(weight=1.0, files=[])


def test_of_a_file_of_lines_the_line_is_named():
    PATH.write_text('{"weight": 1}\n{"weight": 2}\n')
    assert [one.weight for one in read_records(PATH, Thing, "list of things", "remove it")] == [1, 2]
    PATH.write_text('{"weight": 1}\n{"weight": 3}\n')
    with pytest.raises(InputError, match=r"record.json is no list of things \(line 2, weight: input should be less"):
        read_records(PATH, Thing, "list of things", "remove it")


def test_a_pipe_and_a_device_are_no_records():
    os.mkfifo(PATH)
    with pytest.raises(InputError, match=r"record.json is no file"):
        read_record(PATH, Thing, "thing", "remove it")
    PATH.unlink()
    PATH.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"record.json is no file"):
        read_record(PATH, Thing, "thing", "remove it")
