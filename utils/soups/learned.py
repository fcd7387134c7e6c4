"""The learned soup: mixing weights fitted by gradient descent through the averaged weights."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from utils.base.runtime import from_main
from utils.evaluation.prediction import SEARCH_BATCH
from utils.models.averaging import Mixture, average
from utils.models.checkpoints import Checkpoint
from utils.models.clip import build
from utils.models.towers import LAYER
from utils.soups.evaluator import Evaluator

PASSES, LEARNING_RATE, BATCH = 3, 0.1, 64
PART = re.compile(rf"{LAYER.pattern}|embeddings|classification_head")


def learned(evaluator: Evaluator) -> Mixture:
    """The learned soup (Wortsman et al. 2022, "Model soups", appendix I): one softmax weight per ingredient, fitted to
    the cross entropy of the held-out photographs by AdamW with learning rate 0.1 in three passes.

    The paper's temperature is left out, because it changes no prediction. The derivative by a mixing weight is the
    inner product of the loss's gradient with that ingredient's tensors. The files are read one after the other, so
    that peak memory is the average, its gradient and one tensor, however many ingredients there are.
    """
    return _fit(evaluator, by_layer=False)


def learned_by_layer(evaluator: Evaluator) -> Mixture:
    """The learned soup with a softmax of its own for each encoder layer, the embeddings, the head, and the rest."""
    return _fit(evaluator, by_layer=True)


def _fit(evaluator: Evaluator, by_layer: bool) -> Mixture:
    shapes = evaluator.ingredients[0].shapes
    groups = {name: (match[0] if (match := PART.search(name)) else "rest") if by_layer else "all" for name in shapes}
    names = sorted(set(groups.values()))
    parameters = torch.zeros(len(names), len(evaluator.ingredients), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([parameters], lr=LEARNING_RATE, weight_decay=0)
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(len(evaluator.labels)) for _ in range(PASSES)])
    batches = np.array_split(order, max(1, len(order) // BATCH))
    for batch in evaluator.progress(batches, "fitting mixing weights"):
        shares = parameters.softmax(-1)
        per_tensor = {name: shares[names.index(group)].tolist() for name, group in groups.items()}
        products = _loss_gradient(evaluator, per_tensor, batch)
        gradient = torch.zeros_like(shares)
        for name, product in products.items():
            gradient[names.index(groups[name])] += product
        optimizer.zero_grad()
        shares.backward(gradient)
        optimizer.step()
        evaluator.looked_at += len(batch)
    # four digits, so that the soup does not depend on the last bits of the fit
    fitted = from_main(
        evaluator.held_out.accelerator, lambda: parameters.softmax(-1).detach().numpy().round(4).tolist()
    )
    if not by_layer:
        return Mixture.of(evaluator.ingredients, fitted[0])
    return Mixture.of(evaluator.ingredients, {name: fitted[names.index(group)] for name, group in groups.items()})


def _loss_gradient(evaluator: Evaluator, weights: dict, batch: np.ndarray) -> dict[str, torch.Tensor]:
    """For each tensor the (N,) derivatives of the mean cross entropy of a batch by each ingredient's weight in it.

    The photographs of each fold are predicted by the average of this fold's models, all with the same weights.
    """
    fold_of = evaluator.held_out.fold_of[evaluator.positions[batch]]
    products = {name: torch.zeros(len(evaluator.ingredients), dtype=torch.float64) for name in weights}
    for fold in np.unique(fold_of):
        members = [one.parts[fold] for one in evaluator.ingredients]
        gradients = _gradients(evaluator, members, weights, batch[fold_of == fold], len(batch))
        for k, one in enumerate(members):
            tensors = one.state_dict()
            for name, gradient in gradients.items():
                products[name][k] += torch.dot(gradient.double().reshape(-1), tensors[name].double().reshape(-1))
    return products


def _gradients(
    evaluator: Evaluator, members: Sequence[Checkpoint], weights: dict, batch: np.ndarray, count: int
) -> dict[str, torch.Tensor]:
    """The gradient of the cross entropy, summed over a batch and divided by `count`, by the tensors of the average."""
    device, first = evaluator.held_out.accelerator.device, members[0]
    soup = average([one.state_dict for one in members], weights)
    model = build(first.config, soup, first.name, copy=False).to(device).eval()
    for some in np.array_split(batch, -(-len(batch) // SEARCH_BATCH)):
        pixels = evaluator.held_out.pixel_values(evaluator.positions[some]).to(device)
        targets = torch.from_numpy(evaluator.labels[some]).to(device)
        (cross_entropy(model.classify(pixels), targets, reduction="sum") / count).backward()
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
