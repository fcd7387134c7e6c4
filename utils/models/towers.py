"""Vision towers: what transformers builds of a configuration, which `tower_config` has checked.

A tower is CLIP's, or any other of transformers' that pools its output. How the others differ from CLIP's stands here:

* configuration: CLIP's has the keys of `tower_config`; any other's a `model_type`, the fields of that class in
  transformers, and as `projection_dim` the width of its pooled output;
* projection: CLIP's is a matrix that learns, any other's is the identity;
* tensors: any other's have the names of its class in transformers behind `vision_model.`;
* layers, constants and what does not learn: as a `probe` of the tower shows.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from utils.base.errors import InputError

OURS = ("model_type", "projection_dim")  # in a configuration beside the fields of its class
TOWER = "vision_model."
LAYER = re.compile(r"\.layers?\.(\d+)\.")  # in the name of a tensor


def is_clip(config: dict) -> bool:
    """Whether the configuration is that of a CLIP tower."""
    return "model_type" not in config


def hub_config(config: dict, **more):
    """The configuration as transformers has it, with `more` that no tower depends on."""
    if is_clip(config):
        from transformers import CLIPVisionConfig

        return CLIPVisionConfig(**config, **more)
    from transformers import CONFIG_MAPPING

    own = {name: value for name, value in config.items() if name not in OURS}
    return CONFIG_MAPPING[config["model_type"]](**own, **more)


def hub_class(config: dict) -> type:
    """The class of transformers that reads and writes the tower in a folder, with CLIP's projection."""
    if not is_clip(config):
        return probe(config).kind
    from transformers import CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection


def tower(config: dict) -> nn.Module:
    """The tower without its projection. It turns `pixel_values` (B, 3, S, S) into a `pooler_output` (B, D).

    The attention is torch's fused one where the architecture has it. What the pooled output does not depend on, such
    as the mask token of a pretraining, does not learn: several processes would wait for its gradient.
    """
    if is_clip(config):
        from transformers import CLIPVisionModel

        return CLIPVisionModel(hub_config(config, attn_implementation="sdpa"))
    from transformers import AutoModel

    built = AutoModel.from_config(hub_config(config), trust_remote_code=False)
    for name in probe(config).unused:
        built.get_parameter(name).requires_grad_(False)
    return built


def layers_of(config: dict) -> int:
    """How many layers lie one above the other; 0 where they are no single stack."""
    return config["num_hidden_layers"] if is_clip(config) else probe(config).layers


def set_constants(built: nn.Module, config: dict) -> None:
    """Give a tower the buffers that no checkpoint holds, after it was built without memory."""
    for name, buffer in list(built.named_buffers()):
        module, _, last = name.rpartition(".")
        value = torch.arange(buffer.numel())[None] if last == "position_ids" else _constants(as_text(config))[name]
        setattr(built.get_submodule(module), last, value)


def resized(config: dict, state_dict: dict[str, torch.Tensor], image_size: int) -> dict[str, torch.Tensor]:
    """The tensors of a tower, which is not CLIP's, for another image size; its class interpolates its positions.

    Raises `InputError` for a class that cannot.
    """
    with torch.device("meta"):
        own, other = tower(config), tower({**config, "image_size": image_size})
    shapes = {TOWER + name: tensor.shape for name, tensor in other.state_dict().items()}
    changed = [name for name, shape in shapes.items() if shape != state_dict[name].shape]
    if not changed:
        return state_dict
    interpolate = getattr(getattr(own, "embeddings", None), "interpolate_pos_encoding", None)
    if interpolate is None or len(changed) > 1:
        raise InputError(
            f"--image-size {image_size}: towers of type {config['model_type']} have one size, leave it out"
        )
    own.load_state_dict({name.removeprefix(TOWER): state_dict[name] for name in shapes}, assign=True)
    shape = shapes[changed[0]]
    with torch.no_grad():
        positions = interpolate(torch.empty(1, *shape[-2:]), image_size, image_size)
    return {**state_dict, changed[0]: positions.reshape(shape).contiguous()}


@dataclass(frozen=True)
class Probe:
    """What a tower without weights shows of itself: its class, the width of its pooled output, its layers if they are
    one stack, how many weights it has, and which of them the pooled output does not depend on.
    """

    kind: type
    width: int
    layers: int
    weights: int
    unused: frozenset[str]


def as_text(config: dict) -> str:
    """A configuration under which something is kept."""
    return json.dumps(config, sort_keys=True)


def probe(config: dict) -> Probe:
    """The probe of a tower that is not CLIP's. Raises `ValueError` for one without a pooled output, or that keeps
    statistics of its batches; what its class raises of itself is passed on.
    """
    return _probe(as_text({name: value for name, value in config.items() if name != "projection_dim"}))


@lru_cache(maxsize=16)
def _probe(text: str) -> Probe:
    from transformers import AutoModel

    config = json.loads(text)
    size = config["image_size"]
    with torch.inference_mode(False), torch.enable_grad():
        with torch.device("meta"):
            built = AutoModel.from_config(hub_config(config), trust_remote_code=False).eval()
        pixel_values = torch.empty(2, 3, size, size, device="meta")
        with torch.device("cpu"):  # some classes keep constants for all their models
            pooled = getattr(built(pixel_values=pixel_values), "pooler_output", None)
        if pooled is None or pooled.ndim != 2:
            raise ValueError("it has no pooled output")
        pooled.sum().backward()
    kept = {name for name, _ in built.named_buffers()} & built.state_dict().keys()
    if kept:
        raise ValueError(f"it keeps statistics of its batches ({min(kept)}), whose average means nothing")
    weights = dict(built.named_parameters())
    stack = {match[1] for name in weights if (match := LAYER.search(f".{name}"))}
    return Probe(
        kind=type(built),
        width=pooled.shape[1],
        layers=len(stack) if len(stack) == config.get("num_hidden_layers") else 0,
        weights=sum(tensor.numel() for tensor in weights.values()),
        unused=frozenset(name for name, tensor in weights.items() if tensor.grad is None),
    )


@lru_cache(maxsize=1)
def _constants(text: str) -> dict[str, torch.Tensor]:
    """The buffers of a tower, which its class computes; nothing random is drawn from the run's own sequence."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return dict(tower(json.loads(text)).named_buffers())
