"""What mended labels are worth: sweeps that differ in their relabel.csv alone, out of fold and on new people.

    cd RUN
    python ../benchmarks/cleaning.py --names noisy accepted right --data faces --relabel right.csv --truth truth.csv

RUN is a folder with folded sweeps of the same recipes, folds and steps: the first was trained on the labels as they
are given, the second on what `validation.py --review --accept-above` suggests, the third on the true corrections.
`--relabel` has the true corrections (`benchmarks/label_review.py --corrections` writes them), and everybody is scored
against these. `truth.csv` has the columns `ImageID,ans,person`. Prints a table in Markdown: the mean score of the
recipes out of fold and on new people, whom the models of a recipe's folds predict together, and what each sweep gains
over the first on the same resamplings of people; out of fold also on the people whose labels are right as they were
given.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import validation
from benchmarks.folds import Truth, difference_told, predicted, resampled
from utils.base import runtime
from utils.evaluation.people import read_people
from utils.models.folded import read_ingredient
from utils.models.sweeps import find_sweep

HEADS = (
    "labels of", "accuracy out of fold", "macro-F1 out of fold", "over the first", "over the first, rightly labelled",
    "accuracy on new people", "macro-F1 on new people", "over the first",
)  # fmt: skip


def out_of_fold(accelerator, name: str, options: argparse.Namespace) -> tuple[list[np.ndarray], np.ndarray, ...]:
    """(N,) answers of each recipe about everybody's photographs, their labels and people, and flags of those whose
    labels are right as they were given.
    """
    models = [read_ingredient(one) for one in find_sweep(Path("model"), name).ingredients]
    asked = validation.parser().parse([]).replace(data_location=options.data, relabel=options.relabel, name=name)
    people = read_people(accelerator, asked, models)
    held_out = people.view(models[0])
    mended = np.unique(held_out.persons[held_out.relabelled])
    answers = [people.view(one).logits(one).argmax(-1) for one in models]
    return answers, held_out.labels, held_out.persons, ~np.isin(held_out.persons, mended)


def on_new_people(name: str, options: argparse.Namespace, truth: Truth) -> tuple[list[np.ndarray], np.ndarray, ...]:
    """(N,) answers of each recipe about the photographs of the truth, their labels and people."""
    recipes = [one.path.name for one in find_sweep(Path("model"), name).ingredients]
    answers = [predicted(one, options.data, truth, "--members", "folds") for one in recipes]
    return answers, truth.labels, truth.persons


def samples(metric: str, answers: list[np.ndarray], labels: np.ndarray, persons: np.ndarray) -> np.ndarray:
    return resampled(metric, labels, answers, persons, np.ones(len(labels)))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", required=True, metavar="NAME")
    for name in ("--data", "--relabel", "--truth"):
        parser.add_argument(name, type=lambda text: Path(text).resolve(), required=True)
    options = parser.parse_args(argv)
    accelerator, truth = runtime.start_runtime("benchmark"), Truth(options.truth)
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    first = None
    for name in options.names:
        answers, labels, persons, right = out_of_fold(accelerator, name, options)
        new = on_new_people(name, options, truth)
        accuracies = [samples("accuracy", *one) for one in ((answers, labels, persons), new)]
        scores = [
            samples("macro_f1", answers, labels, persons),
            samples("macro_f1", [one[right] for one in answers], labels[right], persons[right]),
            samples("macro_f1", *new),
        ]
        first = first or scores
        everybody, rightly, others = ("" if one is before else difference_told(one - before)
                                      for one, before in zip(scores, first, strict=True))  # fmt: skip
        cells = f"{accuracies[0][0]:.3f}", f"{scores[0][0]:.3f}", everybody, rightly
        cells += f"{accuracies[1][0]:.3f}", f"{scores[2][0]:.3f}", others
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
