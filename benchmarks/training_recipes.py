"""What each option of fine-tuning is worth: mean and spread of the held-out scores over seeds, one option at a time.

    python benchmarks/training_recipes.py --data faces --pretrained backbones [--seeds 1 2 3] [--only NAME] [-- FLAGS]

Runs `finetune.py` once per recipe and seed in this process, in the folder it is called from (a run that is there is
skipped, so that it can be stopped and called again), and prints a table: macro-F1 and accuracy on the people held out
from the training folder, the difference to the plain recipe of the same seed, and seconds. The flags behind `--` are
common to all. Measured 2026-11: see docs/results.md.
"""

import argparse
import contextlib
import io
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import finetune

COMMON = "--lr 8e-4 --batch-size 32 --epochs 12 --aug-strength 1.5 --sampler balanced --logit-adjustment 1.0"
RECIPES = {
    "plain": "",
    "EMA 0.98": "--ema-decay 0.98",
    "EMA 0.99": "--ema-decay 0.99",
    "layer decay 0.75": "--layer-decay 0.75",
    "label smoothing 0.1": "--label-smoothing 0.1",
    "mixup 0.2": "--mixup 0.2",
    "half CutMix 0.5": "--half-cutmix 0.5",
    "mixup and layer decay": "--mixup 0.2 --layer-decay 0.75",
    "mixup, half CutMix and layer decay": "--mixup 0.2 --half-cutmix 0.5 --layer-decay 0.75",
    "drop ages 57-59": "--drop-ages 57-59",
    "age regression 0.5": "--age-regression 0.5",
    "class weights sqrt, no balanced sampler": "--sampler shuffle --class-weights sqrt",
    "no balanced sampler": "--sampler shuffle",
    "freeze first-2": "--freeze first-2",
    "freeze backbone": "--freeze backbone",
    "keep best": "--keep best",
    "random head": "--head-init random",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pretrained", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME")
    parser.add_argument("flags", nargs="*", help="for all runs, behind --")
    options = parser.parse_args()
    rows = {}
    for recipe in dict.fromkeys(["plain", *options.only]):
        for seed in options.seeds:
            argv = ["--data-location", str(options.data), "--pretrained-location", str(options.pretrained)]
            argv += [*COMMON.split(), "--report-to", "none", "--random-seed", str(seed), *options.flags]
            argv += [*RECIPES[recipe].split(), "--name", "".join(c if c.isalnum() else "_" for c in recipe)]
            begin = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                _, scores = finetune.run(finetune.parser().parse(argv))
            rows.setdefault(recipe, []).append((scores["macro_f1"], scores["accuracy"], time.perf_counter() - begin))
        print(describe(recipe, rows), flush=True)


def describe(recipe: str, rows: dict) -> str:
    """One line of the table, in Markdown."""
    macro_f1, accuracy, seconds = zip(*rows[recipe], strict=True)
    gains = [mine[0] - plain[0] for mine, plain in zip(rows[recipe], rows["plain"], strict=True)]

    def spread(values) -> str:
        return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    gain = f"{statistics.mean(gains):+.3f} ({min(gains):+.3f} to {max(gains):+.3f})"
    return f"| {recipe} | {spread(macro_f1)} | {gain} | {spread(accuracy)} | {statistics.median(seconds):.0f} |"


if __name__ == "__main__":
    main()
