"""What it costs to verify decoded photographs: seconds of decoding, of reading, and of reading with the check.

    python benchmarks/verify_squares.py [--photographs 2100] [--size 224] [--repeats 5]

One thread, no model. Drawn photographs of 384 x 512 are squashed to `--size` pixels: decoded from their files, read
from the cache without a check, read for the first time in a process, which compares each square with its SHA-256, and
read once more, when nothing is compared. They take turns. Prints medians, ranges, and ratios of one round.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.full_size import draw_people
from utils.data.images import FileImages, cache_squares
from utils.data.reading import read_photographs


def seconds(squares, count: int) -> float:
    """Seconds to copy `count` squares, one after the other."""
    begin = time.perf_counter()
    for row in range(count):
        np.array(squares[row])
    return time.perf_counter() - begin


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=2100)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    taken = {"decoded": [], "read": [], "read and verified": [], "read again": []}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        draw_people(Path("data"), options.photographs // 7)
        photographs = read_photographs(Path("data"))
        place = photographs.folder, list(photographs.files), options.size
        count = len(photographs)
        for _ in range(options.repeats):
            squares = cache_squares(*place, Path("cache"), progress=False)  # each time as in a new process
            plain = np.memmap(squares.path, np.uint8, mode="r", shape=(count, options.size, options.size, 3))
            for name, way in zip(taken, (FileImages(*place), plain, squares, squares), strict=True):
                taken[name].append(seconds(way, count))
    print(f"{count} photographs at {options.size} pixels, {options.repeats} rounds, seconds")
    for name, values in taken.items():
        print(f"  {name:28} {spread(values)}")
    for other in ("read", "decoded"):
        ratios = [a / b for a, b in zip(taken["read and verified"], taken[other], strict=True)]
        print(f"  {f'read and verified / {other}':28} {spread(ratios)}")


if __name__ == "__main__":
    main()
