"""A sweep: the fine-tuned checkpoints of one name over seeds and indices.

Only what reads a checkpoint imports torch, so that what file names show to be wrong is said at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from utils.base.errors import InputError
from utils.base.files import fitted
from utils.base.flags import RECORD_FILE, START_FILE
from utils.base.options import ALL_FOLDS, Options
from utils.models.model_files import DROPPED, Ingredient, model_files, named_place

if TYPE_CHECKING:
    from utils.models.checkpoints import Checkpoint


class Several(InputError):
    """More checkpoints, or sweeps, fit than one."""


def find_specialists(model_location: Path, name: str) -> dict[tuple[str, ...], list[Ingredient]]:
    """The specialists of a sweep by their attributes, those of each sorted by (seed, index), the latest epoch of each
    run; in a folded sweep those that have all folds.
    """
    found = defaultdict(list)
    for file in model_files(model_location):
        if file.is_specialist and file.meta and (one := file.place) and one.name == name:
            found[file.attributes].append(one)
    whole = {attributes: latest_whole(places) for attributes, places in sorted(found.items())}
    return {attributes: places for attributes, places in whole.items() if places}


def latest_whole(ingredients: Iterable[Ingredient]) -> list[Ingredient]:
    """The latest epoch of each run, and where runs hold out folds, what all folds of a seed and index make up; models
    that were trained on everyone are none.
    """
    latest = latest_of_each(ingredients)
    return [one for one in latest if one.fold is None] + whole_folds(latest)


def latest_of_each(ingredients: Iterable[Ingredient]) -> list[Ingredient]:
    """Of each run the checkpoint of the latest epoch, sorted by run."""
    found = defaultdict(list)
    for one in ingredients:
        found[one.seed, one.i, one.folds or 0, str(one.fold)].append(one)
    return [max(epochs, key=lambda one: one.epoch) for _, epochs in sorted(found.items())]


def whole_folds(ingredients: Iterable[Ingredient]) -> list[Ingredient]:
    """An ingredient across folds for each seed and index of which every fold is among the `ingredients`, sorted."""
    found = defaultdict(dict)
    for one in ingredients:
        if one.fold not in (None, ALL_FOLDS):
            found[one.seed, one.i, one.folds][one.fold] = one
    return [across_folds([parts[k] for k in range(folds)]) for (*_, folds), parts in sorted(found.items())
            if len(parts) == folds]  # fmt: skip


def across_folds(parts: Sequence[Ingredient]) -> Ingredient:
    """The ingredient that these models of its folds make up, called as one model of a single split would be."""
    return replace(parts[0], path=path_across_folds(parts[0]), fold=None, parts=tuple(parts))


def path_across_folds(part: Ingredient) -> Path:
    """Where the ingredient of which this is one fold would lie, were it one file."""
    run, _, epoch = part.path.stem.rpartition(f"_fold{part.fold}of{part.folds}_epoch")
    return part.path.with_name(f"{run}_epoch{epoch}.pt")


def parts_on_disk(path: Path) -> list[Ingredient]:
    """The ingredient across folds that a path means which is no file: the files of all its folds lie there."""
    if path.is_file() or named_place(path) is None or not path.parent.is_dir():
        return []
    places = [file.place for file in model_files(path.parent, by_name=True)]
    parts = [one for one in places if one and one.folds and path_across_folds(one).name == path.name]
    _check_one_division(parts)
    return whole_folds(parts)


def is_there(path: Path) -> bool:
    """Whether there is a checkpoint at a path, in one file or in one of each fold."""
    return path.is_file() or bool(parts_on_disk(path))


@dataclass(frozen=True)
class Sweep:
    """The ingredients of one name, sorted by (seed, index), and the names of the files that come of them."""

    ingredients: list[Ingredient]

    def soup_file(self, model_location: Path, kind: str) -> Path:
        name, seeds, epochs, count = self._parts()
        stem = fitted(f"{name}_seed{seeds}_epoch{epochs}", f"_{_joined(kind)}soup_num{count}")
        return model_location / f"{stem}.pt"

    def log_name(self) -> str:
        name, seeds, epochs, count = self._parts()
        return fitted(f"{name}_seed{seeds}_num{count}_epoch{epochs}")

    def _parts(self) -> tuple[str, str, str, int]:
        """Name, seeds and epochs (several read `34-42`), and how many ingredients there are."""
        seeds, epochs = ({getattr(one, key) for one in self.ingredients} for key in ("seed", "epoch"))
        joined = ("-".join(map(str, sorted(values))) for values in (seeds, epochs))
        return self.ingredients[0].name, *joined, len(self.ingredients)


@dataclass(frozen=True)
class NamedFiles:
    """Checkpoints given by their paths, and the names of the files that come of them."""

    paths: list[Path]
    name: str

    def soup_file(self, model_location: Path, kind: str) -> Path:
        return model_location / f"{fitted(self.name, f'_{_joined(kind)}soup_num{len(self.paths)}')}.pt"

    def log_name(self) -> str:
        return fitted(f"{self.name}_num{len(self.paths)}")


def _joined(recipe: str) -> str:
    return recipe.replace("-", "")


def find_sweep(
    model_location: Path,
    name: str | None = None,
    seeds: list[int] | None = None,
    indices: list[int] | None = None,
    epoch: int | None = None,
    by_name: bool = False,
) -> Sweep:
    """The ingredients in a folder that fit, sorted by (seed, index): the latest epoch of each, or `epoch`, which
    for an index that drew its own number of epochs is the number that its sweep was asked for.

    Specialists, soups and release files are none. `indices` are asked for by number and none is missed
    silently but those that `--keep-top` removed. Raises `InputError` when nothing fits, when an
    asked index is missing, and when several sweeps fit. Of a folded sweep an ingredient is what all folds of its seed
    and index make up; models trained on everyone are none.
    """
    found, every = defaultdict(list), set()
    for one in (file.place for file in model_files(model_location, by_name) if not file.is_specialist):
        if one is None:
            continue
        every.add(one.path.stem)
        asked = (
            (name is None or one.name == name)
            and (seeds is None or one.seed in seeds)
            and (indices is None or one.i in indices)
            and (epoch is None or one.asked == epoch)
        )
        if asked and one.fold != ALL_FOLDS:
            found[one.name, one.seed, one.i].append(one)
    if not found:
        there = f"there are {', '.join(sorted(every))}" if every else "run finetune.py first"
        asked = {"--name": name and [name], "--random-seed": seeds, "index": indices, "--epoch": epoch and [epoch]}
        words = [f"{what} {', '.join(map(str, values))}" for what, values in asked.items() if values]
        what = f" of {' and '.join(words)}" if words else ""
        raise InputError(f"no ingredients{what} in {model_location}: {there}")
    names = sorted({key[0] for key in found})
    if len(names) > 1:
        raise Several(f"{model_location} holds several sweeps, choose one with --name: {', '.join(names)}")
    for seed in sorted({key[1] for key in found}):
        missing = [
            i
            for i in indices or ()
            if (names[0], seed, i) not in found
            and not any(model_location.glob(f"{names[0]}_seed{seed}_i{i}_*{DROPPED}"))
        ]
        if missing:
            raise InputError(f"{names[0]}: seed {seed} has no index {', '.join(map(str, missing))}")
    dropped = {seed for seed in seeds or () if any(model_location.glob(f"{names[0]}_seed{seed}_i*{DROPPED}"))}
    if seeds is not None and (absent := sorted(set(seeds) - dropped - {key[1] for key in found})):
        raise InputError(f"no ingredients with --random-seed {', '.join(map(str, absent))} in {model_location}")
    return Sweep(_ingredients(latest_of_each(one for epochs in found.values() for one in epochs), indices))


def _ingredients(latest: list[Ingredient], indices: list[int] | None) -> list[Ingredient]:
    """The ingredients that these models make up. Raises `InputError` for models of folds beside others, and when
    folds are missing of an index that was asked for, or of all.
    """
    _check_one_division(latest)
    if latest[0].folds is None:
        return latest
    whole = whole_folds(latest)
    lacking = [one for one in latest if (one.seed, one.i) not in {(other.seed, other.i) for other in whole}]
    for one in lacking:
        if not whole or one.i in (indices or ()):
            there = sorted(other.fold for other in lacking if (other.seed, other.i) == (one.seed, one.i))
            absent = ", ".join(str(fold) for fold in range(one.folds) if fold not in there)
            raise InputError(
                f"{one.name}: seed {one.seed}, index {one.i} has no model of fold {absent} of {one.folds}: fine-tune "
                f"it (finetune.py --folds {one.folds} --fold {absent.split(',')[0]})"
            )
    return whole


def _check_one_division(ingredients: list[Ingredient]) -> None:
    """Raise `InputError` unless all are of one single split, or of as many folds."""
    kinds = sorted({one.folds for one in ingredients}, key=lambda folds: folds or 0)
    if len(kinds) > 1:
        first, words = ingredients[0], [f"{folds} folds" if folds else "a single split" for folds in kinds]
        raise Several(
            f"{first.path.parent} has models of {first.name} of {' and '.join(words)}: keep them in two folders"
        )


def saved_soups(
    sweep: Sweep | NamedFiles, model_location: Path, ingredients: list[Checkpoint], recipes: Iterable[str]
) -> list[Checkpoint]:
    """The soups of this sweep by these recipes that lie in the folder and were made of these very ingredients.

    What they were fine-tuned from may be in it as well, if the sweep has a single split.
    """
    from utils.models.checkpoints import read_checkpoint

    parts = [part for one in ingredients for part in one.parts]
    digests, folded = {one.digest for one in parts}, len(parts) > len(ingredients)
    paths = [sweep.soup_file(model_location, recipe) for recipe in recipes]
    soups = [read_checkpoint(path) for path in paths if path.is_file()]
    return [
        soup
        for soup in soups
        if soup.meta
        and digests.issuperset(one["digest"] for one in soup.meta["made_from"] if folded or one["name"] != START_FILE)
    ]


def asked_sweep(options: Options, by_name: bool = False) -> Sweep:
    """The ingredients that `--name`, `--i` and `--random-seed` mean, all that fit."""
    seeds = None if options.random_seed is None else [options.random_seed]
    indices = None if options.i is None else [options.i]
    return find_sweep(options.model_location, options.name, seeds, indices, by_name=by_name)


def choose_checkpoint(options: Options, by_name: bool = False) -> Path:
    """The file that `--model-name` means, or the one ingredient that `--name`, `--i` and `--random-seed` mean.

    Raises `InputError` when several fit, and when a named file's record has another seed or index than asked for.
    """
    asked = {"random_seed": options.random_seed, "i": options.i}
    asked = {name: value for name, value in asked.items() if value is not None}
    if options.model_name is None and (asked or options.name):
        fitting = asked_sweep(options, by_name).ingredients
        if len(fitting) != 1:
            names = ", ".join(one.path.name for one in fitting)
            raise Several(f"--name, --i and --random-seed must mean one checkpoint, they mean {names}")
        return fitting[0].path
    path = find_checkpoint(options.model_name, options.model_location, by_name)
    if by_name or not asked:
        return path
    from utils.models.folded import read_model

    meta = read_model(path, tower=options.tower).meta
    for name, value in asked.items() if meta else ():
        recorded = _recorded(meta, name)
        if value not in recorded:
            flag, values = f"--{name.replace('_', '-')}", ", ".join(map(str, sorted(recorded)))
            raise InputError(f"{path} was trained with {flag} {values}, not {value}: leave {flag} out")
    return path


def _recorded(meta: dict, name: str) -> set[int]:
    """The `random_seed` or `i` that a checkpoint's record tells of; a soup has those of its members."""
    if name in meta["options"]:
        return {meta["options"][name]}
    members = filter(None, (named_place(Path(one["name"])) for one in meta["made_from"]))
    return {getattr(one, {"random_seed": "seed", "i": "i"}[name]) for one in members}


