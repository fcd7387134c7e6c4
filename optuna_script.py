"""Search for good fine-tuning options with Optuna; each trial is one run of finetune.py on the fixed split.

    accelerate launch optuna_script.py --study-name search --n-trials 30

Searched are learning rate, weight decay, batch size, epochs, augmentation strength, label smoothing and the pretrained
index; the score is that of all held-out images after the last epoch, and trials below the median of the others after
an epoch are pruned. With `--folds 5` a trial is five runs, and everybody scores it, each person by the run that holds
this person out; trials below the median after a fold are pruned, and leave no checkpoints. The study lies in
`logs/optuna/{study}.journal` (or any Optuna storage URL, which several machines can share) and is gone on with when
called again; `--n-trials` counts all its trials. Writes the trials' checkpoints
`model/{study}_seed{trial}_i{i}_epoch{epoch}.pt` (with `_fold{k}of{K}` before the epoch), ready to be souped, and plots
to `val_img/optuna_{study}/`.
"""

from __future__ import annotations

import logging
import os
import shlex
import warnings
from typing import TYPE_CHECKING

import finetune
from utils.base import files, flags, training_flags
from utils.base.data_flags import add_reading
from utils.base.errors import InputError, run_script
from utils.base.metrics import METRICS
from utils.base.options import Options, Parser, number, run_name
from utils.base.terminal import log_file

if TYPE_CHECKING:
    import optuna
    from accelerate import Accelerator

log = logging.getLogger("utils.optuna")  # under the project's own logger, whose level the runtime sets


def parser() -> Parser:
    parser = Parser(__doc__, "optuna_script.py", training_flags.check)
    what = parser.group("what")
    what.add_argument("--study-name", type=run_name, default="search", help="name of study and checkpoints")
    what.add_argument("--n-trials", type=number(int, 1), default=30, help="trials of the study in all")
    what.add_argument("--best", type=number(int, 1), default=5, help="how many of the best trials to name")
    training_flags.add_search_space(parser)
    parser.group("saving and resuming").add_argument(
        "--storage", help="journal file or Optuna storage URL (default: logs/optuna/{study}.journal)"
    )
    flags.add_locations(parser)
    flags.add_split(parser)
    flags.add_fold_count(parser, "score each trial on everybody, by one model for each of K folds of the people")
    flags.add_labels(parser)
    add_reading(parser)
    flags.add_workers(parser)
    flags.add_cache(parser)
    training_flags.add_training(parser)
    training_flags.add_report(parser)
    flags.add_verbose(parser)
    return parser


def search_space(options: Options) -> dict:
    """What is searched, as plain values: limits of numbers, lists of choices."""
    from utils.models.starts import present_indices

    names = ("lr_limits", "wd_limits", "epochs_limits", "aug_strength_limits", "label_smoothing_limits", "batch_sizes")
    space = {name: list(getattr(options, name)) for name in names}
    present = present_indices(options)
    space["indices"] = list(options.indices or present)
    if absent := sorted(set(space["indices"]) - set(present)):
        raise InputError(f"--indices {absent[0]}: there is {', '.join(map(str, present))} to start from")
    for name, (low, high) in ((name, space[name]) for name in names if name.endswith("limits")):
        if low > high:
            raise InputError(f"--{name.replace('_', '-')} {low} {high}: the first must not be above the second")
    return space


