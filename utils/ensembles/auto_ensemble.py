"""A chosen ensemble: its report, and its file, which validation.py writes and inference.py applies."""

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


def ensemble_file(name: str) -> Path:
    return LOGS / f"ensemble_{name}.json"


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


def read_auto_ensemble(path: Path, options: Options) -> Ensemble:
    """The ensemble of a file that `write_ensemble` wrote, its members from the model folder; `--no-bias` leaves its
    bias out. The file's name is the ensemble's.

    Raises `InputError` for a file that is none, a member that is not there, and one whose weights are others now.
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
