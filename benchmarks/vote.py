"""Time a vote over 20 submissions of 12,600 rows: by itself, as a whole command, and row by row with pandas.

    python benchmarks/vote.py [--repeats 5]

Random answers that agree in most rows, in a temporary folder. The vote by itself is that of
`utils.ensembles.votes`, and of pandas `row.value_counts().idxmax()` for each row, on answers that are read and
aligned already; the command is `python hard_voting.py` from its start to its end, with the agreement of the files,
and the reading of what it wrote.
They take turns and give the same classes. Prints medians, ranges, and ratios of one round. Results: docs/results.md.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.data import competition
from utils.data.submissions import read_submission
from utils.ensembles.votes import attribute_votes, class_votes, whole_weights

REPOSITORY = Path(__file__).resolve().parent.parent
FILES, ROWS = 20, 12_600


def row_by_row(answers: np.ndarray) -> np.ndarray:
    """(N,) the commonest value of each row of (F, N) answers; of equally common ones the first file's."""
    return pd.DataFrame(answers.T).apply(lambda row: row.value_counts().idxmax(), axis=1).to_numpy()


def attributes_row_by_row(answers: np.ndarray) -> np.ndarray:
    parts = competition.labelling().decode(answers)
    return competition.labelling().encode(**{name: row_by_row(values) for name, values in parts.items()})


def command(folder: str, mode: str) -> np.ndarray:
    """The classes that `hard_voting.py` writes for the submissions in `folder`."""
    script = [sys.executable, str(REPOSITORY / "hard_voting.py"), "--mode", mode]
    subprocess.run(script, cwd=folder, check=True, capture_output=True)
    return read_submission(Path(folder) / "output" / "hard_voting.csv").answers


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def race(ways: dict[str, Callable[[], np.ndarray]], repeats: int) -> dict[str, list[float]]:
    """The seconds that each way takes in each round; ends the benchmark when two give different classes."""
    seconds = {name: [] for name in ways}
    for _ in range(repeats):
        preds = []
        for name, way in ways.items():
            begin = time.perf_counter()
            preds.append(way())
            seconds[name].append(time.perf_counter() - begin)
        if any((other != preds[0]).any() for other in preds):
            sys.exit("the ways to vote differ")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rng, weights = np.random.default_rng(0), whole_weights([1] * FILES, FILES)
    truth = rng.integers(0, 18, ROWS)
    answers = np.stack([np.where(rng.random(ROWS) < 0.7, truth, rng.integers(0, 18, ROWS)) for _ in range(FILES)])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "output").mkdir()
        for number, column in enumerate(answers):
            rows = (f"{row:05d}.jpg,{answer}\n" for row, answer in enumerate(column))
            path = Path(folder) / "output" / f"output_{number:02d}.csv"
            path.write_text("ImageID,ans\n" + "".join(rows))
        print(f"{FILES} files of {ROWS:,} rows, {options.repeats} rounds, seconds")
        for mode, vote, plain in (
            ("class", class_votes, row_by_row),
            ("attribute", attribute_votes, attributes_row_by_row),
        ):
            ways = {
                "the vote": lambda vote=vote: vote(answers, weights),
                "the command": lambda mode=mode: command(folder, mode),
                "pandas, row by row": lambda plain=plain: plain(answers),
            }
            seconds = race(ways, options.repeats)
            print(f"--mode {mode}:")
            for name, values in seconds.items():
                print(f"  {name:18}  {spread(values)}")
            ratios = [b / a for a, b in zip(seconds["the vote"], seconds["pandas, row by row"], strict=True)]
            print(f"  pandas / the vote   {spread(ratios)}")


if __name__ == "__main__":
    main()
