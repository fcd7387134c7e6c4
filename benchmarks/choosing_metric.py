"""Which metric chooses best: by each, choose on half of the people, and see the macro-F1 on the other half.

    python benchmarks/choosing_metric.py --logits sweep.npz [--halvings 200] [--subsets]

`sweep.npz` holds `log_probs` (M, N, C), `labels` (N,) and `persons` (N,): what M models say of people whom none of
them was trained on. The people are halved at random, again and again. On one half each metric chooses models, greedily
as `main.py` does, or the best of all subsets with `--subsets`; on the other half the choice is scored by macro-F1. A
candidate is the **mean of its members' log-probabilities**, which stands in for the average of their weights: a soup
of each subset would have to be made and evaluated, and what chooses soups best may differ. Prints a table in Markdown:
for each metric the mean over halvings, the mean difference to all models averaged, and its spread, the standard
deviation over halvings (which share people: it is no standard error).
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.base.metrics import METRICS
from utils.evaluation.scores import exact_score
from utils.soups.search import greedy_soup

MOST = 12  # models of which all subsets are tried
UNIFORM = "nothing: all averaged"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, required=True, metavar="FILE.npz", help="log_probs, labels, persons")
    parser.add_argument("--halvings", type=int, default=200, metavar="R", help="how often the people are halved")
    parser.add_argument("--subsets", action="store_true", help="choose among all subsets, not greedily")
    options = parser.parse_args(argv)
    with np.load(options.logits) as file:
        log_probs, labels, persons = (file[name] for name in ("log_probs", "labels", "persons"))
    if options.subsets and len(log_probs) > MOST:
        parser.error(
            f"--subsets tries all subsets of {MOST} models at most, and {options.logits} has {len(log_probs)}"
        )
    rows = measure(log_probs, labels, persons, options.halvings, best_subset if options.subsets else greedy)
    print("\n".join(table(rows)))


def halvings(persons: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The positions of the photographs of one half of the people, and of the other half, again and again."""
    people, rng = np.unique(persons), np.random.default_rng(0)
    for _ in range(count):
        is_one = np.isin(persons, rng.permutation(people)[: len(people) // 2])
        yield np.flatnonzero(is_one), np.flatnonzero(~is_one)


def greedy(count: int, score: Callable) -> tuple[int, ...]:
    """The greedy choice among so many models, by `score(members)`."""
    own = [score([k]) for k in range(count)]
    steps = greedy_soup(range(count), own, lambda members, best: score(members))
    return tuple(step.candidate for step in steps if step.accepted)


def best_subset(count: int, score: Callable) -> tuple[int, ...]:
    """The subset that scores best; of equal ones the smallest."""
    return max((some for k in range(1, count + 1) for some in combinations(range(count), k)), key=score)


def measure(
    log_probs: np.ndarray, labels: np.ndarray, persons: np.ndarray, count: int, choose: Callable
) -> dict[str, list[tuple[int, float]]]:
    """For each metric, and for the average of all models, of each halving: how many models were chosen, and their
    macro-F1 on the people that did not choose.
    """
    models, _, num_classes = log_probs.shape
    rows = {UNIFORM: [], **{name: [] for name in METRICS}}
    for chosen_on, others in halvings(persons, count):

        def score(members, positions=chosen_on, by="macro_f1"):
            mean = log_probs[list(members)][:, positions].mean(0)
            return exact_score(METRICS[by], labels[positions], mean, num_classes)

        chosen = {UNIFORM: range(models)}
        for name in METRICS:
            chosen[name] = choose(models, lambda members, by=name: score(members, by=by))
        for name, members in chosen.items():
            rows[name].append((len(members), float(score(members, others))))
    return rows


def table(rows: dict[str, list[tuple[int, float]]]) -> list[str]:
    """The lines of the table."""
    lines = ["| chosen by | models | macro-F1 on other people | minus all averaged | spread | above it in |"]
    lines.append("|---|---|---|---|---|---|")
    uniform = np.array(rows[UNIFORM])[:, 1]
    for name, halves in rows.items():
        models, scores = np.array(halves).T
        gains = scores - uniform
        told = f"{gains.mean():+.4f} | {gains.std():.4f} | {(gains > 0).mean():.0%}" if name != UNIFORM else "| |"
        lines.append(f"| {name} | {models.mean():.1f} | {scores.mean():.4f} | {told} |")
    return lines


if __name__ == "__main__":
    main()
