"""What records keep of the options a run was trained with, and what differs between two of them.

Records lie in checkpoints, in states to resume from, in the notes of `--keep-top` and in Optuna studies.
"""

from utils.base import training_flags
from utils.base.options import Options, Parser
from utils.models import checkpoints

NOT_TRAINING = {  # options that do not steer training: where things lie, how they are loaded, what is written beside
    "data_location", "model_location", "pretrained_location", "relabel", "workers",
    "save_every", "save_img", "overwrite", "report_to", "no_cache", "compile", "gradient_checkpointing", "resume",
    "checkpointing_steps", "keep_top", "push_to_hub", "fast_dev_run", "mixed_precision", "verbose", "runs",
    "prompts",  # which the digest of the start tells
    "image_column", "label_columns", "group_column", "group_pattern", "split_column", "values", "limits",
}  # fmt: skip


def steering(options: Options) -> dict:
    """The options that steer training, as plain values; the metric is one where an epoch is chosen by it."""
    plain = _plain(options)
    if options.keep == "last" and options.patience is None:
        del plain["metric"]
    return plain


def differences(before: dict, now: dict) -> str:
    """What differs between two records, as `name before -> now; ...`; empty when nothing does.

    An option that only one of them has counts as its default in the other, so that an option that is new to the
    program makes no earlier record another one. What is no option (`start`, `epochs asked`) has no default.
    """
    # specialists did not always record what they are of; the digest of their labels tells it in any case
    before, now = ({"attributes": other.get("attributes"), **one} for one, other in ((before, now), (now, before)))
    recorded = before.keys() | now.keys()
    defaults = {name: value for name, value in _defaults().items() if name in recorded}
    return checkpoints.differences(defaults | before, defaults | now)


def _defaults() -> dict:
    """The defaults of finetune.py, and the limits that optuna_script.py searches."""
    searched = Parser("")
    training_flags.add_search_space(searched)
    return _plain(searched.parse([])) | steering(training_flags.finetune_parser("", "finetune.py").parse([]))


def _plain(options: Options) -> dict:
    plain = {name: value for name, value in options.plain.items() if name not in NOT_TRAINING}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
