"""Draw docs/demo_result.png from a finished demo: some test faces with their answers, and how each submission did.

    bash training.sh && python docs/demo_result.py demo_run

The first panel shows held-out people, whose scores chose soups and weights; the second one people who chose nothing;
the third one what these say of the difference to the best single model.
"""

import os
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from utils.base.metrics import METRICS
from utils.data import competition
from utils.data.submissions import match, read_submission
from utils.evaluation.manifest import (
    AUTO_ENSEMBLE,
    BEST_SINGLE,
    HARD_VOTE,
    SOFT_VOTE,
    SOUP,
    WEIGHTED,
    read_manifest,
)
from utils.evaluation.results import latest_rows, score_submissions
from utils.evaluation.scores import Gain, paired_gain

TRUTH, FACES = Path("data/eval_truth.csv"), 7
WAYS = (BEST_SINGLE, SOUP, WEIGHTED, SOFT_VOTE, HARD_VOTE, AUTO_ENSEMBLE)  # of making a submission
COLOURS = {"macro_f1": ("#0072b2", "#9bbdd6"), "accuracy": ("#b35c00", "#e6c49c")}  # of a score, of its interval


def gains_over_first(files: list[Path]) -> list[dict[str, Gain]]:
    """What each submission scores above the first one, on the same resamplings of people."""
    truth = read_submission(TRUTH)
    persons = np.array([row[truth.columns.index("person")] for row in truth.rows])
    given = [read_submission(file) for file in files]
    preds = [one.answers[match(one, truth.ids, TRUTH)] for one in given]
    return [paired_gain(truth.answers, one, preds[0], persons, competition.labelling().num_classes) for one in preds]


def draw_faces(axes, voted: Path) -> None:
    """One test person after the other, with the vote's answer: blue where it is right, orange where it is wrong."""
    truth, vote = read_submission(TRUTH), read_submission(voted)
    answers = vote.answers[match(vote, truth.ids, TRUTH)]
    rows_of = {}
    for k, row in enumerate(truth.rows):
        rows_of.setdefault(row[truth.columns.index("person")], []).append(k)
    names = competition.labelling().classes
    for k, (axis, person) in enumerate(zip(axes, sorted(rows_of), strict=False)):
        row = rows_of[person][k % 7]  # another of the person's seven photographs each time
        right = answers[row] == truth.answers[row]
        axis.imshow(Image.open(Path("data/eval/images") / truth.ids[row], formats=("JPEG",)))
        told = names[answers[row]].replace("not_worn", "no mask").replace(", ", "\n")
        axis.set_title(told if right else f"{told}\n(wrong)", fontsize=8, color="#0072b2" if right else "#d55e00")
        axis.axis("off")


def draw_scores(axis, rows: list[dict], title: str) -> None:
    """Macro-F1 of each way with its interval."""
    colour, pale = COLOURS["macro_f1"]
    for y, row in enumerate(rows):
        axis.plot(row["macro_f1_interval"], (y, y), color=pale, linewidth=4, solid_capstyle="butt")
        axis.plot(row["macro_f1"], y, "o", color=colour)
        axis.annotate(f"{row['macro_f1']:.3f}", (row["macro_f1"], y), (0, 6), textcoords="offset points", ha="center")
    axis.set_title(title, fontsize=10)
    axis.set(xlabel="macro-F1, bar: 95 % over people")


def draw_gains(axis, rows: list[dict[str, Gain]], title: str) -> None:
    """What each way but the first scores above the first, by both metrics, with its interval."""
    axis.axvline(0, color="#555555", linewidth=1)
    for (metric, (colour, pale)), shift in zip(COLOURS.items(), (-0.14, 0.14), strict=True):
        for y, gains in enumerate(rows[1:], 1):
            gain = gains[metric]
            axis.plot((gain.low, gain.high), (y + shift, y + shift), color=pale, linewidth=4, solid_capstyle="butt")
            label = METRICS[metric].title if y == 1 else None
            axis.plot(gain.difference, y + shift, "o", markersize=4, color=colour, label=label)
    axis.legend(loc="upper center", ncols=2, fontsize=8, frameon=False)
    axis.set_title(title, fontsize=10)
    axis.set(xlabel="difference, bar: 95 % over people")


def main() -> None:
    os.chdir(sys.argv[1] if len(sys.argv) > 1 else "demo_run")
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    manifest = read_manifest("demo")
    scores = latest_rows(manifest)
    kinds = {BEST_SINGLE: "ingredient", SOUP: f"{manifest.recommended} soup", WEIGHTED: "weighted"}
    held_out = [next(row for row in scores if row["kind"] == kinds.get(way, way)) for way in WAYS]
    files = [Path(manifest.submissions[way]) for way in WAYS]
    tested, _ = score_submissions(TRUTH, files)

    plt.rcParams["font.size"] = 9
    figure = plt.figure(figsize=(10, 5.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2, 3.2))
    draw_faces(above.subplots(1, FACES), files[WAYS.index(HARD_VOTE)])
    chose, new, over = below.subplots(1, 3, sharey=True)
    chose.set(ylim=(len(WAYS) - 0.5, -0.8))
    names = [f"{manifest.recommended} soup" if way == SOUP else way for way in WAYS]
    chose.set_yticks(range(len(WAYS)), names)
    new.sharex(chose)
    draw_scores(chose, held_out, f"{held_out[0]['persons']} held-out people")
    draw_scores(new, tested, f"{tested[0]['persons']} people who chose nothing")
    draw_gains(over, gains_over_first(files), f"the same people: minus {BEST_SINGLE}")
    for axis in (chose, new, over):
        axis.grid(axis="x", alpha=0.3)
    figure.savefig(HERE / "demo_result.png", dpi=100)
    with Image.open(HERE / "demo_result.png", formats=("PNG",)) as picture:  # a palette keeps it small
        small = picture.convert("RGB").quantize(256)
    small.save(HERE / "demo_result.png", optimize=True)


if __name__ == "__main__":
    main()
