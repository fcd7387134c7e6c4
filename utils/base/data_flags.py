"""The flags that say how a set of photographs is read, where it is not the competition's.

Scripts that train declare them; all others find them in the records of checkpoints.
"""

import argparse
import re
from pathlib import Path

from utils.base.options import Parser

NAMES = r"[^=,]+"
HUB_ID = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?::([\w.-]+))?")


def is_hub_id(location: Path) -> bool:
    """Whether a location names a set of the hub: `user/name`, or `user/name:configuration`, where this disk has no
    folder `user`.
    """
    return bool(HUB_ID.fullmatch(str(location))) and not location.parent.exists()


def hub_names(location: Path) -> list[str]:
    """The name of a set of the hub, and of its configuration where one is named."""
    return [name for name in HUB_ID.fullmatch(str(location)).groups() if name]


def add_columns(parser: Parser) -> None:
    """Where a table has the files of images, and their split."""
    data = parser.group("data")
    data.add_argument(
        "--image-column", metavar="NAME",
        help="column of the image files, of a table or datasets (default: file, image or path, whichever is there)",
    )  # fmt: skip
    data.add_argument(
        "--split-column", metavar="NAME",
        help="column that says who is held out (train, val, test) or in which fold (0, 1, ...) (default: no column)",
    )  # fmt: skip


def add_reading(parser: Parser) -> None:
    add_columns(parser)
    data = parser.group("data")
    data.add_argument(
        "--label-columns", type=names, metavar="A,B",
        help="columns that make up the class, of a table or datasets (default: label)",
    )  # fmt: skip
    data.add_argument(
        "--group-column", metavar="NAME",
        help="column that says which images belong together, such as those of one person: they are held out together "
        "(default: group or person, if there is one)",
    )  # fmt: skip
    data.add_argument(
        "--group-pattern", type=pattern, metavar="REGEX",
        help="the same for folders of classes: what its first group matches in a file's name (default: no groups)",
    )  # fmt: skip
    data.add_argument(
        "--values", type=values, nargs="+", metavar="NAME=A,B",
        help="values of a label column in the order of class numbers (default: sorted)",
    )  # fmt: skip
    data.add_argument(
        "--limits", type=limits, nargs="+", metavar="NAME=30,60",
        help="ascending limits that cut a label column of whole numbers into groups (default: it has values)",
    )  # fmt: skip


def names(text: str) -> tuple[str, ...]:
    """Names of columns, `mask,gender,age`."""
    every = tuple(part.strip() for part in text.split(","))
    if not all(every) or len(set(every)) < len(every):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form mask,gender,age (different names)")
    return every


def sorted_names(text: str) -> tuple[str, ...]:
    """The same in alphabetical order, where order means nothing."""
    return tuple(sorted(names(text)))


def value(text: str) -> str:
    """A value of an attribute, `mask=incorrect`."""
    name, _, told = text.partition("=")
    if not name.strip() or not told.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form mask=incorrect")
    return f"{name.strip()}={told.strip()}"


def pattern(text: str) -> str:
    r"""A regular expression with a group, `^(\w+?)_`."""
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression ({error})") from error
    if groups < 1:
        raise argparse.ArgumentTypeError(rf"{text!r} has no group in parentheses, as ^(\w+?)_ has")
    return text


def values(text: str) -> str:
    """A column with its values in order, `mask=worn,incorrect,not_worn`."""
    if not re.fullmatch(rf"{NAMES}=[^=]+", text) or len(set(values_of(text))) < len(values_of(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form mask=worn,not_worn (different values)")
    return text


def limits(text: str) -> str:
    """A column with ascending whole numbers, `age=30,60`."""
    form = re.fullmatch(rf"{NAMES}=\d{{1,9}}(,\d{{1,9}})*", text)
    numbers = [int(one) for one in values_of(text)] if form else []
    if not numbers or numbers[0] < 1 or sorted(set(numbers)) != numbers:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form age=30,60 (ascending whole numbers)")
    return text


def values_of(text: str) -> tuple[str, ...]:
    """What stands behind the `=`."""
    return tuple(part.strip() for part in text.partition("=")[2].split(","))


def by_name(asked: list[str] | tuple[str, ...] | None) -> dict[str, tuple[str, ...]]:
    """The values of `NAME=A,B` by name."""
    return {one.partition("=")[0].strip(): values_of(one) for one in asked or ()}
