"""What is written about ingredients and soups: lines for the terminal, all decisions, the table of recipes, a plot."""

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.base.flags import RECIPES
from utils.base.metrics import METRICS, PUBLISHED, shown_metrics
from utils.base.terminal import aligned
from utils.evaluation.held_out import EXPECTED
from utils.evaluation.results import AS_THE_SOUP, ScoreBook, read_rows, row_line, with_interval
from utils.evaluation.scores import Gain
from utils.models.averaging import Mixture
from utils.soups.evaluator import Evaluator
from utils.soups.recipes import Soup
from utils.soups.saved import SavedSoup

HOW = "members", "ensemble", "looked_at", "gain_on_others"  # of a soup's row: how it came about


def add_ensemble(book: ScoreBook, evaluator: Evaluator) -> None:
    """Score the logit ensemble of all ingredients, which soups are compared with."""
    every = Mixture.of(evaluator.ingredients)
    name = f"averaged log-probabilities of all {len(every.members)}"
    book.add("ensemble", name, f"ensemble of {every.digest}", evaluator.ensemble(every).astype(np.float32))


def ingredient_lines(book: ScoreBook, metric: str) -> list[str]:
    """How the ingredients score: a line of one, of several the best, the mean and the worst score."""
    rows = [row for row in book.ordered(metric) if row["kind"] == "ingredient"]
    expected = next(row for row in book.rows.values() if row["kind"] == EXPECTED)
    if len(rows) == 1:
        return [row_line(rows[0], metric)]
    best, worst = (f"{row[metric]:.4f} ({row['model']})" for row in (rows[0], rows[-1]))
    return [f"{METRICS[metric].title}: best {best}, mean {expected[metric]:.4f}, worst {worst}"]


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
        lines += [f"gain in {title} over the expected single model: {one.gains[metric]}"]
        nested = "the same, selected on some of the people and scored on the others"
        return lines + ([f"{nested}: {one.nested.gains[metric]}"] if one.nested else [])
    gained = f"gain in {title} over the expected single", "the same, selected on others"
    cells = [("recipe", "members", *titles, *gained)]
    for kind, row in _singles(evaluator, book):
        cells.append((kind, "1", *_scores_of(row, shown), "", ""))
    for one in saved:
        row, members = book.rows[one.checkpoint.path.name], str(len(one.soup.mixture.members))
        nested = str(one.nested.gains[metric]) if one.nested else ""
        cells.append((one.soup.recipe, members, *_scores_of(row, shown), str(one.gains[metric]), nested))
        if one.refit:
            cells.append((f"{one.soup.recipe} refit", members, *_scores_of(row, shown), AS_THE_SOUP, ""))
    return aligned(cells if any(one.nested for one in saved) else [row[:-1] for row in cells])


def decision_lines(
    evaluator: Evaluator, soup: Soup, gains: dict[str, Gain], scored_on: str, diagnosis: str | None
) -> list[str]:
    """What a recipe decided, one line each: the candidates, what the soup is made of, its `gains` over the expected
    single model, the `diagnosis` if it disappoints, and how many photographs all this took.
    """
    metric, mixture = evaluator.metric_name, soup.mixture
    lines = [f"{soup.recipe} soup by {metric}, {scored_on}"]
    for step in soup.steps:
        shown = None if step.score is None else METRICS[metric].shown(step.score)
        result = "no gain, dropped" if shown is None else f"{metric} with it {shown:.6f}"
        lines.append(f"{'accepted' if step.accepted else 'rejected'} {step.candidate.name}: {result}")
    accepted = {step.candidate.digest for step in soup.steps if step.accepted}
    if accepted != {one.digest for one in mixture.members}:
        parts = zip(mixture.shares, (one.name for one in mixture.members), strict=True)
        lines += [f"{share:.4f} of {name}" for share, name in sorted(parts, key=lambda part: (-part[0], part[1]))]
    best = evaluator.order[0]
    if [one.digest for one in mixture.members] == [evaluator.ingredients[best].digest]:
        lines.append(f"the soup is its best ingredient, {evaluator.ingredients[best].name}")
    lines += [f"gain in {name} over the expected single model: {gains[name]}" for name in shown_metrics(metric)]
    return [*lines, *([diagnosis] if diagnosis else []), soup.effort]


