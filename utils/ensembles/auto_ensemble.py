"""The ensemble that `--ensemble auto` chose: its file, written by validation.py, read by inference.py; its report."""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev

from utils.base.files import write_text
from utils.base.metrics import METRICS, shown_metrics
from utils.ensembles.calibration import NO_BIAS
from utils.ensembles.candidates import Candidate
from utils.ensembles.selection import Choice, CrossFit, Library
from utils.evaluation.held_out import HeldOut
from utils.evaluation.kept import ensemble_file
from utils.evaluation.scores import Gain, paired_gain

MAIN = 3  # members that the summary names


def write_ensemble(name: str, candidates: list[Candidate], choice: Choice, scored: dict) -> Path:
    """Write the members of a weight above 0 with their digests, the calibration, and what both are worth.

    `scored` adds by which metric and on which people, and the rows of scores.
    """
    fit, crossed = choice.fit, choice.crossed
    members = [
        {
            "name": one.name,
            "file": one.checkpoint.path.name,
            "digest": one.checkpoint.digest,
            "kind": one.kind,
            "flip": one.flip,
            "weight": float(weight),
        }
        for one, weight in zip(candidates, fit.weights, strict=True)
        if weight
    ]
    content = {
        "members": members,
        "temperature": fit.calibration.temperature,
        "bias": fit.calibration.bias.tolist(),
        "bias_rule": fit.calibration.rule,
        "bias_gain": asdict(choice.bias_gain),
        "log_loss": dict(zip(("without temperature", "with temperature"), crossed.losses, strict=True)),
        "fold_scores": crossed.fold_scores,
        **scored,
    }
    return write_text(ensemble_file(name), json.dumps(content, indent=2) + "\n")


def score_rows(name: str, held_out: HeldOut, crossed: CrossFit) -> list[dict]:
    """The rows of scores; each person is predicted by what was chosen on other people."""
    return [
        held_out.row("best member", f"the one that did best on other {held_out.whose}", crossed.single),
        held_out.row("auto ensemble", name, crossed.plain),
        held_out.row("auto ensemble, bias", name, crossed.biased),
    ]


def summary_lines(library: Library, choice: Choice, metric: str) -> list[str]:
    """The ensemble in four lines: its main members, its temperature, its bias, and its gain over the best member."""
    fit, crossed, parts = choice.fit, choice.crossed, weight_lines(library, choice)
    more = f" and {len(parts) - MAIN} more" if len(parts) > MAIN else ""
    before, after = crossed.losses
    rule = fit.calibration.rule
    bias = "the bias stays at zero" if rule == NO_BIAS else f"the bias is kept ({rule})"
    gain = _gains(library, crossed)[metric]
    return [
        f"members: {', '.join(parts[:MAIN])}{more}",
        f"temperature {fit.calibration.temperature:.3f}: log-loss {before:.4f} without, {after:.4f} with one",
        f"{bias}: across people its gain in {metric} is {choice.bias_gain}",
        f"gain in {metric} over the best member: {gain}",
    ]


def _gains(library: Library, crossed: CrossFit) -> dict[str, Gain]:
    """What the ensemble gains over its best member by each metric."""
    return paired_gain(library.labels, crossed.plain, crossed.single, library.persons, len(library.class_counts))


def weight_lines(library: Library, choice: Choice) -> list[str]:
    """The members of a weight above 0 with their weights, the heaviest first."""
    parts = sorted(zip(choice.fit.weights, library.names, strict=True), key=lambda part: (-part[0], part[1]))
    return [f"{float(weight):.4f} of {name}" for weight, name in parts if weight]


def selection_lines(library: Library, choice: Choice, metric: str) -> list[str]:
    """How the ensemble was chosen, one line each: steps and weights of the selection, scores and bias of each fold."""
    fit, crossed = choice.fit, choice.crossed
    lines = [f"{metric} of the ensemble after each step, selected on halves of the people"]
    for number, one in enumerate(fit.selections, start=1):
        steps = list(zip(one.picks, one.scores, strict=True))[: one.kept]
        picked = ", ".join(f"+[{pick}] {METRICS[metric].shown(score):.4f}" for pick, score in steps)
        lines.append(f"half {number}: {picked}; {len(one.picks) - one.kept} more, none better")
    lines += weight_lines(library, choice)
    for name, scores in crossed.fold_scores.items():
        each = ", ".join(f"{score:.3f}" for score in scores)
        spread = f"on average {mean(scores):.4f}, spread {stdev(scores):.4f} ({each})"
        lines.append(f"{metric} within each fifth of the people, {name}: {spread}")
    lines.append(f"bias chosen without each fold: {'; '.join(crossed.rules)}")
    gains, others = _gains(library, crossed), shown_metrics(metric)
    others.remove(metric)  # which is in the summary
    return [*lines, *(f"gain in {name} over the best member: {gains[name]}" for name in others)]
