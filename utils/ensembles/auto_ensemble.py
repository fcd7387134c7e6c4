"""The ensemble that `--ensemble auto` chose: its file, written by validation.py, read by inference.py; its report."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from utils.base.errors import InputError
from utils.base.files import LOGS, write_text
from utils.base.options import Options
from utils.data.labels import Labelling
from utils.ensembles.calibration import NO_BIAS, Calibration
from utils.ensembles.candidates import Candidate
from utils.ensembles.combining import class_log_probs, weighted_mean
from utils.ensembles.members import Ensemble
from utils.ensembles.selection import Choice, CrossFit, Library
from utils.evaluation.held_out import HeldOut
from utils.evaluation.scores import paired_gain
from utils.models.checkpoints import Checkpoint, flipped, read_checkpoint

NUM_CLASSES = Labelling().num_classes
MAIN = 3  # members that the summary names


def ensemble_file(name: str) -> Path:
    return LOGS / f"ensemble_{name}.json"


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


def read_auto_ensemble(path: Path, options: Options) -> Ensemble:
    """The ensemble in a file of `write_ensemble`, named as the file is; its members are read from the model folder.

    `--no-bias` leaves its bias out. Raises `InputError` for another file, a missing member, and one of other weights.
    """
    if not path.is_file():
        raise InputError(f"--ensemble {path} does not exist: validation.py --ensemble auto writes one")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        weights = [float(one["weight"]) for one in content["members"]]
        parts = [(str(one["file"]), str(one["digest"]), bool(one["flip"])) for one in content["members"]]
        calibration = Calibration(float(content["temperature"]), np.array(content["bias"], np.float64))
        finite = all(map(math.isfinite, [*weights, calibration.temperature, *calibration.bias]))
        if not (parts and finite and calibration.bias.shape == (NUM_CLASSES,) and calibration.temperature > 0):
            raise ValueError("members, temperature or bias out of range")
    except (ValueError, KeyError, TypeError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path} is no chosen ensemble ({why}): validation.py --ensemble auto writes one") from error
    name = path.stem.removeprefix("ensemble_")
    members = [_member(options.model_location / file, digest, flip, path) for file, digest, flip in parts]
    if options.no_bias:
        name, calibration = f"{name}_nobias", calibration.without_bias()

    def combine(logits: list[np.ndarray]) -> np.ndarray:
        every = [class_log_probs(one, member.labelling) for one, member in zip(logits, members, strict=True)]
        return calibration.apply(weighted_mean(every, weights))

    how = {"weights": weights, "temperature": calibration.temperature, "bias": calibration.bias.tolist()}
    return Ensemble(name, members, combine, how=how)


def _member(file: Path, digest: str, flip: bool, ensemble: Path) -> Checkpoint:
    if not file.is_file():
        raise InputError(f"{ensemble} needs {file}, which is not there: give --model-location, or choose anew with "
                         "validation.py --ensemble auto")  # fmt: skip
    checkpoint = read_checkpoint(file)
    if checkpoint.digest != digest:
        raise InputError(f"{file} has other weights than {ensemble} was chosen with ({checkpoint.digest[:12]}, not "
                         f"{digest[:12]}): choose anew with validation.py --ensemble auto")  # fmt: skip
    return flipped(checkpoint) if flip else checkpoint


def score_rows(name: str, held_out: HeldOut, crossed: CrossFit) -> list[dict]:
    """The rows of scores; each person is predicted by what was chosen on other people."""
    return [
        held_out.row("best member", "the one that did best on other people", crossed.single),
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
    gain = paired_gain(library.labels, crossed.plain, crossed.single, library.persons, NUM_CLASSES)[metric]
    return [
        f"members: {', '.join(parts[:MAIN])}{more}",
        f"temperature {fit.calibration.temperature:.3f}: log-loss {before:.4f} without, {after:.4f} with one",
        f"{bias}: across people one changes {metric} by {choice.bias_gain}",
        f"{metric} of the ensemble minus the best member: {gain}",
    ]


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
        picked = ", ".join(f"+[{pick}] {float(score):.4f}" for pick, score in steps)
        lines.append(f"half {number}: {picked}; {len(one.picks) - one.kept} more, none better")
    lines += weight_lines(library, choice)
    for name, scores in crossed.fold_scores.items():
        each = ", ".join(f"{score:.3f}" for score in scores)
        spread = f"on average {mean(scores):.4f}, spread {stdev(scores):.4f} ({each})"
        lines.append(f"{metric} within each fifth of the people, {name}: {spread}")
    lines.append(f"bias chosen without each fold: {'; '.join(crossed.rules)}")
    gains = paired_gain(library.labels, crossed.plain, crossed.single, library.persons, NUM_CLASSES)
    others = {name: gain for name, gain in gains.items() if name != metric}  # that by `metric` is in the summary
    return [*lines, *(f"{name} of the ensemble minus the best member: {gain}" for name, gain in others.items())]
