"""The options of fine-tuning, which finetune.py, finetune_age.py and optuna_script.py share.

Like `utils.base.options` this imports nothing heavy.
"""

from pathlib import Path

from utils.base import flags
from utils.base.data_flags import add_reading, names, sorted_names, value
from utils.base.errors import InputError
from utils.base.flags import add_push
from utils.base.metrics import METRICS
from utils.base.options import (
    ALL_FOLDS,
    Options,
    Parser,
    age_range,
    frozen_part,
    number,
    one_run,
    run_name,
    true_or_false,
)

LOSSES = {"CrossEntropyLoss": True, "ContrastiveLoss": False}  # whether it takes the labels of mixed photographs
TRACKERS = ("wandb", "tensorboard")
REPORT_TO = (*TRACKERS, "csv", "none")
EPOCHS = number(int, 1, 100_000)
RELEASE = "ViT-B/32"  # --model: the model-soups release, one file model_{i}.pt for each index


def finetune_parser(docstring: str, script: str, attributes: tuple[str, ...] | None = None) -> Parser:
    """The parser of finetune.py and finetune_age.py; `attributes` are those that it trains a specialist of unless told
    others.
    """
    parser = Parser(docstring, script, check)
    add_searched(parser)
    add_runs(parser)
    parser.group("what").add_argument(
        "--attributes", type=sorted_names, metavar="A,B", default=attributes,
        help="train a specialist of some attributes alone, for --weighted-ensemble"
        + ("" if attributes else " (default: a model of all)"),
    )  # fmt: skip
    flags.add_locations(parser)
    flags.add_split(parser)
    flags.add_folds(parser)
    flags.add_labels(parser)
    add_reading(parser)
    add_run(parser)
    flags.add_workers(parser)
    flags.add_cache(parser)
    add_training(parser)
    add_soft_labels(parser)
    add_outputs(parser)
    flags.add_verbose(parser)
    return parser


def add_runs(parser: Parser) -> None:
    parser.group("what").add_argument(
        "--runs", type=one_run, nargs="+", metavar="SEED:I[:FOLD]",
        help="several runs, one after the other in one process (default: the one of --random-seed, --i and --fold)",
    )  # fmt: skip


def each_run(options: Options) -> list[Options]:
    """The options of each of the `--runs`, or of the one run there is."""
    runs = options.runs or [(options.random_seed, options.i, options.fold)]
    return [options.replace(random_seed=seed, i=i, fold=fold) for seed, i, fold in runs]


def takes_mixed_labels(loss_fn: str) -> bool:
    """Whether a loss can learn from a photograph that is mixed of two classes."""
    return LOSSES[loss_fn]


def each_index_has_a_start(model: str) -> bool:
    """Whether `--i` chooses what a run starts from; with any `--model` but the release all indices share one start."""
    return model == RELEASE


def check(options: Options) -> None:
    """Raise `InputError` for options that contradict each other."""
    mixing = next((flag for flag in ("mixup", "half_cutmix") if getattr(options, flag, None)), None)
    scored = {"--keep best": options.keep == "best", "--patience": options.patience}
    scored["--keep-top"] = getattr(options, "keep_top", None)  # a study has neither this nor mixup
    if not options.val_ratio and any(scored.values()):
        asked = next(flag for flag, given in scored.items() if given)
        raise InputError(f"{asked} goes by held-out scores, and --val-ratio 0 leaves nobody to score on")
    if options.folds:
        check_folds(options, {flag for flag in ("--keep best", "--patience") if scored[flag]})
    elif hasattr(options, "runs") and any(one.fold is not None for one in each_run(options)):
        raise InputError("a fold is one of several: give --folds too, such as --folds 5")
    if options.half_cutmix_within and not options.half_cutmix:
        raise InputError("--half-cutmix-within says how halves are mixed: give --half-cutmix too, such as 0.3")
    if mixing and not takes_mixed_labels(options.loss_fn):
        flag = mixing.replace("_", "-")
        raise InputError(f"--loss-fn {options.loss_fn} needs one label per photograph: leave out --{flag}")


def check_folds(options: Options, chosen_by_held_out: set[str]) -> None:
    """Raise `InputError` for a fold that is not there, and for what does not go with folds."""
    if options.val_ratio != flags.DEFAULT_SPLIT["val_ratio"]:
        raise InputError(f"--folds {options.folds} says who is held out: leave --val-ratio out")
    for flag in chosen_by_held_out:
        raise InputError(f"{flag} goes by the people held out, and --folds scores them as new people: leave it out")
    if not hasattr(options, "fold"):  # a study trains all of them
        return
    last = options.folds - 1
    for one in each_run(options):
        if one.fold is None or (one.fold != ALL_FOLDS and one.fold > last):
            told = "none is given" if one.fold is None else f"not {one.fold}"
            raise InputError(f"--folds {options.folds} has the folds 0 to {last}, and {ALL_FOLDS}: --fold, {told}")


