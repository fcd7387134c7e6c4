"""What predicts together: asked for, read from the disk, checked to fit, and named.

A model predicts by itself, with specialists whose weight `validation.py` tuned, with other models that vote, or in
the ensemble that `validation.py --ensemble auto` chose. Weights and ensembles lie in `logs/ensemble_*.json`.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.base.files import fitted, write_text
from utils.base.options import Options
from utils.base.records import read_record
from utils.data.labels import Labelling
from utils.ensembles.calibration import Calibration
from utils.ensembles.combining import as_probs, class_log_probs, corrected_mean, soft_vote, weighted_mean
from utils.evaluation.kept import ChosenEnsemble, TunedWeight, ensemble_file, read_chosen
from utils.evaluation.manifest import (
    AUTO_ENSEMBLE,
    BEST_SINGLE,
    GREEDY,
    OVER_FOLDS,
    REFIT,
    SOFT_VOTE,
    SOUP,
    Manifest,
    with_specialist,
)
from utils.models.checkpoints import Checkpoint, check_members, flipped, versions
from utils.models.folded import read_model, soup_across_folds
from utils.models.model_files import specialist_name, sweep_of
from utils.models.sweeps import find_checkpoint, find_specialists, is_there

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ensemble:
    """Models that predict together: `combine` makes (N, C) scores of their logits, in the order of `members`.

    `rule` is what `as_probs` makes probabilities of the scores by; `how` tells weights and rules for the record. With
    `by_folds` each member is the mean of the log-probabilities of the models of its folds, else one model, which for a
    member across folds is their average.
    """

    name: str
    members: list[Checkpoint]
    combine: Callable[[list[np.ndarray]], np.ndarray]
    rule: str = "log"
    how: dict = field(default_factory=dict)
    by_folds: bool = False

    @property
    def models(self) -> list[Checkpoint]:
        """What is evaluated: the members, or the models of the first one's folds, then those of the second, and so
        on.
        """
        if not self.by_folds:
            return self.members
        return [replace(part, preprocessing=one.preprocessing) for one in self.members for part in one.parts]

    def of_members(self, logits: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(N, C) logits of each member, of those of the `models`; over folds they are mean log-probabilities."""
        if not self.by_folds:
            return list(logits)
        logits = iter(logits)
        return [soft_vote(list(islice(logits, len(one.parts))), "log") for one in self.members]

    def scores(self, logits: Sequence[Sequence[np.ndarray]], shards: Iterable[int]) -> Iterator[np.ndarray]:
        """(n, C) scores of each shard, by the logits of each model shard by shard; NaN in the rows of images that
        could not be read.
        """
        for shard in shards:
            yield combine_readable(self, [one[shard] for one in logits])

    @property
    def labelling(self) -> Labelling:
        """What the scores are of: the classes of the members that are no specialists."""
        return max((one.labelling for one in self.members), key=lambda one: len(one.attributes))

    @property
    def record(self) -> dict:
        """What is told beside a submission: whose it is, and how it was made."""
        members = [
            {"name": one.name, "digest": one.digest, **one.preprocessing}
            | ({"folds": [part.digest for part in one.parts]} if self.by_folds else {})
            for one in self.members
        ]
        sweeps = filter(None, (sweep_of(one.meta) for one in self.members))
        record = {"sweep": next(sweeps, None), "members": members, "how": self.how, "versions": versions()}
        return record | self.labelling.record()

    @property
    def to_probs(self) -> Callable[[np.ndarray], np.ndarray]:
        """Makes (N, C) probabilities of scores."""
        return partial(as_probs, rule=self.rule)


@dataclass(frozen=True)
class AutoFile:
    """The file of an auto ensemble and what it holds."""

    path: Path
    chosen: ChosenEnsemble


@dataclass(frozen=True)
class Way:
    """One way to predict: a model by itself, with specialists or with other models; or an auto ensemble."""

    model: str | None = None
    specialists: Sequence[str] = ()
    others: Sequence[str] = ()
    auto: AutoFile | None = None


def asked_way(options: Options) -> Way:
    """What `--model-name`, `--weighted-ensemble`, `--soft-voting` and `--ensemble` ask for."""
    if options.soft_voting_rule and not options.soft_voting:
        raise InputError(f"--soft-voting-rule {options.soft_voting_rule} is for --soft-voting, which is not given")
    if isinstance(options.ensemble, Path):
        return Way(auto=read_auto_file(options.ensemble, options.model_location))
    return Way(options.model_name, options.weighted_ensemble or (), options.soft_voting or ())


def read_ensembles(options: Options) -> dict[str, Ensemble]:
    """What the options ask for: one ensemble without a name, or with `--sweep` those of all its ways.

    Of a sweep, an auto ensemble that does not fit it any more is left out, and the log says why.
    """
    if not options.sweep:
        return {"": read_ensemble(asked_way(options), options)}
    found, behind = {}, OVER_FOLDS if options.members == "folds" else ""
    for name, way in ways_of_sweep(options.sweep, options.model_location).items():
        if behind and name == REFIT:  # its models hold out no fold
            continue
        try:
            found[f"{name}{behind}"] = read_ensemble(way, options)
        except InputError as error:
            if name != AUTO_ENSEMBLE:
                raise
            log.info("the auto ensemble is left out: %s", error)
    return found


