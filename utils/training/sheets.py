"""Pictures of a run: augmented photographs, held-out predictions."""

from pathlib import Path

import numpy as np

from utils.base.files import PICTURES
from utils.base.pictures import save_sheet
from utils.data.augmentation import LabelledSquares
from utils.data.labels import Labelling


def save_augmented(train_set: LabelledSquares, labelling: Labelling, stem: str, count: int = 32) -> Path:
    """A sheet of photographs as the first epoch will see them, to check by eye; the oversampled ones come last."""
    positions = np.linspace(0, len(train_set) - 1, min(count, len(train_set))).round().astype(int)
    squares, targets, *_ = zip(*(train_set[1, int(position)] for position in positions), strict=True)
    captions = [_in_words(target, labelling) for target in targets]
    return save_sheet(
        PICTURES / stem / "augmented.png", np.stack(squares), captions, title="augmented training photographs"
    )


def _in_words(target: int | np.ndarray, labelling: Labelling) -> str:
    """A class, or the shares of those that are mixed, the larger one first."""
    if not isinstance(target, np.ndarray):
        return labelling.classes[target]
    present = sorted(np.flatnonzero(target), key=lambda k: -target[k])
    if len(present) == 1:
        return labelling.classes[present[0]]
    return "\n".join(f"{target[k]:.0%} {labelling.classes[k]}" for k in present)


def save_predictions(held_out, logits: np.ndarray, stem: str, count: int = 32) -> Path:
    """A sheet of held-out photographs, evenly spread, with true and predicted classes."""
    positions = np.linspace(0, len(logits) - 1, min(count, len(logits))).round().astype(int)
    preds = logits.argmax(-1)[positions]
    truth = held_out.labels[positions]
    classes = held_out.labelling.classes
    captions = [
        f"{classes[label]}" if label == pred else f"true: {classes[label]}\npredicted: {classes[pred]}"
        for label, pred in zip(truth, preds, strict=True)
    ]
    squares = np.stack([held_out.squares[row] for row in held_out.rows[positions]])
    title = "held-out photographs and their classes; in bold those that are predicted wrong"
    return save_sheet(PICTURES / stem / "predictions.png", squares, captions, wrong=preds != truth, title=title)
