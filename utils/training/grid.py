"""The runs of one process, by their options and file names: what is to be trained yet, and how long that will take."""

import time
from collections.abc import Iterator, Sequence

from utils.base.options import Options
from utils.base.terminal import duration
from utils.base.training_flags import each_run
from utils.models.model_files import DROPPED, specialist_prefix
from utils.training.index_options import options_of_run


def run_stem(options: Options) -> str:
    """What the files of a run begin with; a prefix tells specialists from ingredients."""
    prefix = specialist_prefix(options.attributes)
    fold = "" if options.fold is None else f"_fold{options.fold}of{options.folds}"
    return f"{prefix}{options.name}_seed{options.random_seed}_i{options.i}{fold}"


def epochs_to_do(options: Options) -> int:
    """The epochs that a run is to train: none when its checkpoint is there."""
    options = options_of_run(options)
    if options.fast_dev_run:
        return 1
    final = options.model_location / f"{run_stem(options)}_epoch{options.epochs}.pt"
    there = final.is_file() or final.with_suffix(DROPPED).is_file()
    return options.epochs if options.overwrite or not there else 0


def is_first(options: Options) -> bool:
    """Whether it is the first of the `--runs`, or the only one."""
    return not options.runs or options.runs[0] == (options.random_seed, options.i, options.fold)


def epochs_behind(options: Options) -> int:
    """The epochs that those of the `--runs` are to train which come behind this one."""
    if not options.runs:
        return 0
    here = options.runs.index((options.random_seed, options.i, options.fold))
    return sum(epochs_to_do(one) for one in each_run(options)[here + 1 :])


def one_by_one(runs: Sequence[Options]) -> Iterator[tuple[Options, str]]:
    """Each of the runs, and as soon as one is trained how long all that are left take at the pace of those before."""
    to_do = [epochs_to_do(one) for one in runs]
    begin = time.monotonic()
    for k, one in enumerate(runs):
        left, done = sum(to_do[k:]), sum(to_do[:k])
        told = f", about {duration((time.monotonic() - begin) / done * left)} left for all" if done and left else ""
        yield one, told
