"""Photographs in a folder per class and in tables: the same as the competition's where they say the same."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import finetune
from utils.base import data_flags
from utils.base.errors import InputError
from utils.base.tables import write_table
from utils.data import competition
from utils.data.labels import Attribute, Labelling, labelling_from_record
from utils.data.reading import Reading, asked_labelling, read_photographs, recorded_reading
from utils.data.relabel import read_claims
from utils.data.sanity import check_learned
from utils.data.splits import make_folds, make_split
from utils.data.unlabelled import read_test_images, told_seen

AS_COMPETITION = Reading(
    label_columns=("mask", "gender", "age"),
    group_column="person",
    values=("mask=worn,incorrect,not_worn", "gender=male,female"),
    limits=("age=30,60",),
)


def image(path: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def table(*rows: tuple, header: str = "file,label", path: str = "set/list.csv") -> Path:
    """A table of images that are there, beside it."""
    for name, *_ in rows:
        image(f"set/{name}")
    return write_table(Path(path), header.split(","), rows)


def split_of(photographs, **how) -> tuple[set, set]:
    split = make_split(photographs, how.pop("val_ratio", 0.2), 42, **how)
    return set(photographs.ids[split.train]), set(photographs.ids[split.held_out])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_the_competition_is_read_as_its_folders_are(faces, suffix):
    folders = read_photographs(faces)
    known = folders.labelling
    path = folders.folder / f"list_of_all{suffix}"
    rows = [
        (file, known["mask"].values[mask], known["gender"].values[gender], int(age), person)
        for file, mask, gender, age, person in zip(
            folders.files, *(folders.values[name] for name in known.attributes), folders.names, strict=True
        )
    ]
    try:
        write_table(path, ["file", "mask", "gender", "age", "person"], reversed(rows))
        listed = read_photographs(path, None, AS_COMPETITION)
        unasked = read_photographs(path)
    finally:
        path.unlink()
    assert listed.labelling == known
    assert listed.shared == folders.shared == ("gender", "age")
    for name in ("files", "ids", "names", "strata", "group_strata"):
        np.testing.assert_array_equal(getattr(listed, name), getattr(folders, name))
    np.testing.assert_array_equal(listed.labels(known), folders.labels(known))
    np.testing.assert_array_equal(unasked.labels(known), folders.labels(known))
    assert unasked.labelling == known
    assert make_split(listed, 0.2, 42).digest == make_split(folders, 0.2, 42).digest
    partitions = [make_folds(one, 3, 42)[0].folded.partition for one in (listed, folders)]
    assert partitions[0] == partitions[1]


def test_folders_of_classes_are_the_classes_in_order():
    for name in ("10/a.jpg", "9/a.png", "9/b/c.jpg", ".hidden/x.jpg", "9/.x.jpg", "9/notes.txt"):
        image(f"set/{name}") if not name.endswith(".txt") else Path(f"set/{name}").write_text("x")
    photographs = read_photographs(Path("set"))
    assert photographs.labelling == Labelling((Attribute("label", ("9", "10")),))
    assert photographs.files.tolist() == ["10/a.jpg", "9/a.png", "9/b/c.jpg"]
    assert photographs.ids.tolist() == ["10/a", "9/a", "9/b/c"]
    assert photographs.labels(photographs.labelling).tolist() == [1, 0, 0]
    assert photographs.persons.tolist() == photographs.ids.tolist()


def test_train_and_val_inside_are_respected_and_test_is_left_out():
    for name in ("train/cat/a.jpg", "train/dog/b.jpg", "val/cat/c.jpg", "val/dog/d.jpg", "test/cat/e.jpg"):
        image(f"set/{name}")
    photographs = read_photographs(Path("set"))
    assert photographs.labelling.classes == ("cat", "dog")
    assert split_of(photographs) == ({"train/cat/a", "train/dog/b"}, {"val/cat/c", "val/dog/d"})
    assert split_of(photographs, val_ratio=0)[1] == set()
    with pytest.raises(InputError, match=r"on the sides val, train, .*: leave --folds out, or tell the fold of each"):
        make_folds(photographs, 2, 42)


def test_a_val_without_images_and_a_class_in_val_alone_are_errors():
    for name in ("train/cat/a.jpg", "train/dog/b.jpg"):
        image(f"set/{name}")
    Path("set/val").mkdir()
    with pytest.raises(InputError, match=r"set/val holds no images: fill it, or remove it and a part of train"):
        read_photographs(Path("set"))
    image("set/val/cow/c.jpg")
    photographs = read_photographs(Path("set"))
    split = make_split(photographs, 0.2, 42)
    with pytest.raises(InputError, match=r"the label 'cow' is held out and never trained on: move some"):
        check_learned(photographs, photographs.labelling, split.train, split.held_out)


def test_a_link_to_nothing_is_an_image_that_cannot_be_read():
    for name in ("cat/a.jpg", "dog/b.jpg"):
        image(f"set/{name}")
    Path("set/cat/z.jpg").symlink_to("gone.jpg")
    assert read_photographs(Path("set")).files.tolist() == ["cat/a.jpg", "cat/z.jpg", "dog/b.jpg"]
    with pytest.raises(InputError, match=r"^1 images in set are links to nothing, the first: cat/z\.jpg"):
        read_test_images(Path("set"))


def test_images_that_were_trained_on_are_told_when_they_are_to_be_predicted():
    for name in ("cat/a.jpg", "cat/b.jpg", "dog/c.jpg"):
        image(f"set/{name}")
    test = read_test_images(Path("set"))
    told = told_seen(test, [None, {"train_ids": ["cat/a", "dog/c"]}], ("cat", "dog"))
    assert told.startswith(
        "2 of 3 images of set lie in folders of classes, under the names of images that were trained"
    )
    assert told_seen(test, [{"train_ids": ["cat/a"]}], ("cat", "dog")) == ""
    assert told_seen(test, [{"train_ids": ["cat/a", "dog/c"]}], ("cow", "hen")) == ""  # as of any numbered files
    assert told_seen(test, [None], ("cat", "dog")) == ""


def test_a_class_may_be_called_train_and_a_train_in_capitals_is_an_error():
    for name in ("car/a.jpg", "bus/b.jpg", "train/c.jpg"):
        image(f"set/{name}")
    assert read_photographs(Path("set")).labelling.classes == ("bus", "car", "train")
    assert len(read_test_images(Path("set")).source) == 3
    for name in ("Train/cat/a.jpg", "Train/dog/b.jpg", "Val/cat/c.jpg"):
        image(f"other/{name}")
    with pytest.raises(InputError, match=r"other/Train has folders inside, .*: call it train"):
        read_photographs(Path("other"))


def test_a_class_may_be_a_link_to_a_folder():
    image("set/cat/a.jpg")
    image("elsewhere/deep/b.jpg")
    Path("set/dog").symlink_to(Path("elsewhere").resolve())
    Path("set/dog/deep/again").symlink_to(Path("elsewhere/deep").resolve())
    photographs = read_photographs(Path("set"))
    assert photographs.labelling.classes == ("cat", "dog")
    assert photographs.files.tolist() == ["cat/a.jpg", "dog/deep/b.jpg"]
    assert read_test_images(Path("set")).source == sorted(photographs.files)


@pytest.mark.parametrize("inside", ["", "train/", "val/"])
def test_an_image_beside_the_folders_of_classes_is_named(inside):
    for name in ("cat/a.jpg", "dog/b.jpg"):
        image(f"set/train/{name}" if inside else f"set/{name}")
    image(f"set/{inside}c.jpg")
    with pytest.raises(InputError, match=rf"set/{inside}c\.jpg is in no class's folder"):
        read_photographs(Path("set"))


def test_a_pattern_finds_groups_in_file_names_that_stay_on_one_side():
    for k in range(12):
        for part in "ab":
            image(f"set/{'cat' if k % 2 else 'dog'}/no{k}_{part}.jpg")
    photographs = read_photographs(Path("set"), None, Reading(group_pattern=r"^(\w+?)_"))
    assert photographs.persons.tolist() == [name.split("/")[1].split("_")[0] for name in photographs.ids.tolist()]
    trained, held_out = split_of(photographs)
    groups = [{name.split("_")[0] for name in side} for side in (trained, held_out)]
    assert held_out
    assert not groups[0] & groups[1]
    with pytest.raises(InputError, match=r"--group-pattern \^\(x\) finds nothing in no11_a\.jpg"):
        read_photographs(Path("set"), None, Reading(group_pattern="^(x)"))


def test_a_split_column_says_who_is_held_out_or_in_which_fold():
    told = ["train", "train", "val", "held_out", "test"]
    rows = [(f"{k}.jpg", "ab"[k % 2], side, k // 2) for k, side in enumerate(told)]
    path = table(*rows, header="file,label,side,number")
    sides = read_photographs(path, None, Reading(split_column="side"))
    assert split_of(sides) == ({"0", "1"}, {"2", "3"})
    folds = read_photographs(path, None, Reading(split_column="number"))
    assert [folds.ids[one.held_out].tolist() for one in make_folds(folds, 3, 42)] == [["0", "1"], ["2", "3"], ["4"]]
    with pytest.raises(InputError, match=r"folds 0, 1, 2: give --folds 3"):
        make_split(folds, 0.2, 42)
    with pytest.raises(InputError, match=r"--folds 3: .* sides val, train, held_out, which are no numbers of 3 folds"):
        make_folds(sides, 3, 42)
    with pytest.raises(InputError, match=r"--folds 2: .* sides 0, 1, 2, which"):
        make_folds(folds, 2, 42)
    table(*rows[:2], ("2.jpg", "a", "test?", 0), header="file,label,side,number")
    with pytest.raises(InputError, match=r"the side 'test\?' of photographs is none of train, val"):
        split_of(read_photographs(path, None, Reading(split_column="side")))


def test_a_group_on_both_sides_of_a_told_split_is_an_error():
    rows = [(f"{k}.jpg", "ab"[k % 2], f"p{k // 2}", ("train", "val")[k % 2], k % 2) for k in range(4)]
    photographs = read_photographs(
        table(*rows, header="file,label,person,side,fold"), None, Reading(split_column="side")
    )
    with pytest.raises(InputError, match=r"photographs of p0 stand on both sides of the split \(2 such groups\)"):
        make_split(photographs, 0.2, 42)
    photographs = read_photographs(Path("set/list.csv"), None, Reading(split_column="fold"))
    with pytest.raises(InputError, match=r"photographs of p0 stand in two folds"):
        make_folds(photographs, 2, 42)


ROWS = ("a.jpg", "x"), ("b.jpg", "y")


@pytest.mark.parametrize(
    ("rows", "header", "reading", "message"),
    [
        (ROWS, "file,kind", {}, r"list\.csv has the columns file, kind, and no label: name one with --label-columns"),
        (ROWS, "photo,label", {}, "no file or image or path .*: name one with --image-column"),
        (ROWS, "file,label", {"label_columns": ("kind",)}, "no kind: name one with --label-columns"),
        (ROWS, "file,label", {"group_column": "who"}, "no who: name one with --group-column"),
        (ROWS, "file,label", {"split_column": "side"}, "no side: name one with --split-column"),
        ((("a.jpg", "x"), ("b.jpg", " ")), "file,label", {}, r"list\.csv line 3: the column label is blank"),
        ((("a.jpg", "x"), ("./a.jpg", "y")), "file,label", {}, r"lists 1 images twice, the first: a\.jpg"),
        (ROWS, "file,label", {"values": ("label=x,z",)}, r"list\.csv line 3: label 'y' is none of x, z"),
        (ROWS, "file,label", {"limits": ("label=3",)}, r"list\.csv line 2: label 'x' is no whole number from 0"),
        (ROWS, "file,label", {"limits": ("age=3",)}, "there is no label column 'age', only label"),
        ((("a.jpg", "x"), ("../set/a.jpg", "y")), "file,label", {}, r"lists 1 images twice, the first: a\.jpg"),
        ((), "file,label", {}, r"list\.csv lists no images"),
        ((("a.jpg", "x", "y"),), "file,label,label", {}, r"list\.csv has 2 columns label: rename all but one"),
        (ROWS, "file,label", {"group_column": "label"}, "--group-column label is a column of labels, too"),
        (ROWS, "file,label", {"split_column": "label"}, "--split-column label is a column of labels, too"),
        (
            (("a.jpg", "x", "1"),),
            "file,class,more",
            {"label_columns": ("class", "more")},
            "a label column is called 'class', .*: rename it",
        ),
        (
            (("a.jpg", "x, y", "1"),),
            "file,label,more",
            {"label_columns": ("label", "more")},
            "label 'x, y' has a comma, .*: rename it",
        ),
    ],
)
def test_a_table_that_cannot_be_read_is_one_error_with_its_remedy(rows, header, reading, message):
    path = table(*rows, header=header)
    with pytest.raises(InputError, match=message):
        read_photographs(path, None, Reading(**reading))


def test_an_image_that_is_not_there_or_of_no_kind_is_named_with_its_line():
    path = table(*ROWS)
    Path("set/b.jpg").rename("set/c.jpg")
    with pytest.raises(InputError, match=r"list\.csv line 3: set/b\.jpg is not there"):
        read_photographs(path)
    write_table(path, ["file", "label"], [("c.jpg", "x"), ("d.txt", "y")])
    with pytest.raises(InputError, match=r"list\.csv line 3: d\.txt is none of \.jpg"):
        read_photographs(path)


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "a\0.jpg"])
def test_a_name_that_no_disk_can_have_is_no_image(name):
    path = table(*ROWS)
    path.write_text(f"file,label\n{name},x\n")
    with pytest.raises(InputError, match=r"list\.csv.* is not there|line contains NUL"):
        read_photographs(path)


def test_spaces_about_a_file_are_left_out_in_training_and_in_what_is_predicted():
    path = table(*ROWS)
    path.write_text("file,label\n a.jpg ,x\nb.jpg, y\n")
    assert read_photographs(path).files.tolist() == list(read_test_images(path).files()) == ["a.jpg", "b.jpg"]
    path.write_text("file,label\n,x\n")
    with pytest.raises(InputError, match=r"list\.csv has no file in row 1"):
        read_test_images(path)


def test_a_column_may_have_any_name_and_a_suffix_any_case():
    path = table(*ROWS, header="file,self", path="set/LIST.CSV")
    photographs = read_photographs(path, None, Reading(label_columns=("self",)))
    assert photographs.labelling.classes == ("x", "y")
    assert list(read_test_images(path).files()) == ["a.jpg", "b.jpg"]
    other = path.rename("set/list.tsv")
    for read in (read_photographs, read_test_images):
        with pytest.raises(InputError, match=r"list\.tsv is no folder, CSV or Parquet file: give --data-location"):
            read(other)


def test_what_is_no_set_of_photographs_names_all_that_would_be(tmp_path):
    with pytest.raises(InputError, match=r"data folder nowhere does not exist: .* a folder per class"):
        read_photographs(Path("nowhere"))
    with pytest.raises(InputError, match=r"no photographs in .*: expected the competition's folders .* a CSV"):
        read_photographs(tmp_path)


def test_a_person_folder_that_does_not_parse_is_still_an_error_among_others():
    image("set/000001_male_Asian_25/mask1.jpg")
    image("set/000002_man_Asian_25/mask1.jpg")
    with pytest.raises(InputError, match=r"000002_man_Asian_25.*gender 'man'"):
        read_photographs(Path("set"))


def test_relabel_corrects_any_attribute_by_its_values():
    path = table(*ROWS)
    Path("relabel.csv").write_text("id,attribute,value\na,label,Y\n")
    photographs = read_photographs(path, Path("relabel.csv"))
    assert photographs.labels(photographs.labelling).tolist() == [1, 1]
    Path("relabel.csv").write_text("id,attribute,value\na,label,z\n")
    with pytest.raises(InputError, match=r"relabel\.csv line 2: label 'z' is none of x, y"):
        read_photographs(path, Path("relabel.csv"))


def test_a_model_of_other_values_says_which_it_lacks():
    photographs = read_photographs(table(*ROWS))
    known = Labelling((Attribute("label", ("y", "x", "w")),))
    assert photographs.labels(known).tolist() == [1, 0]  # by name, whatever the order
    with pytest.raises(InputError, match="has the label 'y', which the model does not know: it tells x, w"):
        photographs.labels(Labelling((Attribute("label", ("x", "w")),)))
    with pytest.raises(InputError, match="tells no mask, only label"):
        photographs.labels(competition.labelling())


def test_a_labelling_comes_back_from_its_record():
    parts = Attribute("colour", ("red", "blue")), Attribute("size", ("under 5", "5 and over"), (5,))
    for one in (Labelling(parts), Labelling(parts[:1]), Labelling((Attribute("label", ("a, b", "c")),))):
        again = labelling_from_record(one.record())
        assert again == one
        assert again.num_classes == len(one.record()["classes"])
    assert Labelling(parts).record()["size_limits"] == [5]
    with pytest.raises(InputError, match="not the product of colour, size"):
        labelling_from_record(Labelling(parts).record() | {"classes": ["red, under 5", "blue, 5 and over"]})


def test_how_a_set_was_read_travels_in_a_record():
    checkpoints = [SimpleNamespace(meta=None), SimpleNamespace(meta=AS_COMPETITION.record())]
    assert recorded_reading(checkpoints) == AS_COMPETITION
    assert Reading().record() == {}
    options = finetune.parser().parse(["--limits", "age=20,40"])
    photographs = read_photographs(
        table(("a.jpg", 70), header="file,age"), None, Reading(None, ("age",), limits=("age=9",))
    )
    assert asked_labelling(photographs, options).limits == {"age": (20, 40)}
    with pytest.raises(InputError, match="--age-limits and --limits both say where ages are cut"):
        asked_labelling(photographs, options.replace(age_limits=(30, 50)))


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (data_flags.names, "a,,b", "not of the form mask,gender,age"),
        (data_flags.names, "a,a", "not of the form mask,gender,age"),
        (data_flags.pattern, "(", "no regular expression"),
        (data_flags.pattern, "^x", "no group in parentheses"),
        (data_flags.values, "mask", "not of the form"),
        (data_flags.values, "mask=a,a", "different values"),
        (data_flags.limits, "age=60,30", "ascending whole numbers"),
        (data_flags.limits, "age=x", "ascending whole numbers"),
        (data_flags.limits, "age=0,3", "ascending whole numbers"),
    ],
)
def test_a_mistyped_flag_shows_its_form(kind, text, message):
    with pytest.raises(Exception, match=message):
        kind(text)


def test_relabel_tells_a_photograph_from_its_group():
    path = table(("a.jpg", "x", "p"), ("b.jpg", "x", "p"), ("c.jpg", "y", "q"), header="file,label,person")
    Path("relabel.csv").write_text("id,attribute,value\na,label,x\np,label,y\n")
    photographs = read_photographs(path, Path("relabel.csv"))
    assert photographs.labels(photographs.labelling).tolist() == [0, 1, 1]
    claims = read_claims(photographs, Path("relabel.csv"))
    assert [(one.decision.id, one.rows, one.of_one_photograph) for one in claims] == [
        ("a", [0], True),
        ("p", [0, 1], False),
    ]
