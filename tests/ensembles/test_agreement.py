import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import hard_voting
from utils.base.pictures import save_agreement
from utils.base.terminal import percent
from utils.data import competition
from utils.ensembles import candidates
from utils.ensembles.agreement import agreement, comparison_lines, groups, mean_percent, percent_table
from utils.ensembles.selection import Library

# worn male under 30 is 0, worn male 30 to 59 is 1, worn female under 30 is 3, not worn male under 30 is 12
ANSWERS = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 3, 12, 1]])
SAME = [[4, 3, 1], [3, 4, 2], [1, 2, 4]]


def save(name, answers):
    with open(name, "w") as file:
        file.writelines(["ImageID,ans\n", *(f"{k}.jpg,{answer}\n" for k, answer in enumerate(answers))])
    return name


def test_agreement_of_unequal_files_is_that_of_a_table_made_by_hand():
    assert agreement(ANSWERS).tolist() == SAME
    assert percent_table(np.array(SAME), 4) == [
        "       0   1   2",
        "[ 0] 100  75  25",
        "[ 1]  75 100  50",
        "[ 2]  25  50 100",
    ]
    assert mean_percent(np.array(SAME), 4) == ["50.0", "62.5", "37.5"]


def test_agreement_is_symmetric_and_every_row_on_the_diagonal():
    answers = np.random.default_rng(0).integers(0, 18, (7, 200))
    same = agreement(answers)
    np.testing.assert_array_equal(same, same.T)
    assert same.diagonal().tolist() == [200] * 7
    for a, b in itertools.product(range(7), repeat=2):
        assert same[a, b] == sum(x == y for x, y in zip(answers[a].tolist(), answers[b].tolist(), strict=True))
    assert agreement(answers[:1]).tolist() == [[200]]


def test_a_hundred_percent_is_every_row_and_nothing_less():
    assert percent(12_600, 12_600) == "100.0"
    assert percent(12_599, 12_600) == "99.9"
    assert percent_table(np.array([[12_600, 12_599], [12_599, 12_600]]), 12_600)[1] == "[ 0] 100  99"


def test_files_are_nearly_one_vote_when_they_differ_a_quarter_as_often_as_the_middle_pair():
    def of(*differing):  # the pairs (0, 1), (0, 2), (1, 2) in turn
        same = np.full((3, 3), 100)
        for (a, b), count in zip(itertools.combinations(range(3), 2), differing, strict=True):
            same[a, b] = same[b, a] = 100 - count
        return same

    assert groups(of(5, 20, 22), 100) == [[0, 1]]
    assert groups(of(6, 20, 22), 100) == []
    assert groups(of(20, 22, 5), 100) == [[1, 2]]
    assert groups(of(0, 0, 0), 100) == [[0, 1, 2]]
    assert groups(np.array([[9, 9], [9, 9]]), 9) == [[0, 1]]
    assert groups(np.array([[9, 8], [8, 9]]), 9) == []  # with two files there is nothing to measure against


def test_two_pairs_of_copies_and_an_outlier_are_told_apart():
    a, b, far = np.zeros(100, int), np.arange(100) % 4, np.full(100, 17)
    same = agreement(np.stack([a, b, a, far, b]))
    assert comparison_lines(same, 100)[-3:] == [
        "nearly one vote: [0] [2], the same as [0] on 100.0 % of rows or more",
        "nearly one vote: [1] [4], the same as [1] on 100.0 % of rows or more",
        "least like the others: [3], the same on 0.0 % of rows on average",
    ]
    assert "least like" not in comparison_lines(agreement(np.stack([a, b])), 100)[-1]  # of two, neither is


def test_the_command_tells_what_went_into_the_vote_and_how_far_it_agrees(capsys):
    files = [save(f"{name}.csv", answers) for name, answers in zip("abc", ANSWERS, strict=True)]
    hard_voting.main([*files, "--output", "vote.csv", "--weights", "1", "0.5", "1"])
    assert capsys.readouterr().out.splitlines() == [
        "attribute vote of 3 files on 4 rows",
        "        rows  mean agreement with the others, %",
        "     changed   class    mask  gender     age  weight  file",
        "[ 0]       1    50.0    87.5    87.5    75.0       1  a.csv",
        "[ 1]       0    62.5    87.5    87.5    87.5     0.5  b.csv",
        "[ 2]       2    37.5    75.0    75.0    87.5       1  c.csv",
        "class and attribute voting differ in 0 rows",
        "rows on which two files give the same class, in percent, rounded down",
        "       0   1   2",
        "[ 0] 100  75  25",
        "[ 1]  75 100  50",
        "[ 2]  25  50 100",
        "least like the others: [2], the same on 37.5 % of rows on average",
        "saved vote.csv",
    ]


