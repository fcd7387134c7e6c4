"""What a search for soups tells: its decisions, the table of recipes, a plot."""

import re
from pathlib import Path

import numpy as np

from utils.base.metrics import METRICS, shown_metrics
from utils.base.terminal import aligned
from utils.evaluation.results import ScoreBook, with_interval
from utils.models.averaging import Mixture


def ensemble_row(evaluator) -> tuple[str, str, np.ndarray]:
    """Name, digest and scores (N, C) of the logit ensemble of all ingredients."""
    every = Mixture.of(evaluator.ingredients)
    name = f"averaged log-probabilities of all {len(every.members)}"
    return name, f"ensemble of {every.digest}", evaluator.ensemble(every).astype(np.float32)


def decision_lines(evaluator, soup, where: str, why: str | None = None) -> list[str]:
    """What a recipe decided, one line each: who was tried, what the soup is made of and gained, and `why` not more,
    what it took.
    """
    metric, mixture = evaluator.metric_name, soup.mixture
    lines = [f"{soup.recipe} soup by {metric}, {where}"]
    for step in soup.steps:
        told = "no gain, dropped" if step.score is None else f"{metric} with it {float(step.score):.6f}"
        lines.append(f"{'accepted' if step.accepted else 'rejected'} {step.candidate.name}: {told}")
    accepted = {step.candidate.digest for step in soup.steps if step.accepted}
    if accepted != {one.digest for one in mixture.members}:
        parts = zip(mixture.shares, (one.name for one in mixture.members), strict=True)
        lines += [f"{share:.4f} of {name}" for share, name in sorted(parts, key=lambda part: (-part[0], part[1]))]
    best = evaluator.order[0]
    if [one.digest for one in mixture.members] == [evaluator.ingredients[best].digest]:
        lines.append(f"the soup is its best ingredient, {evaluator.ingredients[best].name}")
    else:
        gains = evaluator.held_out.gain(soup.logits, evaluator.logits[best])
        lines += [f"{name} of the soup minus that of its best ingredient: {gain}" for name, gain in gains.items()]
    return [*lines, *([why] if why else []), soup.effort]


def recipe_table(evaluator, book: ScoreBook, soups: list) -> str:
    """One line per recipe: members, scores with intervals, those of its members' averaged logits, and what it took.

    The best single model comes first. Looked at are the photographs of all candidates, whether cached or not. The
    ensemble needs as many forward passes per photograph as there are members.
    """
    shown, best = shown_metrics(evaluator.metric_name), evaluator.ingredients[evaluator.order[0]]
    titles = [METRICS[name].title for name in shown]
    cells = [("recipe", "members", *titles, "ensemble of the members", "looked at", "seconds")]
    cells += [("best single", "1", *_scores_of(book.rows[best.file_name], shown), "", "0", "")]
    for soup in soups:
        row = next(row for row in book.rows.values() if row["kind"] == f"{soup.recipe} soup")
        ensemble = book.held_out.score(evaluator.ensemble(soup.mixture)).values
        told = " / ".join(f"{float(ensemble[name]):.3f}" for name in shown)
        members = str(len(soup.mixture.members))
        cells.append((soup.recipe, members, *_scores_of(row, shown), told, str(soup.looked_at), f"{soup.seconds:.1f}"))
    images = len(evaluator.labels)
    people = f"chosen and scored by {evaluator.metric_name} on the same {images} images of {book.people}"
    return "\n".join([people, *aligned(cells)])


def _scores_of(row: dict, shown: list[str]) -> list[str]:
    return [with_interval(row, name) for name in shown]


def plot(path: Path, rows: list[dict], title: str, steps: list = (), metric: str = "accuracy") -> Path:
    """Draw rows as points with their intervals, accuracy against macro-F1, the kinds apart; beside them the greedy
    path, when there are `steps`.
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
    return save_score_plot(path, points, title, path_steps, metric)


def _short(model: str) -> str:
    """`name_seed42_i3_epoch20.pt` as `seed 42, i 3`; other names as they are."""
    parts = re.search(r"_seed(\d+)_i(\d+)_", model)
    return f"seed {parts[1]}, i {parts[2]}" if parts else model
