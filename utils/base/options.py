"""Command-line options: the parser, read-only results, and converters that refuse bad values.

This module imports nothing heavy, so that `--help` and a mistyped flag answer at once.
"""

import argparse
import math
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

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
