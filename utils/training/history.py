"""What each epoch of a run came to: a CSV, and a picture of its curves."""

import csv
import io
from pathlib import Path

from utils.base.files import LOGS, PICTURES, write_text
from utils.base.pictures import save_curves


def save_history(stem: str, rows: list[dict]) -> Path:
    """Write `logs/training/{stem}.csv`, a row per epoch; an epoch before a metric was new to the program lacks it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[-1].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text(LOGS / "training" / f"{stem}.csv", text.getvalue())


def draw_history(stem: str, rows: list[dict]) -> Path:
    """Draw `val_img/{stem}/curves.png`."""
    return save_curves(PICTURES / stem / "curves.png", rows, stem)
