"""Configurations of vision towers, whoever wrote them: checked before a tower is built."""

import json
from dataclasses import fields

from utils.base.errors import InputError
from utils.base.memory import require_memory
from utils.base.options import ACTIVATIONS
from utils.models.towers import OURS, is_clip, probe

CONFIG_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "projection_dim",
    "hidden_act",
    "layer_norm_eps",
)
LARGEST = {  # what a size may be at most; the largest published CLIP tower has a width of 1664 and 48 layers
    "hidden_size": 8192,
    "intermediate_size": 65536,
    "num_hidden_layers": 256,
    "num_attention_heads": 512,
    "image_size": 8192,
    "patch_size": 512,
    "projection_dim": 8192,
    "vocab_size": 2**20,  # of a text tower, as the next one
    "max_position_embeddings": 2**16,
}
FEWEST = 16  # photographs that are evaluated at once, at least
OTHERWISE = 2**16  # what a number may be at most that only another architecture has
STAGES, DEEPEST = 16, 256  # of an architecture in stages, and the layers of each
CLIP_TYPES = ("clip", "clip_vision_model")


def read_config(told: object, where: str) -> dict:
    """The checked configuration of the vision tower in a `config.json`; transformers' defaults fill it up.

    Raises `InputError` that begins with `where`, the folder, for what is no vision tower or out of bounds.
    """
    from transformers import CONFIG_MAPPING

    model_type = told.get("model_type") if isinstance(told, dict) else None
    if model_type in CLIP_TYPES:
        return _clip_config(told, where)
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise InputError(f"{where} is a {shown(model_type)} model, which transformers does not know")
    part = CONFIG_MAPPING[model_type].sub_configs.get("vision_config")
    if part is None:
        return checked_config(told, f"{where}/config.json")
    return read_config({"model_type": getattr(part, "model_type", None), **_part(told, "vision_config", where)}, where)


def _clip_config(told: dict, where: str) -> dict:
    from transformers import CLIPVisionConfig

    own = told if told["model_type"] == "clip_vision_model" else _part(told, "vision_config", where)
    if isinstance(text := told.get("text_config"), dict):
        check_sizes(text, f"{where}/config.json, text_config")
    config = {**CLIPVisionConfig().to_dict(), **own}
    if "projection_dim" in told:
        config["projection_dim"] = told["projection_dim"]
    return checked_config({key: config[key] for key in CONFIG_KEYS}, f"{where}/config.json")


def _part(told: dict, name: str, where: str) -> dict:
    own = told.get(name) or {}
    if not isinstance(own, dict):
        raise InputError(f"{where}/config.json: {name} is no configuration")
    return own


def checked_config(config: object, where: str) -> dict:
    """What builds a tower of its configuration, whoever wrote it: a record of ours, or a `config.json`.

    It is the `CONFIG_KEYS` of CLIP's, and `towers` tells what it is of others. Raises `InputError` that begins with
    `where` for a value of another type or out of bounds, for sizes that do not divide, and for a tower that does not
    fit into memory with 16 photographs.
    """
    if not isinstance(config, dict):
        raise InputError(f"{where} is no configuration of a tower")
    if not is_clip(config):
        return _checked_other(config, where)
    for key in CONFIG_KEYS:
        if key not in config:
            raise InputError(f"{where} lacks {key}")
    check_sizes(config, where)
    if config["hidden_act"] not in ACTIVATIONS:
        raise InputError(f"{where}: hidden_act is {shown(config['hidden_act'])}, expected {' or '.join(ACTIVATIONS)}")
    eps = config["layer_norm_eps"]
    if not isinstance(eps, float) or not 0 < eps < 1:
        raise InputError(f"{where}: layer_norm_eps is {shown(eps)}, expected a number between 0 and 1")
    for whole, part in (("hidden_size", "num_attention_heads"), ("image_size", "patch_size")):
        if config[whole] % config[part]:
            raise InputError(f"{where}: {whole} {config[whole]} is no multiple of {part} {config[part]}")
    require_memory(_bytes(config), f"{where}: the tower with {FEWEST} photographs of {config['image_size']} pixels")
    return {key: config[key] for key in CONFIG_KEYS}


