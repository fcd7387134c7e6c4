"""Tables on disk, CSV or Parquet by the file's suffix, read and written as streams of rows."""

import csv
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import chain, islice
from pathlib import Path

from utils.base.errors import InputError
from utils.base.files import atomic

log = logging.getLogger(__name__)


FORMATS = (".csv", ".parquet")
BLOCK = 4096  # rows of a Parquet file in memory at once
LONGEST_LINE = 2**24  # characters of a CSV file
NAMELESS = re.compile(r"|Unnamed: \d+(\.\d+)*|__index_level_\d+__")  # what pandas calls an index, or leaves it without


def open_table(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The columns of a table, and its rows as text, each with its line (of a Parquet file its row, from 1).

    Rows are read when they are asked for. Blank rows, as a spreadsheet leaves them at the end, and columns without a
    name, such as pandas' index, are left out. Raises `InputError` for a file that is missing, empty or in another
    format, and, when it comes to it, for a row of another length than the header's.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file")
    lines = (_parquet_lines if path.suffix.lower() == ".parquet" else _csv_lines)(path)
    _, header = next(lines, (0, []))
    columns = [name.strip() for name in header]
    named = [k for k, name in enumerate(columns) if not NAMELESS.fullmatch(name)]
    if not named:
        raise InputError(f"{path} is empty, or its columns have no names")
    if len(named) == len(columns):
        return columns, lines
    tell_once(f"{path}: columns without a name, such as pandas' index, are left out")
    return [columns[k] for k in named], ((number, [row[k] for k in named]) for number, row in lines)


@cache
def tell_once(line: str) -> None:
    """Warn of what is read otherwise than it stands there; files are read more than once."""
    log.warning(line)


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The header and the rows that are not blank."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(iter(lambda: file.readline(LONGEST_LINE), ""))
        try:
            columns = next(reader, [])
            yield 1, columns
            for row in reader:
                if not any(map(str.strip, row)):
                    continue
                if len(row) != len(columns):
                    raise InputError(
                        f"{path}, line {reader.line_num}: {len(row)} fields, expected the header's {len(columns)}"
                    )
                yield reader.line_num, row
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no UTF-8 text: save it as CSV UTF-8") from error
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: {error}") from error


def _parquet_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise InputError(f"{path} has two columns of one name: rename one of {', '.join(names)}")
            yield 0, names
            columns = (batch.to_pydict().values() for batch in file.iter_batches(BLOCK))
            rows = chain.from_iterable(zip(*block, strict=True) for block in columns)
            for number, row in enumerate(rows, start=1):
                yield number, ["" if one is None else str(one) for one in row]
    except InputError:
        raise
    except (pyarrow.ArrowException, ValueError, ArithmeticError, LookupError) as error:  # also of dates, time zones
        raise InputError(f"{path} is no Parquet file that can be read ({error}): write it anew, or as CSV") from error


def read_dicts(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns and all rows of a small table, each with its line."""
    columns, lines = open_table(path)
    return columns, [(number, dict(zip(columns, row, strict=True))) for number, row in lines]


def write_table(path: Path, columns: list[str], rows: Iterable[list]) -> Path:
    """Write rows of text and numbers atomically; in a CSV file fractions have seven significant digits."""
    with atomic(path) as temporary:
        (_write_parquet if path.suffix == ".parquet" else _write_csv)(temporary, columns, rows)
    return path


def _write_csv(path: Path, columns: list[str], rows: Iterable[list]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([f"{one:.7g}" if isinstance(one, float) else one for one in row] for row in rows)


def _write_parquet(path: Path, columns: list[str], rows: Iterable[list]) -> None:
    import pyarrow
    import pyarrow.parquet

    with ExitStack() as stack:
        writer = None
        for block in blocks(rows, BLOCK):
            table = pyarrow.table([list(column) for column in zip(*block, strict=True)], names=columns)
            if writer is None:
                writer = stack.enter_context(pyarrow.parquet.ParquetWriter(path, table.schema))
            writer.write_table(table)


def blocks(rows: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` rows, the last of fewer."""
    rows = iter(rows)
    while block := list(islice(rows, size)):
        yield block
