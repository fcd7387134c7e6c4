"""Our checkpoint files: names, records, digests, and which of them are ingredients."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import torch

from utils.base.errors import InputError
from utils.data.labels import Classes, Labelling, labelling_from_record
from utils.data.preprocessing import CLIP_MEAN, CLIP_STD, preprocessing
from utils.models.clip import CLIPClassifier, build
from utils.models.weights import RECORD_FILE, digest, read_archive, read_weights, save_archive

log = logging.getLogger(__name__)


FORMAT = 1
AGE_PREFIX = "Age_"  # of an age specialist's file
DROPPED = ".dropped.json"  # what takes the place of ".pt" when `--keep-top` removes a checkpoint
PACKAGES = ("torch", "transformers", "accelerate", "albumentations", "numpy", "pillow")


@dataclass(frozen=True)
class Checkpoint:
    """A classifier's weights with what is known about them.

    It holds no tensors: `state_dict` maps them anew for each use, so that a hundred checkpoints take no memory.
    `shapes` are those of the tensors by name. `meta` is the record of our own files and None for those of others;
    then `split` is None too, and labelling and preprocessing are what the original used (or what was told by `--mean`,
    `--std` and the labelled images).
    """

    path: Path
    config: dict
    shapes: dict[str, tuple[int, ...]]
    meta: dict | None
    labelling: Labelling | Classes
    preprocessing: dict
    digest: str
    label: str = ""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors, memory-mapped; what they take in memory is freed with the last reference to them."""
        return read_weights(self.path).state_dict

    def build(self) -> CLIPClassifier:
        """The model with these weights."""
        return build(self.config, self.state_dict(), self.path.name)

    @property
    def file_name(self) -> str:
        """The file's name, or the `label` that tells it from others of the same name."""
        return self.label or self.path.name

    @property
    def name(self) -> str:
        return self.file_name.removesuffix(".pt")

    @property
    def split(self) -> dict | None:
        return self.meta and self.meta["split"]

    @property
    def family(self) -> dict | None:
        return self.meta and self.meta["family"]


def flipped(checkpoint: Checkpoint) -> Checkpoint:
    """The same model, whose outputs are the mean over each photograph and its mirror image."""
    preprocessing = {**checkpoint.preprocessing, "flip": True}
    return replace(checkpoint, preprocessing=preprocessing, label=f"{checkpoint.name}_flip.pt")


