"""The command-line options that scripts share: each is declared once, here, with its type, default and help.

This module imports nothing heavy, so that `--help` and a mistyped flag answer at once.
"""

import argparse
import math
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from utils.errors import InputError

LOGS = Path("logs")  # scores, logits and heads, relative to where the command is run
CACHE = Path("cache")  # decoded photographs, safe to delete
OUTPUT = Path("output")  # submissions
DEMO_ADDRESS = "127.0.0.1:7860"
PICTURES = Path("val_img")  # sheets, confusion matrices, reports
DEFAULT_SPLIT = {"val_ratio": 0.2, "seed": 42, "by": "person"}
SPLIT_BY = ("person", "image")
METRICS = ("accuracy", "macro_f1")
SOFT_VOTING_RULES = ("minmax", "mean", "log")
RECIPES = (
    "uniform", "greedy", "greedy-replacement", "pruned", "top-k", "radin", "learned", "learned-by-layer",
    "model-stock", "wise-ft",
)  # fmt: skip
START_FILE = "start.pt"  # what a soup that has a share of the start calls that ingredient
SELECT_NOTHING = ("uniform", "model-stock")
NEED_START = ("model-stock", "wise-ft")
RECORDED = "recorded"  # --val-ratio of evaluation: that of the checkpoints


class Options(argparse.Namespace):
    """Parsed options: read-only; `replace` makes a changed copy."""

    def __setattr__(self, name: str, value) -> None:
        if getattr(self, "_frozen", False):
            raise AttributeError(f"options are read-only: use options.replace({name}=...)")
        super().__setattr__(name, value)

    def sealed(self) -> "Options":
        super().__setattr__("_frozen", True)
        return self

    def as_dict(self) -> dict:
        """Plain values by flag name, for the record in a checkpoint."""
        plain = {name: value for name, value in vars(self).items() if name != "_frozen"}
        return {name: str(value) if isinstance(value, Path) else value for name, value in sorted(plain.items())}

    def replace(self, **changes) -> "Options":
        unknown = set(changes) - set(vars(self))
        if unknown:
            raise AttributeError(f"no such option: {', '.join(sorted(unknown))}")
        return Options(**{**{k: v for k, v in vars(self).items() if k != "_frozen"}, **changes}).sealed()


class Parser(argparse.ArgumentParser):
    """`argparse` without abbreviations, with both `--a-b` and `--a_b`, and read-only results."""

    def __init__(self, docstring: str):
        super().__init__(
            description=docstring,
            allow_abbrev=False,
            formatter_class=type("Formatter", (_DefaultsHelp, argparse.RawDescriptionHelpFormatter), {}),
        )

    def parse(self, argv: list[str] | None = None) -> Options:
        argv = sys.argv[1:] if argv is None else argv
        return self.parse_args([_dashes(token) for token in argv], Options()).sealed()

    def command(self, script: str, options: Options) -> str:
        """The shell's command line under which `script` gets these options; those at their defaults are left out."""
        defaults, words = self.parse([]).as_dict(), ["python", script]
        for name, value in options.as_dict().items():
            if value != defaults[name]:
                value = ",".join(map(str, value)) if isinstance(value, tuple) else value
                values = value if isinstance(value, list) else [] if value is True else [value]
                words += [f"--{name.replace('_', '-')}", *map(str, values)]
        return shlex.join(words)


class _DefaultsHelp(argparse.HelpFormatter):
    """Appends the default to each help text, unless it is None or a plain switch."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default in (None, argparse.SUPPRESS, False) or action.nargs == 0:
            return action.help
        return f"{action.help} (default: %(default)s)"


def _dashes(token: str) -> str:
    name, equals, value = token.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else token


def true_or_false(text: str) -> bool:
    """`True` and `False` mean what they say, whatever their case."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text.lower() == "true"


def number(kind: type, low: float, high: float = math.inf, above: bool = False) -> Callable[[str], int | float]:
    """A converter to `kind` that refuses values below `low` (or equal to it with `above`), above `high`, and NaN."""

    def convert(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if kind is int else ''}number") from None
        if not low <= value <= high or (above and value == low) or math.isinf(value):
            limits = f"{'above' if above else 'at least'} {low}" + (f" and at most {high}" if high < math.inf else "")
            raise argparse.ArgumentTypeError(f"{text} is not {limits}")
        return value

    return convert


def ratio(text: str) -> float:
    """A part of the whole, from 0 to at most 0.95."""
    return number(float, 0, 0.95)(text)


def ratio_or_none(text: str) -> float | str | None:
    """A ratio, None, or the word that stands for the checkpoints' own."""
    words = {"none": None, RECORDED: RECORDED}
    return words[text.lower()] if text.lower() in words else ratio(text)


