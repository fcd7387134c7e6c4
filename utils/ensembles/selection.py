"""Which models predict together, with what weights, and what that is worth on people that it was not chosen on.

Shapes: M members, N photographs, C classes. `log_probs` are (M, N, C) float64: what each member adds in
log-probability space. An ensemble's scores are their weighted mean, weights summing to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from utils.base.errors import InputError
from utils.base.metrics import METRICS
from utils.data.splits import cross_folds, person_folds
from utils.ensembles.calibration import Calibration, calibrate, log_loss
from utils.ensembles.combining import weighted_mean
from utils.evaluation.scores import Gain, exact_score, paired_gain

STEPS = 20
HALVINGS = 10


@dataclass(frozen=True)
class Library:
    """The members that may be selected, with their log-probabilities and the true labels of the people to select on.

    `begins` (M,) says which members may come first: a specialist alone predicts no class. `class_counts` (C,) are
    the photographs of each class that the members were trained on.
    """

    names: tuple[str, ...]
    log_probs: np.ndarray
    begins: np.ndarray
    labels: np.ndarray
    persons: np.ndarray
    class_counts: np.ndarray

    def at(self, rows: np.ndarray) -> "Library":
        """The same members on some of the photographs."""
        parts = {"log_probs": self.log_probs[:, rows], "labels": self.labels[rows], "persons": self.persons[rows]}
        return replace(self, **parts)

    def scores(self, weights: Sequence[Fraction]) -> np.ndarray:
        """(N, C) weighted mean of the members' log-probabilities."""
        return weighted_mean(self.log_probs, list(map(float, weights)))


@dataclass(frozen=True)
class Selection:
    """The members picked step by step, the ensemble's score after each, and how many of the steps are `kept`."""

    picks: tuple[int, ...]
    scores: tuple[Fraction, ...]
    kept: int

    def weights(self, members: int) -> list[Fraction]:
        """Each member's share of the kept picks."""
        return [Fraction(self.picks[: self.kept].count(k), self.kept) for k in range(members)]


def select(library: Library, metric: str, steps: int = STEPS) -> Selection:
    """Ensemble selection (Caruana et al. 2004, "Ensemble selection from libraries of models"): start with no member;
    each step adds the member with which the mean log-probabilities score best. A member may be added again, and a step
    is taken even if the score falls.

    A tie goes to a member that is already in, then to the lower log-loss of the ensemble with it, then to the name.
    The steps up to the best score are kept, of equal scores the fewest. Variant: selection with replacement, sorted
    initialisation by one model, log-probabilities in place of probabilities. The bagging is in `fit`.
    """
    num_classes = library.log_probs.shape[-1]
    total, picks, scores = np.zeros(library.log_probs.shape[1:]), [], []

    def with_it(member: int) -> np.ndarray:
        return (total + library.log_probs[member]) / (len(picks) + 1)

    def scored(member: int) -> Fraction:
        return exact_score(METRICS[metric], library.labels, with_it(member), num_classes)

    def rank(member: int) -> tuple:
        return member not in picks, log_loss(with_it(member), library.labels), library.names[member]

    for _ in range(steps):
        allowed = range(len(library.names)) if picks else np.flatnonzero(library.begins).tolist()
        by_score = {member: scored(member) for member in allowed}
        best = max(by_score.values())
        tied = [member for member, score in by_score.items() if score == best]
        pick = tied[0] if len(tied) == 1 else min(tied, key=rank)
        total = total + library.log_probs[pick]
        picks.append(pick)
        scores.append(best)
    return Selection(tuple(picks), tuple(scores), 1 + scores.index(max(scores)))


@dataclass(frozen=True)
class Fit:
    """An ensemble and its calibration, chosen on some people: the selections made, and their mean `weights`."""

    selections: tuple[Selection, ...]
    weights: tuple[Fraction, ...]
    calibration: Calibration


