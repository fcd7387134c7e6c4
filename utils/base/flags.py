"""The command-line flags that scripts share: each is declared once, here, with its type, default and help.

This module imports nothing heavy, so that `--help` and a mistyped flag answer at once.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from utils.base.data_flags import is_hub_id
from utils.base.errors import InputError
from utils.base.options import (
    ALL_FOLDS,
    RECORDED,
    Options,
    Parser,
    address,
    age_limits,
    fold,
    number,
    ratio,
    ratio_or_none,
    run_name,
    tower,
    triple,
)

DEMO_ADDRESS = "127.0.0.1:7860"
DEFAULT_SPLIT = {"val_ratio": 0.2, "seed": 42, "by": "person"}
SPLIT_BY = ("person", "image")
SOFT_VOTING_RULES = ("minmax", "mean", "log")
EVALUATION_BATCH = 64
BATCH, WORKERS = number(int, 1, 2**20), number(int, 0, 1024)  # more than these no machine has room for
START_FILE = "start.pt"  # what a soup that has a share of the start calls that ingredient
RECORD_FILE = "soup.json"  # our record in an exported folder


@dataclass(frozen=True)
class Recipe:
    """What a way to a soup asks for: held-out people to select on, and what the ingredients were fine-tuned from."""

    selects: bool = True
    needs_start: bool = False


RECIPES = {  # each is the function of this name in soups/recipes.py
    "uniform": Recipe(selects=False),
    "greedy": Recipe(),
    "greedy-replacement": Recipe(),
    "pruned": Recipe(),
    "top-k": Recipe(),
    "radin": Recipe(),
    "learned": Recipe(),
    "learned-by-layer": Recipe(),
    "model-stock": Recipe(selects=False, needs_start=True),
    "wise-ft": Recipe(needs_start=True),
}


def add_locations(parser: Parser) -> None:
    add_data_location(parser)
    parser.group("which checkpoints").add_argument(
        "--model-location", type=Path, metavar="DIR", default=Path("model"), help="folder of the checkpoints"
    )


def add_data_location(parser: Parser) -> None:
    parser.group("data").add_argument(
        "--data-location",
        type=Path,
        metavar="PATH",
        default=Path("data"),
        help="the photographs: a folder, a table, or a set of datasets (a folder it saved, Parquet, a hub id)",
    )


def check_files(options: Options) -> None:
    """Raise `InputError` for photographs or corrections that are not there, before anything heavy is imported."""
    if not options.data_location.exists() and not is_hub_id(options.data_location):
        raise InputError(f"data folder {options.data_location} does not exist: give --data-location")
    for name in ("relabel", "prompts"):
        path = getattr(options, name, None)
        if path and not path.is_file():
            raise InputError(f"--{name} {path} does not exist or is no file")


def add_split(parser: Parser) -> None:
    """How people are held out. `--random-seed` has no part in it, so that all seeds share one held-out set."""
    data = parser.group("data")
    data.add_argument(
        "--val-ratio",
        type=ratio,
        default=DEFAULT_SPLIT["val_ratio"],
        help="part of the people that is held out; 0 trains on everyone",
    )
    data.add_argument(
        "--split-seed", type=number(int, 0), default=DEFAULT_SPLIT["seed"], help="seed of the held-out split"
    )
    data.add_argument(
        "--split-by",
        choices=SPLIT_BY,
        default=DEFAULT_SPLIT["by"],
        help="hold out people, or (for comparison) images",
    )
    add_relabel(parser)


def add_folds(parser: Parser) -> None:
    """Cross-validation: the people in parts, each of which is held out once."""
    add_fold_count(parser, "divide the people into K folds, each of which is held out once, instead of --val-ratio")
    parser.group("data").add_argument(
        "--fold",
        type=fold,
        metavar=f"{{0,1,...,{ALL_FOLDS}}}",
        help=f"with --folds: the fold that is held out, from 0; {ALL_FOLDS} trains on everyone, for as many steps as "
        "a fold takes (default: none)",
    )


def add_fold_count(parser: Parser, what: str) -> None:
    parser.group("data").add_argument(
        "--folds", type=number(int, 2, 1000), metavar="K", help=f"{what} (default: one split, by --val-ratio)"
    )


def add_evaluation_split(parser: Parser) -> None:
    """Whom to score on: by default those that the checkpoints hold out."""
    data, own = parser.group("data"), "(default: the checkpoint's own"
    data.add_argument(
        "--val-ratio",
        type=ratio_or_none,
        default=RECORDED,
        help="part of the people that is held out; None evaluates on everyone, training people included; "
        f"recorded means the checkpoint's own, else {DEFAULT_SPLIT['val_ratio']}",
    )
    data.add_argument(
        "--split-seed", type=number(int, 0), help=f"seed of the held-out split {own}, else {DEFAULT_SPLIT['seed']})"
    )
    data.add_argument(
        "--split-by", choices=SPLIT_BY, help=f"people or images are held out {own}, else {DEFAULT_SPLIT['by']})"
    )
    add_relabel(parser)


def add_relabel(parser: Parser) -> None:
    parser.group("data").add_argument(
        "--relabel",
        type=Path,
        metavar="FILE",
        help="CSV of corrections: id,attribute,value (default: relabel.csv in the train folder)",
    )


def add_labels(parser: Parser) -> None:
    parser.group("data").add_argument(
        "--age-limits",
        type=age_limits,
        metavar="30,60",
        default=(30, 60),
        help="first year of the middle and of the old class",
    )


def add_loader(parser: Parser, batch_help: str = "images per evaluation step") -> None:
    """How photographs are fed to models that are evaluated."""
    parser.group("runtime").add_argument("--batch-size", type=BATCH, default=EVALUATION_BATCH, help=batch_help)
    add_workers(parser)


def add_memory(parser: Parser) -> None:
    parser.group("runtime").add_argument(
        "--memory", type=number(float, 0), metavar="GB",
        help="main memory in which a search on a GPU holds checkpoints (default: half of what there is)",
    )  # fmt: skip


def add_cache(parser: Parser) -> None:
    parser.group("runtime").add_argument(
        "--no-cache",
        action="store_true",
        help="decode photographs when they are needed instead of keeping them decoded",
    )


def add_workers(parser: Parser) -> None:
    parser.group("runtime").add_argument(
        "--workers",
        type=WORKERS,
        help="loader processes; 0 loads in the main process (default: by machine, 0 on a CPU)",
    )


def add_selection(parser: Parser) -> None:
    """Which fine-tuned checkpoints in the model folder are meant; the default is whatever is there."""
    which = parser.group("which checkpoints")
    which.add_argument("--name", type=run_name, help="name of the sweep (default: the only one there)")
    which.add_argument("--random-seed", type=number(int, 0), nargs="+", help="seeds of the checkpoints (default: all)")
    which.add_argument(
        "--indices", type=number(int, 0), nargs="+", metavar="I", help="use these indices (default: all)"
    )
    which.add_argument("--model-num", type=number(int, 1), help="use the indices below this (default: all)")
    which.add_argument("--epoch", type=number(int, 1), help="epoch of the checkpoints (default: the latest of each)")


def add_recipes(parser: Parser) -> None:
    """Ways to a soup beside the two published ones, and what to make of it."""
    what = parser.group("what")
    what.add_argument(
        "--recipe", choices=(*RECIPES, "all"), nargs="+", metavar="NAME",
        help=f"ways to a soup, compared in a table: {', '.join(RECIPES)}, or all (default: none)",
    )  # fmt: skip
    what.add_argument("--budget", type=number(int, 1), default=10, help="soups that radin evaluates")
    what.add_argument(
        "--start-from",
        metavar="START",
        help="what the ingredients were fine-tuned from, for model-stock, wise-ft and the doctor: a file, a folder or "
        "a hub id; the sweep's head is put on it (default: none, and --recipe all leaves those two out)",
    )
    what.add_argument(
        "--nested", action="store_true", help="also select on one half of the held-out people and score on the other"
    )
    saving = parser.group("saving and resuming")
    saving.add_argument(
        "--save-folds",
        action="store_true",
        help="of a folded sweep also write the soup of each fold, for a second round and for --members folds of "
        "inference.py",
    )
    saving.add_argument(
        "--export", type=Path, metavar="DIR", help="write the soup as a Hugging Face folder (default: not written)"
    )
    saving.add_argument(
        "--export-onnx", type=Path, metavar="FILE", help="write the soup as ONNX (default: not written)"
    )
    add_push(parser)


def add_push(parser: Parser) -> None:
    parser.group("saving and resuming").add_argument(
        "--push-to-hub",
        metavar="USER/NAME",
        help="put the result into this repository of the Hugging Face hub (default: nothing is uploaded)",
    )


def add_foreign(parser: Parser) -> None:
    """Checkpoints and images of people who did not train here."""
    parser.group("which checkpoints").add_argument(
        "--ingredients", type=Path, nargs="+", metavar="PATH",
        help="soup these files or Hugging Face folders (default: a sweep in the model folder)",
    )  # fmt: skip
    parser.group("data").add_argument(
        "--score-on", type=Path, metavar="PATH",
        help="images to score on: a folder with one sub-folder per class, or a CSV file,label with or without person "
        "(default: the held-out people)",
    )  # fmt: skip


def add_model_name(parser: Parser) -> None:
    parser.group("which checkpoints").add_argument(
        "--model-name",
        metavar="FILE.pt",
        help="checkpoint: a path, or a name in the model folder (default: the only greedy soup there)",
    )


def add_ensembles(parser: Parser, one_only: bool = False) -> None:
    """What is predicted together with the model; `one_only` refuses several ways at once, and applies an ensemble that
    was chosen instead of choosing one.
    """
    what = parser.group("what")
    group = what.add_mutually_exclusive_group() if one_only else what
    group.add_argument(
        "--weighted-ensemble", metavar="AGE.pt", nargs="+",
        help="specialists, as of the age, whose log-probabilities, averaged, are added to the model's (default: none)",
    )  # fmt: skip
    group.add_argument(
        "--soft-voting", metavar="OTHER.pt", nargs="+",
        help="models whose probabilities vote with it (default: none)",
    )  # fmt: skip
    if one_only:
        group.add_argument(
            "--ensemble",
            type=Path,
            metavar="FILE",
            help="what validation.py --ensemble auto chose, instead of a model (default: the model)",
        )
    else:
        group.add_argument(
            "--ensemble", choices=("auto",),
            help="select members, weights and a bias per class from all checkpoints of the folder, or of --name "
            "(default: examine one model)",
        )  # fmt: skip
    what.add_argument(
        "--soft-voting-rule",
        choices=SOFT_VOTING_RULES,
        help="sum of min-max scaled probabilities, or mean of probabilities or of log-probabilities (default: minmax)",
    )
    what.add_argument(
        "--flip", action="store_true", help="predict each photograph and its mirror image, and average: twice the time"
    )


def add_sweep(parser: Parser, read_manifest: Callable[[str], object], what: str) -> None:
    """`read_manifest` makes of a sweep's name what is known of it, or says in an `InputError` what is missing."""

    def known_sweep(text: str):
        try:
            return read_manifest(run_name(text))
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.group("what").add_argument(
        "--sweep", type=known_sweep, metavar="NAME", help=f"{what} (default: none; main.py must have scored the sweep)"
    )