def ways_of_sweep(sweep: Manifest, model_location: Path) -> dict[str, Way]:
    """By themselves the best single model, the recommended soup, its refit on everyone and the greedy soup, where
    there are such; the soup with a specialist, and with the best single model; and the auto ensemble, where one
    was chosen.
    """
    best, soup = (str(model_location / name) for name in (sweep.best, sweep.soup))
    ways = {BEST_SINGLE: Way(best), SOUP: Way(soup)}
    if sweep.refit:
        ways[REFIT] = Way(str(model_location / sweep.refit))
    if "greedy" in sweep.soups and sweep.soups["greedy"] != sweep.soup:
        ways[GREEDY] = Way(str(model_location / sweep.soups["greedy"]))
    specialists = find_specialists(model_location, sweep.name)
    for attributes, places in list(specialists.items())[:1]:
        ways[with_specialist(attributes)] = Way(soup, specialists=[str(places[0].path)])
    if not specialists:
        log.debug("the sweep %s has no specialist: going on without one", sweep)
    for attributes in list(specialists)[1:]:
        log.info("the sweep %s has a %s too, which --weighted-ensemble takes", sweep, specialist_name(attributes))
    ways[SOFT_VOTE] = Way(soup, others=[best])
    path = ensemble_file(f"{sweep}_auto")
    if path.is_file():
        try:
            ways[AUTO_ENSEMBLE] = Way(auto=read_auto_file(path, model_location))
        except InputError as error:
            log.info("the auto ensemble is left out: %s", error)
    return ways


def way_to_validate(sweep: Manifest, model_location: Path) -> Way:
    """The soup with all that a sweep puts beside it: its specialist and its best single model."""
    ways = ways_of_sweep(sweep, model_location)
    specialists = next((way.specialists for way in ways.values() if way.specialists), ())
    return replace(ways[SOFT_VOTE], specialists=specialists)


def read_auto_file(path: Path, model_location: Path) -> AutoFile:
    """Raises `InputError` for a file that is no auto ensemble, and for a member that is not in the model folder."""
    if not path.is_file():
        raise InputError(f"--ensemble {path} does not exist: validation.py --ensemble auto writes one")
    chosen = read_chosen(path)
    for one in chosen.members:
        if not is_there(model_location / one.file):
            raise InputError(
                f"{path} needs {model_location / one.file}, which is not there: give --model-location, or choose anew "
                "with validation.py --ensemble auto"
            )
    return AutoFile(path, chosen)


def read_parts(way: Way, options: Options, by_folds: bool) -> tuple[Checkpoint, list[Checkpoint], list[Checkpoint]]:
    """The model, the specialists and the other models of a way, as `--mean`, `--std` and `--flip` say; of an auto
    ensemble the first member and all others. `by_folds` asks for soups with the models of their folds, too.

    Raises `InputError` for one that does not fit the model, and when the weights of an auto ensemble's member are
    others now than when it was chosen.
    """
    if way.auto:
        chosen = way.auto.chosen.members
        paths, flips = [options.model_location / one.file for one in chosen], [one.flip for one in chosen]
    else:
        chosen = ()
        paths = [find_checkpoint(name, options.model_location) for name in (way.model, *way.specialists, *way.others)]
        flips = [options.flip] * len(paths)
    models = [read_model(path, options.mean, options.std, tower=options.tower) for path in paths]
    models = list(map(soup_across_folds, models)) if by_folds else models
    for model, one in zip(models, chosen, strict=False):
        if model.digest != one.digest:
            raise InputError(
                f"{model.path} has other weights than {way.auto.path} was chosen with ({model.digest[:12]}, not "
                f"{one.digest[:12]}): choose anew with validation.py --ensemble auto"
            )
    model, *rest = (flipped(one) if flip else one for one, flip in zip(models, flips, strict=True))
    if way.auto:
        return model, [], rest
    specialists, others = rest[: len(way.specialists)], rest[len(way.specialists) :]
    check_members(model, specialists, others)
    return model, specialists, others


def read_ensemble(way: Way, options: Options) -> Ensemble:
    """The models of a way and how they are put together."""
    by_folds = options.members == "folds"
    model, specialists, others = read_parts(way, options, by_folds)
    ensemble = _put_together(way, model, specialists, others, options)
    if not by_folds:
        return ensemble
    whole = next((one for one in ensemble.members if len(one.parts) == 1), None)
    if whole:
        raise InputError(f"--members folds: {whole.path} is one model and has no folds: leave --members out")
    how = {**ensemble.how, "members": "folds"}
    return replace(ensemble, name=fitted(ensemble.name, "_folds"), how=how, by_folds=True)