def add_searched(parser: Parser) -> None:
    """What one run chooses and `optuna_script.py` searches: which ingredient, and how it is trained."""
    what, optimisation = parser.group("what"), parser.group("optimisation")
    what.add_argument("--name", type=run_name, default="finetune_cp", help="name of the sweep")
    what.add_argument(
        "--i", type=number(int, 0, 999_999), default=0, help="index of the pretrained ingredient model_{i}.pt"
    )
    what.add_argument(
        "--random-seed", type=number(int, 0, 2**32 - 1), default=42, help="seed of order and augmentation"
    )
    optimisation.add_argument("--lr", type=number(float, 0, above=True), default=1e-5, help="peak learning rate")
    optimisation.add_argument("--epochs", type=EPOCHS, default=20, help="passes over the training images")
    optimisation.add_argument("--batch-size", type=flags.BATCH, default=64, help="images per step and process")
    optimisation.add_argument("--wd", type=number(float, 0), default=0.1, help="AdamW weight decay")
    parser.group("augmentation").add_argument(
        "--aug-strength", type=number(float, 0, 3), default=1.0, help="scale of the augmentation; 0 leaves it out"
    )


def add_soft_labels(parser: Parser) -> None:
    """What makes the labels of one run less sure."""
    parser.group("loss and imbalance").add_argument(
        "--label-smoothing",
        type=number(float, 0, 0.9),
        default=0.0,
        help="share of each label that the cross entropy spreads over all classes",
    )
    parser.group("augmentation").add_argument(
        "--mixup", type=number(float, 0, 8), default=0.0, metavar="ALPHA",
        help="mix each photograph with another one by a Beta(ALPHA, ALPHA) share",
    )  # fmt: skip


def add_training(parser: Parser) -> None:
    """What steers fine-tuning beside the searched options, the same in all runs of a study."""
    _add_start(parser)
    _add_optimisation(parser)
    _add_loss(parser)
    _add_augmentation(parser)
    _add_scored(parser)
    _add_speed(parser)


def _add_start(parser: Parser) -> None:
    what = parser.group("what")
    what.add_argument(
        "--model",
        default=RELEASE,
        help=f"{RELEASE} (the release's model_{{i}}.pt), ViT-B/16 (OpenAI's, from the hub), a hub id, a folder or a "
        "file",
    )
    flags.add_tower(parser)
    what.add_argument("--image-size", type=number(int, 1), help="pixels per side (default: the model's own)")
    what.add_argument(
        "--head-init",
        choices=("zeroshot", "probe", "random"),
        help="start of the classification head (default: zeroshot when the source has a text tower, else probe)",
    )
    what.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="CSV class,prompt with one or several sentences for each class, for a zero-shot head (default: made of "
        "the names)",
    )  # fmt: skip
    parser.group("which checkpoints").add_argument(
        "--pretrained-location", type=Path, metavar="DIR", help="folder of model_{i}.pt (default: the model location)"
    )
    parser.group("data").add_argument(
        "--drop-ages",
        type=age_range,
        metavar="57-59",
        help="leave people of these ages out of the training (default: nobody)",
    )


def _add_optimisation(parser: Parser) -> None:
    group = parser.group("optimisation")
    group.add_argument(
        "--warmup-length", type=number(int, 0), default=500, help="warm-up steps, at most a tenth of all steps"
    )
    group.add_argument("--gradient-accumulation-steps", type=flags.BATCH, default=1, help="batches per optimizer step")
    group.add_argument(
        "--layer-decay", type=number(float, 0, 1, above=True), default=1.0,
        help="learning rate of each layer as a part of the next one's",
    )  # fmt: skip
    group.add_argument(
        "--freeze",
        type=frozen_part,
        metavar="{backbone,first-K}",
        help="train the head alone, or leave K layers as they are (default: everything is trained)",
    )
    group.add_argument(
        "--ema-decay", type=number(float, 0, 0.99999), default=0.0,
        help="evaluate and save an exponential moving average of the weights; 0 leaves it out",
    )  # fmt: skip


def _add_loss(parser: Parser) -> None:
    group = parser.group("loss and imbalance")
    group.add_argument(
        "--loss-fn",
        choices=tuple(LOSSES),
        default="CrossEntropyLoss",
        help="ContrastiveLoss is added to the cross entropy",
    )
    group.add_argument(
        "--contrastive-weight", type=number(float, 0, above=True), default=0.1, help="weight of the contrastive loss"
    )
    group.add_argument(
        "--class-weights", choices=("none", "sqrt", "balanced"), default="none",
        help="weigh classes in the loss by one over (the square root of) their size",
    )  # fmt: skip
    group.add_argument(
        "--sampler",
        choices=("shuffle", "balanced"),
        default="shuffle",
        help="each image once per epoch, or classes drawn by the square root of their size",
    )
    group.add_argument(
        "--logit-adjustment",
        type=number(float, 0, 2),
        default=0.0,
        help="times the log of each class's share in training, added to the logits in the loss, so that rare classes "
        "are predicted more often; 0 leaves it out, 1 aims at equal shares",
    )
    group.add_argument(
        "--age-regression", type=number(float, 0), default=0.0, metavar="WEIGHT",
        help="weight of a second task, the age in years, that no checkpoint keeps",
    )  # fmt: skip


