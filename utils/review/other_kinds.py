"""Suspects that are about no single label: people who seem to be two, photographs that no class fits, and the same
photograph under different labels or people.
"""

from collections.abc import Callable

import imagehash
import numpy as np
from PIL import Image

from utils.data.labels import GROUP_ATTRIBUTES
from utils.data.relabel import REJECTED
from utils.review.noise import judge_outliers
from utils.review.predictions import Predictions, log_odds
from utils.review.suspects import DUPLICATE, GROUP, IMAGE, NO_CLASS, TWO_PEOPLE, Correction, Suspect

LEAST = 0.5  # probability below which nobody need look: nothing can be accepted, and most would be looked at in vain
HASH_SIDE = 16  # squared, the bits of a picture's hash
SAME = 4  # bits in which two files of the same picture differ at most, after compressing or scaling it again
BLOCK = 64  # photographs whose distances to all others are in memory at once


def two_people_suspects(predictions: Predictions) -> list[Suspect]:
    """Groups whose photographs disagree about what they have in common more than those of other groups do.

    What masks do to the log-odds is taken off first.
    """
    groups, masks = predictions.groups, predictions.given["mask"]
    spreads = []
    for attribute in GROUP_ATTRIBUTES:
        odds = log_odds(predictions.of_attribute(attribute))
        for value in np.unique(masks):
            odds[masks == value] -= odds[masks == value].mean(0)
        spread = np.array([odds[one].var(0).sum() for one in groups.members])
        spreads.append((spread / max(np.median(spread), np.finfo(float).tiny), odds))
    disagreement = np.sum([spread for spread, _ in spreads], axis=0)
    confidence = judge_outliers(np.log(np.maximum(disagreement, np.finfo(float).tiny)))
    found = []
    for k in np.flatnonzero(confidence >= LEAST):
        attribute = GROUP_ATTRIBUTES[int(np.argmax([spread[k] for spread, _ in spreads]))]
        odds = spreads[GROUP_ATTRIBUTES.index(attribute)][1][groups.members[k]][:, -1]
        order = groups.members[k][np.argsort(odds, kind="stable")]
        ends = [order[0], order[-1]]
        looks = " and ".join(_look(predictions, row, attribute) for row in ends)
        shown = [*ends, *order[1:-1]]
        found.append(_finding(predictions, TWO_PEOPLE, GROUP, shown, float(confidence[k]), f"{attribute}: {looks}"))
    return found


def _look(predictions: Predictions, row: int, attribute: str) -> str:
    probs, values = np.exp(predictions.of_attribute(attribute)[row]), predictions.labelling.values[attribute]
    best = int(probs.argmax())
    return f"{predictions.ids[row].partition('/')[2]} looks {values[best]} ({100 * probs[best]:.0f} %)"


def no_class_suspects(predictions: Predictions) -> list[Suspect]:
    """Photographs whose most probable class is much less probable than that of others."""
    best = predictions.log_probs.max(-1)
    against = np.log(-np.expm1(np.minimum(best, -1e-12))) - best  # log-odds
    confidence = judge_outliers(against)
    classes = predictions.labelling.classes
    return [
        _finding(
            predictions, NO_CLASS, IMAGE, [k], float(confidence[k]),
            f"the most probable class is {classes[predictions.log_probs[k].argmax()]}, with {np.exp(best[k]):.0%}",
        )
        for k in np.flatnonzero(confidence >= LEAST)
    ]  # fmt: skip


def duplicate_suspects(predictions: Predictions, squares_at: Callable[[np.ndarray], np.ndarray]) -> list[Suspect]:
    """Photographs that are nearly the same under different people, or in one group under different labels.

    `squares_at` gives (B, S, S, 3) uint8 pixels. Distances are of difference hashes (imagehash). Between people a pair
    counts if it is much nearer than each one's nearest usually is, and in a group if it is the same picture.
    """
    hashes = _hashes(predictions, squares_at)
    groups, masks = predictions.groups, predictions.given["mask"]
    _, person_of = np.unique(predictions.persons, return_inverse=True)
    nearest, distances, found = np.zeros(len(hashes), int), np.zeros(len(hashes), int), []
    for start in range(0, len(hashes), BLOCK):
        some = np.arange(start, min(start + BLOCK, len(hashes)))
        apart = np.bitwise_count(hashes[some, None] ^ hashes).sum(-1).astype(int)  # (B, N)
        own = person_of[some, None] == person_of
        for i, k in np.argwhere(own & (masks[some, None] != masks) & (apart <= SAME)):
            if some[i] < k:
                found.append(_pair(predictions, some[i], k, apart[i, k], 1 - apart[i, k] / (SAME + 1)))
        apart[own] = HASH_SIDE**2
        nearest[some], distances[some] = apart.argmin(-1), apart.min(-1)
    closest = [one[distances[one].argmin()] for one in groups.members]
    confidence = judge_outliers(-distances[closest].astype(float))
    pairs = {}
    for row, sure in zip(closest, confidence, strict=True):
        pair = tuple(sorted(map(int, (row, nearest[row]))))
        pairs[pair] = max(sure, pairs.get(pair, 0))
    return found + [
        _pair(predictions, *pair, distances[pair[0]], sure) for pair, sure in pairs.items() if sure >= LEAST
    ]


def _hashes(predictions: Predictions, squares_at: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(N, 4) uint64 difference hashes."""
    hashes = []
    for start in range(0, len(predictions.rows), BLOCK):
        for square in squares_at(np.arange(start, min(start + BLOCK, len(predictions.rows)))):
            hashes.append(imagehash.dhash(Image.fromarray(square), HASH_SIDE).hash.ravel())
    return np.packbits(hashes, axis=1).view(np.uint64)


def _pair(predictions: Predictions, one: int, other: int, distance: int, confidence: float) -> Suspect:
    evidence = f"{predictions.ids[one]} and {predictions.ids[other]} differ in {distance} of {HASH_SIDE**2} bits"
    return _finding(predictions, DUPLICATE, IMAGE, [one, other], float(confidence), evidence)


def _finding(
    predictions: Predictions, kind: str, unit: str, rows: list[int], confidence: float, evidence: str
) -> Suspect:
    """A suspect that nothing can be accepted of; rejecting it keeps it away."""
    shown = rows if kind == DUPLICATE else rows[:1]
    ids = [str(predictions.groups.names[predictions.groups.group_of[rows[0]]])] if unit == GROUP else []
    ids = ids or [str(predictions.ids[row]) for row in shown]
    classes, labels = predictions.labelling.classes, predictions.photographs.labels(predictions.labelling)
    given = " / ".join(classes[labels[predictions.rows[row]]] for row in shown)
    return Suspect(
        key=":".join([kind, *ids]), kind=kind, unit=unit, id=ids[0], attribute="", given=given, suggested="",
        confidence=confidence, evidence=evidence, files=tuple(predictions.files[row] for row in rows),
        keep=(Correction(ids[0], kind, REJECTED),),
    )  # fmt: skip
