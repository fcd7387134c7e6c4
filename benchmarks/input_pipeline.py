"""What the input pipeline delivers: images per second and core from the cache against decoding on the fly.

    python benchmarks/input_pipeline.py [--repeats 5] [--open 18900] [--faces DIR --backbone FILE]

One thread, no model, batches of 64: drawn photographs of 384 x 512 to 224 pixels for evaluation (uint8 to normalised
pixel values) and for training (augmented as well), each from `FileImages` and from the cache in turn. Then the memory
that an epoch from the cache adds, and the seconds to open a set of 18,900 photographs again (hard links to the drawn
ones). With `--faces` and `--backbone`: the time of a training step at the backbone's size with and without the
pipeline, which tells whether training waits for it. Measured 2026-11: see docs/results.md.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.full_size import REPOSITORY, draw_people
from utils.data import competition
from utils.data.augmentation import LabelledSquares, pipeline
from utils.data.images import FileImages, cache_squares
from utils.data.preprocessing import normalised
from utils.data.reading import read_photographs
from utils.models.clip import build
from utils.models.weights import read_weights

BATCH = 64
OPEN = """
import sys, time
from pathlib import Path
import numpy, torch, accelerate, datasets
from utils.data.images import cached_squares
from utils.data.reading import read_photographs
begin = time.perf_counter()
photographs = read_photographs(Path(sys.argv[1]))
squares = cached_squares(photographs.folder, list(photographs.files), int(sys.argv[2]), Path("cache"))
squares.fingerprint()
print(len(squares), time.perf_counter() - begin)
"""


def labelled(squares, count: int) -> LabelledSquares:
    rows = np.arange(count)
    return LabelledSquares(squares, rows, rows % 18, [pipeline("train")], np.zeros(count, int), seed=0)


def rate(squares, count: int, augmented: bool) -> float:
    """Images per second through one thread, to normalised pixel values."""
    train_set = labelled(squares, count)
    begin = time.perf_counter()
    for first in range(0, count, BATCH):
        some = range(first, min(first + BATCH, count))
        if augmented:
            batch = torch.stack([train_set[1, k][0] for k in some])
        else:
            batch = torch.from_numpy(np.stack([squares[k] for k in some]))
        normalised(batch)
    return count / (time.perf_counter() - begin)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def anonymous_memory() -> float:
    """MB of this process that no file backs."""
    full = psutil.Process().memory_info()
    return (full.rss - full.shared) / 1e6


def compare_rates(repeats: int) -> None:
    photographs = read_photographs(Path("data"))
    files = list(photographs.files)
    direct, cached = (
        FileImages(photographs.folder, files, 224),
        cache_squares(photographs.folder, files, 224, Path("cache")),
    )
    for what, augmented in (("evaluation", False), ("training", True)):
        fly, kept = [], []
        for _ in range(repeats):
            fly.append(rate(direct, len(files), augmented))
            kept.append(rate(cached, len(files), augmented))
        ratios = [b / a for a, b in zip(fly, kept, strict=True)]
        print(f"{what}: {spread(fly)} images/s decoded on the fly, {spread(kept)} cached, ratio {spread(ratios)}")
    before = anonymous_memory()
    rate(cached, len(files), True)
    print(f"memory: an epoch of {len(files)} from the cache adds {anonymous_memory() - before:.1f} MB")


def open_again(count: int, repeats: int) -> None:
    source = sorted(Path("data/train/images").iterdir())
    for k in range(count // 7):
        folder = Path(f"many/train/images/{k:06d}_{('male', 'female')[k % 2]}_Asian_{20 + k % 45}")
        folder.mkdir(parents=True)
        for image in source[k % len(source)].iterdir():
            os.link(image, folder / image.name)
    photographs = read_photographs(Path("many"))
    begin = time.perf_counter()
    cache_squares(photographs.folder, list(photographs.files), 64, Path("cache"), progress=False)
    print(f"first time: {len(photographs)} photographs decoded to 64 px in {time.perf_counter() - begin:.1f} s")
    command = [sys.executable, "-c", OPEN, "many", "64"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    told = [
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
        for _ in range(repeats)
    ]
    print(f"opened again: {told[0][0]} photographs in {spread([float(seconds) for _, seconds in told])} s")


def step_times(faces: Path, backbone: Path, repeats: int, batch_size: int = 32, steps: int = 40) -> None:
    """Seconds per training step of the whole loop and of the model alone, at the backbone's own size."""
    photographs = read_photographs(faces)
    weights = read_weights(backbone)
    size, labels = weights.config["image_size"], photographs.labels(competition.labelling())
    squares = cache_squares(photographs.folder, list(photographs.files), size, Path("cache"))
    head = {
        "classification_head.weight": torch.zeros(18, weights.config["projection_dim"]),
        "classification_head.bias": torch.zeros(18),
    }
    model = build(weights.config, {**weights.backbone(), **head})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    train_set = LabelledSquares(
        squares, np.arange(len(labels)), labels, [pipeline("train")], np.zeros(len(labels), int), 0
    )

    def batches(epoch: int):
        loader = torch.utils.data.DataLoader(
            train_set, batch_size, sampler=[(epoch, k) for k in range(steps * batch_size)]
        )
        return iter(loader)

    def seconds(batches) -> float:
        begin = time.perf_counter()
        for squares, targets in batches:
            logits, _ = model(normalised(squares))
            torch.nn.functional.cross_entropy(logits, targets).backward()
            optimizer.step()
            optimizer.zero_grad()
        return (time.perf_counter() - begin) / steps

    whole, alone, pipe = [], [], []
    for epoch in range(repeats):
        begin = time.perf_counter()
        ready = list(batches(epoch))
        pipe.append((time.perf_counter() - begin) / steps)
        alone.append(seconds(ready))
        whole.append(seconds(batches(epoch)))
    shares = [a / b for a, b in zip(alone, whole, strict=True)]
    print(
        f"a step of {batch_size} at {size} px: {spread(whole)} s in the main process, {spread(alone)} with data at "
        f"hand ({spread(shares)} of it), the pipeline alone {spread(pipe)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--open", type=int, default=18900, help="photographs to open again; 0 leaves it out")
    parser.add_argument("--faces", type=Path, help="a data folder in the competition's layout")
    parser.add_argument("--backbone", type=Path, help="a small tower in the release format")
    options = parser.parse_args()
    faces, backbone = (path and path.resolve() for path in (options.faces, options.backbone))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        draw_people(Path("data"))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        compare_rates(options.repeats)
        torch.set_num_threads(threads)
        if options.open:
            open_again(options.open, options.repeats)
        if faces and backbone:
            step_times(faces, backbone, options.repeats)


if __name__ == "__main__":
    main()
