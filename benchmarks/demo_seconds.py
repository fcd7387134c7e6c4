"""The demo's seconds and lines on the terminal, here and in another checkout, and whether both leave the same files.

    python benchmarks/demo_seconds.py OTHER --rounds 3

Each round runs `bash training.sh` of both checkouts, one after the other, in new folders. Compared are all weights
(not the records beside them) and all bytes of the submissions.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from utils.models.checkpoints import read_checkpoint


def run(checkout: Path, folder: Path) -> tuple[float, int]:
    """Seconds and lines of the demo of a checkout, run in a new folder."""
    folder.mkdir()
    begin = time.perf_counter()
    done = subprocess.run(
        ["bash", str(checkout / "training.sh")],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"the demo of {checkout} failed:\n{done.stdout}")
    return time.perf_counter() - begin, len(done.stdout.splitlines())


def results(folder: Path) -> dict[str, object]:
    """The digest of each checkpoint's weights and the bytes of each submission."""
    made = folder / "demo_run"
    weights = {path.name: read_checkpoint(path).digest for path in made.glob("model/*.pt")}
    return weights | {path.name: path.read_bytes() for path in made.glob("output/*.csv")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    checkouts = {"other": options.other.resolve(), "this": REPOSITORY}
    seconds = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            made = {}
            for name, checkout in checkouts.items():
                place = Path(folder) / f"{name}{number}"
                took, lines = run(checkout, place)
                seconds[name].append(took)
                made[name] = results(place)
                print(f"round {number + 1}, {name}: {took:.1f} s, {lines} lines", flush=True)
            this, other = made["this"], made["other"]
            different = sorted(name for name in this | other if this.get(name) != other.get(name))
            print(f"{len(this)} files compared, different: {', '.join(different) or 'none'}")
    ratios = [this / other for this, other in zip(seconds["this"], seconds["other"], strict=True)]
    for name, took in seconds.items():
        print(f"{name}: median {statistics.median(took):.1f} s, {min(took):.1f} to {max(took):.1f}")
    print(f"this / other: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
