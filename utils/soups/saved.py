"""Soups on the disk: their checkpoints with the record of how they were made, and what is said of them.

A folded sweep makes of one choice the mean over its folds, which is written like any soup; on demand the soup of each
fold, which a second round starts from; and the *refit*, the same recipe over models that were trained on everyone.
"""

from dataclasses import dataclass
from pathlib import Path

from utils.base.options import ALL_FOLDS
from utils.base.runtime import from_main
from utils.evaluation.results import ESTIMATE
from utils.evaluation.scores import Gain
from utils.models.averaging import Mixture
from utils.models.checkpoints import Checkpoint, check_same_kind, read_checkpoint, save_checkpoint, soup_meta
from utils.models.folded import everyone_split
from utils.models.model_files import Ingredient, model_files
from utils.models.starts import fold_file
from utils.soups.evaluator import Evaluator
from utils.soups.nested import NestedGain
from utils.soups.recipes import Soup


@dataclass(frozen=True)
class SavedSoup:
    """A soup and its checkpoint; `gains` are those over the expected single model, `nested` those of `--nested`.

    `refit` is the checkpoint of the same recipe over models trained on everyone, None where there are none.
    """

    soup: Soup
    checkpoint: Checkpoint
    gains: dict[str, Gain]
    nested: NestedGain | None
    refit: Checkpoint | None = None


def save_soup(evaluator: Evaluator, soup: Soup, path: Path, people: str, save_folds: bool = False) -> Checkpoint:
    """Write a soup with its record, put its logits into the cache, and read it back on every process.

    `people` says in words whom it was scored on. With `save_folds` the soup of each fold comes beside it.
    """
    held_out, mixture = evaluator.held_out, soup.mixture

    def save() -> None:
        meta = _meta(evaluator, soup, soup.recipe, mixture.flat, people)
        if len(mixture.parts) > 1:
            meta |= {"split": everyone_split(evaluator.ingredients[0].parts), "folds_of": mixture.digest}
        held_out.keep(save_checkpoint(path, mixture.state_dict(), meta), soup.logits)
        for fold, part in enumerate(mixture.parts if save_folds and len(mixture.parts) > 1 else ()):
            own = _meta(evaluator, soup, soup.recipe, part, people) | {"folds_of": mixture.digest}
            save_checkpoint(fold_file(path, fold, len(mixture.parts)), part.state_dict(), own)

    from_main(held_out.accelerator, save)
    return read_checkpoint(path)


def _meta(evaluator: Evaluator, soup: Soup, recipe: str, mixture: Mixture, people: str) -> dict:
    """The record of a checkpoint that holds this mixture, made like the soup, with the scores of the soup."""
    how = {"recipe": recipe, "metric": evaluator.metric_name, "weights": mixture.record()}
    scores = {"people": people, **evaluator.held_out.score(soup.logits).record()}
    if len(soup.mixture.parts) > 1:
        scores["estimate"] = ESTIMATE
    return soup_meta(mixture.members, mixture.shares, how, scores)


def save_refit(evaluator: Evaluator, soup: Soup, path: Path, people: str) -> Checkpoint | None:
    """Write the average of the soup's recipe over models that were trained on everyone, with the weights of the soup;
    None where one of them is not there, and nothing is written.
    """
    if len(soup.mixture.parts) == 1:
        return None
    there = [file.place for file in model_files(path.parent) if not file.is_specialist]
    everyone = [one for one in there if one and one.fold == ALL_FOLDS]
    members = [_trained_on_everyone(one, everyone) for one in soup.mixture.members]
    if None in members:
        return None
    mixture = Mixture.of(members, soup.mixture.weights)

    def save() -> None:
        check_same_kind(members)
        meta = _meta(evaluator, soup, f"{soup.recipe} refit", mixture, people)
        save_checkpoint(path, mixture.state_dict(), meta)

    from_main(evaluator.held_out.accelerator, save)
    return read_checkpoint(path)


def _trained_on_everyone(ingredient: Checkpoint, everyone: list[Ingredient]) -> Checkpoint | None:
    """The latest model of the same seed and index among those that hold out no fold."""
    place = (ingredient.meta or {}).get("ingredient")
    if place is None:  # a start, or the models of several folds
        return None
    asked = place["name"], place["seed"], place["i"], place.get("folds")
    found = [one for one in everyone if (one.name, one.seed, one.i, one.folds) == asked]
    return read_checkpoint(max(found, key=lambda one: one.epoch).path) if found else None
