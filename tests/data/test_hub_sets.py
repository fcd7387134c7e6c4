"""Sets that `datasets` keeps: read as the same images in a folder or a table are."""

import io
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

import finetune
from utils.base.errors import InputError
from utils.base.flags import check_files
from utils.base.options import Options
from utils.data import hub_sets
from utils.data.decoding import decode
from utils.data.reading import Reading, read_photographs
from utils.data.splits import make_split
from utils.data.unlabelled import read_test_images
from utils.training.preflight import has_specialist

NAMES = ["rose, red", "aster", "tulip"]  # in no alphabetic order, and with a comma


def picture(k: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 8), (20 * k, 7, 90)).save(buffer, kind)
    return buffer.getvalue()


def rows(count: int, first: int = 0) -> dict:
    every = range(first, first + count)
    return {
        "image": [{"bytes": picture(k, ("PNG", "JPEG")[k % 2]), "path": None} for k in every],
        "label": [k % 3 for k in every],
        "vase": [f"v{k // 2}" for k in every],
        "colour": [("light", "dark")[k % 2] for k in every],
    }


FEATURES = datasets.Features(
    image=datasets.Image(), label=datasets.ClassLabel(names=NAMES), vase=datasets.Value("string"),
    colour=datasets.Value("string"),
)  # fmt: skip


def of(content: dict, features=FEATURES) -> datasets.Dataset:
    return datasets.Dataset.from_dict(content, features=features)


def save(path: Path, kept) -> Path:
    kept.save_to_disk(str(path))
    return path


def split_up() -> datasets.DatasetDict:
    test = rows(2, 9) | {"label": [-1, -1]}  # as the hub has labels that nobody tells
    return datasets.DatasetDict(train=of(rows(6)), validation=of(rows(3, 6)), test=of(test))


def test_a_saved_set_has_its_classes_in_their_order_and_its_bytes_as_they_were(tmp_path):
    found = read_photographs(save(tmp_path / "kept", of(rows(6))), reading=Reading(group_column="vase"))
    assert found.labelling.classes == tuple(NAMES)
    assert found.labels(found.labelling).tolist() == [0, 1, 2, 0, 1, 2]
    assert found.persons.tolist() == ["v0", "v0", "v1", "v1", "v2", "v2"]
    assert [(found.folder / file).read_bytes() for file in found.files] == [one["bytes"] for one in rows(6)["image"]]
    assert [Path(file).suffix for file in found.files] == [".png", ".jpg"] * 3
    assert found.sides is None


def test_text_columns_are_attributes_with_sorted_values(tmp_path):
    reading = Reading(label_columns=("colour", "vase"))
    found = read_photographs(save(tmp_path / "kept", of(rows(4))), reading=reading)
    assert found.labelling.values == {"colour": ("dark", "light"), "vase": ("v0", "v1")}


