"""Time and peak memory of full-size ViT-B/32: ten training steps, and a uniform soup of three checkpoints.

    python benchmarks/full_size.py

Random weights in the release format and drawn noise photographs of 384 x 512 in a temporary folder, so it needs no
download. Each command runs as its own process, as a user would run it; peak memory is the largest resident set of the
process or one of its workers. Measured 2026-11 on 2 CPU cores: see docs/results.md.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
WIDTH, LAYERS, PATCH, SIZE, DIM = 768, 12, 32, 224, 512
PEOPLE = 30  # 24 to train on: 168 images, ten steps of 16


def release_state(
    seed: int, width: int = WIDTH, layers: int = LAYERS, patch: int = PATCH, size: int = SIZE, dim: int = DIM
) -> dict[str, torch.Tensor]:
    """A random tower under the release's tensor names, ViT-B/32 unless told otherwise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator) * 0.02

    state = {
        "class_embedding": normal(width),
        "positional_embedding": normal((size // patch) ** 2 + 1, width),
        "proj": normal(width, dim),
        "conv1.weight": normal(width, 3, patch, patch),
        **{f"{norm}.weight": torch.ones(width) for norm in ("ln_pre", "ln_post")},
        **{f"{norm}.bias": torch.zeros(width) for norm in ("ln_pre", "ln_post")},
    }
    for layer in range(layers):
        shapes = {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,)}
        shapes |= {"attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,)}
        shapes |= {"mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,)}
        shapes |= {"mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,)}
        block = {name: normal(*shape) for name, shape in shapes.items()}
        block |= {f"ln_{k}.weight": torch.ones(width) for k in (1, 2)}
        block |= {f"ln_{k}.bias": torch.zeros(width) for k in (1, 2)}
        state |= {f"transformer.resblocks.{layer}.{name}": tensor for name, tensor in block.items()}
    head = {"classification_head.weight": normal(1000, dim), "classification_head.bias": torch.zeros(1000)}
    return {f"model.visual.{name}": tensor for name, tensor in state.items()} | head


def draw_people(folder: Path, count: int = PEOPLE) -> None:
    rng = np.random.default_rng(0)
    for k in range(count):
        person = folder / "train" / "images" / f"{k:06d}_{('male', 'female')[k % 2]}_Asian_{20 + k * 45 // count}"
        person.mkdir(parents=True)
        for stem in ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal"):
            small = rng.integers(0, 255, (16, 12, 3), np.uint8)
            Image.fromarray(small).resize((384, 512), Image.Resampling.BICUBIC).save(person / f"{stem}.jpg")


def timed(name: str, script: str, *arguments: str) -> None:
    begin = time.perf_counter()
    result = subprocess.run(
        [sys.executable, str(REPOSITORY / script), *arguments], capture_output=True, text=True, check=False
    )
    if result.returncode:
        sys.exit(result.stderr)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # GB, the largest child so far
    told = re.findall(r"(?:train loss|soup_num).*", result.stdout)
    print(f"{name:48} {time.perf_counter() - begin:7.1f} s   peak so far {peak:.2f} GB   {told[-1] if told else ''}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("pretrained").mkdir()
        torch.save(release_state(0), "pretrained/model_0.pt")
        draw_people(Path("data"))
        fixed = ["--pretrained-location", "pretrained", "--batch-size", "16", "--epochs", "1", "--report-to", "none"]
        for seed in ("1", "2", "3"):
            timed(f"finetune.py, 10 steps of 16, seed {seed}", "finetune.py", *fixed, "--random-seed", seed)
        timed("main.py --uniform-soup of 3", "main.py", "--uniform-soup")
        timed("main.py --greedy-soup of 3", "main.py", "--greedy-soup")


if __name__ == "__main__":
    main()