def age_range(text: str) -> tuple[int, int]:
    """Two whole numbers of years, `57-59`."""
    match = re.fullmatch(r"(\d{1,3})-(\d{1,3})", text)
    if not match or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 57-59 (first and last year)")
    return int(match[1]), int(match[2])


def frozen_part(text: str) -> str | int:
    """`backbone`, or how many layers `first-3` means."""
    if text == "backbone":
        return text
    match = re.fullmatch(r"first-(\d+)", text)
    if not match or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is neither backbone nor of the form first-3")
    return int(match[1])


def age_limits(text: str) -> tuple[int, int]:
    """Two ascending whole numbers of years, `30,60`."""
    match = re.fullmatch(r"(\d{1,3}),(\d{1,3})", text)
    if not match or not 0 < int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 30,60 (two ascending whole numbers of years)")
    return int(match[1]), int(match[2])


def triple(text: str) -> tuple[float, float, float]:
    """Three numbers from 0 to 1, one per colour channel, `0.5,0.5,0.5`."""
    values = tuple(number(float, 0, 1)(part) for part in text.split(","))
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers for red, green and blue")
    return values


def address(text: str) -> tuple[str, int]:
    """A host and a port, `127.0.0.1:7860`."""
    host, _, port = text.rpartition(":")
    bare = ":" in host and not host.startswith("[")  # IPv6 without its brackets
    if not host or bare or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 127.0.0.1:7860 (host and port)")
    return host, int(port)


def run_name(text: str) -> str:
    """A name that is safe in file names and cannot be mistaken for an age specialist's."""
    if not re.fullmatch(r"\w[\w.+-]*", text) or text.startswith("Age_"):
        raise argparse.ArgumentTypeError(f"{text!r}: use letters, digits and . + - _, not beginning with Age_")
    return text


def add_locations(parser: Parser) -> None:
    parser.add_argument("--data-location", type=Path, default=Path("data"), help="folder of the photographs")
    parser.add_argument("--model-location", type=Path, default=Path("model"), help="folder of the checkpoints")


def add_split(parser: Parser) -> None:
    """How people are held out. `--random-seed` has no part in it, so that all seeds share one held-out set."""
    parser.add_argument(
        "--split-seed", type=number(int, 0), default=DEFAULT_SPLIT["seed"], help="seed of the held-out split"
    )
    parser.add_argument(
        "--val-ratio",
        type=ratio,
        default=DEFAULT_SPLIT["val_ratio"],
        help="part of the people that is held out; 0 trains on everyone",
    )
    parser.add_argument(
        "--split-by",
        choices=SPLIT_BY,
        default=DEFAULT_SPLIT["by"],
        help="hold out people, or (for comparison) images",
    )
    add_relabel(parser)


def add_evaluation_split(parser: Parser) -> None:
    """Whom to score on: by default those that the checkpoints hold out."""
    own = "(default: the checkpoint's own"
    parser.add_argument("--split-seed", type=number(int, 0), help=f"seed of the held-out split {own}, else 42)")
    parser.add_argument(
        "--val-ratio",
        type=ratio_or_none,
        default=RECORDED,
        help="part of the people that is held out; None evaluates on everyone, training people included; "
        "recorded means the checkpoint's own, else 0.2",
    )
    parser.add_argument("--split-by", choices=SPLIT_BY, help=f"people or images are held out {own}, else person)")
    add_relabel(parser)


def add_relabel(parser: Parser) -> None:
    parser.add_argument(
        "--relabel",
        type=Path,
        help="CSV of corrections: id,attribute,value (default: relabel.csv in the train folder)",
    )


def add_labels(parser: Parser) -> None:
    parser.add_argument(
        "--age-limits", type=age_limits, default=(30, 60), help="first year of the middle and of the old class"
    )


def add_loader(parser: Parser, batch_help: str = "images per step and process") -> None:
    parser.add_argument("--batch-size", type=number(int, 1), default=64, help=batch_help)
    add_workers(parser)


def add_cache(parser: Parser) -> None:
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="decode photographs when they are needed instead of keeping them decoded",
    )


def add_workers(parser: Parser) -> None:
    parser.add_argument(
        "--workers",
        type=number(int, 0),
        help="loader processes; 0 loads in the main process (default: by machine, 0 on a CPU)",
    )


def add_selection(parser: Parser) -> None:
    """Which fine-tuned checkpoints in the model folder are meant; the default is whatever is there."""
    parser.add_argument("--name", type=run_name, help="name of the sweep (default: the only one there)")
    parser.add_argument("--model-num", type=number(int, 1), help="use the indices below this (default: all)")
    parser.add_argument("--indices", type=number(int, 0), nargs="+", metavar="I", help="use these indices")
    parser.add_argument(
        "--random-seed", type=number(int, 0), nargs="+", help="seeds of the checkpoints (default: all)"
    )
    parser.add_argument("--epoch", type=number(int, 1), help="epoch of the checkpoints (default: the latest of each)")


