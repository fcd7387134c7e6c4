from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch.nn import functional as F

from utils.base.metrics import METRICS
from utils.data import competition
from utils.evaluation.scores import (
    bootstrap_scores,
    confusion_matrix,
    exact_score,
    interval,
    log_softmax,
    paired_gain,
    score,
    score_row,
)
from utils.training.losses import make_loss


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(10))
def test_scores_equal_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    labels, preds = rng.integers(0, 18, (2, 40))
    confusion = confusion_matrix(labels, preds, 18)
    np.testing.assert_array_equal(confusion, sklearn_metrics.confusion_matrix(labels, preds, labels=range(18)))
    assert float(METRICS["accuracy"](confusion)) == pytest.approx(
        sklearn_metrics.accuracy_score(labels, preds), abs=1e-12
    )
    expected = sklearn_metrics.f1_score(labels, preds, average="macro")
    assert float(METRICS["macro_f1"](confusion)) == pytest.approx(expected, abs=1e-12)
    expected = sklearn_metrics.balanced_accuracy_score(labels, preds)
    assert float(METRICS["balanced_accuracy"](confusion)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("width", [1, 5, 40])  # with the last, some probabilities are below what scikit-learn takes
def test_the_log_loss_equals_scikit_learns(width):
    rng = np.random.default_rng(width)
    labels, logits = rng.integers(0, 18, 200), rng.normal(0, width, (200, 18)).astype(np.float32)
    loss = METRICS["log_loss"].shown(exact_score(METRICS["log_loss"], labels, logits, 18))
    expected = sklearn_metrics.log_loss(labels, np.exp(log_softmax(logits)), labels=range(18))
    assert loss == pytest.approx(expected, abs=1e-9)
    assert score(logits, labels, competition.labelling()).record()["log_loss"] == loss


def test_a_probability_of_zero_has_a_loss():
    with np.errstate(divide="ignore"):
        row = score_row(np.array([0, 1]), np.log([[0.0, 1.0], [0.0, 1.0]]), np.array(["a", "b"]), 2)
    assert row["log_loss"] == pytest.approx(-np.log(2.0**-52) / 2)


def test_macro_f1_is_exact():
    confusion = np.array([[1, 1], [0, 1]])  # F1 of both classes is 2/3
    assert METRICS["macro_f1"](confusion) == Fraction(2, 3)
    assert METRICS["accuracy"](confusion) == Fraction(2, 3)


def test_score_of_logits():
    logits = np.log(np.full((4, 18), 1e-3) + np.eye(18)[[0, 7, 16, 17]])
    scores = score(logits, np.array([0, 7, 17, 17]), competition.labelling())
    assert scores.record()["correct"] == 3
    assert scores.attributes == {"mask": 1, "gender": 1, "age": Fraction(3, 4)}
    expected = F.cross_entropy(torch.from_numpy(logits), torch.tensor([0, 7, 17, 17])).item()
    assert scores.loss == pytest.approx(expected)


def test_log_softmax_of_large_logits():
    logits = np.array([[1000.0, 999.0]], np.float32)
    np.testing.assert_allclose(log_softmax(logits), torch.log_softmax(torch.tensor([[1000.0, 999.0]]).double(), -1))


def test_bootstrap_resamples_people_and_agrees_with_a_plain_loop():
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(20), 7)
    labels = rng.integers(0, 3, 140)
    preds = np.where(rng.random(140) < 0.6, labels, rng.integers(0, 3, 140))
    samples = bootstrap_scores(labels, preds, persons, 3, samples=4000)
    plain = []
    for _ in range(1500):
        rows = np.concatenate([np.flatnonzero(persons == p) for p in rng.integers(0, 20, 20)])
        plain.append(sklearn_metrics.f1_score(labels[rows], preds[rows], average="macro"))
    assert samples["macro_f1"].mean() == pytest.approx(np.mean(plain), abs=0.005)
    assert samples["macro_f1"].std() == pytest.approx(np.std(plain), rel=0.15)
    low, high = interval(samples["accuracy"])
    assert low < (labels == preds).mean() < high


def test_the_bootstrap_of_the_log_loss_is_a_naive_loops_on_the_same_people():
    rng = np.random.default_rng(1)
    persons = np.repeat(np.arange(12), rng.integers(1, 9, 12))
    labels, logits = rng.integers(0, 4, len(persons)), rng.normal(0, 2, (len(persons), 4)).astype(np.float32)
    people, probs = np.random.default_rng(0), np.exp(log_softmax(logits))
    plain = []
    for times in people.multinomial(12, np.full(12, 1 / 12), size=50):
        rows = np.concatenate([np.flatnonzero(persons == p) for p in np.repeat(np.arange(12), times)])
        plain.append(-sklearn_metrics.log_loss(labels[rows], probs[rows], labels=range(4)))
    samples = bootstrap_scores(labels, logits, persons, 4, samples=50)
    np.testing.assert_allclose(samples["log_loss"], plain, atol=1e-9)


