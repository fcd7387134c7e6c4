import logging
import os

import pyarrow
import pyarrow.parquet
import pytest

from utils.base.errors import InputError
from utils.base.tables import open_table, tell_once


def rows(path, content):
    path.write_text(content)
    columns, lines = open_table(path)
    return columns, list(lines)


def test_blank_rows_and_the_spaces_of_a_header_do_not_count(tmp_path):
    columns, lines = rows(tmp_path / "x.csv", "ImageID, ans\na,1\n,\n \t,\nb,2\n,,,,\n\n")
    assert columns == ["ImageID", "ans"]
    assert lines == [(2, ["a", "1"]), (5, ["b", "2"])]


@pytest.mark.parametrize(
    "content",
    ["{},ImageID,ans\n0,a,1\n7,b,2\n", "ImageID,{},ans\na,0,1\nb,1,2\n", "ImageID,ans,{}\na,1,\nb,2,\n"],
)
@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_a_column_without_a_name_is_left_out_and_told_once(content, name, tmp_path, caplog):
    tell_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            columns, lines = rows(tmp_path / "x.csv", content.format(name))
    assert (columns, [row for _, row in lines]) == (["ImageID", "ans"], [["a", "1"], ["b", "2"]])
    assert caplog.text.count("columns without a name") == 1


def test_names_that_are_missing_altogether_are_an_error(tmp_path):
    for content in ("", "\n", ",,\na,b,c\n"):
        with pytest.raises(InputError, match=r"x\.csv is empty, or its columns have no names"):
            rows(tmp_path / "x.csv", content)


def test_a_line_without_end_takes_no_memory(tmp_path):
    with open(tmp_path / "x.csv", "wb") as file:
        file.truncate(2**34)  # takes no room on the disk
    with pytest.raises(InputError, match=r"x\.csv, line 1: field larger"):
        open_table(tmp_path / "x.csv")


def test_only_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zeros.csv").symlink_to("/dev/zero")
    (tmp_path / "dangling.csv").symlink_to("nowhere")
    (tmp_path / "folder.csv").mkdir()
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError, match=rf"{path.name} does not exist or is no file"):
            open_table(path)


@pytest.mark.parametrize("kind", [pyarrow.date64(), pyarrow.timestamp("us"), pyarrow.timestamp("us", "no/zone")])
def test_a_parquet_file_that_python_cannot_hold_is_an_error(kind, tmp_path):
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"ImageID": ["a"], "day": pyarrow.array([2**60], kind)}), path)
    with pytest.raises(InputError, match=r"x\.parquet is no Parquet file that can be read .* as CSV"):
        list(open_table(path)[1])


def test_the_index_that_pandas_puts_into_parquet_is_left_out(tmp_path):
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"ImageID": ["a"], "__index_level_0__": [7]}), path)
    columns, lines = open_table(path)
    assert (columns, list(lines)) == (["ImageID"], [(1, ["a"])])