def run(options: Options) -> optuna.Study:
    """Search until the study has its trials; returns the study."""
    from utils.training import preflight

    check(options)
    flags.check_files(options)
    preflight.check_tools(options)
    space = search_space(options)
    # optuna and torch take seconds to import, and neither --help nor a mistake should wait for them
    import optuna

    from utils.base.files import require_writable
    from utils.training import setup, studies
    from utils.training.trials import Trials, pooled_scorer

    # Runtime
    common, fixed = options_of_all_trials(options)
    accelerator = setup.start_training(common, f"optuna_{options.study_name}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a failing trial's traceback is not for users
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    require_writable(options.model_location, files.LOGS, files.PICTURES)

    # Study
    address = options.storage or str(files.LOGS / "optuna" / f"{options.study_name}.journal")
    settings = {"metric": options.metric, "held out": held_out_people(options), **space, **fixed}
    with studies.naming(address):
        study = studies.open_study(
            options.study_name,
            studies.open_storage(address),
            settings,
            startup_trials=min(10, max(3, options.n_trials // 4)),
            warmup_epochs=None if options.folds else max(1, options.epochs_limits[0] // 3),
        )
        studies.check_checkpoints(study, options.model_location)

        # Trials
        for taken in studies.take_up_again(study):
            log.info("trial %d was left by a worker that is gone: taken up again", taken)
        pooled = pooled_scorer(accelerator, common) if options.folds else None
        trials = Trials(study, space, common, finetune.run, pooled, count=options.n_trials)
        while studies.counted(study) < options.n_trials:
            study.optimize(trials.objective, n_trials=1)

        # Result
        show_study(accelerator, study, options)
        tell_best(study, options)
    return study


def check(options: Options) -> None:
    """Raise `InputError` where there is nobody to score on, or several processes would share one trial."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "a trial is one process: start one worker per GPU (CUDA_VISIBLE_DEVICES) on the same --storage"
        )
    if not options.val_ratio:
        raise InputError("--val-ratio 0 leaves nobody to score trials on")


def options_of_all_trials(options: Options) -> tuple[Options, dict]:
    """The options of finetune.py that all trials have in common, and of these the ones that steer training and that
    this script has too, as a study records them.
    """
    from utils.training.recorded_options import steering

    defaults = finetune.parser().parse([])
    shared = {name: getattr(options, name) for name in defaults.plain if hasattr(options, name)}
    common = defaults.replace(**shared, name=options.study_name)
    return common, {name: value for name, value in steering(common).items() if name in shared}


def held_out_people(options: Options) -> list[str]:
    """Digests of who scores the trials, and of their labels, as a study records them."""
    from utils.base.digests import digest_of
    from utils.data.reading import asked_labelling, read_photographs, reading_of
    from utils.data.splits import make_folds, make_split

    photographs = read_photographs(options.data_location, options.relabel, reading_of(options))
    labels = photographs.labels(asked_labelling(photographs, options))
    if options.folds:
        folds = make_folds(photographs, options.folds, options.split_seed, options.split_by)
        partition = folds[0].folded.partition
        counts = f"{len(photographs)} photographs, each held out in one of {options.folds} folds to score on"
        log.info("study %s: %s (folds %s)", options.study_name, counts, partition)
        return [partition, digest_of(labels)]
    split = make_split(photographs, options.val_ratio, options.split_seed, options.split_by)
    labels = labels[split.held_out]
    counts = f"{len(split.train)} photographs to train on, {len(split.held_out)} held out to score on"
    log.info("study %s: %s (split %s)", options.study_name, counts, split.digest)
    return [split.digest, digest_of(labels)]


def show_study(accelerator: Accelerator, study: optuna.Study, options: Options) -> None:
    """Write the plots of the study, and send them to the tracker."""
    from utils.training import studies, tracking

    folder = files.PICTURES / f"optuna_{options.study_name}"
    pictures = studies.save_pictures(study, folder, "minus " * METRICS[options.metric].is_loss + options.metric)
    public = options.replace(storage=None)  # its address may hold a password
    with tracking.tracked_run(accelerator, public, f"{options.study_name}_study"):
        for name, picture in pictures.items():
            tracking.log_picture(accelerator, name, picture)
            log.debug("%s: %s", name, picture)
    if pictures:
        log.info("plots of the study: %s", folder)


def tell_best(study: optuna.Study, options: Options) -> None:
    """Name the best trials and what to do with them."""
    from utils.training import studies
    from utils.training.records import location_flags

    best = studies.best_trials(study, options.best)
    for trial in best:
        checkpoint, params = trial.user_attrs["checkpoint"], studies.in_words(trial.params)
        score = METRICS[options.metric].sign * trial.value
        log.info("%s %.4f: %s, %s", options.metric, score, checkpoint, params)
    if best:
        words = ["accelerate", "launch", "main.py", "--greedy-soup", "--metric", options.metric]
        words += ["--name", options.study_name, "--random-seed"]
        words += [str(studies.original_number(trial)) for trial in best]
        log.info("next, a soup of these: %s", shlex.join([*words, *location_flags(options)]))
    log.info("log: %s", log_file())


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
