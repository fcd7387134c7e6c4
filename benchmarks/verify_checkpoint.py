"""What it costs to compare a checkpoint's weights with its record: seconds beside what reading it is for.

    python benchmarks/verify_checkpoint.py [--photographs 64] [--repeats 5]

One full-size ViT-B/32 with random weights. Timed in turns: its SHA-256, which a process computes once for a file that
stays as it is; reading it once more; averaging two; and evaluating `--photographs`, which a known digest saves. Prints
medians and ranges, and what part of the evaluation the check takes.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.full_size import release_state
from utils.models.averaging import average
from utils.models.clip import build
from utils.models.weights import digest, read_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        torch.save(release_state(0), "a.pt")
        torch.save(release_state(1), "b.pt")
        weights = read_weights("a.pt")
        model = build(weights.config, weights.state_dict).eval()
        pixels = torch.randn(options.photographs, 3, 224, 224)
        ways = {
            "compared with its record": lambda: digest(weights.state_dict),
            "read once more": lambda: read_weights("a.pt"),
            "averaged with another": lambda: average(
                [lambda: read_weights("a.pt").state_dict, lambda: read_weights("b.pt").state_dict]
            ),
            "evaluated": lambda: model.classify(pixels),
        }
        taken = {name: [] for name in ways}
        with torch.inference_mode():
            for _ in range(options.repeats):
                for name, way in ways.items():
                    begin = time.perf_counter()
                    way()
                    taken[name].append(time.perf_counter() - begin)
    for name, values in taken.items():
        print(f"{name:26} {statistics.median(values):7.3f} s ({min(values):.3f} to {max(values):.3f})")
    parts = [a / b for a, b in zip(taken["compared with its record"], taken["evaluated"], strict=True)]
    print(f"{'compared / evaluated':26} {statistics.median(parts):7.3f}   ({min(parts):.3f} to {max(parts):.3f})")


if __name__ == "__main__":
    main()