def _put_together(
    way: Way, model: Checkpoint, specialists: list[Checkpoint], others: list[Checkpoint], options: Options
) -> Ensemble:
    if way.auto:
        return _auto_ensemble(way.auto, [model, *others], with_bias=not options.no_bias)
    if specialists:
        weight = load_weight(model, specialists)
        combine = partial(corrected_mean, weight=weight, whole=model.labelling, own=specialists[0].labelling)
        return Ensemble(weighted_name(model, specialists), [model, *specialists], combine, how={"age weight": weight})
    if others:
        rule = options.soft_voting_rule or "minmax"
        voted = partial(soft_vote, rule=rule)
        return Ensemble(soft_voting_name(model, others, rule), [model, *others], voted, rule, {"soft vote": rule})
    return Ensemble(model.name, [model], lambda logits: logits[0])


def _auto_ensemble(auto: AutoFile, members: list[Checkpoint], with_bias: bool) -> Ensemble:
    calibration = Calibration(auto.chosen.temperature, np.array(auto.chosen.bias))
    calibration = calibration if with_bias else calibration.without_bias()
    name = auto.path.stem.removeprefix("ensemble_") + ("" if with_bias else "_nobias")
    labellings, weights = [member.labelling for member in members], [one.weight for one in auto.chosen.members]
    classes = max(labelling.num_classes for labelling in labellings)
    if len(calibration.bias) != classes:
        raise InputError(f"{auto.path} has a bias of {len(calibration.bias)} classes, and its models tell {classes}")
    combine = partial(calibrated_mean, labellings=labellings, weights=weights, calibration=calibration)
    how = {"weights": weights, "temperature": calibration.temperature, "bias": calibration.bias.tolist()}
    return Ensemble(name, members, combine, how=how)


def calibrated_mean(
    logits: Sequence[np.ndarray],
    labellings: Sequence[Labelling],
    weights: Sequence[float],
    calibration: Calibration,
) -> np.ndarray:
    """(N, C) scores of an auto ensemble's members."""
    whole = max(labellings, key=lambda one: len(one.attributes))
    log_probs = [class_log_probs(one, whole, own) for one, own in zip(logits, labellings, strict=True)]
    return calibration.apply(weighted_mean(log_probs, weights))


def combine_readable(ensemble: Ensemble, logits: list[np.ndarray]) -> np.ndarray:
    """(N, C) scores of the models' logits; a row that is NaN for one of them is NaN."""
    readable = np.isfinite([one[:, 0] for one in logits]).all(0)
    combined = ensemble.combine(ensemble.of_members([one[readable] for one in logits]))
    scores = np.full((len(readable), combined.shape[1]), np.nan)
    scores[readable] = combined
    return scores


def weighted_name(model: Checkpoint, specialists: Sequence[Checkpoint]) -> str:
    return _joined_names(f"{model.name}_WE_", specialists)


def soft_voting_name(model: Checkpoint, others: Sequence[Checkpoint], rule: str = "minmax") -> str:
    """The names of all, and the rule when it is not the published one."""
    return _joined_names(f"{model.name}_SV_", others, "" if rule == "minmax" else f"_{rule}")


def _joined_names(before: str, checkpoints: Sequence[Checkpoint], behind: str = "") -> str:
    """The names of all; of more than three, or where a file name would be too long, their number and a digest."""
    names = "_".join(one.name for one in checkpoints)
    whole = f"{before}{names}{behind}"
    if len(checkpoints) <= 3 and fitted(whole) == whole:
        return whole
    return fitted(f"{before}{len(checkpoints)}models_{hashlib.sha256(names.encode()).hexdigest()[:8]}{behind}")


def save_weight(model: Checkpoint, specialists: Sequence[Checkpoint], record: dict) -> Path:
    """Keep a tuned `weight` with the digests of all models; `record` also says how it was tuned and how it scores."""
    content = {**_identities(model, specialists), **record}
    return write_text(ensemble_file(weighted_name(model, specialists)), json.dumps(content, indent=2) + "\n")


def load_weight(model: Checkpoint, specialists: Sequence[Checkpoint]) -> float:
    """The weight that validation tuned for exactly these models; without one 1.0, and the log says so."""
    path = ensemble_file(weighted_name(model, specialists))
    if not path.is_file():
        log.warning("no weight tuned for these models (%s): 1.0 is taken; validation.py tunes it", path)
        return 1.0
    asked = _identities(model, specialists)
    tuned = read_record(path, TunedWeight, "tuned weight", "remove it, or run validation.py again").model_dump()
    tuned_for, weight = {key: tuned.get(key) for key in asked}, tuned["weight"]
    if tuned_for != asked:
        log.warning("%s was tuned for other weights of these names: 1.0 is taken; run validation.py again", path)
        return 1.0
    log.debug("weight of the specialist: %g (%s)", weight, path)
    return weight


def _identities(model: Checkpoint, specialists: Sequence[Checkpoint]) -> dict:
    """By their places: `model`, `age`, and of several specialists `age2` and so on, whatever they tell."""
    places = ["model", "age", *(f"age{k}" for k in range(2, len(specialists) + 1))]
    identities = [{"name": one.path.name, "digest": one.digest} for one in (model, *specialists)]
    return dict(zip(places, identities, strict=True))
