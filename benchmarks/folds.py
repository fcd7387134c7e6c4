"""What folds are worth: a sweep of a single split and a folded sweep of the same recipes, on people who chose nothing.

    python benchmarks/folds.py --single RUN --folds RUN --data faces --truth truth.csv [--rounds NAME ...]
    python benchmarks/folds.py --single RUN --steps NAME ... --data faces --truth truth.csv

Each RUN is a folder in which `training.sh` has run one sweep to its end, with the same recipes (`NAME` is told by
`--single-name` and `--folds-name`); `--rounds` names further sweeps in the second folder. `truth.csv` has the columns
`ImageID,ans,person`. Prints two tables in Markdown: how each way scores on the people of the truth, with paired
differences to the expected single model of the single split and to its best way; and for each recipe of the folded
sweep the out-of-fold score against what its models score on new people. These two groups of people may differ in
gender and age, so out-of-fold people are weighed as the others are mixed. Intervals are 95 % over people.

The second command prints what more steps are worth: for each sweep of the single split, in the order given, the mean
score of its models on the people of the truth, and what it gains over the sweep before.
"""

import argparse
import contextlib
import io
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import inference
from utils.base import runtime
from utils.base.metrics import METRICS
from utils.data import competition
from utils.data.reading import read_photographs
from utils.data.splits import evaluation_splits
from utils.data.submissions import match, read_submission
from utils.evaluation.folded import OutOfFold
from utils.evaluation.held_out import HeldOut
from utils.evaluation.manifest import read_manifest
from utils.evaluation.results import with_interval
from utils.evaluation.scores import expected_row, gain_over_mean, interval, score_row
from utils.models.folded import read_ingredient
from utils.models.sweeps import find_sweep

LABELLING = competition.labelling()
SAMPLES = 2000


class Truth:
    """The right answers, and what is asked of predictions of these images."""

    def __init__(self, path: Path):
        self.path, truth = path, read_submission(path, filled="person")
        self.ids, self.labels = truth.ids, truth.answers
        self.persons = np.array([row[truth.columns.index("person")] for row in truth.rows])

    def answers(self, submission: Path) -> np.ndarray:
        given = read_submission(submission)
        return given.answers[match(given, self.ids, self.path)]

    def score(self, answers: np.ndarray) -> dict:
        return score_row(self.labels, answers, self.persons, LABELLING.num_classes)

    def expected(self, every: list[np.ndarray]) -> dict:
        return expected_row(self.labels, every, self.persons, LABELLING.num_classes)

    def gain(self, answers: np.ndarray, baselines: list[np.ndarray]) -> str:
        gain = gain_over_mean(self.labels, answers, baselines, self.persons, LABELLING.num_classes)["macro_f1"]
        return f"{gain.difference:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def predicted(model: Path | str, data: Path, truth: Truth, *more: str) -> np.ndarray:
    """The answers of one checkpoint, by the submission that inference.py writes."""
    argv = ["--model-name", str(model), "--data-location", str(data), "--output-dir", "output/benchmark", *more]
    with contextlib.redirect_stdout(io.StringIO()):
        return truth.answers(inference.run(inference.parser().parse(argv)))


def ways(name: str, truth: Truth) -> dict[str, np.ndarray]:
    """The answers of all submissions of a sweep in this folder, by how they were made."""
    return {way: truth.answers(Path(path)) for way, path in read_manifest(name).submissions.items()}


def on_new_people(options: argparse.Namespace, truth: Truth) -> None:
    """The first table."""
    rows, begin = {}, Path.cwd()
    os.chdir(options.single)
    singles = [one.path for one in find_sweep(Path("model"), options.single_name).ingredients]
    single_answers = [predicted(path, options.data, truth) for path in singles]
    todays = ways(options.single_name, truth)
    rows |= {f"single split: {way}": answers for way, answers in todays.items()}
    os.chdir(begin / options.folds)
    for name in (options.folds_name, *options.rounds):
        rows |= {f"{name}: {way}": answers for way, answers in ways(name, truth).items()}
    os.chdir(begin)
    best_way = max(todays, key=lambda way: truth.score(todays[way])["macro_f1"])
    best_single = todays["best single"]
    heading = "way", "accuracy", "macro-F1", "over the expected single", "over the best single", f"over its {best_way}"
    print(f"| {' | '.join(heading)} |\n|{'---|' * len(heading)}")
    expected = truth.expected(single_answers)
    print(f"| single split: expected single | {with_interval(expected, 'accuracy')} | "
          f"{with_interval(expected, 'macro_f1')} | | | |")  # fmt: skip
    for way, answers in rows.items():
        row = truth.score(answers)
        gains = [truth.gain(answers, one) for one in (single_answers, [best_single], [todays[best_way]])]
        cells = with_interval(row, "accuracy"), with_interval(row, "macro_f1"), *gains
        print(f"| {way} | {' | '.join(cells)} |", flush=True)