def as_saved(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as a checkpoint holds them: float32, in main memory."""
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state_dict.items()}


def versions() -> dict[str, str]:
    """Of the packages that what is written depends on."""
    return {name: version(name) for name in PACKAGES}


def save_checkpoint(path: Path, state_dict: dict[str, torch.Tensor], meta: dict) -> str:
    """Write a float32 `state_dict` and its record atomically; returns the digest, which the record keeps."""
    state_dict = as_saved(state_dict)
    meta = {
        "format": FORMAT,
        **meta,
        "digest": digest(state_dict),
        "versions": versions(),
    }
    save_archive(path, {"state_dict": state_dict, "meta": meta})
    return meta["digest"]


def read_checkpoint(
    path: Path, mean=None, std=None, classes_of: Callable[[int], Labelling | Classes] | None = None
) -> Checkpoint:
    """Read a classifier's checkpoint, ours or another's; `mean` and `std` serve files without a record.

    `classes_of` tells what the rows of a head without a record mean, given their number; without it they are the 18
    classes of the competition, or 3 ages. Raises `InputError` for a file without a head, with another number of
    classes, or of a newer format.
    """
    weights = read_weights(path)
    if weights.num_classes is None:
        raise InputError(f"{path} has no classification head: fine-tune it first")
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.state_dict.items()}
    meta = weights.meta
    if meta is not None:
        if meta["format"] != FORMAT:
            raise InputError(f"{path} has checkpoint format {meta['format']}, this program reads format {FORMAT}")
        if mean or std:
            log.warning("%s records its own preprocessing: --mean and --std are not used", path)
        if path.is_dir() and digest(weights.state_dict) != meta["digest"]:  # a folder is easily changed in part
            raise InputError(f"{path} has other weights than its {RECORD_FILE} tells of: remove {RECORD_FILE}")
        known = labelling_from_record(meta["labelling"]), meta["preprocessing"], meta["digest"]
        return Checkpoint(path, weights.config, shapes, meta, *known)
    if classes_of is None:
        known = {labelling.num_classes: labelling for labelling in (Labelling(), Labelling(("age",)))}
        if weights.num_classes not in known:
            raise InputError(
                f"{path} has a head of {weights.num_classes} classes, expected 18 (or 3 for an age specialist)"
            )
        classes_of = known.get
    log.warning("%s has no record: nothing tells which people it was trained on, nor its preprocessing", path)
    recipe = preprocessing(weights.config["image_size"], mean or CLIP_MEAN, std or CLIP_STD)
    labelling = classes_of(weights.num_classes)
    return Checkpoint(path, weights.config, shapes, None, labelling, recipe, digest(weights.state_dict))


def read_record(path: Path) -> dict | None:
    """What our own file tells of itself, without its tensors; None for files of others and what cannot be read."""
    try:
        meta = read_archive(path).get("meta")
    except InputError:
        return None
    return meta if isinstance(meta, dict) and "format" in meta else None


def is_age_specialist(path: Path, meta: dict | None) -> bool:
    """Whether a file holds a model of the age alone: its record tells, or without one its name."""
    return path.name.startswith(AGE_PREFIX) if meta is None else meta["labelling"].get("attributes") == ["age"]


def find_checkpoint(model_name: str | None, model_location: Path) -> Path:
    """The file that `--model-name` means: a path, or a name inside the model location, with or without `.pt`; or the
    folder of an exported soup.

    Without a name: the only greedy soup, else the only checkpoint of 18 classes; several are an error that lists them.
    """
    if model_name is not None:
        for candidate in (Path(model_name), model_location / model_name, model_location / f"{model_name}.pt"):
            if candidate.is_file() or (candidate / RECORD_FILE).is_file():
                return candidate
        there = ", ".join(path.name for path in checkpoint_files(model_location)) or "no checkpoints"
        raise InputError(f"no checkpoint {model_name}, neither here nor in {model_location}, which has {there}")
    records = {path: read_record(path) for path in checkpoint_files(model_location)}
    files = [path for path, meta in records.items() if not is_age_specialist(path, meta)]
    for choice in ([path for path in files if _recipe(path, records[path]) == "greedy"], files):
        if len(choice) == 1:
            return choice[0]
        if choice:
            raise InputError(f"several checkpoints, choose one with --model-name: {', '.join(p.name for p in choice)}")
    raise InputError(f"no checkpoints in {model_location}: run finetune.py first, or give --model-name")


def _recipe(path: Path, meta: dict | None) -> str | None:
    """The recipe of a soup, by its record or without one by its name."""
    if meta is None:
        return "greedy" if "_greedysoup" in path.stem else None
    return meta.get("options", {}).get("recipe")


def checkpoint_files(model_location: Path) -> list[Path]:
    """Sorted `.pt` files of the folder, without the release's `model_{i}.pt`, hidden and temporary files."""
    if not Path(model_location).is_dir():
        raise InputError(f"model folder {model_location} does not exist: give --model-location")
    return [
        path
        for path in sorted(Path(model_location).glob("*.pt"))
        if not path.name.startswith(".") and not re.fullmatch(r"model_\d+", path.stem)
    ]


def differences(before: dict, now: dict) -> str:
    """What differs between two records, as `name before -> now; ...`; empty when nothing does."""
    return "; ".join(
        f"{name} {before.get(name)} -> {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )


def soup_meta(members: Sequence[Checkpoint], weights: Sequence, how: dict, scores: dict) -> dict:
    """The record of a soup: what it was made of with which `weights`, and `how`; split and family are those its
    members share.
    """
    recorded = {
        key: next((getattr(one, key) for one in members if getattr(one, key) is not None), None)
        for key in ("split", "family")
    }
    made_from = zip(members, weights, strict=True)
    return {
        "model": members[0].config,
        "labelling": members[0].labelling.record(),
        "preprocessing": members[0].preprocessing,
        "options": how,
        "split": recorded["split"],
        "family": recorded["family"],
        "scores": scores,
        "made_from": [{"name": one.file_name, "digest": one.digest, "weight": weight} for one, weight in made_from],
    }


def check_same_kind(checkpoints: list[Checkpoint]) -> None:
    """Raise `InputError` unless all can be averaged: same shapes, classes, preprocessing, split and family."""
    first = checkpoints[0]
    for other in checkpoints[1:]:
        here, there = first.shapes, other.shapes
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                raise InputError(
                    f"{first.file_name} and {other.file_name} are different architectures: tensor {name} is "
                    f"{here.get(name, 'absent')} and {there.get(name, 'absent')}"
                )
        for what, one, another, remedy in (
            ("other model configurations", first.config, other.config, "retrain one of them"),
            ("other age limits or classes", first.labelling, other.labelling, "retrain one of them"),
            ("other preprocessing", first.preprocessing, other.preprocessing, "retrain one of them"),
        ):
            if one != another:
                raise InputError(f"{first.file_name} and {other.file_name} have {what}: {remedy}")
    recorded = [checkpoint for checkpoint in checkpoints if checkpoint.split is not None]
    for first, other in pairwise(recorded):
        if first.split["digest"] != other.split["digest"]:
            raise InputError(
                f"{first.file_name} and {other.file_name} were trained on different splits "
                f"({first.split['digest']} and {other.split['digest']}): one has seen people held out from the other"
            )
        if first.family != other.family:
            raise InputError(
                f"{first.file_name} and {other.file_name} do not share a start (anchor and head "
                f"{first.family['inputs']} and {other.family['inputs']}): their average means nothing; "
                "fine-tune them with the same --head-init, labels and lowest model_{i}.pt"
            )
