"""What is kept of evaluation in `logs/`: rows of scores, the tuned weight of specialists, the chosen ensemble."""

from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, field_validator

from utils.base.files import LOGS
from utils.base.records import Count, Digest, FileName, Record, Share, read_record

COLDEST, HOTTEST = 0.02, 50.0  # temperatures
HEAVIEST = 2.0  # the largest weight of specialists
FARTHEST = 100.0  # nats that a bias may have

Interval = tuple[float, float]


class ScoreRow(Record):
    """The scores of one way of predicting, with 95 % intervals over people. Older rows, and those of predicted classes
    without probabilities, lack some of them.
    """

    model_config = ConfigDict(extra="allow")

    kind: str
    model: str
    images: Count
    persons: Count
    relabelled: Count = None  # images whose labels relabel.csv changed
    accuracy: Share
    accuracy_interval: Interval
    macro_f1: Share
    macro_f1_interval: Interval
    balanced_accuracy: Share = None
    balanced_accuracy_interval: Interval = None
    log_loss: Annotated[float, Field(ge=0)] = None
    log_loss_interval: Interval = None

    def plain(self) -> dict:
        """The row as it was written, without what it lacks."""
        return self.model_dump(mode="json", exclude_unset=True)


class KeptRow(ScoreRow):
    """A row in a file of scores: `people` says in words who was scored, `split` and `digest` are those of the people
    and of the model's weights.
    """

    people: str
    split: str
    digest: str


class Weighed(Record):
    """A checkpoint that a weight belongs to."""

    name: str
    digest: Digest


class TunedWeight(Record):
    """The weight of specialists, and the models that it was tuned for: `model`, and whatever the specialists tell,
    `age`, `age2` and so on.
    """

    model_config = ConfigDict(extra="allow")

    model: Weighed
    age: Weighed
    weight: Annotated[float, Field(ge=0, le=HEAVIEST)]


class ChosenMember(Record):
    """A checkpoint of the model folder with its share in an ensemble."""

    file: FileName
    digest: Digest
    flip: bool
    weight: Annotated[float, Field(gt=0, le=1)]


class ChosenEnsemble(Record):
    """What `validation.py --ensemble auto` chose; `scores` are its rows on the people held out by `split`."""

    model_config = ConfigDict(extra="allow")

    members: Annotated[list[ChosenMember], Field(min_length=1)]
    temperature: Annotated[float, Field(ge=COLDEST, le=HOTTEST)]
    bias: list[Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)]]  # one for each class
    bias_rule: str
    people: str
    split: str
    scores: list[ScoreRow]

    @field_validator("members")
    @classmethod
    def _make_one_whole(cls, members: list[ChosenMember]) -> list[ChosenMember]:
        if len({(one.digest, one.flip) for one in members}) < len(members):
            raise ValueError("a member is there twice")
        if abs(sum(one.weight for one in members) - 1) > 1e-6:
            raise ValueError("the weights do not add up to 1")
        return members


def ensemble_file(name: str) -> Path:
    """Where the weights of an ensemble are kept."""
    return LOGS / f"ensemble_{name}.json"


def read_chosen(path: Path) -> ChosenEnsemble:
    """Raises `InputError` for a file that is no chosen ensemble."""
    return read_record(path, ChosenEnsemble, "chosen ensemble", "validation.py --ensemble auto writes one")
