"""Suspects that are about no single label: people who seem to be two, photographs that no class fits, and the same
photograph under different labels or people.
"""

from collections.abc import Callable

import numpy as np

from utils.data.hashes import BLOCK, HASH_SIDE, SAME, bits_apart, difference_hashes
from utils.data.relabel import REJECTED
from utils.review.noise import judge_outliers
from utils.review.predictions import Predictions, log_odds
from utils.review.suspects import DUPLICATE, GROUP, IMAGE, NO_CLASS, TWO_PEOPLE, Correction, Suspect

LEAST = 0.2  # probability below which nobody need look
TINY = 1e-12
NEAR = 32  # bits in which near-duplicates differ at most


def two_people_suspects(predictions: Predictions) -> list[Suspect]:
    """Groups whose photographs disagree about what they have in common more than those of other groups do.

    What sets the photographs of any group apart, as masks do, is taken off the log-odds first.
    """
    groups, spreads = predictions.groups, []
    if not predictions.photographs.shared:
        return []
    for attribute in predictions.photographs.shared:
        odds = _without_kinds(predictions, log_odds(predictions.of_attribute(attribute)))
        spread = np.array([odds[one].var(0).sum() for one in groups.members])
        spreads.append((spread / max(np.median(spread), TINY), odds))
    disagreement = np.sum([spread for spread, _ in spreads], axis=0)
    confidence = judge_outliers(np.log(np.maximum(disagreement, TINY)))
    found = []
    for k in np.flatnonzero(confidence >= LEAST):
        attribute = predictions.photographs.shared[int(np.argmax([spread[k] for spread, _ in spreads]))]
        odds = spreads[predictions.photographs.shared.index(attribute)][1][groups.members[k]][:, -1]
        order = groups.members[k][np.argsort(odds, kind="stable")]
        ends = [order[0], order[-1]]
        looks = " and ".join(_look(predictions, row, attribute) for row in ends)
        shown = [*ends, *order[1:-1]]
        found.append(_finding(predictions, TWO_PEOPLE, GROUP, shown, float(confidence[k]), f"{attribute}: {looks}"))
    return found


def _without_kinds(predictions: Predictions, values: np.ndarray) -> np.ndarray:
    """(N, ...) how much values differ from the mean over the photographs of the same kind."""
    values, kinds = values.copy(), predictions.kinds
    for kind in np.unique(kinds):
        values[kinds == kind] -= values[kinds == kind].mean(0)
    return values


def _look(predictions: Predictions, row: int, attribute: str) -> str:
    probs, values = np.exp(predictions.of_attribute(attribute)[row]), predictions.labelling.values[attribute]
    best = int(probs.argmax())
    return f"{predictions.ids[row].rpartition('/')[2]} looks {values[best]} ({100 * probs[best]:.0f} %)"


def no_class_suspects(predictions: Predictions) -> list[Suspect]:
    """Photographs of which the models are much less sure than of others of their kind, in all attributes together."""
    best = {name: predictions.of_attribute(name).max(-1) for name in predictions.labelling.attributes}
    against = [np.log(-np.expm1(np.minimum(one, -TINY))) - one for one in best.values()]  # log-odds
    confidence = judge_outliers(_without_kinds(predictions, np.sum(against, axis=0)))
    found = []
    for k in np.flatnonzero(confidence >= LEAST):
        sure = ", ".join(f"{name} {100 * np.exp(one[k]):.0f} %" for name, one in best.items())
        evidence = f"the most probable values have {sure}"
        found.append(_finding(predictions, NO_CLASS, IMAGE, [k], float(confidence[k]), evidence))
    return found


def duplicate_suspects(predictions: Predictions, squares_at: Callable[[np.ndarray], np.ndarray]) -> list[Suspect]:
    """Photographs that are nearly the same under different people, or in one group under different labels.

    `squares_at` gives (B, S, S, 3) uint8 pixels. Distances are of difference hashes (imagehash). Between people a pair
    counts that is near, and much nearer than the nearest of a group usually is; in a group the same picture.
    """
    starts = range(0, len(predictions.rows), BLOCK)
    blocks = (squares_at(np.arange(start, min(start + BLOCK, len(predictions.rows)))) for start in starts)
    hashes = difference_hashes(square for block in blocks for square in block)
    groups, kinds = predictions.groups, predictions.kinds
    _, person_of = np.unique(predictions.persons, return_inverse=True)
    nearest, distances, found = np.zeros(len(hashes), int), np.zeros(len(hashes), int), []
    for start in range(0, len(hashes), BLOCK):
        some = np.arange(start, min(start + BLOCK, len(hashes)))
        apart = bits_apart(hashes[some, None], hashes)  # (B, N)
        own = person_of[some, None] == person_of
        for i, k in np.argwhere(own & (kinds[some, None] != kinds) & (apart <= SAME)):
            if some[i] < k:
                found.append(_pair(predictions, some[i], k, apart[i, k], 1 - apart[i, k] / (SAME + 1)))
        apart[own] = HASH_SIDE**2
        nearest[some], distances[some] = apart.argmin(-1), apart.min(-1)
    closest = [one[distances[one].argmin()] for one in groups.members]
    confidence = np.where(distances[closest] <= NEAR, judge_outliers(-distances[closest].astype(float)), 0)
    pairs = {}
    for row, sure in zip(closest, confidence, strict=True):
        pair = tuple(sorted(map(int, (row, nearest[row]))))
        pairs[pair] = max(sure, pairs.get(pair, 0))
    likely = [(pair, sure) for pair, sure in pairs.items() if sure >= LEAST]
    return found + [_pair(predictions, *pair, bits_apart(*hashes[list(pair)]), sure) for pair, sure in likely]


def _pair(predictions: Predictions, one: int, other: int, distance: int, confidence: float) -> Suspect:
    evidence = f"{predictions.ids[one]} and {predictions.ids[other]} differ in {distance} of {HASH_SIDE**2} bits"
    return _finding(predictions, DUPLICATE, IMAGE, [one, other], float(confidence), evidence)


def _finding(
    predictions: Predictions, kind: str, unit: str, rows: list[int], confidence: float, evidence: str
) -> Suspect:
    """A suspect that nothing can be accepted of; rejecting it keeps it away."""
    shown = rows if kind == DUPLICATE else rows[:1]
    labelling, given = predictions.labelling, predictions.given
    if unit == GROUP:
        names, about = predictions.groups.names[predictions.groups.group_of[shown]], predictions.photographs.shared
    else:
        names, about = predictions.ids[shown], labelling.attributes
    ids = list(map(str, names))
    values = (", ".join(labelling.values[name][given[name][row]] for name in about) for row in shown)
    return Suspect(
        key=":".join([kind, *ids]), kind=kind, unit=unit, id=ids[0], attribute="", given=" / ".join(values),
        suggested="", confidence=confidence, evidence=evidence, files=tuple(predictions.files[row] for row in rows),
        keep=(Correction(ids[0], kind, REJECTED),),
    )  # fmt: skip
