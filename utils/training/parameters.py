"""What is trained and how fast: frozen parts, learning rates by layer, and a moving average of the weights."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from utils.base.errors import InputError
from utils.base.options import Options
from utils.models.clip import Classifier, build
from utils.models.towers import LAYER, TOWER, hub_class, layers_of
from utils.models.weights import Weights

AGE_HEAD = "age_regression."


def check_tower(config: dict, options: Options) -> None:
    """Raise `InputError` when there are fewer layers than are to be frozen, or the tower cannot do it."""
    layers, kind = layers_of(config), config.get("model_type")
    if options.freeze not in (None, "backbone") and options.freeze > layers:
        raise InputError(f"--freeze first-{options.freeze}: the model has {layers} layers")
    if options.layer_decay < 1 and not layers:
        raise InputError(f"--layer-decay: towers of type {kind} are no single stack of layers, leave it out")
    if options.gradient_checkpointing and not hub_class(config).supports_gradient_checkpointing:
        raise InputError(f"--gradient-checkpointing: towers of type {kind} have none, leave it out")


def trainable(accelerator: Accelerator, start: Weights, head: dict[str, torch.Tensor], options: Options) -> Classifier:
    """The classifier with these weights as `--freeze`, `--gradient-checkpointing` and `--age-regression` want it, on
    the accelerator's device. `check_tower` has passed.
    """
    model = build(start.config, {**start.backbone(), **head}, start.source)
    layers = layers_of(start.config)
    if options.freeze:
        first = layers + 1 if options.freeze == "backbone" else options.freeze
        for name, parameter in model.named_parameters():
            if depth_of(name, layers) <= first and not name.startswith("classification_head."):
                parameter.requires_grad_(False)
    if options.gradient_checkpointing:
        model.vision_model.gradient_checkpointing_enable({"use_reentrant": False})
    if options.age_regression:
        model.age_regression = nn.Linear(start.config["projection_dim"], 1)
        nn.init.zeros_(model.age_regression.weight)
        nn.init.zeros_(model.age_regression.bias)
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        model.training_attention = "eager"  # forward and back six times as fast there as the fused one of torch 2.13
    return model.to(accelerator.device)


def depth_of(name: str, layers: int) -> int:
    """How deep a parameter lies: 0 for the embeddings, k for the k-th layer, `layers + 1` for what follows them."""
    if match := LAYER.search(name):
        return int(match[1]) + 1
    return 0 if ".embeddings." in name or ".pre_layrnorm." in name else layers + 1


def parameter_groups(model: Classifier, lr: float, weight_decay: float, layer_decay: float = 1.0) -> list[dict]:
    """AdamW's groups: no decay on biases, norms and a tower's tokens, which are single rows whatever their dimensions.

    With `layer_decay` below 1 each layer learns that much slower than the next one (Clark et al. 2020, "ELECTRA").
    """
    layers = layers_of(model.config)
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = layers + 1 if layer_decay == 1 else depth_of(name, layers)
            is_token = name.startswith(TOWER) and parameter.numel() == parameter.shape[-1]
            groups.setdefault((depth, parameter.ndim > 1 and not is_token), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * layer_decay ** (layers + 1 - depth),
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (depth, decayed), parameters in groups.items()
    ]


def averaged(model: Classifier, decay: float) -> AveragedModel | None:
    """The exponential moving average of a model's weights, to be updated after each step; None without `decay`."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None


def without_age_head(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors that a checkpoint keeps."""
    return {name: tensor for name, tensor in state_dict.items() if not name.startswith(AGE_HEAD)}
