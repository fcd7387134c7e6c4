"""An equal fine-tuning loop around timm's model, data and optimizer, as the baseline of `train_speed.py`.

    python benchmarks/timm_loop.py --data data [--bf16]          (pip install timm)

`vit_base_patch32_clip_224` with random weights, timm's dataset, transforms and loader, `create_optimizer_v2`'s AdamW
and its cosine schedule: one epoch over the training photographs of `data`, then the held-out ones.
"""

import argparse
import sys
import time
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.data import competition
from utils.data.decoding import FORMATS
from utils.data.reading import read_photographs
from utils.data.splits import make_split


class Images(torch.utils.data.Dataset):
    """(image, label) as timm's loader wants them: the transform is set by it."""

    def __init__(self, photographs, rows, labels):
        self.paths, self.labels = [photographs.folder / photographs.files[row] for row in rows], labels[rows]
        self.transform = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        return self.transform(Image.open(self.paths[index], formats=FORMATS).convert("RGB")), int(self.labels[index])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    photographs = read_photographs(options.data)
    split, labels = make_split(photographs, 0.2, 42), photographs.labels(competition.labelling())
    model = timm.create_model("vit_base_patch32_clip_224", num_classes=18)
    config = timm.data.resolve_model_data_config(model)
    common = {
        "input_size": config["input_size"], "batch_size": options.batch_size, "interpolation": "bicubic",
        "mean": config["mean"], "std": config["std"], "num_workers": options.workers, "use_prefetcher": False,
    }  # fmt: skip
    train = create_loader(
        Images(photographs, split.train, labels),
        is_training=True,
        color_jitter=0.25,
        persistent_workers=False,
        **common,
    )
    test = create_loader(Images(photographs, split.held_out, labels), is_training=False, crop_pct=1.0, **common)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-5, weight_decay=0.1)
    schedule, _ = create_scheduler_v2(optimizer, num_epochs=1, updates_per_epoch=len(train), step_on_epochs=False)
    begin = time.perf_counter()
    model.train()
    for step, (pixel_values, targets) in enumerate(train):
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            loss = torch.nn.functional.cross_entropy(model(pixel_values), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step_update(step + 1)
    trained = time.perf_counter() - begin
    model.eval()
    right = 0
    with torch.inference_mode():
        for pixel_values, targets in test:
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                right += int((model(pixel_values).argmax(-1) == targets).sum())
    torch.save(model.state_dict(), "timm.pt")
    print(f"{len(split.train) / trained:.1f} images/s in training, {right} of {len(split.held_out)} right")


if __name__ == "__main__":
    main()
