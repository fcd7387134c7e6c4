"""The measurement of what a review finds, on suspects and predictions made by hand."""

from types import SimpleNamespace

import numpy as np

from benchmarks import cleaning, label_review
from benchmarks.label_review import Wrong, baselines, ranks, read_noise, rehearsal, table
from utils.review.predictions import Groups, Predictions
from utils.review.suspects import Correction, Suspect


def suspect(kind: str, attribute: str, name: str, suggested: str, *rows: tuple[str, str]) -> Suspect:
    accept = tuple(Correction(one, attribute, value) for one, value in rows)
    keep = tuple(Correction(one, attribute, "as given") for one, _ in rows)
    return Suspect("", kind, "", name, attribute, "", suggested, 0.7, "", (), accept, keep)


FEMALE, SWAP = "000007_male_Asian_30", "000009_female_Asian_40"
SUSPECTS = [
    suspect("label", "gender", FEMALE, "female", (FEMALE, "female")),
    suspect("label", "age", FEMALE, "60 and over", (FEMALE, "61")),
    suspect("label", "mask", f"{SWAP}/normal", "worn", (f"{SWAP}/normal", "worn")),
    suspect("swapped", "mask", f"{SWAP}/incorrect_mask", "", (f"{SWAP}/incorrect_mask", "not_worn"),
            (f"{SWAP}/normal", "incorrect")),
    suspect("swapped", "mask", f"{SWAP}/mask1", "", (f"{SWAP}/mask1", "not_worn"), (f"{SWAP}/normal", "worn")),
]  # fmt: skip


def test_a_suspect_is_about_what_is_wrong_and_mends_it_or_not(tmp_path):
    path = tmp_path / "noise.csv"
    path.write_text("id,kind,true\n000007,gender,female\n000009,incorrect_mask<->normal,\n")
    wrong = read_noise(path)
    assert wrong == Wrong({"000007": "female"}, {"000009"})
    assert [wrong.suspected(one) for one in SUSPECTS] == ["000007", None, "000009", "000009", None]
    assert [wrong.mended(one) for one in SUSPECTS] == [True, False, False, True, False]
    rows = [(one.id, one.attribute, one.value) for one in wrong.corrections()]
    assert rows == [
        ("000007", "gender", "female"), ("000009/incorrect_mask", "mask", "not_worn"),
        ("000009/normal", "mask", "incorrect"),
    ]  # fmt: skip
    assert [wrong.person(f"{FEMALE}/mask1"), wrong.person(f"{SWAP}/mask1")] == ["000007", None]
    heading, row = label_review.accepted(SUSPECTS, wrong)[0], label_review.accepted(SUSPECTS, wrong)[3]
    assert heading.count("|") == row.count("|")
    assert row == "| 0.5 | 5 | 3.5 | 3 | 2 |"


def test_precision_counts_suspects_and_recall_each_person_once():
    found = ["a", "a", None, "b", *[None] * 8, "c"]
    assert table({"way": found}, 4)[-1] == "| way | 13 | 3 of 10 | 2 of 4 | 4 of 13 | 3 of 4 | 4 of 13 | 3 of 4 |"


def test_baselines_list_photographs_by_what_the_classes_say_of_them(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(18), 10)
    log_probs = np.full((180, 18), -6.0)
    log_probs[np.arange(180), labels] = np.log1p(-17 * np.exp(-6.0))
    log_probs[[5, 50]] = np.roll(log_probs[[5, 50]], 7, axis=1)
    log_probs[50] *= 1.5

    class Given:
        def labels(self, labelling):
            return labels

    predictions = Predictions(Given(), rng.permutation(180), log_probs, None)
    labels = labels[np.argsort(predictions.rows)]  # of the photographs at `rows` as before
    orders = baselines(predictions)
    assert orders["highest loss first"][:2].tolist() == [50, 5]
    issues = set(orders["cleanlab, 18 classes of photographs"].tolist())
    assert issues
    assert issues <= {5, 50}


