"""Train the demo's small CLIP tower on drawn faces and the words that describe them.

    python demo/train_tower.py

Writes `demo/tower.pt` (3.5 MB): width 128, 4 layers, patches of 8 on 64 pixels. As in CLIP (Radford et al. 2021)
images and texts are pulled together by a symmetric contrastive loss; a text here is a bag of words for what can be
seen, such as "high grey, glasses, blue mask, below the nose". Neither age nor gender is among the words, and the
people are none of the demo's. The words' embedding is thrown away, the demo starts from the vision tower.
Measured 2026-11 on 2 CPU cores: see the last line that it prints.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.faces import MASKS, STEMS, Person, draw, people
from utils.data.augmentation import pipeline
from utils.data.decoding import squash
from utils.data.preprocessing import normalised
from utils.models.checkpoints import save_checkpoint
from utils.models.clip import Classifier

PEOPLE, SEED = 1500, 1_000_000  # far from the demo's seeds
EPOCHS, BATCH, LR = 8, 128, 1e-3
WORD_DROPOUT = 0.3  # a text mentions some of what there is
CONFIG = {
    "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64,
    "patch_size": 8, "projection_dim": 128, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
GRADED = ("grey", "wrinkles", "hair_length", "hairline", "jaw", "brows", "lips", "beard")  # low, middle or high
VOCABULARY = [f"{level} {name}" for name in GRADED for level in ("low", "middle", "high")]
VOCABULARY += ["glasses", "light skin", "dark skin", *(f"{colour} mask" for colour in MASKS)]
VOCABULARY += ["worn", "below the nose", "on the chin", "none"]


def describe(person: Person, seen: dict) -> np.ndarray:
    """(V,) float32, 1 for each word of the vocabulary that fits the picture."""
    words = {f"{('low', 'middle', 'high')[min(2, int(3 * getattr(person, name)))]} {name}" for name in GRADED}
    words |= {"light skin" if sum(person.skin) > 480 else "dark skin", seen["worn"]}
    words |= {"glasses"} if person.glasses else set()
    words |= {f"{seen['mask']} mask"} if seen["mask"] else set()
    return np.array([word in words for word in VOCABULARY], np.float32)


def draw_pairs(count: int) -> tuple[np.ndarray, torch.Tensor]:
    """(N, 64, 64, 3) uint8 pictures of `count` people, seven each, and their (N, V) words."""
    squares, words = [], []
    for person, rng in tqdm(people(count, SEED), "drawing"):
        for stem in STEMS:
            image, seen = draw(person, stem, rng)
            squares.append(squash(image, CONFIG["image_size"]))
            words.append(describe(person, seen))
    return np.stack(squares), torch.from_numpy(np.stack(words))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "tower.pt")
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args(argv)

    begin = time.perf_counter()
    torch.manual_seed(0)
    squares, words = draw_pairs(options.people)
    augment = pipeline("train", strength=0.5)
    model = Classifier(CONFIG, num_classes=1)
    embed_words = nn.Linear(len(VOCABULARY), CONFIG["projection_dim"])
    log_scale = nn.Parameter(torch.tensor(2.6))  # CLIP's initial temperature
    parameters = [*model.parameters(), *embed_words.parameters(), log_scale]
    optimizer = torch.optim.AdamW(parameters, LR, weight_decay=0.05)
    steps = options.epochs * (len(squares) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.1)
    for epoch in range(options.epochs):
        order = torch.randperm(len(squares))[: steps // options.epochs * BATCH].reshape(-1, BATCH)
        total = 0.0
        for batch in tqdm(order, f"epoch {epoch + 1}/{options.epochs}", leave=False):
            seen = np.stack([augment(image=squares[k])["image"] for k in batch])
            texts = normalize(embed_words(words[batch] * (torch.rand(BATCH, len(VOCABULARY)) > WORD_DROPOUT)), dim=-1)
            logits = log_scale.exp() * model.embed(normalised(torch.from_numpy(seen))) @ texts.T
            targets = torch.arange(BATCH)
            loss = (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / len(order):.3f} (chance {np.log(BATCH):.3f})", flush=True)

    backbone = {name: t for name, t in model.state_dict().items() if not name.startswith("classification_head.")}
    save_checkpoint(
        options.output,
        backbone,
        {"model": CONFIG, "split": None, "options": {"people": options.people, "epochs": options.epochs}},
    )
    size = options.output.stat().st_size / 1e6
    print(
        f"{options.output}: {size:.1f} MB, {len(squares)} pictures, {(time.perf_counter() - begin) / 60:.1f} minutes"
    )


if __name__ == "__main__":
    main()
