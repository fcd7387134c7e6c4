"""A soup on the disk: its checkpoint with the record of how it was made, and what is said of it."""

from dataclasses import dataclass
from pathlib import Path

from utils.base.runtime import from_main
from utils.evaluation.scores import Gain
from utils.models.checkpoints import Checkpoint, read_checkpoint, save_checkpoint, soup_meta
from utils.soups.evaluator import Evaluator
from utils.soups.nested import NestedGain
from utils.soups.recipes import Soup


@dataclass(frozen=True)
class SavedSoup:
    """A soup and its checkpoint; `gains` are those over the best ingredient, `nested` those of `--nested`."""

    soup: Soup
    checkpoint: Checkpoint
    gains: dict[str, Gain]
    nested: NestedGain | None


def save_soup(evaluator: Evaluator, soup: Soup, path: Path, people: str) -> Checkpoint:
    """Write a soup with its record, put its logits into the cache, and read it back on every process.

    `people` says in words whom it was scored on.
    """
    held_out, mixture = evaluator.held_out, soup.mixture

    def save() -> None:
        how = {"recipe": soup.recipe, "metric": evaluator.metric_name, "weights": mixture.record()}
        scores = {"people": people, **held_out.score(soup.logits).record()}
        meta = soup_meta(mixture.members, mixture.shares, how, scores)
        held_out.keep(save_checkpoint(path, mixture.state_dict(), meta), soup.logits)

    from_main(held_out.accelerator, save)
    return read_checkpoint(path)
