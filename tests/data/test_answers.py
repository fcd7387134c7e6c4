"""Which images are predicted, what stands in the answers, and how they are read back and scored."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score

import inference
import summary
from utils.base.errors import InputError
from utils.base.tables import read_dicts, write_table
from utils.data import competition
from utils.data.answers import usual_answer, write_answers
from utils.data.labels import Attribute, Labelling, number, plain
from utils.data.origins import record_file, told_classes
from utils.data.reading import Reading
from utils.data.submissions import read_submission
from utils.data.unlabelled import read_test_images
from utils.evaluation.results import score_submissions, score_table

FLOWERS = Labelling((Attribute("label", ("tulip", "rose", "aster")),))
MANY = Labelling((Attribute("colour", ("red", "blue")), number("height", (10,), "cm")))


def draw(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (9, 99, 199)).save(path)
    return folder


def written(path: Path, names: list[str], preds: list[int], known: Labelling, answer: str, probs=None) -> Path:
    """A submission of these images and answers."""
    test = read_test_images(draw(path.parent / "images", *names))
    assert list(test.files()) == sorted(names)
    scores = np.eye(known.num_classes)[preds]
    record = {"members": [{"digest": path.stem}], **known.record()}
    write_answers(path, test, lambda: iter([scores]), record, known, answer, probs)
    return path


@pytest.mark.parametrize(
    ("known", "usual"),
    [
        (competition.labelling(), "ids"),
        (competition.labelling(("age",), (25, 50)), "ids"),
        (FLOWERS, "names"),
        (plain(("cat", "dog")), "names"),
        (Labelling((Attribute("gender", ("f", "m")),)), "names"),
    ],
)
def test_answers_are_ids_of_the_competition_and_names_of_all_others(known, usual):
    assert usual_answer(known) == usual


@pytest.mark.parametrize(("answer", "cells"), [("names", ["aster", "tulip", "rose"]), ("ids", ["2", "0", "1"])])
def test_what_is_written_is_read_back(answer, cells, tmp_path):
    path = written(
        tmp_path / "output_a.csv", ["x.png", "y.png", "z.png"], [2, 0, 1], FLOWERS, answer, lambda one: one / 2
    )
    assert [row["ans"] for _, row in read_dicts(path)[1]] == cells
    assert read_submission(path).answers.tolist() == [2, 0, 1]
    columns, rows = read_dicts(path.with_stem("output_a_probs"))
    assert columns == ["ImageID", "tulip", "rose", "aster"]
    assert [float(row["aster"]) for _, row in rows] == [0.5, 0, 0]
    assert json.loads(path.with_name("output_a.csv.json").read_text())["answer"] == answer


def test_the_competitions_probabilities_keep_their_columns(tmp_path):
    path = written(tmp_path / "output_a.csv", ["x.png"], [7], competition.labelling(), "ids", lambda one: one)
    assert read_dicts(path.with_stem("output_a_probs"))[0] == ["ImageID", *(f"p{k}" for k in range(18))]


def test_numbers_that_are_names_are_read_as_the_record_says(tmp_path):
    """Of classes called 1, 2 and 3 the answer 1 is the first by name, and the second by id."""
    known = Labelling((Attribute("label", ("1", "2", "3")),))
    for answer in ("names", "ids"):
        path = written(tmp_path / f"{answer}.csv", ["x.png", "y.png"], [1, 2], known, answer)
        assert read_submission(path).answers.tolist() == [1, 2]


def test_a_table_lists_what_to_predict_and_needs_no_labels(tmp_path):
    draw(tmp_path, "a/1.png", "2.png")
    (tmp_path / "list.csv").write_text("note,file\nx,a/1.png\ny,./2.png\n")
    test = read_test_images(tmp_path / "list.csv")
    assert (list(test.files()), test.columns, test.folder) == (["a/1.png", "2.png"], ["ImageID"], tmp_path)
    (tmp_path / "own.csv").write_text("photo\n2.png\n")
    assert list(read_test_images(tmp_path / "own.csv", reading=Reading(image_column="photo")).files()) == ["2.png"]
    assert read_test_images(tmp_path / "list.csv", reading=Reading(image_column="photo")).count == 2
    with pytest.raises(InputError, match=r"has the columns photo, and no file or .*: name one with --image-column"):
        read_test_images(tmp_path / "own.csv")
    (tmp_path / "gone.csv").write_text("file\n2.png\n3.png\n")
    with pytest.raises(InputError, match=r"gone.csv names 1 images that are not in .*, the first: 3.png"):
        read_test_images(tmp_path / "gone.csv")


def test_rows_of_test_are_predicted_where_a_column_tells_them(tmp_path):
    draw(tmp_path, "1.png", "2.png", "3.png")
    table, reading = tmp_path / "list.csv", Reading(split_column="part")
    table.write_text("file,part\n1.png,train\n2.png,test\n3.png,val\n")
    assert list(read_test_images(table, reading=reading).files()) == ["2.png"]
    assert list(read_test_images(table, reading=reading, split="val").files()) == ["3.png"]
    with pytest.raises(InputError, match=r"--split dev: .*list.csv has the splits test, train, val: name one"):
        read_test_images(table, reading=reading, split="dev")
    with pytest.raises(InputError, match=r"--split val: .*list.csv has no column of splits: name one with"):
        read_test_images(table, split="val")
    table.write_text("file,part\n1.png,train\n2.png,val\n")
    assert read_test_images(table, reading=reading).count == 2


def test_of_class_folders_test_is_predicted(tmp_path):
    draw(tmp_path, "train/rose/1.png", "test/rose/2.png", "test/3.png", "val/rose/4.png")
    assert list(read_test_images(tmp_path).files()) == ["3.png", "rose/2.png"]
    assert list(read_test_images(tmp_path, split="val").files()) == ["rose/4.png"]
    with pytest.raises(InputError, match=r"--split dev: there is no folder .*dev"):
        read_test_images(tmp_path, split="dev")


@pytest.mark.parametrize(
    ("known", "asked", "found"),
    [(FLOWERS, "rose", 1), (FLOWERS, "2", 2), (competition.labelling(), inference.USUAL, 4), (FLOWERS, None, None)],
)
def test_a_bad_image_may_be_answered_with_a_name_or_an_id(known, asked, found):
    assert inference.class_of_bad(asked, [SimpleNamespace(labelling=known, name="m")]) == found


@pytest.mark.parametrize(
    ("asked", "message"), [("3", "3 is no class of m, which has 0 to 2"), (inference.USUAL, "name one, such as tulip")]
)
def test_a_class_for_bad_images_that_is_none_is_refused(asked, message):
    with pytest.raises(InputError, match=message):
        inference.class_of_bad(asked, [SimpleNamespace(labelling=FLOWERS, name="m")])


TRUTH, FIRST, SECOND = [0, 1, 2, 2, 1, 0], [0, 1, 2, 0, 1, 0], [0, 2, 1, 2, 1, 0]


@pytest.mark.parametrize("answer", ["names", "ids"])
def test_submissions_are_scored_by_names_or_ids_as_scikit_learn_does(answer, tmp_path):
    names = [f"{k}.png" for k in range(6)]
    paths = [
        written(tmp_path / f"output_{k}.csv", names, one, FLOWERS, answer) for k, one in enumerate([FIRST, SECOND])
    ]
    for cells in (TRUTH, [FLOWERS.classes[k] for k in TRUTH]):
        truth = tmp_path / "truth.csv"
        truth.write_text(
            "ImageID,ans\n" + "".join(f"{name},{cell}\n" for name, cell in zip(names, cells, strict=True))
        )
        rows, gains = score_submissions(truth, paths)
        for row, preds in zip(rows, (FIRST, SECOND), strict=True):
            assert row["accuracy"] == pytest.approx(accuracy_score(TRUTH, preds))
            assert row["macro_f1"] == pytest.approx(f1_score(TRUTH, preds, average="macro"))
        assert len(gains) == 1
    assert score_table(rows).startswith(f"the images of {truth}: 6 images; in brackets 95 % over images")
    summary.main([*map(str, paths), "--truth", str(truth)])


def test_submissions_of_other_classes_are_not_scored_together(tmp_path):
    one = written(tmp_path / "a" / "output_1.csv", ["x.png"], [1], FLOWERS, "names")
    other = written(tmp_path / "b" / "output_2.csv", ["x.png"], [1], MANY, "names")
    (tmp_path / "truth.csv").write_text("ImageID,ans\nx.png,rose\n")
    with pytest.raises(InputError, match=r"output_1.csv and .*output_2.csv are of different classes"):
        score_submissions(tmp_path / "truth.csv", [one, other])
    with pytest.raises(InputError, match=r"truth.csv, line 2: ans 'rose' is no whole number from 0 to 3"):
        score_submissions(tmp_path / "truth.csv", [other])


@pytest.mark.parametrize(
    ("told", "persons", "heading"),
    [
        ("held-out images", 12, "12 images; in brackets 95 % over images"),
        ("held-out groups", 4, "4 groups, 12 images; in brackets 95 % over groups"),
        ("held-out images, whose groups were trained on", 4, "4 groups, 12 images; in brackets 95 % over groups"),
        ("held-out images, whose people were trained on", 4, "4 people, 12 images; in brackets 95 % over people"),
        ("the people of groups/images/truth.csv", 4, "4 people, 12 images; in brackets 95 % over people"),
    ],
)
def test_a_table_of_scores_says_what_intervals_are_over(told, persons, heading):
    row = {"kind": "single", "model": "a", "people": told, "persons": persons, "images": 12}
    assert score_table([row]).startswith(f"{told}: {heading}\n")


def test_numbers_stay_numbers_in_the_record_beside_a_submission(tmp_path):
    """So other limits are the same question, and so are submissions of earlier programs, which told no classes."""
    one, other = competition.labelling(), competition.labelling(age_limits=(30, 58))
    paths = [
        written(tmp_path / f"output_{k}.csv", ["a.jpg", "b.jpg"], [0, 3], known, "ids")
        for k, known in enumerate((one, other, one))
    ]
    record = json.loads(record_file(paths[2]).read_text())
    record_file(paths[2]).write_text(json.dumps({name: record[name] for name in ("sha256", "members")}))
    assert told_classes(paths) == (one, paths[0])
    truth = write_table(tmp_path / "truth.csv", ["ImageID", "ans"], [["a.jpg", 0], ["b.jpg", 3]])
    with pytest.raises(InputError, match="has no column person"):
        score_submissions(truth, paths)
