"""finetune.py alone and beside two busy processes, with libgomp's spinning threads and with ours, which soon sleep.

    python benchmarks/shared_cores.py [--repeats 3]

The demo's drawn faces and tower; `GOMP_SPINCOUNT` of libgomp's default (300,000 turns) and of `utils/__init__.py` take
turns. The busy processes are torch programs with libgomp's default, as somebody else's training beside one's own.
Photographs per second of the middle epoch, medians, ranges, and ratios of one round. Results: see docs/results.md.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.full_size import REPOSITORY
from benchmarks.train_speed import spread
from demo import faces

FINETUNE = [f"{REPOSITORY}/finetune.py", "--model", f"{REPOSITORY}/demo/tower.pt", "--lr", "2e-4", "--epochs", "3"]
BUSY = "import torch; linear = torch.nn.Linear(256, 256)\nwhile True: linear(torch.ones(64, 128, 256)).relu().sum()"
THEIRS, OURS = "300000", "1000"


def images_per_second(spins: str) -> float:
    shutil.rmtree("model", ignore_errors=True)
    env = {**os.environ, "GOMP_SPINCOUNT": spins}
    result = subprocess.run(
        [sys.executable, *FINETUNE, "--report-to", "none"], env=env, capture_output=True, text=True, check=False
    )
    if result.returncode:
        sys.exit(result.stderr)
    return statistics.median(map(float, re.findall(r"([\d.]+) images/s", result.stdout)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        faces.main(["data"])
        images_per_second(OURS)  # decodes, and makes the head
        for busy in (0, 2):
            others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
            time.sleep(5)
            try:
                rounds = [(images_per_second(THEIRS), images_per_second(OURS)) for _ in range(options.repeats)]
            finally:
                for one in others:
                    one.kill()
            print(f"beside {busy} busy processes:")
            print(f"  libgomp's default: {spread([theirs for theirs, _ in rounds])} images/s")
            print(f"  ours: {spread([ours for _, ours in rounds])} images/s")
            print(f"  ours / libgomp's default: {spread([ours / theirs for theirs, ours in rounds])}")


if __name__ == "__main__":
    main()
