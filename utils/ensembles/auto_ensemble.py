"""A chosen ensemble: its report, and its file, which validation.py writes and inference.py applies."""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev

from utils.base.files import write_text
from utils.data.labels import Labelling
from utils.ensembles.calibration import NO_BIAS
from utils.ensembles.candidates import Candidate
from utils.ensembles.members import ensemble_file
from utils.ensembles.selection import Choice, CrossFit, Library
from utils.evaluation.held_out import HeldOut
from utils.evaluation.scores import paired_gain

NUM_CLASSES = Labelling().num_classes


def write_ensemble(name: str, candidates: list[Candidate], choice: Choice, known: dict) -> Path:
    """Keep the members that weigh anything with their digests, the calibration, and how both do across people.

    `known` is what the caller knows of those people.
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
        **known,
    }
    return write_text(ensemble_file(name), json.dumps(content, indent=2) + "\n")


def score_rows(name: str, held_out: HeldOut, crossed: CrossFit) -> list[dict]:
    """Scores on people that chose nothing of what predicts them."""
    return [
        held_out.row("best member", "the one that did best on other people", crossed.single),
        held_out.row("auto ensemble", name, crossed.plain),
        held_out.row("auto ensemble, bias", name, crossed.biased),
    ]


def selection_lines(library: Library, choice: Choice, metric: str) -> list[str]:
    """What was selected and decided, one line each."""
    fit, crossed = choice.fit, choice.crossed
    lines = [f"{metric} of the ensemble after each step, selected on halves of the people"]
    for number, one in enumerate(fit.selections, start=1):
        steps = list(zip(one.picks, one.scores, strict=True))[: one.kept]
        told = ", ".join(f"+[{pick}] {float(score):.4f}" for pick, score in steps)
        lines.append(f"half {number}: {told}; {len(one.picks) - one.kept} more, none better")
    parts = sorted(zip(fit.weights, library.names, strict=True), key=lambda part: (-part[0], part[1]))
    lines += [f"{float(weight):.4f} of {name}" for weight, name in parts if weight]
    before, after = crossed.losses
    lines.append(f"temperature {fit.calibration.temperature:.3f}: log-loss {before:.4f} without, {after:.4f} with one")
    for name, scores in crossed.fold_scores.items():
        each = ", ".join(f"{score:.3f}" for score in scores)
        told = f"on average {mean(scores):.4f}, spread {stdev(scores):.4f} ({each})"
        lines.append(f"{metric} within each fifth of the people, {name}: {told}")
    lines.append(f"bias chosen without each fold: {'; '.join(crossed.rules)}")
    kept = (
        "the bias stays at zero" if fit.calibration.rule == NO_BIAS else f"the bias is kept ({fit.calibration.rule})"
    )
    lines.append(f"{kept}: across people one changes {metric} by {choice.bias_gain}")
    preds = crossed.plain, crossed.single
    gains = paired_gain(library.labels, *preds, library.persons, NUM_CLASSES)
    return [*lines, *(f"{name} of the ensemble minus the best member: {gain}" for name, gain in gains.items())]
