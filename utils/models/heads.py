"""The classification head that every ingredient of a sweep starts from.

Ingredients average well only when they descend from one initialisation, so the head is made once, from one anchor
backbone, the labels and the split, and is kept under the digest of what it was made from.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.functional import normalize

from utils.base.digests import digest_of
from utils.base.errors import InputError
from utils.base.files import LOGS
from utils.base.runtime import all_agree, from_main
from utils.data import competition
from utils.data.labels import Labelling
from utils.models.weights import Weights, read_kept_archive, save_archive

log = logging.getLogger(__name__)


CLIP_TEMPERATURE = 100.0  # the logit scale at which OpenAI's models ended their training
HEADS = {"probe": "linear probe", "zeroshot": "zero-shot head", "random": "random head"}
PROBE_STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
FOLD_STRENGTH = 1.0  # of the probes of all folds: where each fold chose its own, the mean over folds failed


def head_family(
    anchor: Weights,
    labelling: Labelling,
    head_init: str | None,
    split_digest: str,
    labels: np.ndarray,
    images_digest: str,
    folds: Sequence | None = None,
    prompts: list[list[str]] | None = None,
) -> dict:
    """What a checkpoint records as its `family`: equal records mean one start.

    `labels` (N,) are the training class ids and `images_digest` stands for the photographs: a probe learns from both.
    Each fold has a head of its own, so that a probe has seen nobody who is held out; what they have in common is told
    by `folds`, the partition and everybody's labels, and their records have it as `folds`. Their probes have one
    strength, `FOLD_STRENGTH`: whatever chose one for all folds would have seen everybody. `prompts`, the sentences of
    each class, count for a zero-shot head, and only where they are other than the competition's own.
    Which head it is `chosen_init` says, of `head_init`.
    """
    head_init = chosen_init(anchor, head_init)
    anchor_digest = anchor.backbone_digest
    labels_digest = hashlib.sha256(labels.tobytes()).hexdigest()
    content = [anchor_digest, labelling.record(), head_init, split_digest, labels_digest, images_digest]
    strength = [] if folds is None or head_init != "probe" else [FOLD_STRENGTH]
    told = [prompts] if head_init == "zeroshot" and prompts not in (None, competition.prompts(labelling)) else []
    content += [*strength, *told]
    family = {"anchor": anchor_digest, "head_init": head_init, "inputs": digest_of(content)}
    if folds is None:
        return family
    start = (anchor.meta or {}).get("folds_of", anchor_digest)  # in a second round each fold starts from its own soup
    common = [start, labelling.record(), head_init, *folds, images_digest, *strength, *told]
    return family | {"folds": digest_of(common)}


def chosen_init(anchor: Weights, head_init: str | None, prompts: Path | None = None) -> str:
    """How the head is made: as is asked for, else `zeroshot` when the anchor has a text tower, else `probe`.

    Raises `InputError` for `zeroshot` without one, and for a file of `prompts` that no other head takes.
    """
    chosen = head_init or ("zeroshot" if anchor.text_source else "probe")
    if chosen == "zeroshot" and not anchor.text_source:
        raise InputError(f"--head-init zeroshot: {anchor.source} has no text tower of CLIP; use probe or random")
    if prompts and chosen != "zeroshot":
        raise InputError(
            f"--prompts {prompts} are for a zero-shot head, and {anchor.source} gets a {HEADS[chosen]}: "
            "leave them out, or choose a --model with a text tower of CLIP"
        )
    return chosen


def head_file(family: dict) -> Path:
    """Where the head of a family is kept."""
    return LOGS / "heads" / f"{family['head_init']}_{family['inputs']}.pt"


def sweep_head(
    accelerator: Accelerator,
    anchor: Weights,
    family: dict,
    labelling: Labelling,
    training_features: Callable,
    prompts: list[list[str]] | None = None,
) -> dict[str, torch.Tensor]:
    """The head of this family as `classification_head.*` tensors: read from `logs/heads`, or made and kept there.

    `training_features()` gives the anchor's (features, labels, persons) of the training photographs; all processes
    call it, one makes the head. `prompts` are the sentences of each class, for a zero-shot head.
    """
    num_classes, dim = labelling.num_classes, anchor.config["projection_dim"]
    head = read_head(family, num_classes, dim)
    if not all_agree(accelerator, head is not None):
        features, labels, persons = training_features() if family["head_init"] == "probe" else (None, None, None)
        strength = FOLD_STRENGTH if "folds" in family else None

        def make() -> None:
            weight, bias = {
                "random": lambda: random_head(num_classes, dim),
                "zeroshot": lambda: zeroshot_head(anchor.text_source, prompts),
                "probe": lambda: probe_head(features, labels, persons, labelling, strength),
            }[family["head_init"]]()
            save_archive(head_file(family), {"classification_head.weight": weight, "classification_head.bias": bias})

        from_main(accelerator, make)
        head = read_head(family, num_classes, dim)
    if head is None:
        raise InputError(f"{head_file(family)} is gone: run the same command again")
    return head


def read_head(family: dict, num_classes: int, dim: int) -> dict[str, torch.Tensor] | None:
    """The head that was kept of a family, or None when there is none or the file is damaged, which the log tells."""
    path = head_file(family)
    if not path.is_file():
        return None
    try:
        head = read_kept_archive(path)
        shapes = {name: tuple(tensor.shape) for name, tensor in head.items()}
        if shapes != {"classification_head.weight": (num_classes, dim), "classification_head.bias": (num_classes,)}:
            raise InputError(f"{path} holds another head")
    except (InputError, AttributeError) as error:
        log.info("%s: the %s is made anew", error, HEADS[family["head_init"]])
        return None
    return head


def random_head(num_classes: int, dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows (C, D) from a fixed seed at CLIP's temperature, and zero biases (C,)."""
    rows = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(seed))
    return CLIP_TEMPERATURE * normalize(rows, dim=-1), torch.zeros(num_classes)