def test_train_is_trained_on_validation_held_out_and_test_left_for_inference(tmp_path):
    kept = save(tmp_path / "kept", split_up())
    found = read_photographs(kept)
    split = make_split(found, 0.2, 42)
    assert {file.split("/")[0] for file in found.files[split.train]} == {"train"}
    assert {file.split("/")[0] for file in found.files[split.held_out]} == {"validation"}
    test = read_test_images(kept)
    assert list(test.files()) == ["test/000/000000.jpg", "test/000/000001.png"]
    assert [tuple(decode(test.folder / file, 8)[4, 4] // 10 * 10) for file in test.files()][1] == (200, 0, 90)
    assert read_test_images(kept, split="validation").count == 3


def test_without_a_validation_the_split_is_drawn(tmp_path):
    parts = split_up()
    del parts["validation"]
    found = read_photographs(save(tmp_path / "kept", parts))
    assert (len(found), found.sides) == (6, None)


def test_a_set_is_unpacked_once_and_anew_when_it_changed(tmp_path, monkeypatch):
    kept = save(tmp_path / "kept", of(rows(3)))
    first = read_photographs(kept).folder
    monkeypatch.setattr(hub_sets, "_unpack", lambda *_: pytest.fail("unpacked twice"))
    assert read_photographs(kept).folder == first
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(kept)
    save(kept, of(rows(4)))
    assert len(read_photographs(kept)) == 4
    assert not list(Path("cache/images").glob(".*"))  # nothing half written, no lock


def test_a_parquet_file_with_images_is_read_as_a_set_and_one_with_names_as_a_table(tmp_path):
    kept = tmp_path / "set.parquet"
    of(rows(6)).to_parquet(str(kept))
    assert read_photographs(kept).labelling.classes == tuple(NAMES)
    for k in range(6):
        (tmp_path / f"{k}.png").write_bytes(picture(k))
    table = tmp_path / "table.parquet"
    datasets.Dataset.from_dict({"file": [f"{k}.png" for k in range(6)], "label": list("abcabc")}).to_parquet(
        str(table)
    )
    assert read_photographs(table).files.tolist() == [f"{k}.png" for k in range(6)]


def test_a_configuration_of_a_hub_set_is_named_behind_a_colon(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or split_up())
    check_files(Options(data_location=Path("anna/flowers:small")))
    assert len(read_photographs(Path("anna/flowers:small"))) == 9
    assert asked == [("anna/flowers", "small")]


def test_a_hub_id_is_asked_for_and_no_mistyped_path(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or split_up())
    assert len(read_photographs(Path("anna/flowers"))) == 9
    assert asked == ["anna/flowers"]
    options = Options(data_location=Path("anna/flowers"))
    check_files(options)
    assert not has_specialist(finetune.parser().parse(["--data-location", "anna/flowers"]))
    (tmp_path / "anna").mkdir()
    with pytest.raises(InputError, match="anna/flowers does not exist: give --data-location"):
        check_files(options)
    with pytest.raises(InputError, match="anna/flowers does not exist: give --data-location"):
        read_photographs(Path("anna/flowers"))


def test_a_hub_that_does_not_answer_is_an_error_with_its_reason(monkeypatch):
    def fail(name):
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"anna/flowers cannot be read by datasets \(ConnectionError: no route\): it"):
        read_photographs(Path("anna/flowers"))


def test_an_array_becomes_a_png(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8).repeat(2, 0)
    features = datasets.Features(pixels=datasets.Array2D((8, 8), "uint8"), label=datasets.Value("string"))
    kept = save(tmp_path / "kept", of({"pixels": pixels, "label": ["a", "b"]}, features))
    found = read_photographs(kept)
    with Image.open(found.folder / found.files[0]) as image:
        np.testing.assert_array_equal(np.array(image), pixels[0])


NO_IMAGE = {**rows(2), "image": [rows(1)["image"][0], None]}
TWO = datasets.Features({**FEATURES, "other": datasets.Image()})
BROKEN = {**rows(2), "image": [rows(1)["image"][0], {"bytes": b"no image", "path": None}]}
CUT = {**BROKEN, "image": [rows(1)["image"][0], {"bytes": picture(0, "JPEG")[:40], "path": None}]}
BAD = {
    "bytes that are cut off": (of(CUT), Reading(), "row 1 of train, column image: these bytes are no image"),
    "bytes that are no image": (of(BROKEN), Reading(), "row 1 of train, column image: these bytes are no image"),
    "no image in a row": (of(NO_IMAGE), Reading(), "row 1 of train, column image: there is no image: remove"),
    "no column of images": (of(rows(2)).remove_columns("image"), Reading(), "no column of images, only label, vase"),
    "several": (of(rows(2) | {"other": rows(2)["image"]}, TWO), Reading(), "image, other: name one with --image"),
    "unknown column": (of(rows(2)), Reading(image_column="photo"), "and no photo: name one with --image-column"),
    "unknown label": (of(rows(2)), Reading(label_columns=("kind",)), "no kind: name one with --label-columns"),
    "unknown label in train": (of(rows(2) | {"label": [0, -1]}), Reading(), r"kept \(.* line 3: the column label"),
}  # fmt: skip


@pytest.mark.parametrize(("kept", "reading", "message"), BAD.values(), ids=BAD)
def test_a_bad_set_is_one_error_that_says_where(kept, reading, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_photographs(save(tmp_path / "kept", kept), reading=reading)
    assert not list(Path("cache/images").glob(".*"))


def test_a_set_without_rows_is_named(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda name: of(rows(2)).select([]))
    with pytest.raises(InputError, match="anna/flowers has no rows"):
        read_photographs(Path("anna/flowers"))


def test_a_damaged_folder_is_named(tmp_path):
    kept = save(tmp_path / "kept", of(rows(2)))
    (kept / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"kept cannot be read by datasets .*save it with save_to_disk"):
        read_photographs(kept)