def test_a_loss_is_shown_as_what_is_lost_and_gains_what_it_falls_by():
    labels, persons = np.arange(6) % 2, np.repeat(["a", "b", "c"], 2)
    sure, unsure = np.log([0.8, 0.2]), np.log([0.5, 0.5])
    good, poor = (np.where(labels[:, None], one[::-1], one) for one in (sure, unsure))
    row = score_row(labels, good, persons, 2)
    assert row["log_loss"] == pytest.approx(-np.log(0.8))
    assert row["log_loss_interval"] == pytest.approx((-np.log(0.8), -np.log(0.8)))
    gain = paired_gain(labels, good, poor, persons, 2)["log_loss"]
    assert gain.difference == pytest.approx(np.log(0.8) - np.log(0.5))
    assert gain.probability == 1


def test_classes_alone_have_no_log_loss():
    labels, logits, persons = np.arange(6) % 2, np.eye(2)[np.arange(6) % 2], np.repeat(["a", "b", "c"], 2)
    row = score_row(labels, labels, persons, 2)
    assert {name for name in METRICS if name in row} == METRICS.keys() - {"log_loss"}
    assert paired_gain(labels, logits, labels, persons, 2).keys() == METRICS.keys() - {"log_loss"}
    assert {name: score_row(labels, logits, persons, 2)[name] for name in row} == row


def test_one_person_leaves_no_doubt():
    samples = bootstrap_scores(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array(["a"] * 3), 2, samples=10)
    np.testing.assert_allclose(samples["accuracy"], 2 / 3)
    np.testing.assert_allclose(samples["macro_f1"], 2 / 3)


def test_cross_entropy_is_torchs():
    logits, labels = torch.randn(5, 18), torch.tensor([0, 3, 3, 7, 17])
    loss = make_loss("CrossEntropyLoss", label_smoothing=0.1)(logits, torch.randn(5, 4), labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, label_smoothing=0.1))


def test_contrastive_loss_is_added_to_cross_entropy():
    """By hand: pairs of one label cost 1 - cos, others max(0, cos); each side is the mean of its non-zero pairs."""
    angles = torch.tensor([0.0, 0.6, 1.2])
    features = torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.tensor([0, 0, 1])
    logits = torch.randn(3, 18, requires_grad=True)
    positive = 1 - np.cos(0.6)
    negative = (np.cos(1.2) + np.cos(0.6)) / 2
    expected = F.cross_entropy(logits, labels) + 0.25 * (positive + negative)
    loss = make_loss("ContrastiveLoss", contrastive_weight=0.25)(logits, features, labels)
    torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=1e-6)
    loss.backward()
    assert logits.grad.abs().sum() > 0  # the head learns too


def test_a_gain_is_paired_over_people():
    persons = np.repeat(np.arange(10), 6)
    labels = np.tile(np.arange(3), 20)
    half = np.where(np.arange(60) % 2, labels, (labels + 1) % 3)
    nothing = paired_gain(labels, half, half, persons, 3)["accuracy"]
    assert (nothing.difference, nothing.low, nothing.high, nothing.probability) == (0, 0, 0, 0.5)
    better = np.where(persons < 1, labels, half)  # one person of ten, wholly right
    gain = paired_gain(labels, better, half, persons, 3)["accuracy"]
    assert gain.difference == pytest.approx(0.05)
    assert gain.low == 0  # resamplings without that person show no gain
    assert gain.probability == pytest.approx(1 - 0.9**10 / 2, abs=0.02)
    loss = paired_gain(labels, half, better, persons, 3)["accuracy"]
    assert (loss.difference, loss.high) == (-gain.difference, 0)
    assert paired_gain(labels, labels, half, persons, 3)["macro_f1"].probability == 1
    assert str(gain).startswith("+0.050 [+0.000, +0.1")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_parts_of_a_weighted_step_make_the_whole(smoothing):
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 1])
    loss = make_loss("CrossEntropyLoss", label_smoothing=smoothing, class_weights=torch.tensor([0.5, 1.0, 3.0]))
    parts = [loss(logits[some], None, labels[some]).item() for some in (slice(0, 3), slice(3, 6))]
    assert loss(logits, None, labels).item() == pytest.approx(sum(parts) / 2)
    shares = F.one_hot(labels, 3).float()
    assert loss(logits, None, shares).item() == pytest.approx(loss(logits, None, labels).item())


def test_the_adjusted_loss_is_the_plain_one_of_shifted_logits():
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 1])
    shares = torch.tensor([0.7, 0.2, 0.1])
    adjusted = make_loss("CrossEntropyLoss", adjustment=shares.log())(logits, None, labels)
    by_hand = -torch.log(shares * logits.exp() / (shares * logits.exp()).sum(1, keepdim=True))
    assert adjusted.item() == pytest.approx(by_hand[torch.arange(6), labels].mean().item())
