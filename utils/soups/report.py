"""What is written about ingredients and soups: lines for the terminal, all decisions, the table of recipes, a plot."""

import re
from pathlib import Path

import numpy as np

from utils.base.metrics import METRICS, shown_metrics
from utils.base.terminal import aligned
from utils.evaluation.results import ScoreBook, row_line, with_interval
from utils.evaluation.scores import Gain
from utils.models.averaging import Mixture
from utils.soups.evaluator import Evaluator
from utils.soups.recipes import Soup
from utils.soups.saved import SavedSoup

FEW = 3  # ingredients that get a line each on the terminal


def add_ensemble(book: ScoreBook, evaluator: Evaluator) -> None:
    """Score the logit ensemble of all ingredients, which soups are compared with."""
    every = Mixture.of(evaluator.ingredients)
    name = f"averaged log-probabilities of all {len(every.members)}"
    book.add("ensemble", name, f"ensemble of {every.digest}", evaluator.ensemble(every).astype(np.float32))


def ingredient_lines(book: ScoreBook, metric: str) -> list[str]:
    """How the ingredients score: one line for each of a few, of more the best, the mean and the worst score."""
    rows = [row for row in book.ordered(metric) if row["kind"] == "ingredient"]
    if len(rows) <= FEW:
        return [row_line(row, metric) for row in rows]
    mean = sum(row[metric] for row in rows) / len(rows)
    best, worst = (f"{row[metric]:.4f} ({row['model']})" for row in (rows[0], rows[-1]))
    return [f"{METRICS[metric].title}: best {best}, mean {mean:.4f}, worst {worst}"]


def soup_lines(evaluator: Evaluator, book: ScoreBook, saved: list[SavedSoup]) -> list[str]:
    """Score and gain of each soup: a line of a single one, else a table with one row per recipe."""
    metric = evaluator.metric_name
    shown, title = shown_metrics(metric), METRICS[metric].title
    titles = [METRICS[name].title for name in shown]
    if len(saved) == 1:
        (one,) = saved
        row = book.rows[one.checkpoint.path.name]
        scores = ", ".join(f"{name} {with_interval(row, key)}" for name, key in zip(titles, shown, strict=True))
        lines = [f"{one.soup.recipe} soup of {len(one.soup.mixture.members)}: {scores}"]
        lines += [f"{title} above the best ingredient's: {one.gains[metric]}"]
        nested = f"{title} above the best ingredient's, selected on one half of the people and scored on the other"
        return lines + ([f"{nested}: {one.nested.gains[metric]}"] if one.nested else [])
    cells = [("recipe", "members", *titles, f"{title} above the best ingredient's", "selected on other people")]
    for one in saved:
        row, members = book.rows[one.checkpoint.path.name], str(len(one.soup.mixture.members))
        nested = str(one.nested.gains[metric]) if one.nested else ""
        cells.append((one.soup.recipe, members, *_scores_of(row, shown), str(one.gains[metric]), nested))
    return aligned(cells if any(one.nested for one in saved) else [row[:-1] for row in cells])


def decision_lines(
    evaluator: Evaluator, soup: Soup, gains: dict[str, Gain], scored_on: str, diagnosis: str | None
) -> list[str]:
    """What a recipe decided, one line each: the candidates, what the soup is made of, its `gains` over the best
    ingredient, the `diagnosis` if it disappoints, and how many photographs all this took.
    """
    metric, mixture = evaluator.metric_name, soup.mixture
    lines = [f"{soup.recipe} soup by {metric}, {scored_on}"]
    for step in soup.steps:
        result = "no gain, dropped" if step.score is None else f"{metric} with it {float(step.score):.6f}"
        lines.append(f"{'accepted' if step.accepted else 'rejected'} {step.candidate.name}: {result}")
    accepted = {step.candidate.digest for step in soup.steps if step.accepted}
    if accepted != {one.digest for one in mixture.members}:
        parts = zip(mixture.shares, (one.name for one in mixture.members), strict=True)
        lines += [f"{share:.4f} of {name}" for share, name in sorted(parts, key=lambda part: (-part[0], part[1]))]
    best = evaluator.order[0]
    if [one.digest for one in mixture.members] == [evaluator.ingredients[best].digest]:
        lines.append(f"the soup is its best ingredient, {evaluator.ingredients[best].name}")
    else:
        lines += [f"{name} of the soup minus that of its best ingredient: {gain}" for name, gain in gains.items()]
    return [*lines, *([diagnosis] if diagnosis else []), soup.effort]


def recipe_table(evaluator: Evaluator, book: ScoreBook, soups: list[Soup]) -> str:
    """One line per recipe: members, scores with intervals, scores of the members' averaged logits, and what it took.

    The best single model comes first. `looked at` counts the photographs of all candidates, cached or not. The
    ensemble needs as many forward passes per photograph as there are members.
    """
    shown, best = shown_metrics(evaluator.metric_name), evaluator.ingredients[evaluator.order[0]]
    titles = [METRICS[name].title for name in shown]
    cells = [("recipe", "members", *titles, "ensemble of the members", "looked at", "seconds")]
    cells += [("best single", "1", *_scores_of(book.rows[best.file_name], shown), "", "0", "")]
    for soup in soups:
        row = next(row for row in book.rows.values() if row["kind"] == f"{soup.recipe} soup")
        ensemble = book.held_out.score(evaluator.ensemble(soup.mixture)).values
        averaged = " / ".join(f"{float(ensemble[name]):.3f}" for name in shown)
        members, looked_at = str(len(soup.mixture.members)), str(soup.looked_at)
        cells.append((soup.recipe, members, *_scores_of(row, shown), averaged, looked_at, f"{soup.seconds:.1f}"))
    images = len(evaluator.labels)
    people = f"chosen and scored by {evaluator.metric_name} on the same {images} images of {book.people}"
    return "\n".join([people, *aligned(cells)])


def _scores_of(row: dict, shown: list[str]) -> list[str]:
    return [with_interval(row, name) for name in shown]


def plot(path: Path, rows: list[dict], title: str, steps: list = (), metric: str = "accuracy") -> Path:
    """Draw rows as points with their intervals, accuracy against macro-F1, in a colour for each kind; beside them the
    path of the greedy search, if there are `steps`.
    """
    from utils.base.pictures import save_score_plot

    points = {}
    for row in rows:
        points.setdefault(row["kind"], []).append(
            (_short(row["model"]), *(row[key] for key in ("accuracy", "macro_f1")),
             row["accuracy_interval"], row["macro_f1_interval"])
        )  # fmt: skip
    path_steps = [
        (_short(step.candidate.file_name), step.score and float(step.score), step.accepted) for step in steps
    ]
    band = next((row[f"{metric}_interval"] for row in rows if row["kind"] == "ingredient"), None)  # of the best
    return save_score_plot(path, points, title, path_steps, metric, band)


def _short(model: str) -> str:
    """`name_seed42_i3_epoch20.pt` as `seed 42, i 3`; other names as they are."""
    parts = re.search(r"_seed(\d+)_i(\d+)_", model)
    return f"seed {parts[1]}, i {parts[2]}" if parts else model
