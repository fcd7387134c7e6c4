"""Parquet files with images: which are read, as which part, and what is not taken for such."""

import logging
import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import make_eval, make_people
from test_hub_sets import FEATURES, NAMES, of, picture, rows, save, split_up

from utils.base.errors import InputError
from utils.data.parquet_files import parquet_files, parts_of
from utils.data.reading import Reading, read_photographs
from utils.data.unlabelled import check_folder, has_own_images, read_test_images

NUMBERED = "000000.png", "000001.jpg", "000002.png"


def put(path: Path, kept: datasets.Dataset) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kept.to_parquet(str(path))
    return path


def put_all(folder: Path, **parts: datasets.Dataset) -> Path:
    for name, part in parts.items():
        put(folder / f"{name}-00000-of-00001.parquet", part)
    return folder


def binary_table(path: Path) -> Path:
    """What is no image, though bytes."""
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"], "embedding": [b"abc"]}), path)
    return path


@pytest.mark.parametrize("inside", ["", "data"])
@pytest.mark.parametrize("name", ["downloaded", "parquet", "a [13]"])  # datasets reads the second, globs the third
def test_a_folder_is_read_as_its_saved_set_is(tmp_path, monkeypatch, inside, name):
    monkeypatch.chdir(tmp_path)
    kept = Path(name)
    whole = split_up()
    put(kept / inside / "train-00000-of-00002.parquet", of(rows(3)))
    put(kept / inside / "train-00001-of-00002.parquet", of(rows(3, 3)))
    put_all(kept / inside, validation=whole["validation"], test=whole["test"])
    put(tmp_path / "other" / "train.parquet", of(rows(1)))
    found, as_saved = read_photographs(kept), read_photographs(save(tmp_path / "saved", whole))
    assert found.labelling == as_saved.labelling
    assert found.files.tolist() == as_saved.files.tolist()
    assert found.sides.tolist() == as_saved.sides.tolist()
    np.testing.assert_array_equal(found.labels(found.labelling), [k % 3 for k in range(9)])
    read = [(found.folder / one).read_bytes() for one in found.files]
    assert read == [picture(k, ("PNG", "JPEG")[k % 2]) for k in range(9)]
    assert read_test_images(kept).count == 2
    assert has_own_images(kept)
    check_folder(kept)
    assert read_photographs(kept.resolve()).folder == found.folder  # unpacked once, however it is called


def test_the_part_is_told_by_the_name_or_its_folder_and_is_train_where_none_is(tmp_path):
    names = ["flowers.parquet", "2024.parquet", "flowers_test.parquet", "2024-val.parquet", "dev/0000.parquet",
             "eval/0000.parquet", "training/0000.parquet"]  # fmt: skip
    for name in names:
        put(tmp_path / name, of(rows(1)))
    parts = {part: [str(one.relative_to(tmp_path)) for one in found] for part, found in parts_of(tmp_path).items()}
    assert parts == {
        "train": ["2024.parquet", "flowers.parquet", "training/0000.parquet"],
        "validation": ["2024-val.parquet", "dev/0000.parquet"],
        "test": ["flowers_test.parquet", "eval/0000.parquet"],
    }


def test_a_test_part_alone_is_predicted_and_not_trained_on(tmp_path):
    one = put(tmp_path / "test-00000-of-00001.parquet", of(rows(3)))
    for location in (tmp_path, one):
        assert list(read_test_images(location).files()) == [f"test/000/{name}" for name in NUMBERED]
        with pytest.raises(InputError, match=r"no photographs to train on .* all are on the side test"):
            read_photographs(location)


def test_classes_count_by_their_names_in_each_part_and_alike_within_one(tmp_path):
    turned = datasets.Features({**FEATURES, "label": datasets.ClassLabel(names=NAMES[::-1])})
    put_all(tmp_path, train=of(rows(6)), validation=of(rows(3), turned))
    found = read_photographs(tmp_path)
    assert found.labelling.classes == tuple(NAMES)
    held_out = found.labels(found.labelling)[found.sides == "validation"]
    assert held_out.tolist() == [2, 1, 0]
    put(tmp_path / "train-00001.parquet", of(rows(3), turned))
    with pytest.raises(InputError, match=r"train-00001\.parquet has other columns or classes than .*train-00000-of"):
        read_photographs(tmp_path)


