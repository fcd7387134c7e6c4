"""What fine-tuning minimises."""

from collections.abc import Callable

import torch
from torch.nn import functional as F


def make_loss(
    loss_fn: str,
    contrastive_weight: float = 0.1,
    label_smoothing: float = 0.0,
    adjustment: torch.Tensor | None = None,
    class_weights: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Callable:
    """A function of logits (B, C), unit-length features (B, D) and labels (B,) that returns a scalar.

    For cross entropy alone the labels may be (B, C) shares of classes instead. `class_weights` (C,) weigh it; the sum
    is divided by B and not by the batch's own weights, so that the parts of an accumulated step make the whole.

    `adjustment` (C,) is added to the logits, as `dataset.loss_adjustment` makes it.

    `CrossEntropyLoss` is cross entropy. `ContrastiveLoss` adds pytorch-metric-learning's contrastive loss on the
    cosine similarities within the batch (positive margin 1, negative margin 0), so that the head learns too.
    """

    def cross_entropy(logits: torch.Tensor, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        adjusted = logits.float() if adjustment is None else logits.float() + adjustment
        return F.cross_entropy(
            adjusted, labels, class_weights, reduction="sum", label_smoothing=label_smoothing
        ) / len(labels)

    adjustment, class_weights = (None if one is None else one.to(device) for one in (adjustment, class_weights))
    if loss_fn == "CrossEntropyLoss":
        return cross_entropy

    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.losses import ContrastiveLoss

    contrastive = ContrastiveLoss(pos_margin=1, neg_margin=0, distance=CosineSimilarity())

    def both(logits: torch.Tensor, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        pull_and_push = contrastive(features.float(), labels)
        return cross_entropy(logits, features, labels) + contrastive_weight * pull_and_push

    return {"ContrastiveLoss": both}[loss_fn]
