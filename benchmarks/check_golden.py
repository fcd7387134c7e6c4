"""Compare logits with those that OpenAI's own CLIP code computed for the same weights.

    python benchmarks/check_golden.py FOLDER

FOLDER holds pairs NAME.pt (a model-soups release file) and NAME.npz (`pixel_values`, `logits`). Prints the largest
difference of each pair and fails above 1e-4.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.models.clip import build
from utils.models.weights import read_weights

TOLERANCE = 1e-4


def main(folder: str) -> None:
    worst = 0.0
    for path in sorted(Path(folder).glob("*.npz")):
        weights = read_weights(path.with_suffix(".pt"))
        golden = np.load(path)
        with torch.inference_mode():
            logits = build(weights.config, weights.state_dict).eval().classify(torch.tensor(golden["pixel_values"]))
        difference = float(np.abs(logits.numpy() - golden["logits"]).max())
        worst = max(worst, difference)
        print(f"{path.stem}: logits {tuple(logits.shape)}, largest difference {difference:.2e}")
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main(sys.argv[1])