def fit(library: Library, metric: str) -> Fit:
    """Choose weights, temperature and bias on all the people of a library.

    Selections are bagged over people (the paper bags over members). `HALVINGS` times the people are halved, and each
    half selects; the ensemble takes the mean of all these weights. So what helps a few people by chance averages out.
    Temperature and bias are fitted to scores that each person gets under weights chosen on the other half, averaged
    over the halvings. Such scores are as unsure as those of new people.
    """
    selections, each = [], []
    scores = np.zeros(library.log_probs.shape[1:])
    for seed in range(HALVINGS):
        halves = person_folds(library.labels, library.persons, 2, seed)
        for chosen_on, others in (halves, halves[::-1]):
            selections.append(select(library.at(chosen_on), metric))
            each.append(selections[-1].weights(len(library.names)))
            scores[others] += library.at(others).scores(each[-1]) / HALVINGS
    weights = tuple(sum(shares) / len(each) for shares in zip(*each, strict=True))
    calibration = calibrate(scores, library.labels, library.persons, library.class_counts, metric)
    return Fit(tuple(selections), weights, calibration)


@dataclass(frozen=True)
class CrossFit:
    """Predictions for each person by what was chosen on other people only.

    `single` (N, C) are the log-probabilities of the one model that scored best, `plain` and `biased` (N, C) the scores
    of the ensemble with its temperature, without and with a bias. `rules` say which bias each fold got. `losses` are
    the mean log-losses without and with the temperature. `fold_scores` are what `plain` and `biased` score in each
    fold by itself.
    """

    single: np.ndarray
    plain: np.ndarray
    biased: np.ndarray
    rules: list[str]
    losses: tuple[float, float]
    fold_scores: dict[str, list[float]]


def cross_fit(library: Library, metric: str) -> CrossFit:
    """What `fit` is worth on new people: for each fold of people it is done anew on all other people.

    A member that is a soup was chosen on all of these people before, and no fold can undo that. Raises `InputError`
    when fewer than 4 people are held out, because the folds inside a fold would be left without people.
    """
    people = len(np.unique(library.persons))
    if people < 4:
        raise InputError(f"--ensemble auto selects across people, and {people} are held out: it needs 4 or more")
    single, raw, plain, biased = np.empty((4, *library.log_probs.shape[1:]))
    rules, fold_scores = [], {"plain": [], "biased": []}
    for rest, fold in cross_folds(library.labels, library.persons):
        others, own = library.at(rest), library.at(fold)
        chosen = fit(others, metric)
        rules.append(chosen.calibration.rule)
        single[fold] = own.log_probs[select(others, metric, steps=1).picks[0]]
        raw[fold] = own.scores(chosen.weights)
        plain[fold] = raw[fold] / chosen.calibration.temperature
        biased[fold] = chosen.calibration.apply(raw[fold])
        for name, scores in (("plain", plain), ("biased", biased)):
            reached = exact_score(METRICS[metric], own.labels, scores[fold], len(library.class_counts))
            fold_scores[name].append(METRICS[metric].shown(reached))
    losses = log_loss(raw, library.labels), log_loss(plain, library.labels)
    return CrossFit(single, plain, biased, rules, losses, fold_scores)


@dataclass(frozen=True)
class Choice:
    """The ensemble chosen on everybody, what choosing so is worth on other people, and what a bias gains there."""

    fit: Fit
    crossed: CrossFit
    bias_gain: Gain


def choose(library: Library, metric: str) -> Choice:
    """Choose an ensemble and a bias on everybody; the bias is kept only if it surely gains on other people.

    It surely gains when the 95 % interval of its gain over people (a paired bootstrap) lies above zero, where each
    person is predicted under a bias that was chosen on other people.
    """
    crossed, chosen = cross_fit(library, metric), fit(library, metric)
    num_classes = len(library.class_counts)
    gain = paired_gain(library.labels, crossed.biased, crossed.plain, library.persons, num_classes)[metric]
    kept = chosen if gain.low > 0 else replace(chosen, calibration=chosen.calibration.without_bias())
    return Choice(kept, crossed, gain)
