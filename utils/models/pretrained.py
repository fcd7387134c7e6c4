"""The pretrained weights that a fine-tuning run starts from, and the anchor of its sweep."""

import re
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from utils.base.errors import InputError
from utils.base.files import CACHE
from utils.base.flags import START_FILE
from utils.base.options import Options
from utils.base.runtime import main_first
from utils.base.training_flags import RELEASE, each_index_has_a_start
from utils.models.checkpoints import Checkpoint, read_checkpoint, save_checkpoint, soup_meta
from utils.models.heads import head_file, read_head
from utils.models.weights import HUB_NAMES, Weights, at_image_size, digest, read_weights


def find_pretrained(options: Options) -> tuple[str, str]:
    """The sources of the run's own weights and of the sweep's anchor: the lowest `model_{i}.pt` there is, else the
    same.

    Raises `InputError` before anything is loaded when the file or folder is not there.
    """
    if not each_index_has_a_start(options.model):
        source = HUB_NAMES.get(options.model, options.model)
        known = ", ".join((RELEASE, *HUB_NAMES))
        if not source or not (Path(source).exists() or re.fullmatch(r"[\w.-]+/[\w.-]+", source)):
            raise InputError(f"--model {source or repr(source)} is neither {known}, a hub id, a folder nor a file")
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


def read_pretrained(options: Options) -> tuple[Weights, Weights]:
    """The run's own weights and its anchor's, at the image size asked for.

    Raises `InputError` when they cannot be ingredients of one sweep.
    """
    own, anchor = find_pretrained(options)
    start = at_image_size(read_weights(own, options.tower), options.image_size)
    told = start.config["num_attention_heads"], start.config["hidden_act"]
    if options.tower not in (None, told):
        raise InputError(f"{own} tells of {told[0]} heads and {told[1]}: leave --tower out")
    if anchor == own:
        return start, start
    anchor_weights = at_image_size(read_weights(anchor, options.tower), options.image_size)
    if start.config != anchor_weights.config:
        raise InputError(
            f"{own} and the sweep's anchor {anchor} are different architectures: keep them in two folders"
        )
    return start, anchor_weights


def read_soup_start(
    accelerator: Accelerator, source: str, ingredients: Sequence[Checkpoint], tower: tuple[int, str] | None = None
) -> Checkpoint:
    """What some ingredients were fine-tuned from, as a checkpoint with a head: the tower `source`, at their image
    size, with the head that their sweep started from. Ingredients without a record leave the source its own head.

    It is kept in `cache/starts`, so that it can be read tensor by tensor like any ingredient. Raises `InputError` when
    it does not fit.
    """
    first = ingredients[0]
    weights = at_image_size(read_weights(source, tower), first.config["image_size"])
    state_dict = dict(weights.state_dict)
    if first.family is not None:
        head = read_head(first.family, first.labelling.num_classes, first.config["projection_dim"])
        if head is None:
            gone = head_file(first.family)
            raise InputError(f"--start-from needs the head that the sweep started from, and {gone} is gone or damaged")
        state_dict = {**weights.backbone(), **head}
    shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    if shapes != first.shapes:
        odd = min(dict(shapes.items() ^ first.shapes.items()))
        raise InputError(
            f"--start-from {source} and {first.path.name} are different architectures: tensor {odd} is "
            f"{shapes.get(odd, 'absent')} and {first.shapes.get(odd, 'absent')}"
        )
    meta = soup_meta([first], [1], {"recipe": "start", "source": Path(source).name}, {}) | {"made_from": []}
    path = CACHE / "starts" / digest(state_dict)[:16] / START_FILE

    def read() -> Checkpoint:
        try:
            return read_checkpoint(path)
        except (InputError, FileNotFoundError):  # not there yet, or damaged
            save_checkpoint(path, state_dict, meta)
            return read_checkpoint(path)

    return main_first(accelerator, read)
