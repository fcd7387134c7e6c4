"""The manifest of a sweep, `logs/sweep_{name}.json`: what came of it, so that no script has to guess it from names.

main.py writes it; inference.py and hard_voting.py add the submissions. Files are told by their names in the model
folder, those of scores and submissions by their paths.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from utils.base.errors import InputError
from utils.base.files import LOGS, write_text

BEST_SINGLE, SOUP, WEIGHTED, SOFT_VOTE = "best single", "soup", "soup + age specialist", "soft vote"
AUTO_ENSEMBLE, HARD_VOTE = "auto ensemble", "hard vote"
VOTERS = (SOUP, WEIGHTED, SOFT_VOTE)  # whose submissions hard_voting.py --sweep lets vote


@dataclass
class Manifest:
    """`metric` chose the soups. `best` is the best single model, `ages` are age specialists, `soups` files by recipe.
    `scores` are the files with the rows of ingredients and of soups, `submissions` files by how they were made.
    """

    name: str
    metric: str
    best: str
    ages: list[str]
    soups: dict[str, str]
    scores: list[str]
    submissions: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def write(self) -> Path:
        return write_text(manifest_file(self.name), json.dumps(asdict(self), indent=2) + "\n")

    @property
    def soup(self) -> str:
        """The greedy soup. Raises `InputError` when the sweep has none."""
        if "greedy" not in self.soups:
            raise InputError(f"the sweep {self.name} has no greedy soup: run main.py --greedy-soup --name {self.name}")
        return self.soups["greedy"]


def manifest_file(name: str) -> Path:
    return LOGS / f"sweep_{name}.json"


def read_manifest(name: str) -> Manifest:
    """Raises `InputError` when main.py has not made soups of this sweep here, or the file is damaged."""
    path = manifest_file(name)
    if not path.is_file():
        there = ", ".join(sorted(one.stem.removeprefix("sweep_") for one in LOGS.glob("sweep_*.json"))) or "none"
        raise InputError(
            f"no scores of a sweep {name} in {LOGS.resolve()} (there are: {there}): run main.py --greedy-soup first"
        )
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is no manifest of a sweep ({error}): remove it and run main.py again") from error