def find_checkpoint(model_name: str | None, model_location: Path, by_name: bool = False) -> Path:
    """The file that `--model-name` means: a path, or a name inside the model location, with or without `.pt`; or the
    folder of an exported soup. A model across folds goes by the name without the fold, and no file has it.

    Without a name: the only greedy soup, else the only checkpoint of all classes; several are an error that lists
    them. A soup of one fold is none of them, nor is a model of one fold or of `--fold all`.
    """
    if model_name is not None:
        for candidate in (Path(model_name), model_location / model_name, model_location / f"{model_name}.pt"):
            if is_there(candidate) or (candidate / RECORD_FILE).is_file():
                return candidate
    files = model_files(model_location, by_name)
    if model_name is not None:
        there = ", ".join(file.path.name for file in files) or "no checkpoints"
        raise InputError(f"no checkpoint {model_name}, neither here nor in {model_location}, which has {there}")
    models = [file for file in files if not (file.is_specialist or file.is_of_a_fold)]
    greedy = [file.path for file in models if file.recipe == "greedy"]
    places = [file.place for file in models]
    paths = [file.path for file, place in zip(models, places, strict=True) if not (place and place.folds)]
    paths += [one.path for one in latest_whole(place for place in places if place and place.folds)]
    if by_name and not all(places):  # one may be a greedy soup that was renamed
        paths = greedy
    for choice in (greedy, paths):
        if len(choice) == 1:
            return choice[0]
        if choice:
            names = ", ".join(path.name for path in choice)
            raise Several(f"several checkpoints, choose one with --model-name: {names}; or a sweep with --sweep NAME")
    raise InputError(f"no checkpoints in {model_location}: run finetune.py first, or give --model-name")


def check_names(
    options: Options, choose: Callable[..., object] | None = None, named: Iterable[str | None] = ()
) -> None:
    """Raise the `InputError` that file names alone call for, before anything is read: one of the checkpoints `named`
    is not there, several fit what `choose(by_name=True)` looks for, or there are none at all.
    """
    for name in filter(None, named):
        find_checkpoint(name, options.model_location, by_name=True)
    if choose is None:
        return
    there = model_files(options.model_location, by_name=True)
    try:
        choose(by_name=True)
    except Several:
        raise
    except InputError:  # which the files' records may know better
        if not there:
            raise
