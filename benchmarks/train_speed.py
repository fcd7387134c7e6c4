"""The whole command finetune.py against an equal loop around timm, full size, on a CPU.

    python benchmarks/train_speed.py [--repeats 3] [--timm-python PYTHON] [--no-cold]

ViT-B/32 with random weights, 560 drawn photographs of 384 x 512 to train on and 140 held out, batches of 16, one epoch
and the evaluation, each command as a process of its own from its start to its last line: `finetune.py` from cold (it
decodes, makes the sweep's head with a linear probe, evaluates and saves), with photographs and head at hand as in all
runs of a sweep but the first, and `timm_loop.py`; all in float32 and in bf16, by turns. Medians, ranges and ratios of
one round. `--timm-python` is a Python that has timm, if this one has not. Measured 2026-11: see docs/results.md.
"""

import argparse
import itertools
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.full_size import REPOSITORY, draw_people, release_state

FINETUNE = ["finetune.py", "--pretrained-location", "pretrained", "--batch-size", "16", "--epochs", "1"]
PEOPLE = 100  # seven photographs each; one in five is held out


def seconds(python: str, *command: str) -> tuple[float, str]:
    begin = time.perf_counter()
    script, *arguments = command
    result = subprocess.run(
        [python, str(REPOSITORY / script), *arguments], capture_output=True, text=True, check=False
    )
    if result.returncode:
        sys.exit(result.stderr)
    return time.perf_counter() - begin, result.stdout


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timm-python", default=sys.executable)
    parser.add_argument("--no-cold", action="store_true", help="leave the runs from cold out, all but the first")
    options = parser.parse_args()
    runs = list(itertools.product(("no", "bf16"), ("cold", "warm", "timm")))
    times, rates = {run: [] for run in runs}, {run: [] for run in runs}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("pretrained").mkdir()
        torch.save(release_state(0), "pretrained/model_0.pt")
        draw_people(Path("data"), PEOPLE)
        for round_, (precision, kind) in itertools.product(range(options.repeats), runs):
            if kind == "cold" and options.no_cold and round_:
                continue
            for made in ("cache", "logs", "model") if kind == "cold" else ("model",):
                shutil.rmtree(made, ignore_errors=True)
            if kind == "timm":
                extra = ["--bf16"] if precision == "bf16" else []
                took, told = seconds(options.timm_python, "benchmarks/timm_loop.py", "--data", "data", *extra)
            else:
                extra = ["--report-to", "csv", "--mixed-precision", precision]
                took, told = seconds(sys.executable, *FINETUNE, *extra)
            times[precision, kind].append(took)
            rates[precision, kind].append(float(re.findall(r"([\d.]+) images/s", told)[-1]))
    for run in runs:
        print(f"precision {run[0]:4} {run[1]:4} {spread(times[run])} s, {spread(rates[run])} images/s in the loop")
    for theirs, ours in (("no", "no"), ("bf16", "bf16"), ("no", "bf16")):
        ratios = [b / a for a, b in zip(times[ours, "warm"], times[theirs, "timm"], strict=True)]
        print(f"timm in precision {theirs} / finetune.py warm in {ours}: {spread(ratios)}")


if __name__ == "__main__":
    main()
