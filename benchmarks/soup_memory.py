"""Peak memory of averaging N full-size checkpoints, N = 4 and N = 40.

    python benchmarks/soup_memory.py

Random ViT-B/32 in a temporary folder; the forty are four files, ten times each. A process of its own imports what
`main.py` imports, then averages and writes the soup; told is the largest resident set above that after the imports, in
checkpoint sizes (pages of memory-mapped files count while they are mapped). Results: see docs/results.md.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from full_size import release_state

from utils.models.averaging import average
from utils.models.foreign import from_openai
from utils.models.weights import read_weights, save_archive

DISTINCT, COUNTS, REPEATS = 4, (4, 40), 3
TOWER = 12, "quick_gelu"  # heads and activation, which the names of the hub do not tell


def write(folder: Path, seed: int) -> None:
    state = from_openai({name.removeprefix("model."): t for name, t in release_state(seed).items()})
    save_archive(folder / f"{seed}.pt", state)


def average_and_write(folder: Path, count: int) -> None:
    """Average `count` checkpoints, write the soup, and print seconds and peak bytes above the imports."""
    torch.zeros(1).add_(1)  # torch's own buffers belong to the imports
    before, begin = psutil.Process().memory_info().rss, time.perf_counter()
    paths = [folder / f"{k % DISTINCT}.pt" for k in range(count)]
    soup = average([lambda path=path: read_weights(path, TOWER).state_dict for path in paths])
    save_archive(folder / "soup.pt", soup)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(time.perf_counter() - begin, peak - before)


def main() -> None:
    if sys.argv[1:]:
        average_and_write(Path(sys.argv[1]), int(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(DISTINCT):
            subprocess.run([sys.executable, "-c", WRITE, str(REPOSITORY), folder, str(seed)], check=True)
        size = os.path.getsize(f"{folder}/0.pt")
        print(f"one checkpoint: {size / 1e6:.0f} MB")
        for count in COUNTS:
            runs = [
                subprocess.run(
                    [sys.executable, __file__, folder, str(count)], capture_output=True, text=True, check=True
                )
                for _ in range(REPEATS)
            ]
            seconds, peaks = zip(*(map(float, run.stdout.split()) for run in runs), strict=True)
            spent, peak = (sorted(values)[REPEATS // 2] for values in (seconds, peaks))
            limits = f"{min(peaks) / size:.2f} to {max(peaks) / size:.2f}"
            print(f"N = {count:2}: {spent:5.1f} s, peak {peak / size:.2f} checkpoints ({limits})")


WRITE = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/benchmarks"]
from pathlib import Path
from soup_memory import write
write(Path(sys.argv[2]), int(sys.argv[3]))
"""

if __name__ == "__main__":
    main()
