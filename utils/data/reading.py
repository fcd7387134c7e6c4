"""Where labelled photographs come from: the readers, and which of them `--data-location` means."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from utils.base.data_flags import by_name
from utils.base.errors import InputError
from utils.base.options import Options
from utils.base.tables import FORMATS
from utils.data import class_folders, competition, hub_sets, tables
from utils.data.labels import Labelling
from utils.data.photographs import Photographs
from utils.data.relabel import apply_relabel, relabel_file

KINDS = (
    f"the competition's folders ({competition.LAYOUT}), a folder per class (rose/1.jpg), a CSV or Parquet file with "
    "the columns file,label, or what datasets keeps (a saved folder, Parquet with images, a hub id)"
)


@dataclass(frozen=True)
class Reading:
    """How a set of photographs is read: the columns of a table and so on, as the flags of `data_flags` say."""

    image_column: str | None = None
    label_columns: tuple[str, ...] | None = None
    group_column: str | None = None
    group_pattern: str | None = None
    split_column: str | None = None
    values: tuple[str, ...] = ()  # NAME=A,B
    limits: tuple[str, ...] = ()  # NAME=30,60

    @property
    def numbers(self) -> dict[str, tuple[int, ...]]:
        """The limits of columns that are numbers."""
        return {name: tuple(map(int, limits)) for name, limits in by_name(self.limits).items()}

    @property
    def order(self) -> dict[str, tuple[str, ...]]:
        """The values of columns in the order of class numbers."""
        return by_name(self.values)

    def record(self) -> dict:
        """What a checkpoint keeps of it: `{"reading": ...}`, and nothing where nothing was asked for."""
        given = {name: list(one) if isinstance(one, tuple) else one for name, one in vars(self).items() if one}
        return {"reading": given} if given else {}


def reading_of(options: Options) -> Reading:
    """What the options of a training run say."""
    return _reading(options.plain)


def _reading(plain: dict) -> Reading:
    given = {name: plain[name] for name in Reading.__dataclass_fields__ if plain.get(name)}
    return Reading(**{name: tuple(one) if isinstance(one, list) else one for name, one in given.items()})


def recorded_reading(checkpoints: Iterable) -> Reading:
    """How the photographs were read that models were trained on, as the first of their records tells."""
    return _reading(next((one.meta.get("reading", {}) for one in checkpoints if one.meta is not None), {}))


def read_photographs(
    data_location: Path,
    relabel: Path | None = None,
    reading: Reading = Reading(),
) -> Photographs:
    """List and label every photograph to train on of `data_location`: a file, or a folder (the root, `train` or
    `train/images`).

    `relabel` (default: a `relabel.csv` beside the folder of the photographs, or beside the table) corrects labels.
    Raises `InputError` for a location that is not there and what its reader cannot read.
    """
    location = Path(data_location)
    if unpacked := hub_sets.unpacked(location, reading):
        photographs = tables.read_table(unpacked.table, unpacked.reading, unpacked.order, unpacked.kept_in)
    elif location.is_file() and location.suffix.lower() in FORMATS:
        photographs = tables.read_table(location, reading)
    elif location.is_dir():
        photographs = _read_folder(location, reading)
    else:
        raise not_a_set(location, KINDS)
    relabel = relabel_file(photographs, relabel)
    return photographs if relabel is None else apply_relabel(photographs, relabel)


def not_a_set(location: Path, kinds: str) -> InputError:
    """The error for a location that no reader takes; `kinds` says what would be taken."""
    odd = f"{location} is no folder, CSV or Parquet file"
    odd = odd if location.exists() else f"data folder {location} does not exist"
    return InputError(f"{odd}: give --data-location, {kinds}")


def _read_folder(location: Path, reading: Reading) -> Photographs:
    folder = training_folder(location)
    if competition.looks_like_it(folder):
        return competition.read_person_folders(folder)
    if class_folders.looks_like_it(location):
        return class_folders.read_class_folders(location, reading)
    raise InputError(f"no photographs in {folder}: expected {KINDS}")


def asked_labelling(
    photographs: Photographs, options: Options, attributes: tuple[str, ...] | None = None
) -> Labelling:
    """The classes that are made of `attributes`, by default of all, under the limits that the options ask for.

    Raises `InputError` for attributes that there are not or that are all there are, for flags about ages where none
    are told, and for flags that say how another kind of set is read.
    """
    _check_told(photographs, reading_of(options))
    asked, limits = competition.asked_limits(photographs, options), reading_of(options).numbers
    if asked.keys() & limits.keys():
        raise InputError("--age-limits and --limits both say where ages are cut: leave --age-limits out")
    known = photographs.labelling.cut_at(**asked, **limits)
    if attributes is None:
        return known
    whole = ", ".join(known.attributes)
    if len(known.attributes) == 1:
        raise InputError(
            f"--attributes {','.join(attributes)} trains a specialist of some of several attributes, and "
            f"{photographs.folder} tells only one, {whole}: leave it out (finetune_age.py always asks for one)"
        )
    own = known.only(attributes, "--attributes")
    if own == known:
        raise InputError(f"--attributes: {whole} are all there are, and no specialist's: leave it out")
    return own


def _check_told(photographs: Photographs, reading: Reading) -> None:
    """Raise `InputError` for what such a set is not asked, which would be passed over in silence."""
    known, kind = photographs.labelling, "a folder of images"
    if photographs.listed_in:
        kind, untold = "a table", {"--group-pattern": reading.group_pattern}
    else:
        names = "image_column", "label_columns", "group_column", "split_column"
        untold = {f"--{name.replace('_', '-')}": getattr(reading, name) for name in names}
        untold["--limits"] = reading.numbers.keys() - known.limits.keys()
        untold["--values"] = competition.is_its(known) and reading.values
        untold["--group-pattern"] = competition.is_its(known) and reading.group_pattern
    flag = next((flag for flag, given in untold.items() if given), None)
    if flag:
        raise InputError(
            f"{flag} says nothing about {kind}, which {photographs.listed_in or photographs.folder} is: leave it out"
        )


def training_folder(location: Path) -> Path:
    """The folder of the photographs: `train/images`, `images` or the location itself, the first that is there."""
    return next(one for one in (location / "train" / "images", location / "images", location) if one.is_dir())
