"""Pictures to look at: sheets of photographs, confusion matrices, score plots."""

import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from utils.base.errors import visible
from utils.base.files import atomic
from utils.base.terminal import percent

RIGHT, WRONG = "#0072b2", "#d55e00"  # blue and vermilion, told apart by colour-blind readers too
CAPTION = 33  # characters of a line that fits under a square of a sheet


@contextmanager
def saved_figure(path: Path, dpi: int = 110, layout: str | None = "constrained", **subplots) -> Iterator[tuple]:
    """Yield matplotlib's (figure, axes) and write them to `path` atomically when the block ends well.

    A `$` in a text is a `$` and begins no formula, for names of files and people stand in these pictures.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of other scripts, drawn as boxes
        figure, axes = plt.subplots(layout=layout, **subplots)
        try:
            yield figure, axes
            _save(figure, path, dpi)
        finally:
            plt.close(figure)


def save_open_figure(path: Path, size: tuple[float, float], dpi: int = 110) -> Path:
    """Write matplotlib's current figure, which another library drew, to `path` at `size` (inches), and close it."""
    from matplotlib import pyplot as plt

    figure = plt.gcf()
    try:
        figure.set_size_inches(*size)
        _save(figure, path, dpi, bbox_inches="tight")
    finally:
        plt.close(figure)
    return path