def genders_of(log_odds: list[list[float]], given: list[int]) -> SimpleNamespace:
    """Predictions of people with two photographs each: log-odds of being female, and what they are labelled."""
    names = np.array([f"{k:06d}_x" for k in range(len(given))])
    members = [np.array([2 * k, 2 * k + 1]) for k in range(len(given))]
    female = np.ravel(log_odds)
    log_probs = -np.log1p(np.exp(np.stack([female, -female], axis=1)))
    groups = Groups(names, names, np.repeat(np.arange(len(given)), 2), members)
    return SimpleNamespace(groups=groups, given={"gender": np.repeat(given, 2)}, of_attribute=lambda _: log_probs)


def test_ranks_by_the_evidence_alone_and_the_most_that_any_ranking_by_it_finds(monkeypatch):
    monkeypatch.setattr(label_review, "FIRST", (1, 2, 3))
    men, women = [3.0, 2.0, -1.0, -2.0], [-2.5, -1.5, -0.5, 1.0]
    predictions = genders_of([[one - 0.1, one + 0.1] for one in men + women], [0] * 4 + [1] * 4)
    (line,) = ranks(predictions, Wrong({"000001": "female", "000004": "male", "000005": "male"}, set()))
    # against the label: 3.0, 2.5 (wrong), 2.0 (wrong), 1.5 (wrong); the women alone are wrong at once
    assert "ranks 2, 3, 4: 0 in 1, 1 in 2, 2 in 3" in line
    assert line.endswith("than 1 in 1, 2 in 2, 2 in 3.")
    assert "right of 75.0% of people" in line  # all but the first man and the third woman


def test_a_rehearsal_counts_what_was_turned_round():
    told = genders_of([[s * 9.0, s * 9.0] for s in (-1, 1) * 50], [0, 1] * 50)
    assert rehearsal(told, 5, 3)[2:5] == [
        f"| {name} | 5.0 | 5 to 5 |" for name in ("review", "mean log-odds", "highest loss of a photograph")
    ]
    sides = np.tile([-1, 1], 50)
    odd = [[20 * s, -5 * s] if k < 50 else [s, s] for k, s in enumerate(sides)]  # half have a photograph that misleads
    lines = rehearsal(genders_of(odd, [0, 1] * 50), 20, 3)
    assert lines[3] == "| mean log-odds | 20.0 | 20 to 20 |"
    assert float(lines[4].split("|")[2]) < 20  # those come first, and not only who is turned round


def test_what_mended_labels_are_worth_is_told_against_the_first_sweep(monkeypatch, tmp_path, capsys):
    labels, persons = np.tile(np.arange(18), 20), np.repeat(np.arange(20), 18)
    worse = np.where(persons < 10, (labels + 1) % 18, labels)  # wrong about the first ten people
    answers = {"noisy": [worse, labels], "right": [labels, labels]}
    truth = SimpleNamespace(labels=labels, persons=persons)
    monkeypatch.setattr(cleaning, "Truth", lambda path: truth)
    monkeypatch.setattr(cleaning.runtime, "start_runtime", lambda name: None)
    monkeypatch.setattr(cleaning, "out_of_fold", lambda _, name, *__: (answers[name], labels, persons, persons >= 10))
    monkeypatch.setattr(cleaning, "on_new_people", lambda name, *_: (answers[name], labels, persons))
    cleaning.main(["--names", "noisy", "right", "--data", "x", "--relabel", "x", "--truth", "x"])
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first == "| noisy | 0.750 | 0.750 |  |  | 0.750 | 0.750 |  |"
    name, *cells = (cell.strip() for cell in second.strip("|").split("|"))
    assert (name, cells[0], cells[1], cells[3]) == ("right", "1.000", "1.000", "+0.000 [+0.000, +0.000]")
    for gain in (cells[2], cells[6]):
        difference, low, high = (float(one.strip("[,]")) for one in gain.split())
        assert difference == 0.25
        assert 0.1 < low < 0.2
        assert 0.3 < high < 0.4
