"""The measurement of what a review finds, on suspects and predictions made by hand."""

import numpy as np

from benchmarks import label_review
from benchmarks.label_review import Wrong, baselines, read_noise, table
from utils.review.predictions import Predictions
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