def _save(figure, path: Path, dpi: int, **how) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip("."), dpi=dpi, **how)


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most `width` characters, which end at a space or behind `_` or `/` where they can."""
    pieces = [
        re.findall(rf".{{1,{width - 1}}}(?:[ _/]|$)|.{{1,{width}}}", line) or [""]
        for line in visible(text).split("\n")
    ]
    return "\n".join(piece.rstrip() for line in pieces for piece in line)


def save_sheet(
    path: Path, squares: np.ndarray, captions: list[str], wrong: np.ndarray | None = None, title=""
) -> Path:
    """Write (N, S, S, 3) uint8 images as a grid with a caption under each; those with `wrong` set stand out."""
    columns = min(8, max(1, len(squares)))
    rows = -(-len(squares) // columns)
    captions = [wrapped(caption, CAPTION) for caption in captions]
    caption_height = 0.15 + 0.13 * max((caption.count("\n") + 1 for caption in captions), default=1)  # inches
    square, gap, top = 2.0, 0.1, 0.4
    width, height = (square + gap) * columns, top + rows * (square + caption_height)
    with saved_figure(path, layout=None, figsize=(width, height)) as (figure, axis):
        axis.set_position((0, 0, 1, 1))  # its unit is the inch: axes for each square would take twice the time
        for k, image in enumerate(squares):
            left, upper = (square + gap) * (k % columns) + gap / 2, top + (square + caption_height) * (k // columns)
            axis.imshow(image, extent=(left, left + square, upper + square, upper))
            bad = wrong is not None and wrong[k]
            look = {"color": WRONG, "weight": "bold"} if bad else {"color": RIGHT}
            place = {"x": left + square / 2, "y": upper + square + 0.06, "ha": "center", "va": "top"}
            text = axis.text(s=captions[k], fontsize=6.5, **place, **look)
            room = square * figure.dpi / max(1, text.get_window_extent().width)
            text.set_fontsize(6.5 * min(1, room))  # wide letters become smaller
        axis.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
        axis.axis("off")
        figure.suptitle(wrapped(title, 16 * columns), fontsize=10, y=1 - 0.1 / height, va="top")
    return path


def save_confusion(
    path: Path, confusion: np.ndarray, names: list[str], title: str, totals: np.ndarray | None = None
) -> Path:
    """Draw a (C, C) confusion matrix: counts as text, the share of each true class as shade; of a part of a matrix
    `totals` (C,) are those of the whole.
    """
    totals = (confusion.sum(1) if totals is None else totals)[:, None]
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    side = 2.6 + 0.46 * len(names)
    with saved_figure(path, figsize=(side + 1, side)) as (_, axis):
        image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axis.figure.colorbar(image, ax=axis, label="share of the true class", shrink=0.8)
        for true, pred in np.argwhere(confusion):
            shade = "white" if shares[true, pred] > 0.5 else "black"
            look = {"color": shade, "fontsize": 7, "in_layout": False}  # all are inside, which takes long to find out
            axis.text(pred, true, confusion[true, pred], ha="center", va="center", **look)
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.set(xlabel="predicted", ylabel="true")
        axis.set_title(wrapped(title.replace(", ", "\n", 1), 18 + 7 * len(names)), fontsize=8)
    return path


def save_agreement(path: Path, same: np.ndarray, rows: int, names: list[str]) -> Path:
    """Draw on how many of the `rows` each two files agree, (F, F) counts, as shade and in percent, rounded down."""
    shares = 100 * same / rows
    np.fill_diagonal(shares, np.nan)
    low = min(90, np.nanmin(shares) // 10 * 10)
    broken = [wrapped(name, 36).split("\n")[:4] for name in names]  # what fits beside a cell
    labels = [f"[{k}] " + "\n".join(lines) for k, lines in enumerate(broken)]
    side = 0.46 * max(5, len(names))  # inches
    with saved_figure(path, layout="compressed", figsize=(side + 4.4, side + 0.9)) as (figure, axis):
        axis.set_facecolor("0.85")
        image = axis.imshow(shares, cmap="Blues", vmin=low, vmax=100)
        figure.colorbar(image, ax=axis, label="agreement, percent of rows")
        for k, other in np.argwhere(~np.isnan(shares)):
            shade = "white" if shares[k, other] > low + 0.6 * (100 - low) else "black"
            text = percent(same[k, other], rows)
            axis.text(other, k, text, ha="center", va="center", color=shade, fontsize=7)
        axis.set_xticks(range(len(names)), [f"[{k}]" for k in range(len(names))], fontsize=7)
        axis.set_yticks(range(len(names)), labels, fontsize=7)
        axis.set(xlabel="number of the file", ylabel="file")
        axis.set_title(f"rows on which two files give the same class, of {rows:,}", fontsize=9)
    return path


def save_score_plot(
    path: Path,
    points: dict[str, list[tuple]],
    title: str,
    steps: Sequence[tuple[str, float | None, bool]] = (),
    metric: str = "accuracy",
    band: tuple[float, float] | None = None,
) -> Path:
    """Draw models as points with 95 % intervals, accuracy against macro-F1, and beside them the greedy path.

    `points` lists (label, accuracy, macro-F1, (low, high), (low, high)) by kind. The first kind is the crowd of
    ingredients, whose intervals are drawn faintly; the others are drawn large, each with a marker of its own. `steps`
    are (label, score or None when it was dropped, accepted) of a search by `metric`, and `band` the interval of the
    score that the search begins with.
    """
    markers = itertools.cycle("os^Dv*PX<>h")
    sides = {"ncols": 2, "width_ratios": (1.3, 1), "figsize": (12.5, 5.6)} if steps else {"figsize": (7.5, 5.6)}
    with saved_figure(path, squeeze=False, **sides) as (_, axes):
        axis = axes[0, 0]
        if steps:
            _draw_path(axes[0, 1], steps, metric, band)
        for rank, (kind, models) in enumerate(points.items()):
            _, accuracies, macro_f1s, *_ = zip(*models, strict=True)
            axis.scatter(
                accuracies,
                macro_f1s,
                s=150 if rank else 40,
                marker=next(markers),
                label=kind,
                facecolors="none" if rank else "C0",  # hollow: the ingredient that it may equal stays visible
                edgecolors=f"C{rank % 10}",
                linewidths=2,
                zorder=3,
            )
            for label, accuracy, macro_f1, across, up in models:
                look = {"color": f"C{rank % 10}", "alpha": 0.5 if rank else 0.15, "linewidth": 1}
                axis.plot(across, (macro_f1, macro_f1), **look)
                axis.plot((accuracy, accuracy), up, **look)
                if rank == 0:
                    axis.annotate(label, (accuracy, macro_f1), (4, 4), textcoords="offset points", fontsize=7)
        axis.set(xlabel="accuracy", ylabel="macro-F1", title=f"{title}\nbars: 95 % over people")
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, markerscale=0.6)
    return path


def _draw_path(axis, steps: Sequence[tuple[str, float | None, bool]], metric: str, band: tuple | None) -> None:
    """The score of the soup so far after each ingredient tried: a dot where it was accepted, a cross where not.

    Behind them lies the `band` within which the first score may lie by chance, so that small steps look small.
    """
    labels, scores, accepted = zip(*steps, strict=True)
    reached = list(itertools.accumulate(scores, lambda so_far, score: so_far if score is None else score))
    tried = range(1, len(steps) + 1)
    if band:
        axis.axhspan(*band, color="0.92", zorder=0, label="95 % interval of the best ingredient")
    axis.step(tried, reached, where="post", color="C2", alpha=0.6)
    for kind, marker, color, flag in (("accepted", "o", "C2", True), ("rejected", "x", WRONG, False)):
        some = [k for k in range(len(steps)) if accepted[k] is flag]
        axis.scatter(
            [tried[k] for k in some], [reached[k] for k in some], marker=marker, color=color, label=kind, zorder=3
        )
    axis.set_xticks(tried, labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    axis.set(xlabel="ingredients tried, best first", ylabel=f"{metric} of the soup so far")
    axis.set_title("the greedy path", fontsize=9)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def save_curves(path: Path, history: Sequence[dict], title: str) -> Path:
    """Draw a run's losses and held-out scores against its epochs; `history` has one row per epoch."""
    epochs = [row["epoch"] for row in history]
    kinds = (
        ("loss (nats)", {"train_loss": "training, as optimised", "loss": "held-out people"}),
        ("score", {"accuracy": "accuracy", "macro_f1": "macro-F1"}),
    )
    with saved_figure(path, ncols=2, figsize=(10, 4)) as (figure, axes):
        for axis, (what, columns) in zip(axes, kinds, strict=True):
            for column, label in columns.items():
                if column in history[0]:
                    axis.plot(epochs, [row[column] for row in history], marker="o", markersize=3, label=label)
            axis.set(xlabel="epoch", ylabel=what)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
            if axis.lines:
                axis.legend(fontsize=8)
        figure.suptitle(title, fontsize=9)
    return path
