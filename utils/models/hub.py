"""What Hugging Face folders, hub ids and single configurations hold: transformers reads them, and runs none of their
code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from utils.base.errors import InputError
from utils.data.preprocessing import checked_preprocessing, preprocessing
from utils.models.foreign import HEAD, PROJECTION, TEXT_TOWER
from utils.models.starts import may_be_hub_id
from utils.models.tower_config import read_config
from utils.models.towers import TOWER, hub_class, hub_config, is_clip

PROCESSORS = ("preprocessor_config.json", "processor_config.json")


class Processor(NamedTuple):
    """How a tower's own image processor makes pixel values: pixels per side, channel means and deviations."""

    size: int
    mean: list[float]
    std: list[float]


class ToldTower(NamedTuple):
    """The checked configuration of a tower, the one that it lies in, and the image processor beside it if any."""

    config: dict
    whole: dict
    processor: Processor | None


@contextmanager
def _readable(source: str) -> Iterator[None]:
    from safetensors import SafetensorError
    from transformers import logging

    logging.set_verbosity_error()  # what is missing or left over is checked here
    try:
        yield
    except InputError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, SafetensorError, RecursionError) as error:
        raise InputError(f"cannot load {source} from disk or the Hugging Face hub: {error}") from error


def read_tower(source: str) -> ToldTower:
    """What a folder, a hub id or a `config.json` tells of a tower, without its tensors.

    Of the configuration only the sizes and the kind of the tower are used, after they are checked: no code that it
    names is run, and no attention that it names is fetched.
    """
    from transformers import PreTrainedConfig

    path = Path(source)
    if not (path.exists() or may_be_hub_id(source)):
        raise InputError(f"--tower-config {source} is no folder, no config.json and no hub id")
    folder = str(path.parent) if path.is_file() else source
    with _readable(source):
        whole, _ = PreTrainedConfig.get_config_dict(source)
        config = read_config(whole, folder)
        return ToldTower(config, whole, _read_processor(folder, config["image_size"]))


def _read_processor(source: str, image_size: int) -> Processor | None:
    """The image processor in a folder or of a hub id; None where there is none. Raises `InputError` for one that makes
    other pixels than ours at other sizes, means and deviations.
    """
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        told, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:
        if any((Path(source) / name).is_file() for name in PROCESSORS):
            raise
        return None
    mean, std = (told.get(f"image_{name}") for name in ("mean", "std"))
    if not told.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    size = _side(told.get("crop_size" if told.get("do_center_crop", "crop_size" in told) else "size")) or image_size
    where = f"{source}/{PROCESSORS[0]}"
    if not told.get("do_rescale", True) or abs(told.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise InputError(f"{where} does not scale pixels to 0 and 1, as this program does")
    checked_preprocessing(preprocessing(size, mean or (), std or ()), size, where)
    return Processor(size, mean, std)


def _side(size: object) -> int | None:
    """The pixels per side that an image processor tells in one of several forms; None for what is no square."""
    if isinstance(size, dict):
        size = [size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge"))]
    sides = set(size) if isinstance(size, list | tuple) else {size}
    side = sides.pop() if len(sides) == 1 else None
    return side if type(side) is int else None


def read_folder(source: str) -> tuple[dict[str, torch.Tensor], ToldTower]:
    """The tensors in a folder or of a hub id under our names, the head's among them if it has one, and its tower.

    Raises `InputError` with the name of a tensor that is missing, of another shape, or belongs nowhere.
    """
    from safetensors import safe_open

    tower = read_tower(source)
    with _readable(source):
        tensors, wrong = _load(tower.config, source)
        if wrong == {"missing": PROJECTION} and "CLIPVisionModel" in (tower.whole.get("architectures") or ()):
            width, wrong = tower.config["hidden_size"], {}
            tensors[PROJECTION] = torch.eye(width)
            tower = tower._replace(config={**tower.config, "projection_dim": width})
        for path in sorted(
            Path(source).glob("*.safetensors")
        ):  # transformers knows of no such head, it passes it over
            with safe_open(path, "pt") as file:
                tensors |= {name: file.get_tensor(name) for name in sorted(file.keys()) if name.startswith(HEAD)}
    _check(wrong, source)
    return tensors, tower


def read_told(source: str, tensors: dict[str, torch.Tensor], config: dict) -> dict[str, torch.Tensor]:
    """The tensors of a file under our names, with or without the prefixes of transformers' classes, for a tower that
    is not CLIP's. Raises `InputError` as `read_folder`.
    """
    with _readable(source):
        found, wrong = _load(config, source, tensors)
    _check(wrong, source)
    return found | {name: tensor for name, tensor in tensors.items() if name.startswith(HEAD)}


def _load(config: dict, source: str, tensors: dict | None = None) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tower as its class in transformers reads it, with the first tensor that is missing, of another shape or
    unexpected; what is beside the tower, a text tower or a head, is passed over.
    """
    from transformers import logging

    logging.disable_progress_bar()
    model, loading = hub_class(config).from_pretrained(
        source if tensors is None else None, config=hub_config(config), state_dict=tensors, dtype=torch.float32,
        trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True,
    )  # fmt: skip
    own = tuple(f"{name}." for name in (model.base_model_prefix, *dict(model.named_children())) if name)

    def is_leftover(name: str) -> bool:
        if is_clip(config):
            return bool(TEXT_TOWER.fullmatch(name)) or name.startswith(HEAD)
        return not name.startswith(own) or name.endswith("position_ids")

    wrong = {}
    for what in ("missing", "mismatched", "unexpected"):
        names = {name if isinstance(name, str) else name[0] for name in loading[f"{what}_keys"]}
        if names := {name for name in names if what != "unexpected" or not is_leftover(name)}:
            wrong[what] = min(names)
    prefix = "" if is_clip(config) else TOWER
    return {prefix + name: t.detach() for name, t in model.state_dict().items()}, wrong


def _check(wrong: dict[str, str], source: str) -> None:
    for what, name in wrong.items():
        raise InputError(f"{source}: {what} tensor {name}")
