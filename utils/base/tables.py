"""Tables on disk, CSV or Parquet by the file's suffix, read and written as streams of rows."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

from utils.base.errors import InputError
from utils.base.files import atomic

FORMATS = (".csv", ".parquet")
BLOCK = 4096  # rows of a Parquet file in memory at once


def open_table(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The columns of a table, and its rows as text, each with its line (of a Parquet file its row, from 1).

    Rows are read when they are asked for. Raises `InputError` for a file that is missing, empty or in another format,
    and, when it comes to it, for a row of another length than the header's.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file")
    lines = (_parquet_lines if path.suffix == ".parquet" else _csv_lines)(path)
    _, columns = next(lines, (0, []))
    if not columns:
        raise InputError(f"{path} is empty")
    return columns, lines


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The header and the rows that are not empty."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            columns = next(reader, [])
            yield 1, columns
            for row in filter(None, reader):
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
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no Parquet file ({error}): write it anew, or give a CSV file") from error


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
