"""What a sweep submits: its best single model, its soup, the soup with others, and its auto ensemble."""

import logging
from pathlib import Path

from utils.base.errors import InputError
from utils.base.options import Options
from utils.ensembles.auto_ensemble import ensemble_file, read_auto_ensemble
from utils.ensembles.members import Ensemble, read_ensemble
from utils.evaluation.manifest import AUTO_ENSEMBLE, BEST_SINGLE, SOFT_VOTE, SOUP, WEIGHTED, Manifest, read_manifest
from utils.models.sweeps import find_specialists

log = logging.getLogger(__name__)


def sweep_members(options: Options) -> tuple[Manifest, dict[str, Options]]:
    """The manifest of `--sweep`, and for each way that one of its models predicts by itself or with others the options
    that ask for it. Without an age specialist the way with one is left out.
    """
    manifest = read_manifest(options.sweep)
    best, soup = (str(options.model_location / name) for name in (manifest.best, manifest.soup))
    ages = find_specialists(options.model_location, manifest.name)
    ways = {BEST_SINGLE: {"model_name": best}, SOUP: {"model_name": soup}}
    if ages:
        ways[WEIGHTED] = {"model_name": soup, "weighted_ensemble": [str(ages[0].path)]}
    else:
        log.info("there is no age specialist of %s: going on without one", manifest.name)
    ways[SOFT_VOTE] = {"model_name": soup, "soft_voting": [best]}
    return manifest, {way: options.replace(sweep=None, **asked) for way, asked in ways.items()}


def read_sweep(options: Options) -> tuple[Manifest, dict[str, Ensemble]]:
    """The manifest of `--sweep` and all its ways to predict. An auto ensemble that does not fit it any more is left
    out, and the log says why.
    """
    manifest, ways = sweep_members(options)
    ensembles = {way: read_ensemble(Path(one.model_name), one) for way, one in ways.items()}
    path = ensemble_file(f"{manifest.name}_auto")
    if path.is_file():
        try:
            ensembles[AUTO_ENSEMBLE] = read_auto_ensemble(path, options)
        except InputError as error:
            log.info("the auto ensemble is left out: %s", error)
    return manifest, ensembles
