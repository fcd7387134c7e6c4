"""From uint8 squares to pixel values, and the record of how."""

from functools import cache

import torch

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def normalised(squares: torch.Tensor, mean=CLIP_MEAN, std=CLIP_STD) -> torch.Tensor:
    """(B, S, S, 3) uint8 to (B, 3, S, S) float32 pixel values, on the device where they are."""
    pixel_values = squares.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    mean, std = (_channels(tuple(values), squares.device) for values in (mean, std))
    return pixel_values.sub_(mean).div_(std)


@cache
def _channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """(3, 1, 1) float32 on the uint8 scale; kept, since a copy to a GPU waits for it."""
    return torch.tensor(values, device=device).mul(255)[:, None, None]


def preprocessing(image_size: int, mean=CLIP_MEAN, std=CLIP_STD) -> dict:
    """The record of how photographs become pixel values."""
    return {"size": image_size, "mean": list(mean), "std": list(std), "resample": "bicubic, antialias, squash"}