def _checked_other(config: dict, where: str) -> dict:
    """The configuration of a tower that is not CLIP's. Dropout is left out: augmentation and mixing are what is random
    in a run.
    """
    try:
        own = _own_fields(config, where)
        found = probe(own)
    except InputError:
        raise
    except Exception as error:  # the classes of transformers raise whatever they come upon
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise InputError(
            f"{where}: transformers makes no vision tower with one pooled output of this {shown(config['model_type'])}"
            f" configuration ({reason})"
        ) from error
    patches = (own["image_size"] // own.get("patch_size", own["image_size"])) ** 2
    activations = 3 * own["image_size"] ** 2 + 8 * patches * own.get("hidden_size", 0)
    what = f"{where}: the tower with {FEWEST} photographs of {own['image_size']} pixels"
    require_memory(4 * (found.weights + FEWEST * activations), what)
    return {**own, "projection_dim": found.width}


def _own_fields(config: dict, where: str) -> dict:
    """The type of the architecture and all fields of its class, as plain values within bounds; what else stands in the
    configuration, such as code to run or weights to fetch, is passed over.
    """
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    kind = CONFIG_MAPPING[config["model_type"]]
    names = {one.name for one in fields(kind)} - {one.name for one in fields(PreTrainedConfig)}
    names = sorted(name for name in names - set(OURS) if not name.startswith("_"))
    if any("backbone" in name for name in names):
        raise InputError(f"{where}: a model of type {config['model_type']} is built around a tower, name that one")
    given = {name: _plain(name, config[name], where) for name in names if name in config}
    told = kind(**given | {name: 0.0 for name in names if "drop" in name})
    own = json.loads(json.dumps({name: getattr(told, name) for name in names}))
    if type(own.get("image_size")) is not int:
        raise InputError(f"{where}: image_size is {shown(own.get('image_size'))}, expected one whole number")
    return {"model_type": config["model_type"], **own}


def _plain(name: str, value: object, where: str) -> object:
    """A value of a configuration, and the one number of a size that is told as two. Raises `InputError` for a number
    out of bounds.
    """
    numbers = value if isinstance(value, list | tuple) else [value]
    most = LARGEST.get(name, DEEPEST if name == "depths" else OTHERWISE)
    for number in numbers:
        if isinstance(number, int | float) and not abs(number) <= most:
            raise InputError(f"{where}: {name} is {shown(value)}, expected at most {most}")
    if len(numbers) > STAGES:
        raise InputError(f"{where}: {name} has {len(numbers)} values, expected at most {STAGES}")
    square = name in ("image_size", "patch_size") and len(numbers) == 2 and numbers[0] == numbers[1]
    return numbers[0] if square else value


def check_sizes(config: dict, where: str) -> None:
    """Raise `InputError` that begins with `where` for a size that is no whole number from 1 to its `LARGEST`."""
    for key, most in LARGEST.items():
        if key in config and (type(config[key]) is not int or not 1 <= config[key] <= most):
            raise InputError(f"{where}: {key} is {shown(config[key])}, expected a whole number from 1 to {most}")


def shown(value: object) -> str:
    """A value as an error shows it: not longer than a few words, whatever a file holds."""
    try:
        return repr(value)[:40]
    except (ValueError, RecursionError):  # numbers of thousands of digits, lists in lists without end
        return "of a kind that cannot be shown"


def _bytes(config: dict) -> int:
    """What the weights, and the activations of one layer for 16 photographs, take in memory, roughly."""
    width, inner, tokens = config["hidden_size"], config["intermediate_size"], _tokens(config)
    weights = config["num_hidden_layers"] * width * (4 * width + 2 * inner)
    weights += width * (tokens + config["projection_dim"] + 3 * config["patch_size"] ** 2)
    return 4 * (weights + FEWEST * (3 * config["image_size"] ** 2 + tokens * (4 * width + inner)))


def _tokens(config: dict) -> int:
    """The class token and one for each patch."""
    return 1 + (config["image_size"] // config["patch_size"]) ** 2
