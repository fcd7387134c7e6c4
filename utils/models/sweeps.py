"""A sweep: the fine-tuned checkpoints of one name over seeds and indices.

Only what reads a checkpoint imports torch, so that what file names show to be wrong is said at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.base.errors import InputError
from utils.base.files import fitted, locked, write_text
from utils.base.flags import RECORD_FILE, START_FILE
from utils.base.metrics import METRICS
from utils.base.options import Options
from utils.base.records import Digest, Record

if TYPE_CHECKING:
    from utils.models.checkpoints import Checkpoint

AGE_PREFIX = "Age_"  # of an age specialist's file
DROPPED = ".dropped.json"  # what takes the place of ".pt" when `--keep-top` removes a checkpoint


class Several(InputError):
    """More checkpoints, or sweeps, fit than one."""


@dataclass(frozen=True)
class Ingredient:
    """One fine-tuned checkpoint that may go into a soup, and its place in its sweep.

    `epoch` is the one that its file is named after; `asked` the `--epochs` of its sweep, which an index that draws its
    own options need not have.
    """

    path: Path
    name: str
    seed: int
    i: int
    epoch: int
    asked: int


@dataclass(frozen=True)
class ModelFile:
    """A checkpoint in the model folder, as its record `meta` tells of it.

    A file without a record (the original's, or a damaged one, which fails when it is read) is known by its name only.
    """

    path: Path
    meta: dict | None

    @property
    def is_age_specialist(self) -> bool:
        """Whether it is a model of the age alone."""
        if self.meta is None:
            return self.path.name.startswith(AGE_PREFIX)
        return self.meta.get("labelling", {}).get("attributes") == ["age"]

    @property
    def recipe(self) -> str | None:
        """That of a soup."""
        if self.meta is None:
            return "greedy" if "_greedysoup" in self.path.stem else None
        return self.meta.get("options", {}).get("recipe")

    @property
    def sweep(self) -> str | None:
        """The name of its sweep, of a soup that of its members; None when nothing tells."""
        return self.place.name if self.place else sweep_of(self.meta)

    @property
    def place(self) -> Ingredient | None:
        """Its place in its sweep, of an age specialist too; None for a soup and for what has no place."""
        if self.meta is None:
            return _by_name(self.path)
        options, place = self.meta.get("options", {}), self.meta.get("ingredient")
        if self.meta.get("made_from") or "random_seed" not in options:
            return None
        if place is None:  # of a program that wrote no place: its epoch stands in its name only
            named = _by_name(self.path)
            epoch = named.epoch if named else options["epochs"]
            place = {"name": options["name"], "seed": options["random_seed"], "i": options["i"], "epoch": epoch}
        is_final = place["epoch"] == options.get("epochs")
        asked = options.get("epochs asked", place["epoch"]) if is_final else place["epoch"]
        return Ingredient(self.path, **place, asked=asked)


def _by_name(path: Path) -> Ingredient | None:
    """The place that a file's name tells, `{name}_seed{seed}_i{i}_epoch{epoch}`, for what has no record."""
    name, numbers = path.stem.removeprefix(AGE_PREFIX), []
    for word in ("_epoch", "_i", "_seed"):
        name, _, number = name.rpartition(word)
        numbers.append(number)
    if not name or not all(number.isdecimal() for number in numbers):
        return None
    epoch, i, seed = map(int, numbers)
    return Ingredient(path, name, seed, i, epoch, epoch)


def sweep_of(meta: dict | None) -> str | None:
    """The name of the sweep that a record tells of, of a soup that of its members; None when nothing tells."""
    if meta is None:
        return None
    if "random_seed" in meta.get("options", {}):
        return meta["options"]["name"]
    members = filter(None, (_by_name(Path(one["name"])) for one in meta.get("made_from", ())))
    return next((one.name for one in members), None)


def model_files(model_location: Path, by_name: bool = False) -> list[ModelFile]:
    """The `.pt` files of the folder, sorted, without the release's `model_{i}.pt`, hidden and temporary files; known
    by their records, or `by_name` only, which reads none.
    """
    if not Path(model_location).is_dir():
        raise InputError(f"model folder {model_location} does not exist: give --model-location")
    paths = sorted(Path(model_location).glob("*.pt"))
    others = [path for path in paths if not path.name.startswith(".") and not is_release_file(path)]
    if by_name:
        return [ModelFile(path, None) for path in others]
    from utils.models.weights import read_meta

    return [ModelFile(path, read_meta(path)) for path in others]


def is_release_file(path: Path) -> bool:
    """Whether it is called `model_{i}.pt`, as in the model-soups release."""
    name, _, index = path.stem.rpartition("_")
    return name == "model" and index.isdecimal()


def find_specialists(model_location: Path, name: str) -> list[Ingredient]:
    """The age specialists of a sweep, sorted by (seed, index), the latest epoch of each."""
    found = {}
    for file in model_files(model_location):
        one = file.place if file.is_age_specialist and file.meta else None
        if one and one.name == name and one.epoch >= found.get((one.seed, one.i), one).epoch:
            found[one.seed, one.i] = one
    return [one for _, one in sorted(found.items())]


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

    Age specialists, soups and release files are none. `indices` are asked for by number and none is missed
    silently but those that `--keep-top` removed. Raises `InputError` when nothing fits, when an
    asked index is missing, and when several sweeps fit.
    """
    found, every = defaultdict(list), set()
    for one in (file.place for file in model_files(model_location, by_name) if not file.is_age_specialist):
        if one is None:
            continue
        every.add(one.path.stem)
        asked = (
            (name is None or one.name == name)
            and (seeds is None or one.seed in seeds)
            and (indices is None or one.i in indices)
            and (epoch is None or one.asked == epoch)
        )
        if asked:
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
            and not any(model_location.glob(f"{names[0]}_seed{seed}_i{i}_epoch*{DROPPED}"))
        ]
        if missing:
            raise InputError(f"{names[0]}: seed {seed} has no index {', '.join(map(str, missing))}")
    dropped = {seed for seed in seeds or () if any(model_location.glob(f"{names[0]}_seed{seed}_i*{DROPPED}"))}
    if seeds is not None and (absent := sorted(set(seeds) - dropped - {key[1] for key in found})):
        raise InputError(f"no ingredients with --random-seed {', '.join(map(str, absent))} in {model_location}")
    return Sweep([max(epochs, key=lambda one: one.epoch) for _, epochs in sorted(found.items())])


class DroppedNote(Record):
    """What is left of a checkpoint that `keep_top` removed."""

    options: dict[str, Any]
    scores: dict[str, Any] | None
    digest: Digest


def keep_top(model_location: Path, name: str, most: int, metric: str) -> list[Path]:
    """Remove all but the `most` best checkpoints of a sweep by their recorded held-out score; returns what went.

    Each leaves a note of its options and scores beside it, by which the same run is skipped when it is asked for
    again; checkpoints of its earlier epochs go with it. Of equal scores the lower seed and index stay. A run that is
    still under way, or whose record is older than the metric, is neither counted nor touched.
    """
    from utils.models.weights import read_meta

    removed = []
    with locked(model_location / ".keep_top.lock"):  # several runs of a sweep may end at once
        metas = {one: read_meta(one.path) for one in find_sweep(model_location, name).ingredients}
        ended = [one for one, meta in metas.items() if meta is not None and one.epoch == meta["options"].get("epochs")]
        scored = [one for one in ended if metric in (metas[one]["scores"] or ())]
        for one in sorted(scored, key=lambda one: -METRICS[metric].sign * metas[one]["scores"][metric])[most:]:
            note = DroppedNote(**{key: metas[one][key] for key in DroppedNote.model_fields})
            write_text(one.path.with_suffix(DROPPED), note.model_dump_json(indent=1) + "\n")
            removed += sorted(model_location.glob(f"{name}_seed{one.seed}_i{one.i}_epoch*.pt"))
        for path in removed:
            path.unlink(missing_ok=True)
    return removed


def saved_soups(
    sweep: Sweep | NamedFiles, model_location: Path, ingredients: list[Checkpoint], recipes: Iterable[str]
) -> list[Checkpoint]:
    """The soups of this sweep by these recipes that lie in the folder and were made of these very ingredients.

    What they were fine-tuned from may be in it as well.
    """
    from utils.models.checkpoints import read_checkpoint

    digests = {one.digest for one in ingredients}
    paths = [sweep.soup_file(model_location, recipe) for recipe in recipes]
    soups = [read_checkpoint(path) for path in paths if path.is_file()]
    return [
        soup
        for soup in soups
        if soup.meta
        and digests.issuperset(one["digest"] for one in soup.meta["made_from"] if one["name"] != START_FILE)
    ]


def choose_checkpoint(options: Options, by_name: bool = False) -> Path:
    """The file that `--model-name` means, or the one ingredient that `--name`, `--i` and `--random-seed` mean.

    Raises `InputError` when several fit, and when a named file's record has another seed or index than asked for.
    """
    asked = {"random_seed": options.random_seed, "i": options.i}
    asked = {name: value for name, value in asked.items() if value is not None}
    if options.model_name is None and (asked or options.name):
        seeds = None if options.random_seed is None else [options.random_seed]
        indices = None if options.i is None else [options.i]
        fitting = find_sweep(options.model_location, options.name, seeds, indices, by_name=by_name).ingredients
        if len(fitting) != 1:
            names = ", ".join(one.path.name for one in fitting)
            raise Several(f"--name, --i and --random-seed must mean one checkpoint, they mean {names}")
        return fitting[0].path
    path = find_checkpoint(options.model_name, options.model_location, by_name)
    if by_name or not asked:
        return path
    from utils.models.checkpoints import read_checkpoint

    meta = read_checkpoint(path, tower=options.tower).meta
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
    members = filter(None, (_by_name(Path(one["name"])) for one in meta["made_from"]))
    return {getattr(one, {"random_seed": "seed", "i": "i"}[name]) for one in members}


def find_checkpoint(model_name: str | None, model_location: Path, by_name: bool = False) -> Path:
    """The file that `--model-name` means: a path, or a name inside the model location, with or without `.pt`; or the
    folder of an exported soup.

    Without a name: the only greedy soup, else the only checkpoint of 18 classes; several are an error that lists them.
    """
    if model_name is not None:
        for candidate in (Path(model_name), model_location / model_name, model_location / f"{model_name}.pt"):
            if candidate.is_file() or (candidate / RECORD_FILE).is_file():
                return candidate
    files = model_files(model_location, by_name)
    if model_name is not None:
        there = ", ".join(file.path.name for file in files) or "no checkpoints"
        raise InputError(f"no checkpoint {model_name}, neither here nor in {model_location}, which has {there}")
    models = [file for file in files if not file.is_age_specialist]
    greedy = [file for file in models if file.recipe == "greedy"]
    if by_name and not all(file.place for file in models):  # one may be a greedy soup that was renamed
        models = greedy
    for choice in (greedy, models):
        if len(choice) == 1:
            return choice[0].path
        if choice:
            names = ", ".join(file.path.name for file in choice)
            raise Several(f"several checkpoints, choose one with --model-name: {names}")
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
