"""What index i trains with when one start serves all indices: the i-th draw of a seeded random search."""

import numpy as np

from utils.base.options import ALL_FOLDS, Options
from utils.base.training_flags import each_index_has_a_start, takes_mixed_labels


def options_of_run(options: Options) -> Options:
    """The options that a run trains with: those of its index, and on everyone (`--fold all`) so many epochs that it
    takes as many steps as on the people outside a fold.
    """
    options = options_of_index(options)
    if options.fold != ALL_FOLDS:
        return options
    return options.replace(epochs=max(1, round(options.epochs * (options.folds - 1) / options.folds)))


def options_of_index(options: Options) -> Options:
    """The options of index `--i`: with the release's `model_{i}.pt` those given, since each index has a start of its
    own; with another `--model` the i-th draw.

    Index 0 trains as given. Other indices draw learning rate, weight decay, epochs, augmentation strength, label
    smoothing and mixup around what is given, as the ingredients of the model-soups paper were drawn (Wortsman et al.
    2022, appendix J.2.1); its ranges are narrowed so that the ingredients stay near enough to be averaged. A draw
    depends on the index alone, so an index trains with the same options under every seed.
    """
    if each_index_has_a_start(options.model) or options.i == 0:
        return options
    rng = np.random.default_rng([72, options.i])
    drawn = options.replace(
        lr=_rounded(options.lr * 10 ** rng.uniform(-0.4, 0.2)),
        wd=_rounded(options.wd * 10 ** rng.uniform(-1, 0.5)),
        epochs=max(1, round(options.epochs * rng.uniform(0.6, 1.2))),
        aug_strength=_rounded(min(3.0, options.aug_strength * rng.uniform(0.3, 1.5))),
        label_smoothing=_rounded(min(0.9, options.label_smoothing + rng.choice([0, rng.uniform(0, 0.2)]))),
        mixup=_rounded(options.mixup + rng.choice([0, rng.uniform(0, 0.4)])),
    )
    return drawn if takes_mixed_labels(options.loss_fn) else drawn.replace(mixup=0.0)


def saved_epochs(options: Options) -> list[int]:
    """The epochs of a run that leave a checkpoint, the last one last."""
    epochs, every = options.epochs, options.save_every or options.epochs
    return [*range(every, epochs, every), epochs]


def _rounded(value: float) -> float:
    """Three significant digits, so that a value can be read and typed."""
    return float(f"{value:.3g}")
