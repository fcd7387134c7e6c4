"""Draw docs/demo_result.png from a finished demo: some test faces with their answers, and how each submission did.

    bash training.sh && python docs/demo_result.py demo_run

The left panel shows held-out people, whose scores chose soups and weights; the right one people who chose nothing.
"""

import os
import sys
from pathlib import Path

import matplotlib
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from utils.data.labels import Labelling
from utils.data.submissions import match, read_submission
from utils.evaluation.results import latest_rows, score_submissions

TRUTH, FACES = Path("data/eval_truth.csv"), 7
WAYS = {  # in the picture: the kind of a row of scores, and the pattern of the submission's file
    "best single model": ("ingredient", "output_demo_seed42_i*.csv"),
    "greedy soup": ("greedy soup", "output_demo_seed42_*_greedysoup_num?.csv"),
    "soup + age specialist": ("weighted", "output_demo_seed42_*_greedysoup_num*_WE_*.csv"),
    "soft vote": ("soft vote", "output_demo_seed42_*_greedysoup_num*_SV_*.csv"),
    "hard vote": ("hard vote", "hard_voting_demo.csv"),
    "auto ensemble": ("auto ensemble", "output_demo_auto.csv"),
}


def draw_faces(axes, files: list[Path]) -> None:
    """One test person after the other, with the vote's answer: blue where it is right, orange where it is wrong."""
    truth, vote = read_submission(TRUTH), read_submission(files[list(WAYS).index("hard vote")])
    answers = vote.answers[match(vote, truth.ids, TRUTH)]
    rows_of = {}
    for k, row in enumerate(truth.rows):
        rows_of.setdefault(row[truth.columns.index("person")], []).append(k)
    names = Labelling(("mask", "gender", "age"), (30, 60)).classes
    for k, (axis, person) in enumerate(zip(axes, sorted(rows_of), strict=False)):
        row = rows_of[person][k % 7]  # another of the person's seven photographs each time
        right = answers[row] == truth.answers[row]
        axis.imshow(Image.open(Path("data/eval/images") / truth.ids[row], formats=("JPEG",)))
        told = names[answers[row]].replace("not_worn", "no mask").replace(", ", "\n")
        axis.set_title(told if right else f"{told}\n(wrong)", fontsize=8, color="#0072b2" if right else "#d55e00")
        axis.axis("off")


def draw_scores(axis, rows: list[dict], title: str) -> None:
    """Macro-F1 of each way with its interval."""
    for y, row in enumerate(rows):
        axis.plot(row["macro_f1_interval"], (y, y), color="#9bbdd6", linewidth=4, solid_capstyle="butt")
        axis.plot(row["macro_f1"], y, "o", color="#0072b2")
        axis.annotate(f"{row['macro_f1']:.3f}", (row["macro_f1"], y), (0, 6), textcoords="offset points", ha="center")
    axis.set(xlim=(0.4, 0.95), ylim=(len(rows) - 0.5, -0.7), title=title, xlabel="macro-F1, bar: 95 % over people")
    axis.set_yticks(range(len(WAYS)), WAYS)
    axis.grid(axis="x", alpha=0.3)


def main() -> None:
    os.chdir(sys.argv[1] if len(sys.argv) > 1 else "demo_run")
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    scores = latest_rows("demo")
    held_out = [next(row for row in scores if row["kind"] == kind) for kind, _ in WAYS.values()]
    files = [min(Path("output").glob(pattern)) for _, pattern in WAYS.values()]
    tested, _ = score_submissions(TRUTH, files)

    plt.rcParams["font.size"] = 9
    figure = plt.figure(figsize=(9.6, 5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2, 3))
    draw_faces(above.subplots(1, FACES), files)
    left, right = below.subplots(1, 2, sharey=True)
    draw_scores(left, held_out, f"{held_out[0]['persons']} held-out people: they chose the soup")
    draw_scores(right, tested, f"{tested[0]['persons']} other people: they chose nothing")
    figure.savefig(HERE / "demo_result.png", dpi=100)
    with Image.open(HERE / "demo_result.png", formats=("PNG",)) as picture:  # a palette keeps it small
        small = picture.convert("RGB").quantize(256)
    small.save(HERE / "demo_result.png", optimize=True)


if __name__ == "__main__":
    main()