def verdict(evaluator: Evaluator, book: ScoreBook) -> str | None:
    """Which recipe is surely better than the expected single model on people that it did not select on, or that none
    is; None when no recipe that selects was tried on other people.
    """
    told = {recipe: _gain_on_others(book.rows[file], evaluator.metric_name) for recipe, file in book.soups().items()}
    gains = {recipe: gain for recipe, gain in told.items() if gain}
    if not any(RECIPES[recipe].selects for recipe in gains):
        return None
    best, whose = max(gains, key=lambda recipe: gains[recipe].low), evaluator.held_out.whose
    if gains[best].low > 0:
        title = METRICS[evaluator.metric_name].title
        better = f"safely better than the expected single model on {whose} that did not choose it"
        return f"{better}: {best}, gain in {title} {gains[best]}"
    return f"no recipe is safely better than the expected single model on {whose} that did not choose it"


def _singles(evaluator: Evaluator, book: ScoreBook) -> list[tuple[str, dict]]:
    """The rows that soups are compared with: the expected single model, and the best one, which luck chose too."""
    best = evaluator.ingredients[evaluator.order[0]]
    expected = next(row for row in book.rows.values() if row["kind"] == EXPECTED)
    return [(EXPECTED, expected), ("best single", book.rows[best.file_name])]


def recommended(evaluator: Evaluator, book: ScoreBook, saved: list[SavedSoup]) -> tuple[str, str]:
    """The recipe to go on with and why: the greedy soup where people surely set it above the uniform soup, else the
    uniform soup, in which nothing is chosen by chance; where only one of them was made, that one.
    """
    made = {one.soup.recipe: one.soup for one in saved if one.soup.recipe in ("uniform", "greedy")}
    if len(made) < 2:
        recipe = next(iter(made), "greedy")
        return recipe, "of the two published soups only this one was made"
    metric, title = evaluator.metric_name, METRICS[evaluator.metric_name].title
    gain = book.held_out.gain(made["greedy"].logits, made["uniform"].logits)[metric]
    people = f"{len(np.unique(evaluator.held_out.persons))} {evaluator.held_out.whose}"
    if gain.low > 0:
        return "greedy", f"{people} set the greedy soup above the uniform soup: {title} {gain}"
    return "uniform", (
        f"{people} cannot tell the greedy soup from the uniform soup ({title} of greedy minus uniform: {gain}), and "
        "in the uniform soup nothing is chosen by chance"
    )


def folded_parts(evaluator: Evaluator, saved: list[SavedSoup], recipe: str) -> dict:
    """What the manifest of a folded sweep tells: how many folds, the runs of the soup of `recipe`, and the refits."""
    folds = len(evaluator.ingredients[0].parts)
    if folds == 1:
        return {}
    chosen = next((one.soup.mixture.members for one in saved if one.soup.recipe == recipe), ())
    places = [one.meta["ingredient"] for one in chosen]
    members = [f"{place['seed']}:{place['i']}" for place in sorted(places, key=lambda one: (one["seed"], one["i"]))]
    refits = {one.soup.recipe: one.refit.path.name for one in saved if one.refit}
    return {"folds": folds, "members": members, "refits": refits}


def _gain_on_others(row: dict, metric: str) -> Gain | None:
    """What the soup of a row gains on people that it did not select on; None where nobody tried, and in a row that is
    older than the metric.
    """
    gain = (row.get("gain_on_others") or {}).get(metric)
    return gain and Gain(**gain)


