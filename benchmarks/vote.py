"""Time hard_voting.py, the whole command, on 20 submissions of 12,600 rows.

    python benchmarks/vote.py

Random answers that agree in most rows, in a temporary folder. Prints the median and the range of five runs.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FILES, ROWS, RUNS = 20, 12_600, 5
SCRIPT = Path(__file__).resolve().parent.parent / "hard_voting.py"


def main() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 18, ROWS)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "output").mkdir()
        for number in range(FILES):
            answers = np.where(rng.random(ROWS) < 0.7, truth, rng.integers(0, 18, ROWS))
            rows = (f"{row:05d}.jpg,{answer}\n" for row, answer in enumerate(answers))
            path = Path(folder) / "output" / f"output_{number:02d}.csv"
            path.write_text("ImageID,ans\n" + "".join(rows))
        seconds = []
        for _ in range(RUNS):
            begin = time.perf_counter()
            subprocess.run([sys.executable, str(SCRIPT)], cwd=folder, check=True, capture_output=True)
            seconds.append(time.perf_counter() - begin)
    print(
        f"{FILES} files of {ROWS} rows: median {statistics.median(seconds):.2f} s "
        f"({min(seconds):.2f} to {max(seconds):.2f}, {RUNS} runs)"
    )


if __name__ == "__main__":
    main()
