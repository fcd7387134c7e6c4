"""The manifest of a sweep, `logs/sweep_{name}.json`: what came of it, so that no script has to guess it from names.

main.py writes it; inference.py and hard_voting.py add the submissions. Files are told by their names in the model
folder, those of scores and submissions by their paths.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from utils.base.errors import InputError, run_script
from utils.base.files import LOGS, sha256_of, write_text
from utils.base.metrics import METRICS
from utils.base.options import ALL_FOLDS
from utils.base.records import FileName, Record, read_record
from utils.models.model_files import SPECIALIST, specialist_name

BEST_SINGLE, SOUP, SOFT_VOTE = "best single", "soup", "soft vote"
AUTO_ENSEMBLE, HARD_VOTE = "auto ensemble", "hard vote"
GREEDY, REFIT = "greedy soup", "refit soup"  # the greedy one where another is recommended; trained on everyone
OVER_FOLDS = ", folds"  # behind a way whose members are the models of the folds (inference.py --members folds)


def with_specialist(attributes: Sequence[str]) -> str:
    """The way to predict by the soup and a specialist of some attributes."""
    return f"{SOUP} + {specialist_name(attributes)}"


WEIGHTED = with_specialist(SPECIALIST)


def is_weighted(way: str) -> bool:
    """Whether it is that of a soup with a specialist."""
    return way.startswith(f"{SOUP} + ")


def is_voter(way: str) -> bool:
    """Whether hard_voting.py --sweep lets a submission vote that was made in this way."""
    return way in (SOUP, SOFT_VOTE) or (is_weighted(way) and not way.endswith(OVER_FOLDS))


class Manifest(Record):
    """`metric` chose the soups. `best` is the best single model, `soups` are files by recipe, and `recommended` is
    the recipe to go on with, for the `reason`. `scores` are the files with the rows of ingredients and of soups,
    `submissions` files by how they were made, and `sha256` their digests. Of a sweep of `folds`, `members` are the
    runs `seed:index` of the recommended soup, and `refits` the soups of models trained on everyone, by recipe.
    """

    model_config = ConfigDict(frozen=False)

    name: str
    metric: Literal[tuple(METRICS)]
    best: FileName
    soups: dict[str, FileName]
    scores: Annotated[list[str], Field(min_length=1)]
    recommended: str = "greedy"
    reason: str = ""
    folds: Annotated[int, Field(ge=2)] | None = None
    members: list[str] = Field(default_factory=list)
    refits: dict[str, FileName] = Field(default_factory=dict)
    submissions: dict[str, str] = Field(default_factory=dict)
    sha256: dict[str, str] = Field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def write(self) -> Path:
        return write_text(manifest_file(self.name), self.model_dump_json(indent=2) + "\n")

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
        """The recommended soup. Raises `InputError` when the sweep has none."""
        if self.recommended not in self.soups:
            raise InputError(f"the sweep {self.name} has no greedy soup: run main.py --greedy-soup --name {self.name}")
        return self.soups[self.recommended]

    @property
    def refit(self) -> str | None:
        """The recommended soup over models trained on everyone, if there is one."""
        return self.refits.get(self.recommended)


def manifest_file(name: str) -> Path:
    return LOGS / f"sweep_{name}.json"


def tell(argv: list[str]) -> None:
    """Print for training.sh the `soup` of a sweep, or the `members` that are to be trained on everyone."""
    name, what = argv

    def say() -> None:
        manifest = read_manifest(name)
        print(manifest.soup if what == "soup" else " ".join(f"{run}:{ALL_FOLDS}" for run in manifest.members))

    run_script(say)


def read_manifest(name: str) -> Manifest:
    """Raises `InputError` when main.py has not made soups of this sweep here, or the file is damaged."""
    path = manifest_file(name)
    if not path.is_file():
        there = ", ".join(sorted(one.stem.removeprefix("sweep_") for one in LOGS.glob("sweep_*.json"))) or "none"
        raise InputError(
            f"no scores of a sweep {name} in {LOGS.resolve()} (there are: {there}): run main.py --greedy-soup first"
        )
    remedy = "remove it and run main.py again"
    read = read_record(path, Manifest, "manifest of a sweep", remedy)
    if read.name != name:
        raise InputError(f"{path} is the manifest of a sweep {read.name}: {remedy}")
    return read