def note_how(evaluator: Evaluator, book: ScoreBook, saved: list[SavedSoup], earlier: Path) -> None:
    """Add to the rows of soups how they came about, those of earlier calls as the file of scores `earlier` tells."""
    for one in saved:
        honest = one.nested or (None if RECIPES[one.soup.recipe].selects else one)
        averaged = book.held_out.score(evaluator.ensemble(one.soup.mixture)).record()
        book.rows[one.checkpoint.path.name] |= {
            "members": len(one.soup.mixture.members),
            "ensemble": {name: averaged[name] for name in METRICS},
            "looked_at": one.soup.looked_at,
            "gain_on_others": {name: asdict(gain) for name, gain in honest.gains.items()} if honest else None,
        }
    same = "kind", "digest", "split", "people"
    for row in _rows_with_how(earlier):
        now = book.rows.get(row["model"])
        if now and all(now[key] == row[key] for key in same):
            now |= {key: row[key] for key in HOW if now.get(key) is None}


def _rows_with_how(path: Path) -> list[dict]:
    """The rows of soups that tell how they came about; none of a damaged file, which is replaced anyway."""
    try:
        rows = [row for row in read_rows(path) if all(key in row for key in HOW)] if path.is_file() else []
        for row in rows:
            _ = [float(row["ensemble"][name]) for name in {*PUBLISHED, *row["ensemble"]}]
            _ = [str(_gain_on_others(row, name)) for name in row["gain_on_others"] or ()]
        return rows
    except (InputError, TypeError, ValueError, KeyError, AttributeError):
        return []


def recipe_table(evaluator: Evaluator, book: ScoreBook, saved: list[SavedSoup]) -> str:
    """One line per recipe: members, scores with intervals, scores of the members' averaged logits, what it took, what
    it gains on people that it did not select on, and its file. Soups of earlier calls that still fit are in it.

    The expected and the best single model come first. `looked at` counts the photographs of all candidates, cached or
    not. The ensemble needs as many forward passes per photograph as there are members.
    """
    metric = evaluator.metric_name
    shown, seconds = shown_metrics(metric), {one.soup.recipe: f"{one.soup.seconds:.1f}" for one in saved}
    titles = [METRICS[name].title for name in shown]
    took = "ensemble of the members", "looked at", "seconds", f"gain in {METRICS[metric].title} on other people"
    cells = [("recipe", "members", *titles, *took, "file")]
    for kind, row in _singles(evaluator, book):
        cells.append((kind, "1", *_scores_of(row, shown), "", "0", "", "", row["model"]))
    for recipe, file in sorted(book.soups().items(), key=lambda one: list(RECIPES).index(one[0])):
        row = book.rows[file]
        ensemble = row.get("ensemble", {})
        averaged = " / ".join(f"{ensemble[name]:.3f}" for name in shown if name in ensemble)
        gain = str(_gain_on_others(row, metric) or "")
        took = averaged, str(row.get("looked_at", "")), seconds.get(recipe, ""), gain
        cells.append((recipe, str(row.get("members", "")), *_scores_of(row, shown), *took, file))
        refit = next((one.refit.path.name for one in saved if one.refit and one.soup.recipe == recipe), None)
        if refit:
            members = str(row.get("members", ""))
            cells.append((f"{recipe} refit", members, *_scores_of(row, shown), "", "0", "", AS_THE_SOUP, refit))
    images = len(evaluator.labels)
    people = f"chosen and scored by {metric} on the same {images} images of {book.people}"
    return "\n".join([people, *aligned(cells), *filter(None, [verdict(evaluator, book)])])


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
        (_short(step.candidate.file_name), step.score and METRICS[metric].shown(step.score), step.accepted)
        for step in steps
    ]
    band = next((row[f"{metric}_interval"] for row in rows if row["kind"] == "ingredient"), None)  # of the best
    return save_score_plot(path, points, title, path_steps, metric, band)


def _short(model: str) -> str:
    """`name_seed42_i3_epoch20.pt` as `seed 42, i 3`; other names as they are."""
    parts = re.search(r"_seed(\d+)_i(\d+)_", model)
    return f"seed {parts[1]}, i {parts[2]}" if parts else model