def add_recipes(parser: Parser) -> None:
    """Ways to a soup beside the two published ones, and what to make of it."""
    parser.add_argument(
        "--recipe", choices=(*RECIPES, "all"), nargs="+", metavar="NAME",
        help=f"ways to a soup, compared in a table: {', '.join(RECIPES)}, or all",
    )  # fmt: skip
    parser.add_argument("--budget", type=number(int, 1), default=10, help="soups that radin evaluates")
    parser.add_argument(
        "--start-from",
        help="what the ingredients were fine-tuned from, for model-stock, wise-ft and the doctor: a file, a folder or "
        "a hub id; the sweep's head is put on it",
    )
    parser.add_argument(
        "--nested", action="store_true", help="also select on one half of the held-out people and score on the other"
    )
    parser.add_argument("--export", type=Path, metavar="DIR", help="write the soup as a Hugging Face folder")
    parser.add_argument("--export-onnx", type=Path, metavar="FILE", help="write the soup as ONNX")
    add_push(parser)


def add_push(parser: Parser) -> None:
    parser.add_argument(
        "--push-to-hub", metavar="USER/NAME", help="put the result into this repository of the Hugging Face hub"
    )


def add_foreign(parser: Parser) -> None:
    """Checkpoints and images of people who did not train here."""
    parser.add_argument(
        "--ingredients", type=Path, nargs="+", metavar="PATH",
        help="soup these files or Hugging Face folders instead of a sweep in the model folder",
    )  # fmt: skip
    parser.add_argument(
        "--score-on", type=Path, metavar="PATH",
        help="images to score on instead of held-out people: a folder with one sub-folder per class, or a CSV "
        "file,label with or without person",
    )  # fmt: skip


def add_model_name(parser: Parser) -> None:
    parser.add_argument(
        "--model-name", help="checkpoint: a path, or a name in the model folder (default: the only greedy soup there)"
    )


def add_ensembles(parser: Parser, one_only: bool = False) -> None:
    """What is predicted together with the model; `one_only` refuses several ways at once, and applies an ensemble that
    was chosen instead of choosing one.
    """
    parser.add_argument(
        "--flip", action="store_true", help="predict each photograph and its mirror image, and average: twice the time"
    )
    group = parser.add_mutually_exclusive_group() if one_only else parser
    group.add_argument(
        "--weighted-ensemble", metavar="AGE.pt", nargs="+",
        help="age specialists whose log-probabilities, averaged, are added to the model's",
    )  # fmt: skip
    group.add_argument("--soft-voting", metavar="OTHER.pt", nargs="+", help="models whose probabilities vote with it")
    if one_only:
        group.add_argument(
            "--ensemble",
            type=Path,
            metavar="FILE",
            help="what validation.py --ensemble auto chose, instead of a model",
        )
    else:
        group.add_argument(
            "--ensemble", choices=("auto",),
            help="select members, weights and a bias per class from all checkpoints of the folder, or of --name",
        )  # fmt: skip
    parser.add_argument(
        "--soft-voting-rule",
        choices=SOFT_VOTING_RULES,
        help="sum of min-max scaled probabilities (the default), or mean of probabilities or of log-probabilities",
    )


def refuse_beside_ensemble(options: Options, *names: str) -> None:
    """Raise `InputError` when one of these, or another ensemble, is given together with `--ensemble`."""
    for name in (*names, "weighted_ensemble", "soft_voting") if options.ensemble else ():
        value, flag = getattr(options, name), f"--{name.replace('_', '-')}"
        if value is not None and value is not False:
            raise InputError(f"--ensemble {options.ensemble} has members of its own: leave {flag} out")


def add_demo(parser: Parser) -> None:
    parser.add_argument(
        "--demo",
        type=address,
        nargs="?",
        const=DEMO_ADDRESS,
        metavar="HOST:PORT",
        help="show a page that answers one photograph at a time instead; without HOST:PORT at "
        f"{DEMO_ADDRESS}, which only this machine can reach; 0.0.0.0:7860 opens it to the network",
    )


def refuse_beside_demo(options: Options, defaults: Options, *names: str) -> None:
    """Raise `InputError` when one of these is given together with `--demo`, under which it means nothing."""
    for name in names if options.demo else ():
        if getattr(options, name) != getattr(defaults, name):
            raise InputError(f"--demo answers photographs one by one on a page: leave --{name.replace('_', '-')} out")


def add_preprocessing(parser: Parser) -> None:
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}", type=triple, help=f"channel {name} for checkpoints without a record (default: CLIP's)"
        )
