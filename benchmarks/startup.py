"""What users wait for before a script works: seconds to its first line of work, here and in another checkout.

    python benchmarks/startup.py --before OTHER_CHECKOUT [--repeats 7]

Drawn faces, two models of one epoch, an age specialist, their soup and its submission are made first, and each command
is called once by both checkouts, so that all photographs and logits are cached; finetune.py has photographs and head
at hand, as in all runs of a sweep but the first. Then both take turns. The first line of work is the one that says
what was read: of checkpoints, photographs and cached logits, of finetune.py the built model, just before its first
step. Seconds on the clock, and CPU seconds, which other work on the machine changes less. Medians, ranges, and ratios
of one turn. Results: see docs/results.md.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.full_size import REPOSITORY
from demo import faces

TRAIN = ["--model", f"{REPOSITORY}/demo/tower.pt", "--report-to", "none", "--workers", "0", "--epochs", "1"]
LAUNCHER = "accelerate launch "
COMMANDS = {  # the command and what its first line of work looks like
    "main.py --greedy-soup": "ingredients, scored on",
    "validation.py --i 0": ", scored on",
    "validation.py --sweep finetune_cp": ", scored on",
    "inference.py": " images of ",
    "finetune.py --fast-dev-run": "^fine-tuning ",
    f"{LAUNCHER}finetune.py --fast-dev-run": "^fine-tuning ",
}
MEASURES = ("first line", "first line, CPU", "whole command", "whole command, CPU")


def words_of(checkout: Path, command: str) -> list[str]:
    """The command as a process is started with it, its script that of a checkout."""
    script, *options = command.removeprefix(LAUNCHER).split()
    start = [sys.executable]
    if command.startswith(LAUNCHER):
        start = [f"{Path(sys.executable).parent}/accelerate", "launch", "--quiet"]
        start += ["--config_file", str(checkout / "accelerate_config.yaml")]
    return [*start, str(checkout / script), *options, *(TRAIN if script == "finetune.py" else [])]


def run(checkout: Path, command: str) -> dict[str, float]:
    """Seconds of each of `MEASURES`."""
    begin, found, told = time.perf_counter(), {}, []
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        words_of(checkout, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    for line in process.stdout:
        told.append(line)
        if not found and re.search(COMMANDS[command], line):
            now = time.perf_counter() - begin
            spent = psutil.Process(process.pid)
            every = [one.cpu_times() for one in (spent, *spent.children(recursive=True))]
            found = {"first line": now, "first line, CPU": sum(one.user + one.system for one in every)}
    _, status, usage = os.wait4(process.pid, 0)
    if status or not found:
        sys.exit(f"{command} of {checkout} failed:\n{''.join(told)}")
    whole = time.perf_counter() - begin
    return found | {"whole command": whole, "whole command, CPU": usage.ru_utime + usage.ru_stime}


def prepare() -> None:
    faces.main(["data", "--train", "30", "--test", "40"])
    for script, *extra in (["finetune.py"], ["finetune.py", "--i", "1"], ["finetune_age.py"], ["main.py"]):
        options = ["--greedy-soup", "--metric", "macro_f1"] if script == "main.py" else TRAIN
        command = [sys.executable, str(REPOSITORY / script), *options, *extra]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    checkouts = {"before": options.before.resolve(), "now": REPOSITORY}
    seconds = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare()
        for turn in range(-1, options.repeats):
            for command in COMMANDS:
                for name, checkout in checkouts.items():
                    for measure, value in run(checkout, command).items():
                        if turn >= 0:
                            seconds[command, measure, name].append(value)
        os.chdir("/")
    print(f"| | | before | now | now / before |\n|{'---|' * 5}")
    for command in COMMANDS:
        for measure in MEASURES:
            before, now = (seconds[command, measure, name] for name in checkouts)
            ratios = [one / other for one, other in zip(now, before, strict=True)]
            print(f"| `{command}` | {measure} | {spread(before)} | {spread(now)} | {spread(ratios)} |")


if __name__ == "__main__":
    main()
