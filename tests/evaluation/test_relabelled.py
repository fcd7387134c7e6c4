"""Labels that relabel.csv changed are counted wherever people score."""

import numpy as np

from utils.data import competition
from utils.evaluation.held_out import Scored
from utils.evaluation.kept import KeptRow
from utils.evaluation.people import images_of
from utils.evaluation.results import score_table
from utils.reports.rival import relabelled_line


def scored(relabelled: list[int]) -> Scored:
    """Ten people with three photographs each."""
    one = Scored()
    one.labelling, one.labels = competition.labelling(), np.arange(30) % 18
    one.persons, one.relabelled = np.repeat([f"p{k}" for k in range(10)], 3), np.isin(np.arange(30), relabelled)
    return one


def test_every_record_of_scores_counts_them():
    held_out, logits = scored([0, 1, 4]), np.eye(18)[np.arange(30) % 18]
    assert held_out.score(logits).record()["relabelled"] == 3
    known = {"people": "everybody", "split": "s", "digest": ""}
    row = {**held_out.row("single", "a", logits), **known}
    assert row["relabelled"] == held_out.expected_row([logits, logits])["relabelled"] == 3
    assert KeptRow.model_validate(row).relabelled == 3
    assert score_table([row]).startswith("everybody: 10 people, 30 images, 3 of them relabelled; ")
    assert "relabelled" not in score_table([row | {"relabelled": 0}])
    before = {name: value for name, value in row.items() if name != "relabelled"}  # a file of earlier days
    assert KeptRow.model_validate(before).plain().keys() == before.keys()
    assert images_of("them", "s", held_out.relabelled) == "30 images of them (split s), 3 of them relabelled"


def test_the_gain_on_people_whose_labels_nobody_changed_owes_nothing_to_the_others():
    right = np.arange(30) % 18
    wrong = (right + 1) % 18
    held_out = scored([0, 1, 4])  # of the first two people
    only_on_them = np.where(np.arange(30) < 6, right, wrong)
    line = relabelled_line(held_out, only_on_them, wrong, "accuracy")
    assert line.startswith(
        "relabel.csv changes 3 of these photographs, of 2 people; on the 8 other people the gain is"
    )
    assert "accuracy no difference" in line
    assert "accuracy +1.000 [+1.000, +1.000]" in relabelled_line(held_out, right, wrong, "accuracy")
    assert relabelled_line(scored([]), right, wrong, "accuracy") == ""
    assert relabelled_line(scored(list(range(30))), right, wrong, "accuracy") == ""
