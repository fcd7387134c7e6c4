"""Suspects among the labels themselves: what all of a group share, as the age of a person, what each photograph has of
its own, as the mask, and two photographs of a group whose labels were exchanged.

Confident learning (Northcutt, Jiang, Chuang 2021), as cleanlab has it, says which labels are worth a look. It says not
how probable it is that one is wrong, and takes what a weak model cannot tell for wrong labels: `noise` does.
"""

import numpy as np

from utils.base.terminal import counted
from utils.review.exchanged import judge_exchanges
from utils.review.noise import Judged, JudgedNumbers, judge_numbers, judge_values
from utils.review.predictions import Predictions, log_odds
from utils.review.suspects import GROUP, IMAGE, LABEL, SWAPPED, Correction, Suspect

LEAST = 0.05  # probability of an exchange below which nobody need look at it


def label_suspects(predictions: Predictions) -> list[Suspect]:
    """Wrong labels of groups and of photographs, and exchanged ones; a photograph is in one of them at most for each
    attribute, the surest.
    """
    found = []
    for attribute, values in predictions.labelling.values.items():
        if len(values) == 1:  # nothing to tell apart
            continue
        if attribute in predictions.photographs.shared:
            found += _of_groups(predictions, attribute)
        else:
            found += _of_photographs(predictions, attribute)
    return found


def _of_groups(predictions: Predictions, attribute: str) -> list[Suspect]:
    groups, values = predictions.groups, predictions.labelling.values[attribute]
    features = groups.mean(log_odds(predictions.of_attribute(attribute)))
    given = groups.most_frequent(predictions.given[attribute])
    if predictions.labelling[attribute].limits is not None:
        years = groups.most_frequent(predictions.photographs.values[attribute][predictions.rows])
        judged = judge_numbers(features, years, given, groups.persons, len(values))
    else:
        judged = judge_values(features, given, groups.persons, len(values))
    each, clear = predictions.of_attribute(attribute), how_clear(predictions, attribute)
    suspects = []
    for k, suggested, confidence in worth_a_look(judged, given):
        name, members = str(groups.names[k]), groups.members[k]
        telling = members[np.lexsort([-each[members, suggested], -clear[members]])]
        together = counted(len(members), "photograph") + " together"
        if isinstance(judged, JudgedNumbers):
            old, words = str(years[k]), [str(round(one)) if one else "" for one in judged.suggested[k]]
            evidence = f"stated {attribute} {old}; {together}: about {judged.looks[k]:.0f}"
        else:
            old, words = values[given[k]], values
            evidence = f"{together}: {_shares(judged.probs[k], values)}"
        third = [v for v in _third(judged.posterior[k], given[k], suggested) if words[v]]
        suspects.append(
            Suspect(
                key=f"{LABEL}:{attribute}:{name}", kind=LABEL, unit=GROUP, id=name, attribute=attribute,
                given=values[given[k]], suggested=values[suggested], confidence=confidence, evidence=evidence,
                files=tuple(predictions.files[row] for row in telling),
                accept=(Correction(name, attribute, words[suggested]),), keep=(Correction(name, attribute, old),),
                other="".join(values[v] for v in third),
                instead=tuple(Correction(name, attribute, words[v]) for v in third),
            )
        )  # fmt: skip
    return suspects


def how_clear(predictions: Predictions, attribute: str) -> np.ndarray:
    """(N,) how often an attribute is read as it is given in photographs of the same kind, such as bare faces."""
    right = predictions.of_attribute(attribute).argmax(-1) == predictions.given[attribute]
    own = [name for name in predictions.labelling.attributes if name not in predictions.photographs.shared]
    if not own:
        return np.zeros(len(right))
    kind = predictions.labelling.only(tuple(own)).encode(**{name: predictions.given[name] for name in own})
    return (np.bincount(kind, right) / np.maximum(np.bincount(kind), 1))[kind]


def _of_photographs(predictions: Predictions, attribute: str) -> list[Suspect]:
    values, given = predictions.labelling.values[attribute], predictions.given[attribute]
    judged = judge_values(log_odds(predictions.of_attribute(attribute)), given, predictions.persons, len(values))
    judged, swaps = judge_exchanges(judged, given, predictions.groups.members)
    surer = {}  # the probability of the exchange that a photograph has a part in
    for confidence, *pair in swaps:
        surer |= dict.fromkeys(pair, confidence)
    labels = [one for one in worth_a_look(judged, given) if one[2] > surer.get(one[0], 0)]
    alone = {k for k, *_ in labels}

    def said(k: int) -> str:
        return f"{predictions.ids[k].rpartition('/')[2]} looks {_shares(judged.probs[k], values)}"

    def suspect(kind: str, confidence: float, *pairs: tuple[int, int]) -> Suspect:
        """Of photographs, each with the value that is suggested."""
        ids = [str(predictions.ids[k]) for k, _ in pairs]
        group = predictions.groups.members[predictions.groups.group_of[pairs[0][0]]]
        shown = [*(k for k, _ in pairs), *(k for k in group if k not in {k for k, _ in pairs})]
        k, value = pairs[0]
        third = _third(judged.posterior[k], given[k], value) if kind == LABEL else []
        return Suspect(
            key=":".join([kind, attribute, *ids]), kind=kind, unit=IMAGE, id=ids[0], attribute=attribute,
            given=" / ".join(values[given[k]] for k, _ in pairs), suggested=" / ".join(values[v] for _, v in pairs),
            confidence=confidence, evidence="; ".join(said(k) for k, _ in pairs),
            files=tuple(predictions.files[k] for k in shown),
            accept=tuple(Correction(name, attribute, values[v]) for name, (_, v) in zip(ids, pairs, strict=True)),
            keep=tuple(Correction(name, attribute, values[given[k]]) for name, (k, _) in zip(ids, pairs, strict=True)),
            other="".join(values[v] for v in third),
            instead=tuple(Correction(ids[0], attribute, values[v]) for v in third),
        )  # fmt: skip

    found = [suspect(LABEL, confidence, (k, value)) for k, value, confidence in labels]
    for confidence, one, other in swaps:
        if confidence >= LEAST and not {one, other} & alone:
            found.append(suspect(SWAPPED, confidence, (one, given[other]), (other, given[one])))
    return found


def worth_a_look(judged: Judged, given: np.ndarray) -> list[tuple[int, int, float]]:
    """The units whose label confident learning points at, if it is more probably wrong than any; each with the most
    probable other value and its probability.
    """
    from cleanlab.filter import find_label_issues  # takes seconds, and only a review needs it

    if len(np.unique(given)) == 1:
        return []
    every = np.arange(len(given))
    issues = find_label_issues(given, judged.probs, filter_by="confident_learning")
    issues &= 1 - judged.posterior[every, given] > judged.share
    others = judged.posterior.copy()
    others[every, given] = -1
    suggested = others.argmax(-1)
    return [(int(k), int(suggested[k]), float(others[k, suggested[k]])) for k in np.flatnonzero(issues)]


def _third(posterior: np.ndarray, given: int, suggested: int) -> list[int]:
    """The value that is neither of the two, if there is one; of several the most probable."""
    others = [v for v in np.argsort(-posterior, kind="stable") if v not in (given, suggested)]
    return others[:1]


def _shares(probs: np.ndarray, values: tuple[str, ...]) -> str:
    """The values in words, the most probable first: `female 93 %, male 7 %`; those below 1 % are left out."""
    order = [k for k in np.argsort(-probs, kind="stable") if probs[k] >= 0.01]
    return ", ".join(f"{values[k].replace('_', ' ')} {100 * probs[k]:.0f} %" for k in order)
