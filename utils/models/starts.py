"""What a fine-tuning run starts from, by names alone: nothing is read, so nothing heavy is imported."""

import re
from pathlib import Path

from utils.base.errors import InputError
from utils.base.options import ALL_FOLDS, Options
from utils.base.training_flags import RELEASE, each_index_has_a_start

HUB_NAMES = {"ViT-B/16": "openai/clip-vit-base-patch16"}


def is_source(source: str) -> bool:
    """Whether it is a file or folder that is there, or may be a hub id."""
    return bool(source) and (Path(source).exists() or may_be_hub_id(source))


def may_be_hub_id(source: str) -> bool:
    """Whether it looks like the name of a repository on the hub, and not like a file in a folder."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", source)) and Path(source).suffix not in (".pt", ".pth")


def find_pretrained(options: Options) -> tuple[str, str]:
    """The sources of the run's own weights and of the sweep's anchor: the lowest `model_{i}.pt` there is, else the
    same.

    Raises `InputError` before anything is loaded when the file or folder is not there.
    """
    if not each_index_has_a_start(options.model):
        source = HUB_NAMES.get(options.model, options.model)
        if not is_source(source):
            known = ", ".join((RELEASE, *HUB_NAMES))
            raise InputError(f"--model {source or repr(source)} is neither {known}, a hub id, a folder nor a file")
        source = soup_of_fold(source, options)
        return source, source
    folder, present = _release_files(options)
    own = folder / f"model_{options.i}.pt"
    if not own.is_file():
        there = f"has the indices {', '.join(map(str, sorted(present)))}" if present else "has no model_{i}.pt"
        raise InputError(
            f"{own} is missing ({folder} {there}): download the release with 'python main.py --download-models "
            f"--model-location {folder}', name its folder with --pretrained-location, or choose another --i"
        )
    return str(own), str(present[min(present)])


def soup_of_fold(source: str, options: Options) -> str:
    """The start of a fold's model in a second round: the soup of this fold, which lies beside the soup of all folds
    and has seen nobody who is held out; any other start as it is.
    """
    path = Path(source)
    if options.fold in (None, ALL_FOLDS) or path.suffix != ".pt":
        return source
    own = fold_file(path, options.fold, options.folds)
    return str(own) if own.is_file() else source


def fold_file(soup: Path, fold: int, folds: int) -> Path:
    """Where the soup of one fold lies beside the soup of all."""
    return soup.with_name(f"{soup.stem}_fold{fold}of{folds}.pt")


def present_indices(options: Options) -> list[int]:
    """The indices that `--i` can have: those of the `model_{i}.pt` there are, or 0 for another `--model`.

    Raises `InputError` when there are none.
    """
    if not each_index_has_a_start(options.model):
        return [0]
    folder, present = _release_files(options)
    if not present:
        raise InputError(
            f"{folder} has no model_{{i}}.pt: run 'python main.py --download-models --model-location {folder}', "
            "or name their folder with --pretrained-location"
        )
    return sorted(present)


def _release_files(options: Options) -> tuple[Path, dict[int, Path]]:
    """The folder of the pretrained ingredients, and its `model_{i}.pt` by index."""
    folder = options.pretrained_location or options.model_location
    return folder, {int(path.stem[6:]): path for path in folder.glob("model_*.pt") if path.stem[6:].isdecimal()}