def refuse_beside_sweep(options: Options, *names: str) -> None:
    """Raise `InputError` when one of these is given together with `--sweep`."""
    if options.sweep:
        _refuse(options, names, f"--sweep {options.sweep} names all models itself")


def refuse_beside_ensemble(options: Options, *names: str) -> None:
    """Raise `InputError` when one of these, or another ensemble, is given together with `--ensemble`."""
    if options.ensemble:
        own = *names, "weighted_ensemble", "soft_voting"
        _refuse(options, own, f"--ensemble {options.ensemble} has members of its own")


def refuse_beside_review(options: Options, *names: str) -> None:
    """Raise `InputError` when one of these is given together with `--review`."""
    if options.review:
        _refuse(options, names, "--review goes by the models of a sweep, or by --model-name")


def _refuse(options: Options, names: Sequence[str], why: str) -> None:
    for name in names:
        value, flag = getattr(options, name), f"--{name.replace('_', '-')}"
        if value is not None and value is not False:
            raise InputError(f"{why}: leave {flag} out")


def add_demo(parser: Parser) -> None:
    parser.group("what").add_argument(
        "--demo",
        type=address,
        nargs="?",
        const=DEMO_ADDRESS,
        metavar="HOST:PORT",
        help="show a page that answers one photograph at a time instead; without HOST:PORT at "
        f"{DEMO_ADDRESS}, which only this machine can reach; 0.0.0.0:7860 opens it to the network",
    )


