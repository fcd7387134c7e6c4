"""Which submission of a sweep to hand in, by what the people say who are held out."""

from collections.abc import Iterable
from pathlib import Path

from utils.base.flags import RECIPES
from utils.base.metrics import METRICS
from utils.base.terminal import aligned
from utils.data.origins import record_of
from utils.evaluation.manifest import AUTO_ENSEMBLE, HARD_VOTE, OVER_FOLDS, REFIT, SOUP, Manifest, is_weighted
from utils.evaluation.results import is_refit, latest_rows, whose, with_interval

CROSS_FITTED = (AUTO_ENSEMBLE,)  # each held-out person is scored by what others chose
PREFERRED = (AUTO_ENSEMBLE, HARD_VOTE)  # of equal scores: what averages most models goes first
PROVEN = (REFIT, AUTO_ENSEMBLE)  # what did best on new people of real photographs, in this order (docs/results.md)


def submission_rows(manifest: Manifest) -> list[tuple[str, Path, dict | str]]:
    """For each submission of a sweep how it was made, its file, and its row of scores on held-out people, or in words
    why it has none; one with the same content as an earlier one has no scores of its own.
    """
    rows = [row for row in latest_rows(manifest) if row.get("applied", True)]
    by_model = {row["model"].removesuffix(".pt"): row for row in rows}
    voted = next((row for row in rows if row["kind"] == HARD_VOTE), None)
    found, first = [], {}
    for way, file in manifest.submissions.items():
        path = Path(file)
        model = path.stem.removeprefix("output_")
        model = model.removesuffix("_folds") if way.endswith(OVER_FOLDS) else model
        row = voted if way == HARD_VOTE else by_model.get(model)
        if row and way != HARD_VOTE and not _of_scored_weights(path, row):
            row = "scored with other weights"
        row = manifest.changed(way) or row or "not scored"
        if isinstance(row, dict) and (same := first.setdefault(manifest.sha256[way], way)) != way:
            row = f"the same answers as the {same}"
        found.append((way, path, row))
    return found


def _of_scored_weights(path: Path, row: dict) -> bool:
    """Whether the model that a row scores is, with the very same weights, one of those that made a submission."""
    members = record_of(path).members
    return not members or row.get("digest", members[0].digest) in [one.digest for one in members]


def recommended(rows: list[tuple[str, Path, dict | str]], metric: str, reason: str = "") -> tuple[Path, str] | None:
    """The file to hand in, and why in one sentence; None when none was scored.

    It is the refit soup of a folded sweep, unless by `metric` the intervals of held-out people set it below the best;
    without one the auto ensemble under the same condition; without both the soup, which was recommended for a
    `reason`; else the file that scores best. What the models of all folds predict has the score of their average, for
    many times the inference, and is not named.
    """
    scored = [(way, path, row) for way, path, row in rows if isinstance(row, dict) and not way.endswith(OVER_FOLDS)]
    if not scored:
        return None
    sign, title, interval = METRICS[metric].sign, METRICS[metric].title, f"{metric}_interval"
    way, path, best = max(scored, key=lambda one: (sign * one[2][metric], one[0] in PREFERRED))
    units = _whose(row for _, _, row in scored)
    persons = f"{best['persons']} {units}"
    why = f"the {way} has the best {title} on {best['persons']} held-out {units}, {_score(best, metric)}"
    least = min(sign * end for end in best[interval])
    near = [one for one in scored if one[2] is not best and max(sign * end for end in one[2][interval]) >= least]
    by_way = {other: (file, row) for other, file, row in near}
    better_known = PROVEN[: PROVEN.index(way)] if way in PROVEN else PROVEN
    for other in (other for other in better_known if other in by_way):
        file, row = by_way[other]
        return file, (
            f"on real photographs the {other} did best on new people (docs/results.md); here {why}, against "
            f"{_score(row, metric)}, and {persons} cannot tell these apart"
        )
    if way not in PROVEN and SOUP in by_way:  # it averages, and was not picked as the best
        file, row = by_way[SOUP]
        told = f"{_score(row, metric)}, and {persons} cannot tell it from the {way}, which has the best"
        return file, f"the {SOUP} has {title} {told} {title}, {_score(best, metric)}, by luck too; {reason}"
    if near:
        others = len(scored) - 1
        count = "all others" if len(near) == others else f"{len(near)} of {others} others"
        why += f"; the intervals of {count} overlap it, so {persons} cannot tell these apart"
    return path, why


