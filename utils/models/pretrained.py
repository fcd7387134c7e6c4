"""The pretrained weights that a fine-tuning run starts from, and the anchor of its sweep."""

from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from utils.base.errors import InputError
from utils.base.files import CACHE
from utils.base.flags import START_FILE
from utils.base.options import Options
from utils.base.runtime import main_first
from utils.models.checkpoints import Checkpoint, read_checkpoint, save_checkpoint, soup_meta
from utils.models.folded import folded_model
from utils.models.heads import head_file, read_head
from utils.models.hub import read_tower
from utils.models.starts import find_pretrained, fold_file
from utils.models.weights import Weights, at_image_size, digest, read_weights

RESIZED = ("image_size", "projection_dim")  # what a tower of one configuration may have otherwise


def read_pretrained(options: Options) -> tuple[Weights, Weights]:
    """The run's own weights and its anchor's, at the image size asked for.

    Raises `InputError` when they cannot be ingredients of one sweep.
    """
    own, anchor = find_pretrained(options)
    start = at_image_size(read_weights(own, options.tower), options.image_size)
    _check_told(own, start.config, options.tower)
    if anchor == own:
        return start, start
    anchor_weights = at_image_size(read_weights(anchor, options.tower), options.image_size)
    if start.config != anchor_weights.config:
        raise InputError(
            f"{own} and the sweep's anchor {anchor} are different architectures: keep them in two folders"
        )
    return start, anchor_weights


def _check_told(source: str, config: dict, tower: tuple[int, str] | str | None) -> None:
    """Raise `InputError` when the user tells of another tower than the source itself does."""
    if isinstance(tower, tuple):
        told = config.get("num_attention_heads"), config.get("hidden_act")
        if tower != told:
            raise InputError(f"{source} tells of {told[0]} heads and {told[1]}: leave --tower out")
    elif tower is not None:
        other = read_tower(tower).config
        if any(config.get(name) != value for name, value in other.items() if name not in RESIZED):
            raise InputError(f"{source} tells of another tower than {tower}: leave --tower-config out")


def read_soup_start(
    accelerator: Accelerator,
    source: str,
    ingredients: Sequence[Checkpoint],
    tower: tuple[int, str] | str | None = None,
) -> Checkpoint:
    """What some ingredients were fine-tuned from, as a checkpoint with a head: the tower `source`, at their image
    size, with the head that their sweep started from. Ingredients without a record leave the source its own head.

    It is kept in `cache/starts`, so that it can be read tensor by tensor like any ingredient. Models across folds have
    one for each fold. Raises `InputError` when it does not fit.
    """
    parts = ingredients[0].parts
    if len(parts) == 1:
        return _soup_start(accelerator, source, parts[0], tower)
    sources = [fold_file(Path(source), fold, len(parts)) for fold in range(len(parts))]
    sources = [own if own.is_file() else source for own in sources]
    starts = [_soup_start(accelerator, own, part, tower) for own, part in zip(sources, parts, strict=True)]
    return folded_model(CACHE / "starts" / START_FILE, starts)


def _soup_start(
    accelerator: Accelerator, source: str | Path, first: Checkpoint, tower: tuple[int, str] | str | None
) -> Checkpoint:
    """The start of one ingredient, with the head that it started from."""
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