def test_hidden_and_empty_files_and_broken_ones(tmp_path):
    put_all(tmp_path, train=of(rows(6)), test=of(rows(2)).select([]))
    (tmp_path / "._train-00000-of-00001.parquet").write_bytes(b"of macOS")
    assert len(read_photographs(tmp_path)) == 6
    with pytest.raises(InputError, match="has no rows: give another"):
        read_photographs(tmp_path / "test-00000-of-00001.parquet")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-1.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=r"data/train-1\.parquet is no Parquet file: download it again, or remove it"):
        read_photographs(tmp_path)


def test_what_is_missing_of_several_files_is_warned_of(tmp_path, caplog):
    file = put(tmp_path / "train-00001-of-00003.parquet", of(rows(3)))
    for location in (tmp_path, file):
        with caplog.at_level(logging.WARNING, "utils"):
            read_photographs(location)
        assert [one.getMessage().split(":")[0] for one in caplog.records] == ["1 of the 3 files train-... are read"]
        caplog.clear()
    put(tmp_path / "train-00000-of-00003.parquet", of(rows(3)))
    put(tmp_path / "train-00002-of-00003.parquet", of(rows(3)))
    with caplog.at_level(logging.WARNING, "utils"):
        assert len(read_photographs(tmp_path)) == 9
    assert not caplog.records


def test_folders_of_images_stay_what_they_are_beside_a_table_with_bytes(tmp_path):
    people = make_people(tmp_path / "data", 4)
    before = read_photographs(people)
    binary_table(people / "embeddings.parquet")
    put(people / "faces.parquet", of(rows(3)))
    assert read_photographs(people).ids.tolist() == before.ids.tolist()
    images = make_eval(tmp_path / "more", 3)
    (images / "eval" / "info.csv").unlink()
    binary_table(images / "eval" / "info.parquet")
    assert parquet_files(images) == parquet_files(images / "eval") == []
    for k, name in enumerate(("rose", "data")):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for j in range(3):
            (tmp_path / "flowers" / name / f"{j}.png").write_bytes(picture(3 * k + j))
    binary_table(tmp_path / "flowers" / "embeddings.parquet")
    assert read_photographs(tmp_path / "flowers").labelling.classes == ("data", "rose")
    put(tmp_path / "flowers" / "train.parquet", of(rows(3)))
    with pytest.raises(InputError, match="holds Parquet files with images and a folder of images, "):
        read_photographs(tmp_path / "flowers")


def test_a_set_in_the_working_folder_is_not_mixed_with_what_is_unpacked_from_it(tmp_path, monkeypatch):
    monkeypatch.chdir(put_all(tmp_path / "self", train=of(rows(6))))
    Path("logs/training").mkdir(parents=True)
    Path("logs/training/run.csv").write_text("a\n1\n")
    for _ in range(2):
        assert len(read_photographs(Path())) == 6
    assert len([one for one in Path("cache/images").iterdir() if one.is_dir()]) == 1


def test_a_change_behind_a_link_is_read(tmp_path):
    put(tmp_path / "real" / "train.parquet", of(rows(6)))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data").symlink_to(tmp_path / "real")
    assert len(read_photographs(tmp_path / "set")) == 6
    put(tmp_path / "real" / "train.parquet", of(rows(4, 2)))
    assert len(read_photographs(tmp_path / "set")) == 4


def test_a_saved_set_is_read_as_it_was_saved_whatever_lies_beside(tmp_path):
    kept = save(tmp_path / "kept", of(rows(6)))
    put(kept / "train.parquet", of(rows(3)))
    (kept / "test.parquet").write_bytes(b"broken")
    assert len(read_photographs(kept)) == 6
    assert not has_own_images(kept)
    save(kept, of(rows(4)))
    assert len(read_photographs(kept)) == 4


def test_a_part_without_the_column_of_images_is_named(tmp_path):
    put_all(tmp_path, train=of(rows(6)), test=of(rows(2)).rename_column("image", "img"))
    with pytest.raises(InputError, match="its part test has the columns img, label, vase, colour, and no image"):
        read_photographs(tmp_path)