def _score(row: dict, metric: str) -> str:
    """A score and its interval; nobody is left to score a model of everyone on."""
    return f"{with_interval(row, metric)}{' of its soup' * is_refit(row)}"


def _whose(rows: Iterable[dict]) -> str:
    """What the intervals of a sweep's rows resample, of which some do not tell."""
    return next((whose(row) for row in rows if "people" in row), "people")


def nothing_chosen(manifest: Manifest, way: str) -> bool:
    """Whether the scores of a way come from people who had no part in it; in a uniform soup nothing is chosen."""
    way = way.removesuffix(OVER_FOLDS)
    chosen = RECIPES[manifest.recommended].selects
    return way in CROSS_FITTED or (not chosen and (way in (SOUP, REFIT) or is_weighted(way)))


def nested_row(manifest: Manifest) -> dict | None:
    """The scores of the recommended recipe when each person is predicted by what other people selected."""
    kind = f"{manifest.recommended} soup, nested"
    return next((row for row in latest_rows(manifest) if row["kind"] == kind), None)


def hand_in_lines(manifest: Manifest, scored_on_new_people: dict[str, dict] | None = None) -> list[str]:
    """The table of submissions, and the line that says which one to hand in and why: by the sweep's metric, or by
    macro-F1 if that cannot score all of them.

    Scores of held-out people who chose what is scored, members or weights, stand in one column, and those of people
    who had no part in it in another.

    `scored_on_new_people` are rows of scores on people that chose nothing, by file, when their answers are known.
    """
    rows = submission_rows(manifest)
    untold = [way for way, _, row in rows if isinstance(row, dict) and manifest.metric not in row]
    metric = "macro_f1" if untold else manifest.metric
    title = METRICS[metric].title
    units = _whose(row for _, _, row in rows if isinstance(row, dict))
    who = f"{units} {'who' if units == 'people' else 'that'}"
    heading = [f"{title}, {who} chose", f"{who} did not"]
    if scored_on_new_people:
        on_new = metric if all(metric in row for row in scored_on_new_people.values()) else "macro_f1"
        new = f"new {_whose(scored_on_new_people.values())}"
        heading.append(new if on_new == metric else f"{METRICS[on_new].title}, {new}")
    cells = [("submission", *heading, "file")]
    for way, path, row in rows:
        scores = [row if isinstance(row, str) else _score(row, metric), ""]
        scores = scores[::-1] if nothing_chosen(manifest, way) else scores
        if way == SOUP and (nested := nested_row(manifest)) and metric in nested:
            scores[1] = with_interval(nested, metric)
        if scored_on_new_people:
            new = scored_on_new_people.get(path.name)
            scores.append(with_interval(new, on_new) if new else "")
        cells.append((way, *scores, str(path)))
    lines = aligned(cells)
    if untold:
        lines.append(f"compared by {title}: {', '.join(untold)} has no {METRICS[manifest.metric].title}")
    choice = recommended(rows, metric, f"of the soups: {manifest.reason}" if manifest.reason else "")
    if choice is None:
        again = " and ".join(f"{script} --sweep {manifest.name}" for script in ("validation.py", "inference.py"))
        return [*lines, f"no submission is scored on held-out {units}: run {again}"]
    path, why = choice
    return [*lines, f"hand in {path}: {why}"]
