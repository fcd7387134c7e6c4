"""The manifest of a sweep, `logs/sweep_{name}.json`: what came of it, so that no script has to guess it from names.

main.py writes it; inference.py and hard_voting.py add the submissions. Files are told by their names in the model
folder, those of scores and submissions by their paths.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from utils.base.errors import InputError
from utils.base.files import LOGS, sha256_of, write_text
from utils.base.metrics import METRICS

BEST_SINGLE, SOUP, WEIGHTED, SOFT_VOTE = "best single", "soup", "soup + age specialist", "soft vote"
AUTO_ENSEMBLE, HARD_VOTE = "auto ensemble", "hard vote"
VOTERS = (SOUP, WEIGHTED, SOFT_VOTE)  # whose submissions hard_voting.py --sweep lets vote


@dataclass
class Manifest:
    """`metric` chose the soups. `best` is the best single model, `soups` are files by recipe. `scores` are the files
    with the rows of ingredients and of soups, `submissions` files by how they were made, and `sha256` their digests.
    """

    name: str
    metric: str
    best: str
    soups: dict[str, str]
    scores: list[str]
    submissions: dict[str, str] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise `ValueError` for what a damaged file would make of it."""
        strings = [self.name, self.best, *self.scores]
        for named in (self.soups, self.submissions, self.sha256):
            strings += [*named.keys(), *named.values()]
        if not self.scores or self.metric not in METRICS or not all(isinstance(one, str) for one in strings):
            raise ValueError("its values are not those of a sweep")

    def __str__(self) -> str:
        return self.name

    def write(self) -> Path:
        return write_text(manifest_file(self.name), json.dumps(asdict(self), indent=2) + "\n")

    def add(self, way: str, path: Path) -> None:
        """Note a submission that has just been written."""
        self.submissions[way], self.sha256[way] = str(path), sha256_of(path)

    def changed(self, way: str) -> str:
        """What has become of a submission since it was noted: `gone`, `changed since`, or nothing."""
        path = Path(self.submissions[way])
        if not path.is_file():
            return "gone"
        return "" if sha256_of(path) == self.sha256.get(way) else "changed since"

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
        read = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        if read.name != name:
            raise ValueError(f"it is of a sweep {read.name}")
        return read
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no manifest of a sweep ({error}): remove it and run main.py again") from error
