"""Where labelled photographs come from: the readers, and which of them `--data-location` means."""

from pathlib import Path

from utils.base.flags import data_folder
from utils.base.options import Options
from utils.data import competition
from utils.data.labels import Labelling
from utils.data.photographs import Photographs
from utils.data.relabel import apply_relabel, relabel_file


def read_photographs(data_location: Path, relabel: Path | None = None) -> Photographs:
    """List and label every training photograph of `data_location` (the root, `train` or `train/images`).

    `relabel` (default: a `relabel.csv` beside the `images` folder, if there is one) corrects labels. Raises
    `InputError` for a missing folder and what its reader cannot read.
    """
    folder = training_folder(data_location)
    photographs = competition.read_person_folders(folder)
    relabel = relabel_file(folder, relabel)
    return photographs if relabel is None else apply_relabel(photographs, relabel)


def asked_labelling(
    photographs: Photographs, options: Options, attributes: tuple[str, ...] | None = None
) -> Labelling:
    """The classes that are made of `attributes`, by default of all, under the limits that the options ask for."""
    asked = competition.asked_limits(options)
    known = photographs.labelling.cut_at(**asked)
    return known if attributes is None else known.only(attributes)


def training_folder(data_location: Path) -> Path:
    """The folder of the photographs: `train/images`, `images` or the location itself, the first that is there."""
    location = data_folder(data_location)
    for candidate in (location / "train" / "images", location / "images", location):
        if candidate.is_dir():
            return candidate
    raise AssertionError("the location itself is a folder")
