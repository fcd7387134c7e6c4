"""The pooled search over folds: what early rejection saves, and what memory it takes, as Markdown.

    python benchmarks/folded_search.py                                                 random models, drawn faces
    python benchmarks/folded_search.py --model-location model --data-location faces    a folded sweep of yours

The greedy soup is searched twice with nothing of its candidates cached: as `main.py --greedy-soup` does it, and
scoring every candidate on every fold in full. Both decide alike, or this ends with an error. Times are of the search
alone; the ingredients' own scores, which both need, come before. Peak memory is that of a process of its own for each
size: random models of so many recipes times folds.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "demo")]

import faces

import main as soup_script
from utils.base import flags
from utils.base.metrics import METRICS
from utils.base.options import Options, Parser, number
from utils.base.runtime import start_runtime
from utils.data import competition
from utils.data.preprocessing import preprocessing
from utils.data.reading import read_photographs
from utils.data.splits import make_folds
from utils.models.checkpoints import save_checkpoint
from utils.models.heads import random_head
from utils.models.weights import read_weights
from utils.soups.evaluator import Evaluator
from utils.soups.inputs import read_inputs
from utils.soups.recipes import greedy

TOWER = REPOSITORY / "demo" / "tower.pt"
STREWN = 0.05  # standard deviations that the weights of each model lie off the tower


class Full(Evaluator):
    """Scores every candidate on all photographs."""

    def score_above(self, mixture, best):
        score = self.score(self.evaluate(mixture))
        return score if score > best else None


def parser() -> Parser:
    parser = Parser(__doc__)
    flags.add_locations(parser)
    flags.add_relabel(parser)
    parser.set_defaults(model_location=None)
    parser.add_argument("--metric", choices=METRICS, default="macro_f1", help="what the soup must raise")
    parser.add_argument("--repeats", type=number(int, 1), default=3, help="times that each search is run")
    parser.add_argument("--tower", type=Path, default=TOWER, help="what the random models are strewn about")
    parser.add_argument("--people", type=number(int, 20), default=40, help="people whose faces are drawn")
    parser.add_argument("--sizes", nargs="+", default=["2x2", "4x2", "4x5", "8x5"], metavar="RECIPESxFOLDS")
    parser.add_argument("--only-peak", action="store_true", help="one search, and print its peak memory in bytes")
    return parser


def make_sweep(folder: Path, data: Path, tower: Path, recipes: int, folds: int) -> None:
    """Random models of `recipes` indices times `folds`, with records as of a folded sweep."""
    weights, photographs = read_weights(tower), read_photographs(data)
    splits = make_folds(photographs, folds, 42)
    labelling = competition.labelling()
    meta = {
        "model": weights.config,
        "labelling": labelling.record(),
        "preprocessing": preprocessing(weights.config["image_size"]),
        "epoch": 1,
        "scores": None,
        "made_from": [],
    }
    rows, bias = random_head(labelling.num_classes, weights.config["projection_dim"])
    for i in range(recipes):
        for k, split in enumerate(splits):
            generator = torch.Generator().manual_seed(1000 * i + k)
            state = {
                name: tensor + STREWN * tensor.std() * torch.randn(tensor.shape, generator=generator)
                if tensor.dim() > 1
                else tensor
                for name, tensor in weights.backbone().items()
            }
            place = {"name": "random", "seed": 1, "i": i, "epoch": 1, "fold": k, "folds": folds}
            head = {"classification_head.weight": rows, "classification_head.bias": bias}
            save_checkpoint(
                folder / f"random_seed1_i{i}_fold{k}of{folds}_epoch1.pt",
                {**state, **head},
                meta
                | {
                    "options": {"name": "random", "random_seed": 1, "i": i, "epochs": 1},
                    "split": split.record(),
                    "family": {"inputs": str(k), "head_init": "random", "folds": "one"},
                    "ingredient": place,
                },
            )


def searched(options: Options, kind: type[Evaluator]) -> tuple[list[str], int, float, str]:
    """One search with nothing cached: its members, photographs looked at, seconds, and what was searched."""
    shutil.rmtree("logs", ignore_errors=True)
    places = ["--data-location", str(options.data_location), "--model-location", str(options.model_location)]
    places += ["--relabel", str(options.relabel)] if options.relabel else []
    asked = soup_script.parser().parse([*places, "--metric", options.metric, "--workers", "0"])
    accelerator = start_runtime("folded_search")
    inputs = read_inputs(asked)
    held_out = inputs.held_out(accelerator, asked)
    evaluator = kind(held_out, inputs.ingredients, options.metric, Path("logs/journals"))
    begin = time.perf_counter()
    soup = greedy(evaluator)
    spent = time.perf_counter() - begin
    what = f"{len(inputs.ingredients)} recipes, {len(inputs.rows)} folds, {len(held_out.rows)} photographs"
    return [one.name for one in soup.members], evaluator.looked_at, spent, what


def peak(options: Options) -> int:
    """The largest resident set, in bytes, of a process of its own that searches once."""
    places = ["--data-location", str(options.data_location), "--model-location", str(options.model_location)]
    command = [sys.executable, __file__, "--only-peak", "--metric", options.metric, *places]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def compare(options: Options) -> None:
    """Both ways in turn: photographs looked at, medians of the seconds, ratios."""
    ways = {"early rejection": Evaluator, "every candidate in full": Full}
    runs = {way: [] for way in ways}
    for _ in range(options.repeats):
        for way, kind in ways.items():
            members, *numbers, what = searched(options, kind)
            runs[way].append((members, *numbers))
    chosen = {tuple(members) for of_way in runs.values() for members, *_ in of_way}
    if len(chosen) > 1:
        sys.exit(f"the two ways chose differently: {chosen}")
    looked, spent = ({way: np.median([run[k] for run in runs[way]]) for way in ways} for k in (1, 2))
    print(f"Greedy soup by {options.metric}: {what}, {options.repeats} times each, {len(chosen.pop())} members.\n")
    print("| search | photographs looked at | seconds, median |\n|---|---|---|")
    for way in ways:
        print(f"| {way} | {looked[way]:.0f} | {spent[way]:.2f} |")
    early, full = ways
    print(f"| ratio | {looked[full] / max(1, looked[early]):.2f} | {spent[full] / spent[early]:.2f} |\n", flush=True)


def run(options: Options) -> None:
    if options.only_peak:
        searched(options, Evaluator)
        scale = 1 if sys.platform == "darwin" else 1024
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale)
        return
    with tempfile.TemporaryDirectory() as place:
        data, given = options.data_location.resolve(), options.model_location and options.model_location.resolve()
        relabel = options.relabel and options.relabel.resolve()
        os.chdir(place)
        if given:
            compare(options.replace(data_location=data, model_location=given, relabel=relabel))
        else:
            data = Path("faces").resolve()
            faces.write_data_set(data, train=options.people, test=1)
        rows = []
        for size in options.sizes:
            recipes, folds = map(int, size.split("x"))
            model = Path(f"model_{size}").resolve()
            make_sweep(model, data, options.tower, recipes, folds)
            one = options.replace(data_location=data, model_location=model, relabel=None)
            if not given and size == options.sizes[-1]:
                compare(one)
            rows.append((recipes, folds, os.path.getsize(next(model.glob("*.pt"))), peak(one)))
        print("| recipes | folds | models, MB together | peak memory of the search, MB |\n|---|---|---|---|")
        for recipes, folds, each, most in rows:
            print(f"| {recipes} | {folds} | {recipes * folds * each / 1e6:.0f} | {most / 1e6:.0f} |")


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    main()
