"""When a model is said to have learned nothing, or never to get a class right: on tables made by hand."""

import numpy as np
import pytest

from utils.evaluation.alarms import alarm_lines, chance

CLASSES = ("young", "middle", "old")
LABELS = np.repeat([0, 1, 2], [60, 30, 10])


def answers(*counts):
    """(100,) predictions: of each true class in turn, so many answers 0, 1 and 2."""
    return np.concatenate([np.repeat([0, 1, 2], row) for row in counts])


def test_chance_is_the_better_of_one_answer_for_all_and_of_answers_drawn_by_frequency():
    assert chance(LABELS, 3, "accuracy") == pytest.approx(0.6)  # all young; drawn: 0.36 + 0.09 + 0.01
    # all young: (2 * 60 / 160) / 3 = 0.25; drawn: (0.6 + 0.3 + 0.1) / 3
    assert chance(LABELS, 3, "macro_f1") == pytest.approx(1 / 3)
    assert chance(np.arange(18).repeat(5), 18, "macro_f1") == pytest.approx(1 / 18)
    assert chance(LABELS, 4, "balanced_accuracy") == pytest.approx(1 / 3)
    by_frequency = -0.6 * np.log(0.6) - 0.3 * np.log(0.3) - 0.1 * np.log(0.1)
    assert chance(LABELS, 4, "log_loss") == pytest.approx(by_frequency)  # about 0.898; the fourth class does not occur


def test_a_good_model_is_quiet():
    assert alarm_lines(LABELS, [LABELS], CLASSES) == []
    assert alarm_lines(LABELS, [answers((50, 8, 2), (8, 20, 2), (2, 3, 5))], CLASSES) == []


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_one_answer_for_all_is_near_chance_which_is_told_beside_it(metric):
    (line,) = alarm_lines(LABELS, [np.zeros(100, int)], CLASSES, metric)
    score, guessed = {"accuracy": ("accuracy 0.600", "0.600"), "macro_f1": ("macro-F1 0.250", "0.333")}[metric]
    assert line.startswith(
        f"ALARM: the model learned little: {score}, and answers that see no photograph reach {guessed} "
    )
    assert "more --epochs or a higher --lr" in line


def test_a_class_that_is_never_predicted_or_always_wrong_is_named_with_what_helps():
    never, wrong = answers((55, 5, 0), (5, 25, 0), (5, 5, 0)), answers((50, 5, 5), (5, 24, 1), (5, 5, 0))
    (line,) = alarm_lines(LABELS, [never], CLASSES)
    assert "of 3 classes the model never gets 1 right (never predicted: old (10 photographs)): " in line
    assert line.endswith("fine-tune with --logit-adjustment 1.0 or --sampler balanced")
    (line,) = alarm_lines(LABELS, [wrong], CLASSES)
    assert "(always wrong: old (10 photographs))" in line


def test_a_class_of_few_photographs_is_passed_over():
    labels = np.repeat([0, 1, 2], [60, 30, 9])
    assert alarm_lines(labels, [np.minimum(labels, 1)], CLASSES) == []


def test_of_several_models_only_what_all_fail_at_is_told():
    never = answers((55, 5, 0), (5, 25, 0), (5, 5, 0))
    assert alarm_lines(LABELS, [never, LABELS], CLASSES) == []
    (line,) = alarm_lines(LABELS, [never, never], CLASSES)
    assert "all 2 models never get 1 right" in line
    (line,) = alarm_lines(LABELS, [np.zeros(100, int), np.ones(100, int)], CLASSES)
    assert line.startswith("ALARM: all 2 models learned little: macro-F1 0.250 at best")


def test_probabilities_that_lose_more_than_the_frequencies_do_are_near_chance_by_log_loss():
    doubtful, sure = (np.log(np.full((100, 3), rest) + (1 - 3 * rest) * np.eye(3)[LABELS]) for rest in (0.3, 0.1))
    (line,) = alarm_lines(LABELS, [doubtful], CLASSES, "log_loss")
    assert line.startswith(
        "ALARM: the model learned little: log-loss 0.916, and answers that see no photograph reach 0.898 "
    )
    assert alarm_lines(LABELS, [doubtful], CLASSES, "accuracy") == []
    assert alarm_lines(LABELS, [sure], CLASSES, "log_loss") == []


def test_many_classes_make_one_short_line():
    labels = np.repeat(np.arange(18), 20)
    (line,) = alarm_lines(labels, [labels % 9], [f"class {k}" for k in range(18)])
    assert (
        "never gets 9 right (never predicted: class 9 (20 photographs), class 10 (20 photographs) and 7 more)" in line
    )