def _add_augmentation(parser: Parser) -> None:
    group = parser.group("augmentation")
    group.add_argument(
        "--old-aug",
        type=true_or_false,
        default=False,
        metavar="{True,False}",
        help="one more pass over the training people of the oldest class under their own augmentation",
    )
    group.add_argument(
        "--oversample", type=value, nargs="+", metavar="NAME=VALUE",
        help="the same for any value, such as mask=incorrect, or age=60+ for the last group of a number (default: "
        "none)",
    )  # fmt: skip
    group.add_argument(
        "--hflip", type=number(float, 0, 1), default=0.5, metavar="P",
        help="how probably a photograph is mirrored; 0 for digits, writing and all that has a left and a right",
    )  # fmt: skip
    group.add_argument(
        "--half-cutmix", type=number(float, 0, 1), default=0.0, metavar="P",
        help="with this probability take the right half from another image, alike in what its group does not share: "
        "another face of the same mask class",
    )  # fmt: skip
    group.add_argument(
        "--half-cutmix-within", type=names, metavar="A,B",
        help="the attributes in which the halves are alike (default: those that a group does not share; where it "
        "shares all, the class)",
    )  # fmt: skip


def _add_scored(parser: Parser) -> None:
    group = parser.group("saving and resuming")
    group.add_argument(
        "--metric",
        choices=METRICS,
        default="macro_f1",
        help="held-out score that --keep, --patience, --keep-top and a study look at",
    )
    group.add_argument(
        "--keep", choices=("last", "best"), default="last", help="the epoch whose weights the checkpoint holds"
    )
    group.add_argument(
        "--patience",
        type=number(int, 1),
        metavar="N",
        help="stop when N epochs in a row have not improved --metric (default: train all epochs)",
    )


def _add_speed(parser: Parser) -> None:
    group = parser.group("runtime")
    group.add_argument(
        "--mixed-precision",
        choices=("no", "fp16", "bf16"),
        help="precision of the training step (default: what accelerate says)",
    )
    group.add_argument(
        "--tf32", action="store_true", help="on a GPU, matrix products of float32 training in TF32; nothing on a CPU"
    )
    group.add_argument("--compile", action="store_true", help="torch.compile the training step")
    group.add_argument(
        "--gradient-checkpointing", action="store_true", help="recompute activations: less memory, a third slower"
    )


def add_run(parser: Parser) -> None:
    """Whether a fine-tuning run goes on, begins anew, or is only tried."""
    group = parser.group("saving and resuming")
    group.add_argument("--resume", action="store_true", help="go on from the state that a stopped run left")
    group.add_argument("--overwrite", action="store_true", help="replace what other options of this name left")
    parser.group("runtime").add_argument(
        "--fast-dev-run", action="store_true", help="try everything on two batches and keep nothing"
    )


def add_outputs(parser: Parser) -> None:
    """What a fine-tuning run writes beside its checkpoint, and where it reports to."""
    group = parser.group("saving and resuming")
    group.add_argument(
        "--save-every",
        type=number(int, 1),
        metavar="N",
        help="also save every N-th epoch's checkpoint (default: one checkpoint a run)",
    )
    group.add_argument(
        "--keep-top",
        type=number(int, 1),
        metavar="N",
        help="remove all but the sweep's N best checkpoints by --metric (default: all stay)",
    )
    group.add_argument(
        "--checkpointing-steps", type=number(int, 1), metavar="N",
        help="keep a state to go on from every N steps too (default: after each epoch, and when stopped by SIGTERM)",
    )  # fmt: skip
    group.add_argument("--save-img", action="store_true", help="write a sheet of augmented training images")
    add_push(parser)
    add_report(parser)


def add_report(parser: Parser) -> None:
    parser.group("runtime").add_argument(
        "--report-to",
        choices=REPORT_TO,
        default="wandb",
        help="tracker beside the CSV and the curves; wandb goes offline by itself",
    )


def add_search_space(parser: Parser) -> None:
    """What `optuna_script.py` searches; equal limits and single choices fix a value."""
    group = parser.group("search space")
    positive, ratio_of_labels = number(float, 0, above=True), number(float, 0, 0.9)
    for name, kind, limits, what in (
        ("lr", positive, (1e-6, 1e-4), "peak learning rate, searched on a logarithmic scale"),
        ("wd", number(float, 0), (0.0, 0.3), "AdamW weight decay"),
        ("epochs", EPOCHS, (5, 20), "passes over the training images"),
        ("aug-strength", number(float, 0, 3), (0.0, 2.0), "scale of the augmentation"),
        ("label-smoothing", ratio_of_labels, (0.0, 0.2), "label smoothing of the cross entropy"),
    ):
        group.add_argument(f"--{name}-limits", type=kind, nargs=2, metavar=("LOW", "HIGH"), default=limits, help=what)
    group.add_argument(
        "--batch-sizes", type=flags.BATCH, nargs="+", metavar="N", default=(32, 64, 128), help="images per step"
    )
    group.add_argument(
        "--indices",
        type=number(int, 0),
        nargs="+",
        metavar="I",
        help="pretrained indices (default: all that are there)",
    )
