"""What soups are made of, and the photographs they are scored on."""

from dataclasses import dataclass, replace

import numpy as np
from accelerate import Accelerator

from utils.base.digests import digest_of
from utils.base.errors import InputError
from utils.base.options import Options
from utils.data.labelled import LabelledImages, read_labelled_images
from utils.data.photographs import Photographs
from utils.data.reading import read_photographs, recorded_reading
from utils.data.splits import evaluation_splits, splits_digest
from utils.evaluation.folded import OutOfFold
from utils.evaluation.held_out import HeldOut
from utils.evaluation.people import images_of
from utils.models.checkpoints import Checkpoint, check_same_kind, read_checkpoint
from utils.models.folded import FoldedModel, read_ingredient
from utils.models.sweeps import NamedFiles, Sweep, find_sweep


@dataclass(frozen=True)
class SoupInputs:
    """The ingredients, the `names` of the files to write, and the photographs to score on: those at `rows`, of a
    folded sweep those of each fold.

    `who` says in words who is on these photographs, and `split` is the digest of the split that they are of.
    """

    ingredients: list[Checkpoint]
    names: Sweep | NamedFiles
    photographs: Photographs | LabelledImages
    rows: list[np.ndarray]
    who: str
    split: str

    @property
    def scored_on(self) -> str:
        return images_of(self.who, self.split, self.photographs.relabelled[np.concatenate(self.rows)])

    def held_out(self, accelerator: Accelerator, options: Options) -> HeldOut | OutOfFold:
        """The photographs to score on."""
        how = self.ingredients[0].labelling, self.ingredients[0].preprocessing
        parts = [HeldOut(accelerator, self.photographs, rows, *how, options) for rows in self.rows]
        return OutOfFold(parts) if isinstance(self.ingredients[0], FoldedModel) else parts[0]

    @property
    def sweep(self) -> str | None:
        """The name of the sweep; None when the files or the images are others."""
        return self.names.ingredients[0].name if isinstance(self.names, Sweep) else None


def read_inputs(options: Options) -> SoupInputs:
    """Read the ingredients, check that they can be averaged, and read the photographs to score them on.

    The ingredients are a sweep in the model folder, or the files of `--ingredients`. The photographs are those of the
    people that the ingredients hold out, or the images of `--score-on`. Raises `InputError` when they do not fit.
    """
    if options.ingredients:
        names = NamedFiles(options.ingredients, options.name or "soup")
        paths = names.paths
    else:
        indices = options.indices or (options.model_num and list(range(options.model_num)))
        names = find_sweep(options.model_location, options.name, options.random_seed, indices, options.epoch)
        paths = [one.path for one in names.ingredients]
    places = names.ingredients if isinstance(names, Sweep) else [None] * len(paths)
    images = read_labelled_images(options.score_on) if options.score_on else None
    classes_of = images and images.head_classes
    how = options.mean, options.std, classes_of, options.tower
    read = [
        read_ingredient(one, *how) if one else read_checkpoint(path, *how)
        for one, path in zip(places, paths, strict=True)
    ]
    ingredients = distinct(read)
    recorded = next((one for one in ingredients if one.meta is not None), None)
    if recorded is not None:  # a head without a record has the classes of one with a record
        same = recorded.labelling.num_classes
        ingredients = [
            replace(one, classes=recorded.labelling) if one.meta is None and one.labelling.num_classes == same else one
            for one in ingredients
        ]
    check_same_kind(ingredients)
    for k in range(1, len(ingredients[0].parts)):
        check_same_kind([one.parts[k] for one in ingredients])
    doubled = len(ingredients) - len({one.digest for one in ingredients})
    if options.ingredients and doubled:
        raise InputError(f"--ingredients: {doubled} of the files have the weights of another one")
    if images is not None:
        who, split = f"the set {options.score_on}", digest_of(images.ids)
        if not options.ingredients:  # the files of scores under the sweep's own name are of its held-out people
            names = NamedFiles(paths, f"{names.log_name()}_on_{options.score_on.stem}")
        return SoupInputs(ingredients, names, images, [np.arange(len(images))], who, split)
    photographs = read_photographs(options.data_location, options.relabel, recorded_reading(ingredients))
    splits, who = evaluation_splits(photographs, options, ingredients)
    return SoupInputs(ingredients, names, photographs, [one.held_out for one in splits], who, splits_digest(splits))


def distinct(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints, each labelled by its file name, and by as many of its folders as set equal file names apart."""
    parts = [one.path.absolute().parts for one in checkpoints]  # not resolved: the name of a link is the user's
    depth = 1
    while len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    return [replace(one, label="/".join(part[-depth:])) for one, part in zip(checkpoints, parts, strict=True)]