def test_a_test_part_is_left_for_inference_whatever_another_column_says(tmp_path):
    folds = {name: [str(k % 3) for k in range(count)] for name, count in (("train", 9), ("test", 3))}
    put_all(tmp_path, **{name: of(rows(len(fold))).add_column("fold", fold) for name, fold in folds.items()})
    found = read_photographs(tmp_path, reading=Reading(split_column="fold"))
    assert len(found) == 9
    assert set(found.sides) == {"0", "1", "2"}
    predicted = read_test_images(tmp_path, reading=Reading(split_column="fold"))
    assert list(predicted.files()) == [f"test/000/{name}" for name in NUMBERED]


def test_a_single_file_is_of_the_part_that_its_own_name_tells(tmp_path):
    assert len(read_photographs(put(tmp_path / "test" / "flowers.parquet", of(rows(6))))) == 6


def test_images_as_plain_bytes_are_read_where_no_others_are(tmp_path):
    content = {"image": [picture(k) for k in range(6)], "label": list("ababab")}
    pyarrow.parquet.write_table(pyarrow.table(content), tmp_path / "train.parquet")
    assert len(read_photographs(tmp_path)) == 6


def test_a_file_is_read_once_by_whatever_link(tmp_path):
    put(tmp_path / "data" / "train.PARQUET", of(rows(6)))
    (tmp_path / "train").symlink_to(tmp_path / "data")
    assert len(read_photographs(tmp_path)) == 6
    (tmp_path / "data" / "gone.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"data/gone\.parquet is no Parquet file: download it again"):
        read_photographs(tmp_path)


def test_a_file_that_changed_under_the_same_time_and_a_part_that_was_renamed_are_read_anew(tmp_path):
    file = put(tmp_path / "set" / "train" / "0.parquet", of(rows(6)))
    put(tmp_path / "set" / "val" / "0.parquet", of(rows(3, 6)))
    assert len(read_photographs(tmp_path / "set")) == 9
    before = file.stat()
    put(file, of(rows(4, 2)))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(read_photographs(tmp_path / "set")) == 7
    (tmp_path / "set" / "val").rename(tmp_path / "set" / "test")
    assert len(read_photographs(tmp_path / "set")) == 4


def test_files_that_were_never_downloaded_are_named(tmp_path):
    (tmp_path / "train-00000-of-00001.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="is no Parquet file: download it again"):
        read_photographs(tmp_path)


@pytest.mark.parametrize("kind", ["parquet", "saved", "one part", "table"])
def test_training_sh_takes_a_set_to_predict_and_says_where_nothing_is_set_apart(tmp_path, sweep, kind):
    parts = dict(split_up())
    if kind == "saved":
        kept = save(tmp_path / "kept", split_up())
    elif kind == "table":
        (folder := tmp_path / "kept").mkdir()
        for k in range(6):
            (folder / f"{k}.png").write_bytes(picture(k))
        (kept := folder / "all.csv").write_text("file,label\n" + "".join(f"{k}.png,{'ab'[k % 2]}\n" for k in range(6)))
    else:
        kept = put_all(tmp_path / "kept", **(parts if kind == "parquet" else {"train": parts["train"]}))
    (tower := tmp_path / "tower.pt").touch()
    how = {"DATA_LOCATION": str(kept), "MODEL": str(tower), "INDICES": "0", "STAGES": "finetune inference"}
    result, calls = sweep(**how)
    assert calls, result.stderr
    assert ("nothing in" in result.stderr) == (kind in ("one part", "table"))
    others = tmp_path / "others"
    others.mkdir()
    result, calls = sweep(**how, TEST_LOCATION=str(others))
    assert f"no info.csv and no images in {others}" in result.stderr
    assert not calls
    (others / "1.png").write_bytes(picture(1))
    result, calls = sweep(**how, TEST_LOCATION=str(others))
    assert calls
    assert "nothing in" not in result.stderr
    result, _ = sweep(**how, TEST_LOCATION=f"{kept.parent}/../{kept.parent.name}/{kept.name}")
    assert ("nothing in" in result.stderr) == (kind in ("one part", "table"))
