"""Command-line options: the parser, read-only results, and converters that refuse bad values.

This module imports nothing heavy, so that `--help` and a mistyped flag answer at once.
"""

import argparse
import difflib
import math
import re
import shlex
import sys
from collections.abc import Callable
from typing import NoReturn

from utils.base.errors import visible
from utils.base.files import LONGEST_RUN_NAME

ALL_FOLDS = "all"  # --fold of a model that is trained on everyone
RECORDED = "recorded"  # --val-ratio of evaluation: that of the checkpoints
GROUPS = (
    "what", "which checkpoints", "data", "optimisation", "loss and imbalance", "augmentation", "search space",
    "saving and resuming", "runtime",
)  # fmt: skip

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh")  # of a tower, as transformers calls them
PLAIN = (str, int, float, tuple, list, type(None))  # what a record holds as it is; paths and sweeps by their names


class Options(argparse.Namespace):
    """Parsed options: read-only; `replace` makes a changed copy."""

    def __setattr__(self, name: str, value) -> None:
        if getattr(self, "_frozen", False):
            raise AttributeError(f"options are read-only: use options.replace({name}=...)")
        super().__setattr__(name, value)

    def sealed(self) -> "Options":
        super().__setattr__("_frozen", True)
        return self

    @property
    def plain(self) -> dict:
        """Plain values by flag name, for a record."""
        every = sorted((name, value) for name, value in vars(self).items() if name != "_frozen")
        return {name: value if isinstance(value, PLAIN) else str(value) for name, value in every}

    def replace(self, **changes) -> "Options":
        unknown = set(changes) - set(vars(self))
        if unknown:
            raise AttributeError(f"no such option: {', '.join(sorted(unknown))}")
        return Options(**{**{k: v for k, v in vars(self).items() if k != "_frozen"}, **changes}).sealed()


class Parser(argparse.ArgumentParser):
    """`argparse` without abbreviations, with both `--a-b` and `--a_b`, titled groups of flags, and read-only results.

    `script` is the file's name, `finetune.py`.
    """

    def __init__(
        self, docstring: str, script: str | None = None, check: Callable[[Options], None] = lambda options: None
    ):
        """`check` raises `InputError` for options that contradict each other."""
        super().__init__(
            prog=script, description=docstring, allow_abbrev=False, add_help=False, formatter_class=_Formatter
        )
        self.check = check
        self.groups = {title: self.add_argument_group(title) for title in GROUPS}
        self.group("runtime").add_argument("-h", "--help", action="help", help="print this text")

    def group(self, title: str) -> argparse._ArgumentGroup:
        """The flags under one of the `GROUPS`; `--help` prints them in that order and leaves out empty ones."""
        return self.groups[title]

    def parse(self, argv: list[str] | None = None) -> Options:
        argv = sys.argv[1:] if argv is None else argv
        options, unknown = self.parse_known_args([_dashes(token) for token in argv], Options())
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._suggestion(unknown)}")
        self.check(options)
        return options.sealed()

    def _get_value(self, action: argparse.Action, arg_string: str):
        """Overrides argparse's, which takes nothing for a value: an empty path would be this very folder."""
        if not arg_string.strip():
            raise argparse.ArgumentError(action, "is empty: give a value, or leave it out")
        return super()._get_value(action, arg_string)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and where the flags are explained in another; exit code 2."""
        self.exit(2, f"{self.prog}: error: {visible(message)}\nsee python {self.prog} --help\n")

    def _suggestion(self, unknown: list[str]) -> str:
        typed = [token.partition("=")[0].lstrip("-") for token in unknown if token.startswith("-")]
        near = list(dict.fromkeys(flag for word in typed if (flag := self._nearest(word))))
        return f" (did you mean {' and '.join(near)}?)" if near else ""

    def _nearest(self, word: str) -> str | None:
        """The flag that looks most like a word, else the first one that has the word in it."""
        known = [flag.removeprefix("--") for flag in self._option_string_actions if flag.startswith("--")]
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
        near += [name for name in known if word in name and len(word) > 2]
        return f"--{near[0]}" if near else None

    def command(self, script: str, options: Options) -> str:
        """The shell's command line under which `script` gets these options; those at their defaults are left out."""
        defaults, words = self.parse([]).plain, ["python", script]
        for name, value in options.plain.items():
            if value != defaults[name]:
                value = ",".join(map(str, value)) if isinstance(value, tuple) else value
                values = value if isinstance(value, list) else [] if value is True else [value]
                words += [f"--{name.replace('_', '-')}", *map(str, values)]
        return shlex.join(words)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Usage in one line, short names of values, and each flag's default."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)

    def add_usage(self, usage, actions, groups, prefix=None) -> None:
        files = [self._format_args(action, action.metavar) for action in actions if not action.option_strings]
        super().add_usage(" ".join(["%(prog)s", *files, "[options]"]), actions, groups, prefix)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return action.dest.rpartition("_")[2].upper()

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = default_as_typed(action)
        return action.help if shown is None else f"{action.help} (default: {shown})"


def default_as_typed(action: argparse.Action) -> str | None:
    """A flag's default as one would type it; None for a switch, and where only the help text can tell it."""
    value = action.default
    if value is None or action.nargs == 0 or not action.option_strings:
        return None
    values = value if isinstance(value, tuple) else (value,)
    words = [f"{one:g}" if isinstance(one, float) else str(one) for one in values]
    return (" " if action.nargs else ",").join(words)


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


def fold(text: str) -> int | str:
    """The number of a fold, from 0, or `all`, whose models hold nobody out."""
    if text != ALL_FOLDS and not re.fullmatch(r"\d{1,4}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither the number of a fold nor {ALL_FOLDS}")
    return text if text == ALL_FOLDS else int(text)


def one_run(text: str) -> tuple[int, int, int | str | None]:
    """A seed, an index and, of a folded sweep, a fold: `42:0`, `42:0:3`, `42:0:all`."""
    match = re.fullmatch(rf"(\d{{1,10}}):(\d{{1,6}})(?::(\d{{1,4}}|{ALL_FOLDS}))?", text)
    if not match or int(match[1]) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 42:0 or 42:0:3 (seed, index and perhaps fold)")
    return int(match[1]), int(match[2]), None if match[3] is None else fold(match[3])


def age_limits(text: str) -> tuple[int, int]:
    """Two ascending whole numbers of years, `30,60`."""
    match = re.fullmatch(r"(\d{1,3}),(\d{1,3})", text)
    if not match or not 0 < int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 30,60 (two ascending whole numbers of years)")
    return int(match[1]), int(match[2])


def triple(text: str, least: float = 0) -> tuple[float, float, float]:
    """Three numbers from `least` to 1, one per colour channel, `0.5,0.5,0.5`."""
    values = tuple(number(float, least, 1)(part) for part in text.split(","))
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers for red, green and blue")
    return values


def tower(text: str) -> tuple[int, str] | str:
    """The attention heads and the activation of a CLIP tower, `16,gelu`; or where a tower's configuration lies."""
    heads, comma, activation = text.partition(",")
    if not comma and not text.isdecimal():
        return text
    if activation not in ACTIVATIONS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form 16,gelu (heads, and {' or '.join(ACTIVATIONS)})"
        )
    return number(int, 1)(heads), activation


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
    if (length := len(text.encode())) > LONGEST_RUN_NAME:
        raise argparse.ArgumentTypeError(
            f"{text} is too long for names of files: it takes {length} bytes, and {LONGEST_RUN_NAME} are allowed (a "
            "letter outside ASCII takes two to four)"
        )
    return text