def steps(options: argparse.Namespace, truth: Truth) -> None:
    """The table of sweeps that differ in their number of epochs."""
    os.chdir(options.single)
    print("| sweep | models | accuracy | macro-F1 | each | over the one before |\n|---|---|---|---|---|---|")
    before: np.ndarray | None = None
    for name in options.steps:
        every = [predicted(one.path, options.data, truth) for one in find_sweep(Path("model"), name).ingredients]
        row = truth.expected(every)
        each = " ".join(f"{truth.score(answers)['macro_f1']:.3f}" for answers in every)
        mean = resampled("macro_f1", truth.labels, every, truth.persons, np.ones(len(truth.labels)))
        gain = "" if before is None else difference_told(mean - before)
        cells = f"{len(every)}", with_interval(row, "accuracy"), with_interval(row, "macro_f1"), each, gain
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        before = mean


def out_of_fold(options: argparse.Namespace, truth: Truth) -> None:
    """The second table."""
    os.chdir(options.folds)
    accelerator = runtime.start_runtime("benchmark")
    print("\n| recipe | score | out of fold | new people | difference |\n|---|---|---|---|---|")
    photographs = read_photographs(options.data, options.relabel)
    for recipe in find_sweep(Path("model"), options.folds_name).ingredients:
        model = read_ingredient(recipe)
        how = inference.parser().parse([]).replace(batch_size=64)
        how = argparse.Namespace(**how.plain, val_ratio="recorded", split_seed=None, split_by=None, no_cache=False)
        splits, _ = evaluation_splits(photographs, how, [model])
        parts = [
            HeldOut(accelerator, photographs, s.held_out, model.labelling, model.preprocessing, how) for s in splits
        ]
        held_out = OutOfFold(parts)
        preds = held_out.logits(model).argmax(-1)
        new = [predicted(part.path, options.data, truth) for part in recipe.parts]
        weights = mixed_alike(held_out, truth)
        for name in ("accuracy", "macro_f1", "balanced_accuracy"):
            there = resampled(name, held_out.labels, [preds], held_out.persons, weights)
            here = resampled(name, truth.labels, new, truth.persons, np.ones(len(truth.labels)))
            print(f"| {recipe.path.stem} | {METRICS[name].title} | {there[0]:.3f} | {here[0]:.3f} | "
                  f"{difference_told(there - here)} |", flush=True)  # fmt: skip


def mixed_alike(held_out: OutOfFold, truth: Truth) -> np.ndarray:
    """(N,) a weight for each photograph, so that out-of-fold people are mixed of gender and age as the others are."""
    shares = []
    for labels in (held_out.labels, truth.labels):
        kinds = LABELLING.decode(labels)
        shares.append(np.bincount(kinds["gender"] * 3 + kinds["age"], minlength=6) / len(labels))
    kinds = LABELLING.decode(held_out.labels)
    return (shares[1] / np.maximum(shares[0], 1e-9))[kinds["gender"] * 3 + kinds["age"]]


def resampled(
    name: str, labels: np.ndarray, every: list[np.ndarray], persons: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The mean score of several predictions with weighed photographs, and behind it `SAMPLES` of resampled people."""
    people, person_of = np.unique(persons, return_inverse=True)
    draws = np.random.default_rng(len(people)).multinomial(len(people), np.full(len(people), 1 / len(people)), SAMPLES)
    draws = np.vstack([np.ones(len(people)), draws])
    total = np.zeros(SAMPLES + 1)
    for preds in every:
        right, true, predicted_as = np.zeros((3, len(people), LABELLING.num_classes))
        hits = labels == preds
        np.add.at(right, (person_of[hits], labels[hits]), weights[hits])
        np.add.at(true, (person_of, labels), weights)
        np.add.at(predicted_as, (person_of, preds), weights)
        parts, wholes = METRICS[name].fractions(draws @ right, draws @ true, draws @ predicted_as, None)
        scores = np.divide(parts, wholes, out=np.full_like(parts, np.nan), where=wholes > 0)
        total += np.nanmean(scores, axis=-1)
    return total / len(every)


def difference_told(samples: np.ndarray) -> str:
    """A difference and its interval, of what `resampled` gives."""
    low, high = interval(samples[1:])
    return f"{samples[0]:+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--single", type=Path, required=True)
    runs = parser.add_mutually_exclusive_group(required=True)
    runs.add_argument("--folds", type=Path)
    runs.add_argument("--steps", nargs="+", metavar="NAME")
    parser.add_argument("--single-name", default="single")
    parser.add_argument("--folds-name", default="folds")
    parser.add_argument("--rounds", nargs="*", default=[])
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--truth", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--relabel", type=lambda text: Path(text).resolve())
    options = parser.parse_args()
    truth = Truth(options.truth)
    if options.steps:
        return steps(options, truth)
    on_new_people(options, truth)
    out_of_fold(options, truth)


if __name__ == "__main__":
    main()
