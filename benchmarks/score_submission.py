"""Score submissions against the truth, with intervals over people.

    python benchmarks/score_submission.py truth.csv output/*.csv

`truth.csv` has the columns `ImageID,ans,person`. For each submission: accuracy and macro-F1 over the 18 classes with
95 % percentile intervals of 2,000 resamplings of people (each with all their photographs). Reporting only:
whoever picks a model by this table has no test set left.
"""

import csv
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.metrics import accuracy, bootstrap_scores, confusion_matrix, interval, macro_f1

NUM_CLASSES = 18


def read_column(path: str, column: str) -> dict[str, str]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return {row["ImageID"]: row[column] for row in csv.DictReader(file)}


def main(truth_path: str, *submissions: str) -> None:
    truth, persons = read_column(truth_path, "ans"), read_column(truth_path, "person")
    names = sorted(truth)
    labels = np.array([int(truth[name]) for name in names])
    people = np.array([persons[name] for name in names])
    print(f"{len(names)} images of {len(set(people))} people")
    print(f"{'submission':60} {'accuracy':>8} {'95 %':>16} {'macro-F1':>9} {'95 %':>16}")
    for path in submissions:
        answers = read_column(path, "ans")
        preds = np.array([int(answers[name]) for name in names])
        confusion = confusion_matrix(labels, preds, NUM_CLASSES)
        samples = bootstrap_scores(labels, preds, people, NUM_CLASSES)
        accuracy_low, accuracy_high = interval(samples["accuracy"])
        f1_low, f1_high = interval(samples["macro_f1"])
        print(
            f"{Path(path).stem[:60]:60} {float(accuracy(confusion)):8.3f} [{accuracy_low:.3f}, {accuracy_high:.3f}]"
            f"  {float(macro_f1(confusion)):8.3f} [{f1_low:.3f}, {f1_high:.3f}]"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
