"""Sheets of photographs to look at."""

from pathlib import Path

import numpy as np

from utils.files import atomic

RIGHT, WRONG = "#0072b2", "#d55e00"  # blue and vermilion, told apart by colour-blind readers too


def save_sheet(
    path: Path, squares: np.ndarray, captions: list[str], wrong: np.ndarray | None = None, title=""
) -> Path:
    """Write (N, S, S, 3) uint8 images as a grid with a caption under each; those with `wrong` set stand out."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    columns = min(8, max(1, len(squares)))
    rows = -(-len(squares) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.9 * columns, 2.5 * rows + 0.5), squeeze=False, layout="constrained"
    )
    for k, axis in enumerate(axes.flat):
        axis.axis("off")
        if k >= len(squares):
            continue
        axis.imshow(squares[k])
        bad = wrong is not None and wrong[k]
        axis.set_title(
            captions[k], fontsize=7, color=WRONG if bad else RIGHT, weight="bold" if bad else "normal", y=-0.3
        )
    figure.suptitle(title, fontsize=10)
    with atomic(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip("."), dpi=110)
    plt.close(figure)
    return path
