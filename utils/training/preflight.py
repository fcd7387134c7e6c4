"""What options and file names alone show to be wrong with fine-tuning, before torch is imported and anything runs."""

import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path

from utils.base import flags, training_flags
from utils.base.data_flags import is_hub_id
from utils.base.errors import InputError, run_script
from utils.base.options import Options
from utils.models.model_files import SPECIALIST, model_files, specialist_name, specialist_prefix
from utils.models.starts import find_pretrained
from utils.training.index_options import options_of_run, saved_epochs


def check_run(options: Options) -> None:
    """Raise `InputError` when photographs, corrections, the start or a package that a run needs are not there."""
    flags.check_files(options)
    check_tools(options)
    find_pretrained(options)


def check_tools(options: Options) -> None:
    """Raise `InputError` when the tracker or the compiler that the options ask for is not installed."""
    if options.report_to == "tensorboard" and not any(map(importlib.util.find_spec, ("tensorboard", "tensorboardX"))):
        raise InputError("--report-to tensorboard needs the package: pip install tensorboard")
    if options.compile and not shutil.which(shlex.split(os.environ.get("CXX", "g++"))[0]):
        raise InputError("--compile needs a C++ compiler: install g++, or name one with CXX")


def check_name_is_free(options: Options) -> None:
    """Raise `InputError` when the name has checkpoints of other epochs, as a rehearsal leaves them: a second sweep
    would begin beside the first, and be mixed with it where a script takes all of a name. Of each run the latest epoch
    counts; `--save-every` may have left earlier ones.
    """
    latest, own = {}, f"{specialist_prefix(options.attributes)}{options.name}"
    for file in model_files(options.model_location, by_name=True):
        if (place := file.place) is not None and place.name in (options.name, own):
            run = file.is_specialist, place.run
            latest[run] = max(place, latest.get(run, place), key=lambda one: one.epoch)
    for place in latest.values():
        if place.folds != options.folds:
            kinds = [f"{folds} folds" if folds else "a single split" for folds in (place.folds, options.folds)]
            raise InputError(f"{place.path} is of {kinds[0]}, and this sweep of {kinds[1]}: choose another NAME")
        epochs = saved_epochs(options_of_run(options.replace(i=place.i, fold=place.fold)))
        if place.epoch not in epochs:
            raise InputError(
                f"{place.path} is of {place.epoch} epochs, and with EPOCHS={options.epochs} it would be of "
                f"{epochs[-1]}: choose another NAME, go on with the EPOCHS of before, or remove what is left of that "
                "sweep"
            )


def main(argv: list[str] | None = None) -> None:
    """The arguments are those that training.sh gives finetune.py; `--runs` only where something is to be trained."""
    options = training_flags.finetune_parser("", "finetune.py").parse(argv)
    check_training(options)
    if has_specialist(options):
        print(specialist_name(SPECIALIST))


def has_specialist(options: Options) -> bool:
    """Whether finetune_age.py has something to train: an age is one of several attributes of the photographs. The
    demo's, which are yet to be drawn, are the competition's.
    """
    from utils.data import competition, reading

    known = competition.labelling()
    if _is_there(options):
        known = reading.read_photographs(options.data_location, options.relabel, reading.reading_of(options)).labelling
    return set(SPECIALIST) < set(known.attributes)


def _is_there(options: Options) -> bool:
    return options.data_location.exists() or is_hub_id(options.data_location)


def check_training(options: Options) -> None:
    """Raise `InputError` for what finetune.py would refuse in the runs of a sweep."""
    if _is_there(options):  # the demo has yet to draw its photographs
        flags.check_files(options)
    if not options.runs:
        return
    check_tools(options)
    if not training_flags.each_index_has_a_start(options.model):  # training.sh looks for the release's files
        find_pretrained(options)
    if options.model_location.is_dir() and not options.overwrite:
        check_name_is_free(options)


def check_test(argv: list[str]) -> None:
    """End as a script does that has nothing to predict, and warn where all there is are photographs to train on, for
    training.sh; `argv` is the location, and the arguments of finetune.py.
    """
    run_script(lambda: _check_test(Path(argv[0]), training_flags.finetune_parser("", "finetune.py").parse(argv[1:])))


def _check_test(location: Path, options: Options) -> None:
    from utils.data.unlabelled import check_folder, tells_own_images

    check_folder(location)
    same = location.resolve() == options.data_location.resolve()
    if same and not tells_own_images(location, options.split_column):
        print(
            f"warning: nothing in {location} is set apart to predict, so answers will be those of photographs that "
            "the models learn from, and say little: name others with TEST_LOCATION",
            file=sys.stderr,
        )


def tell() -> None:
    """`main` as a script, for training.sh."""
    run_script(main)
