"""Search for good fine-tuning options with Optuna; each trial is one run of finetune.py on the fixed split.

    accelerate launch optuna_script.py --study-name search --n-trials 30

Searched are learning rate, weight decay, batch size, epochs, augmentation strength, label smoothing and the pretrained
index; the score is that of all held-out images after the last epoch, and trials below the median of the others after
an epoch are pruned. The study lies in `logs/optuna/{study}.journal` (or any Optuna storage URL, which several machines
can share) and is gone on with when called again; `--n-trials` counts all its trials. Writes the trials' checkpoints
`model/{study}_seed{trial}_i{i}_epoch{epoch}.pt`, ready to be souped, and plots to `val_img/optuna_{study}/`.
"""

import logging
import os
import warnings

import finetune
from utils.base import files, flags, training_flags
from utils.base.errors import Diverged, InputError, Interrupted, NoRoom, run_script
from utils.base.options import Options, Parser, number, run_name

log = logging.getLogger("utils.optuna")  # under the project's own logger, whose level the runtime sets


def parser() -> Parser:
    parser = Parser(__doc__, "optuna_script.py")
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
    flags.add_labels(parser)
    flags.add_workers(parser)
    flags.add_cache(parser)
    training_flags.add_training(parser)
    training_flags.add_report(parser)
    flags.add_verbose(parser)
    return parser


def search_space(options: Options) -> dict:
    """What is searched, as plain values: limits of numbers, lists of choices."""
    from utils.models.pretrained import present_indices

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


def suggest(trial, space: dict) -> dict:
    """One trial's options; what can have one value only is not asked for."""

    def number(name: str, log: bool = False):
        low, high = space[f"{name}_limits"]
        if low == high:
            return low
        kind = trial.suggest_int if isinstance(low, int) else trial.suggest_float
        return kind(name, low, high, log=log)

    def choice(name: str, values: list):
        return trial.suggest_categorical(name, values) if len(values) > 1 else values[0]

    return {
        "lr": number("lr", log=True),
        "wd": number("wd"),
        "epochs": number("epochs"),
        "aug_strength": number("aug_strength"),
        "label_smoothing": number("label_smoothing"),
        "batch_size": choice("batch_size", space["batch_sizes"]),
        "i": choice("i", space["indices"]),
    }


def run(options: Options):
    """Search until the study has its trials; returns the study."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "a trial is one process: start one worker per GPU (CUDA_VISIBLE_DEVICES) on the same --storage"
        )
    if not options.val_ratio:
        raise InputError("--val-ratio 0 leaves nobody to score trials on")
    import optuna
    import torch

    from utils.base.digests import digest_of
    from utils.base.files import require_writable
    from utils.data.labels import Labelling
    from utils.data.photographs import read_photographs
    from utils.data.splits import make_split
    from utils.training import setup, studies, tracking
    from utils.training.records import steering

    # Runtime
    common = finetune.parser().parse([])
    shared = {name: value for name, value in vars(options).items() if name in vars(common) and name != "_frozen"}
    common = common.replace(**shared, name=options.study_name)
    accelerator = setup.start_training(common, f"optuna_{options.study_name}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a failing trial's traceback is not for users
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    require_writable(options.model_location, files.LOGS, files.PICTURES)

    # Data
    photographs = read_photographs(options.data_location, options.relabel)
    split = make_split(photographs, options.val_ratio, options.split_seed, options.split_by)
    labels = photographs.labels(Labelling(age_limits=options.age_limits))[split.held_out]

    # Study
    space = search_space(options)
    fixed = {name: value for name, value in steering(common).items() if name in shared}
    storage = options.storage or str(files.LOGS / "optuna" / f"{options.study_name}.journal")
    study = studies.open_study(
        options.study_name,
        studies.open_storage(storage),
        {"metric": options.metric, "held out": [split.digest, digest_of(labels)], **space, **fixed},
        startup_trials=min(10, max(3, options.n_trials // 4)),
        warmup_epochs=max(1, options.epochs_limits[0] // 3),
    )

    studies.check_checkpoints(study, options.model_location)

    # Trials
    def objective(trial) -> float:
        trial.set_user_attr("worker", studies.worker())
        number = studies.original_number(study.trials[trial.number])
        chosen = suggest(trial, space)
        log.info("trial %d of %d: %s", number, options.n_trials, studies.in_words(chosen))

        def after_epoch(epoch: int, scores: dict) -> None:
            trial.report(scores[options.metric], epoch)
            if trial.should_prune():
                log.info("trial %d is below the median after epoch %d: pruned", number, epoch)
                studies.remove_states(options.study_name, number, options.model_location)
                raise optuna.TrialPruned(f"pruned after epoch {epoch}")

        try:
            chosen = common.replace(**chosen, random_seed=number, resume=True)
            path, scores = finetune.run(chosen, after_epoch=after_epoch)
        except Interrupted:
            trial.set_user_attr(studies.INTERRUPTED, True)
            raise
        except (Diverged, NoRoom, torch.OutOfMemoryError) as error:
            log.info("trial %d ends: %s", number, str(error).splitlines()[0])
            studies.remove_states(options.study_name, number, options.model_location)
            torch.cuda.empty_cache()
            raise optuna.TrialPruned(str(error)) from error
        trial.set_user_attr("checkpoint", path.name)
        log.info("trial %d: %s %.4f", number, options.metric, scores[options.metric])
        return scores[options.metric]

    for taken in studies.take_up_again(study):
        log.info("trial %d was left by a worker that is gone: taken up again", taken)
    while studies.counted(study) < options.n_trials:
        study.optimize(objective, n_trials=1)

    # Result
    pictures = studies.save_pictures(study, files.PICTURES / f"optuna_{options.study_name}", options.metric)
    public = options.replace(storage=None)  # its address may hold a password
    with tracking.tracked_run(accelerator, public, f"{options.study_name}_study"):
        for name, picture in pictures.items():
            tracking.log_picture(accelerator, name, picture)
            log.info("%s: %s", name, picture)
    best = studies.best_trials(study, options.best)
    for trial in best:
        checkpoint, params = trial.user_attrs["checkpoint"], studies.in_words(trial.params)
        log.info("%s %.4f: %s, %s", options.metric, trial.value, checkpoint, params)
    if best:
        seeds = " ".join(str(studies.original_number(trial)) for trial in best)
        log.info(
            "soup of the best: accelerate launch main.py --greedy-soup --metric %s --name %s --random-seed %s",
            options.metric,
            options.study_name,
            seeds,
        )
    return study


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