def zeroshot_head(source: str, prompts: list[list[str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Text features of each class's prompts, averaged over templates (Radford et al. 2021, section 3.1.4), times the
    source's logit scale. `source` is a hub id or folder with a text tower and a tokenizer.
    """
    from transformers import AutoTokenizer, CLIPModel

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = CLIPModel.from_pretrained(
            source, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
        ).eval()
    except (OSError, ValueError) as error:
        raise InputError(f"--head-init zeroshot: cannot load text tower and tokenizer of {source}: {error}") from error
    rows = []
    with torch.inference_mode():
        for sentences in prompts:
            tokens = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
            text = model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            rows.append(normalize(model.text_projection(text.pooler_output), dim=-1).mean(0))
        weight = model.logit_scale.exp() * normalize(torch.stack(rows), dim=-1)
    return weight.clone(), torch.zeros(len(rows))


def probe_head(
    features: np.ndarray, labels: np.ndarray, persons: np.ndarray, labelling: Labelling, strength: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A linear probe on frozen features: one logistic regression per attribute, added up to one row per class.

    With log p(class) = log p(mask) + log p(gender) + log p(age) every class has a row, also one without a single
    example. `features` (N, D) are unit-length, `labels` (N,) class ids, `persons` (N,) group the cross-validation that
    chooses each regression's `strength` (C of scikit-learn) where none is given.
    """
    weight = np.zeros((labelling.num_classes, features.shape[1]))
    bias = np.zeros(labelling.num_classes)
    of_class = labelling.decode(np.arange(labelling.num_classes))
    for attribute, values in labelling.decode(labels).items():
        num_values = len(labelling.values[attribute])
        rows, intercepts = _probe_attribute(features, values, persons, num_values, attribute, strength)
        weight += rows[of_class[attribute]]
        bias += intercepts[of_class[attribute]]
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def _probe_attribute(
    features, values, persons, num_values: int, attribute: str, strength: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (V, D) and intercepts (V,) of one attribute's regression.

    A value without examples gets the mean row, which prefers no value, and the intercept of a value seen less than
    once.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss, make_scorer
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold

    present, targets = np.unique(values, return_inverse=True)
    rows, intercepts = np.zeros((num_values, features.shape[1])), np.full(num_values, -np.log(len(values) + 1.0))
    if len(present) == 1:
        intercepts[present] = 0.0
        return rows, intercepts
    regression, chosen = LogisticRegression(max_iter=1000), strength or 1.0
    folds = min([5, *(len(np.unique(persons[targets == k])) for k in range(len(present)))])
    if strength is None and folds > 1:
        scoring = make_scorer(
            log_loss, greater_is_better=False, response_method="predict_proba", labels=range(len(present))
        )
        search = GridSearchCV(
            regression, {"C": PROBE_STRENGTHS}, scoring=scoring, cv=StratifiedGroupKFold(folds), refit=False
        )
        chosen = search.fit(features, targets, groups=persons).best_params_["C"]
    regression.set_params(C=chosen).fit(features, targets)
    coefficients, offsets = regression.coef_, regression.intercept_
    if len(present) == 2:  # scikit-learn keeps one row, the second value's against the first's
        coefficients, offsets = np.vstack([-coefficients, coefficients]) / 2, np.array([-offsets[0], offsets[0]]) / 2
    rows[:] = coefficients.mean(0)
    rows[present], intercepts[present] = coefficients, offsets
    log.debug(
        "linear probe of %s: C=%g, training accuracy %.3f", attribute, chosen, regression.score(features, targets)
    )
    return rows, intercepts