def refuse_beside_demo(options: Options, default_of: Callable[[str], object], names: Sequence[str]) -> None:
    """Raise `InputError` when one of these is given together with `--demo`, under which it means nothing."""
    for name in names if options.demo else ():
        if getattr(options, name) != default_of(name):
            raise InputError(f"--demo answers photographs one by one on a page: leave --{name.replace('_', '-')} out")


def add_tower(parser: Parser) -> None:
    """What files do not tell of their towers, as `options.tower` in either form."""
    group = parser.group("which checkpoints").add_mutually_exclusive_group()
    group.add_argument(
        "--tower",
        type=tower,
        metavar="HEADS,ACTIVATION",
        help="attention heads and activation, such as 16,gelu, of CLIP towers whose files do not tell them (default: "
        "what the file tells)",
    )
    group.add_argument(
        "--tower-config",
        dest="tower",
        type=tower,
        metavar="CONFIG",
        help="config.json, folder or hub id with the configuration of a tower, CLIP's or another, whose file does not "
        "tell it (default: what the file tells)",
    )


def add_preprocessing(parser: Parser) -> None:
    """What files without a record do not tell."""
    add_tower(parser)
    for name, least in (("mean", 0), ("std", 0.001)):
        parser.group("data").add_argument(
            f"--{name}",
            type=partial(triple, least=least),
            metavar="R,G,B",
            help=f"channel {name} for checkpoints without a record (default: the tower's own, else CLIP's)",
        )


def add_verbose(parser: Parser) -> None:
    parser.group("runtime").add_argument(
        "--verbose", action="store_true", help="print on the terminal all that goes to the log file in logs/"
    )
