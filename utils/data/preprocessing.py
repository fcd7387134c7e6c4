"""From uint8 squares to pixel values, and the record of how."""

from functools import cache

import torch

from utils.base.errors import InputError

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


def checked_preprocessing(record: object, image_size: int, where: str) -> dict:
    """The record of how photographs become pixel values for a tower of `image_size`, as it stands in a file.

    Raises `InputError` that begins with `where` unless the size is the tower's, mean and std are three finite numbers
    each, a std is neither 0 nor next to it, and `flip`, if there, is true or false.
    """
    if not isinstance(record, dict) or type(record.get("size")) is not int or record["size"] != image_size:
        raise InputError(
            f"{where}: the preprocessing does not make squares of {image_size} pixels, as the model takes"
        )
    for name, least in (("mean", -100.0), ("std", 1e-3)):
        values = record.get(name)
        numbers = isinstance(values, list) and len(values) == 3 and all(type(one) in (int, float) for one in values)
        if not numbers or not all(least <= one <= 100 for one in values):
            raise InputError(f"{where}: the preprocessing's {name} is not three numbers from {least:g} to 100")
    if not isinstance(record.get("flip", False), bool):
        raise InputError(f"{where}: the preprocessing's flip is neither true nor false")
    return record