def test_one_file_has_nothing_to_agree_with(capsys):
    hard_voting.main([save("a.csv", [1, 2]), "--output", "vote.csv", "--show-disagreements"])
    said = capsys.readouterr().out.splitlines()
    assert said[3:] == [
        "[ 0]       0       -       -       -       -       1  a.csv",
        "class and attribute voting differ in 0 rows",
        "the files agree on every row: no sheet of disagreements",
        "saved vote.csv",
    ]
    assert not hard_voting.MATRIX.exists()


def test_columns_stay_in_line_for_twenty_files_and_long_names(capsys):
    rng = np.random.default_rng(0)
    files = [save(f"{'long_' * 30}{k}.csv", rng.integers(0, 18, 50)) for k in range(20)]
    hard_voting.main([*files, "--output", "vote.csv"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.index("long_") for line in lines[3:23]] == [lines[2].index("file")] * 20
    assert [line.split("  ")[-1] for line in lines[3:23]] == files
    start = next(k for k, line in enumerate(lines) if line.startswith("rows on which"))
    assert {len(line) for line in lines[start + 1 : start + 22]} == {84}


@pytest.mark.parametrize("count", [2, 5, 20])
def test_the_picture_grows_with_the_files_and_holds_their_numbers(count, tmp_path, monkeypatch):
    drawn = {}

    def keep(figure, path, dpi):
        figure.canvas.draw()
        axis, bar = figure.axes
        drawn["cells"] = [text.get_text() for text in axis.texts]
        drawn["title"], drawn["bar"] = axis.get_title(), bar.get_ylabel()
        edge = figure.bbox
        boxes = [label.get_window_extent() for label in [*axis.get_yticklabels(), axis.yaxis.label, bar.yaxis.label]]
        drawn["inside"] = all(edge.x0 <= box.x0 and box.x1 <= edge.x1 for box in boxes)

    monkeypatch.setattr("utils.base.pictures._save", keep)
    answers = np.random.default_rng(0).integers(0, 3, (count, 1000))
    names = ["output/output_faces_seed42_epoch24_greedysoup_num8_SV_x.csv", "a$b^$.csv", *map(str, range(2, count))]
    same = agreement(answers)
    save_agreement(tmp_path / "agreement.png", same, 1000, names)
    expected = [percent(same[a, b], 1000) for a, b in itertools.product(range(count), repeat=2) if a != b]
    assert drawn == {
        "cells": expected,
        "title": "rows on which two files give the same class, of 1,000",
        "bar": "agreement, percent of rows",
        "inside": True,
    }


def test_the_picture_is_written_of_equal_files_too(capsys, drawn):
    files = [save(name, [0, 5, 9]) for name in ("a.csv", "b.csv")]
    hard_voting.main([*files, "--output", "vote.csv", "--show-disagreements"])
    assert "nearly one vote: [0] [1]" in capsys.readouterr().out
    with Image.open("val_img/hard_voting/agreement.png") as picture:
        assert picture.width > picture.height > 300
        assert len(picture.convert("RGB").getcolors(2**24)) > 20


def test_candidates_for_an_ensemble_are_compared_by_the_same_table():
    """An age specialist predicts the first class of its age, and is compared by age alone."""
    specialist = competition.labelling().decode(ANSWERS[2])["age"]
    log_probs = np.log(np.eye(18)[np.stack([ANSWERS[0], ANSWERS[2], specialist])] + 1e-9)
    labels, begins = ANSWERS[0], np.array([True, True, False])
    library = Library(("a", "b", "Age_c"), log_probs, begins, labels, np.arange(4), np.ones(18, int))
    whole = competition.labelling()
    labellings = [whole, whole, whole.only(("age",))]
    models = [SimpleNamespace(checkpoint=SimpleNamespace(labelling=one)) for one in labellings]
    lines = candidates.library_lines(library, "accuracy", models)
    assert re.fullmatch(r"\[ 1\] accuracy 0\.2500\s+b", lines[1])
    assert lines[2] == "[ 2] specialist        Age_c"
    assert lines[-3:] == ["[ 0]   0  75  25", "[ 1]  75   0   0", "[ 2]  25   0   0"]
