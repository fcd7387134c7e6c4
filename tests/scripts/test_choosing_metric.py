"""The measurement of which metric chooses best, on random arrays."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from benchmarks import choosing_metric
from utils.base.metrics import METRICS
from utils.evaluation.scores import log_softmax


@pytest.mark.parametrize("way", [[], ["--subsets"]])
def test_each_metric_chooses_on_one_half_of_the_people_and_is_scored_on_the_other(way, capsys):
    rng = np.random.default_rng(0)
    persons = np.repeat([f"p{k:02d}" for k in range(15)], 4)
    labels = rng.integers(0, 3, 60)
    skill = np.array([0.2, 1.0, 2.0, 0.5])[:, None, None]
    log_probs = log_softmax(rng.normal(0, 1, (4, 60, 3)) + skill * np.eye(3)[labels])
    np.savez("sweep.npz", log_probs=log_probs, labels=labels, persons=persons)
    choosing_metric.main(["--logits", "sweep.npz", "--halvings", "3", *way])
    heading, _, uniform, *rows = capsys.readouterr().out.splitlines()
    assert heading.count("|") == uniform.count("|") == 7
    assert [row.split("|")[1].strip() for row in rows] == list(METRICS)
    halves = list(choosing_metric.halvings(persons, 3))
    for one, other in halves:
        assert len(set(persons[one])) == 7
        assert len(set(persons[other])) == 8
        assert not set(persons[one]) & set(persons[other])
    mean = log_probs.mean(0).argmax(-1)
    expected = np.mean([f1_score(labels[other], mean[other], average="macro") for _, other in halves])
    assert float(uniform.split("|")[3]) == pytest.approx(expected, abs=1e-4)
    for row in rows:
        score, gain = (float(row.split("|")[k]) for k in (3, 4))
        assert gain == pytest.approx(score - expected, abs=2e-4)
