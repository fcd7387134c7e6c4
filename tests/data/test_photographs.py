import logging
import os
import shutil
import struct

import numpy as np
import pytest
from conftest import make_eval, make_people
from PIL import Image, ImageOps

from utils.base.errors import InputError
from utils.data import competition, images
from utils.data.decoding import check_complete, decode
from utils.data.images import cache_squares
from utils.data.reading import read_photographs
from utils.data.unlabelled import read_test_images


@pytest.fixture
def small(tmp_path):
    return make_people(tmp_path / "data", 6)


def test_photographs_are_sorted_and_labelled_from_their_names(small):
    photographs = read_photographs(small)
    assert len(photographs) == 42
    assert list(photographs.ids) == sorted(photographs.ids)
    first = photographs.labels(competition.labelling())[photographs.persons == "000000_male_Asian_22"]
    assert first.tolist() == [6, 0, 0, 0, 0, 0, 12]  # incorrect_mask, mask1..5, normal of a young man


@pytest.mark.parametrize("inside", [".", "train", "train/images"])
def test_any_level_of_the_data_folder_will_do(small, inside):
    assert len(read_photographs(small / inside)) == 42


def test_person_folders_without_photographs_are_told(small, caplog):
    (small / "train" / "images" / "000777_male_Asian_30").mkdir()
    with caplog.at_level(logging.WARNING):
        read_photographs(small)
    assert "1 person folders in" in caplog.text
    assert "hold no photograph: 000777_male_Asian_30" in caplog.text


def test_dot_files_and_unknown_names_are_skipped_and_counted(small, caplog):
    person = small / "train" / "images" / "000000_male_Asian_22"
    (person / "._mask1.jpg").write_bytes(b"")
    (person / "mask6.jpg").write_bytes(b"")
    (small / "train" / "images" / ".DS_Store").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        assert len(read_photographs(small)) == 42
    assert "2 dot files, 1 unknown names" in caplog.text


def test_names_are_read_in_any_case_and_what_systems_leave_is_skipped(small, caplog):
    folder = small / "train" / "images"
    plain = read_photographs(small)
    person = (folder / "000001_female_Asian_23").rename(folder / "000001_FEMALE_Asian_23")
    (person / "normal.jpg").rename(person / "Normal.JPG")
    (person / "mask1.jpg").rename(person / "MASK1.jpg")
    for left in (folder / "__MACOSX", person / "@eaDir"):
        shutil.copytree(folder / "000000_male_Asian_22", left)
    with caplog.at_level(logging.INFO):
        photographs = read_photographs(small)
    assert photographs.labels(competition.labelling()).tolist() == plain.labels(competition.labelling()).tolist()
    assert "000001_FEMALE_Asian_23/normal" in photographs.ids
    assert "000001_FEMALE_Asian_23/Normal.JPG" in photographs.files
    assert "2 dot files" in caplog.text
    assert list(photographs.ids) == sorted(photographs.ids)
    (person / "Mask1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"both MASK1\.jpg and Mask1\.png"):
        read_photographs(small)


def test_skipped_names_are_in_the_log(small, caplog):
    (small / "train" / "images" / "000000_male_Asian_22" / "mask_1.jpg").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        read_photographs(small)
    assert "1 unknown names such as '000000_male_Asian_22/mask_1.jpg'" in caplog.text


def test_training_photographs_are_not_predicted_by_mistake(small):
    with pytest.raises(InputError, match="no folder eval or test: name those to predict"):
        read_test_images(small)
    assert read_test_images(small / "train" / "images").count == 42  # asked for by name


def test_missing_and_empty_folders_are_errors(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        read_photographs(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="no photographs"):
        read_photographs(tmp_path)


def test_a_person_folder_that_does_not_parse_is_an_error(small):
    (small / "train" / "images" / "000009_unknown_Asian_33").mkdir()
    with pytest.raises(InputError, match="000009_unknown_Asian_33"):
        read_photographs(small)


def test_two_files_of_one_photograph_are_an_error(small):
    person = small / "train" / "images" / "000000_male_Asian_22"
    Image.open(person / "mask1.jpg").save(person / "mask1.png")
    with pytest.raises(InputError, match=r"both mask1.jpg and mask1.png"):
        read_photographs(small)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_image_is_seen_while_listing(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 48, 3), np.uint8)).save(path)
    check_complete(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut short|cannot decode"):
        check_complete(path)
    path.write_bytes(whole + b"trailing bytes of a camera")
    check_complete(path)


def test_test_images_keep_the_order_of_info_csv(tmp_path):
    data = make_eval(tmp_path / "data", 5)
    assert list(read_test_images(data).files()) == ["000.jpg", "002.jpg", "004.jpg", "001.jpg", "003.jpg"]
    assert list(read_test_images(data / "eval").files()) == list(read_test_images(data).files())


def test_a_plain_folder_of_images_is_sorted(tmp_path):
    data = make_eval(tmp_path / "data", 3)
    (data / "eval" / "info.csv").unlink()
    (data / "eval" / "images" / ".hidden.jpg").write_bytes(b"x")
    assert list(read_test_images(data / "eval" / "images").files()) == ["000.jpg", "001.jpg", "002.jpg"]
    assert list(read_test_images(data).files()) == ["000.jpg", "001.jpg", "002.jpg"]


def test_what_spreadsheets_and_pandas_leave_in_info_csv_is_read_past(tmp_path, caplog):
    data = make_eval(tmp_path / "data", 3)
    (data / "eval" / "info.csv").write_text(",ImageID,ans\n0,001.jpg ,0\n1,000.jpg,0\n,,\n,,\n")
    test = read_test_images(data)
    assert (test.columns, list(test.files())) == (["ImageID", "ans"], ["001.jpg", "000.jpg"])
    assert list(test.shards()) == [[["001.jpg", "0"], ["000.jpg", "0"]]]
    assert "columns without a name" in caplog.text
    assert caplog.text.count("spaces behind an ImageID, such as '001.jpg '") == 1


@pytest.mark.parametrize("put", [lambda path: path.symlink_to("nowhere"), lambda path: path.mkdir(), os.mkfifo])
def test_an_info_csv_that_is_no_file_is_an_error(tmp_path, put):
    data = make_eval(tmp_path / "data", 3)
    (data / "eval" / "info.csv").unlink()
    put(data / "eval" / "info.csv")
    with pytest.raises(InputError, match=r"info\.csv does not exist or is no file"):
        read_test_images(data)


def test_a_pipe_among_the_images_is_an_error_and_is_left_out_when_asked(tmp_path):
    data = make_eval(tmp_path / "data", 3)
    (data / "eval" / "images" / "001.jpg").unlink()
    os.mkfifo(data / "eval" / "images" / "001.jpg")
    with pytest.raises(InputError, match=r"001\.jpg is a pipe.*, or pass --skip-bad"):
        read_test_images(data)
    assert read_test_images(data, answer_bad=4).count == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ImageID,ans\n000.jpg,0\nnone.jpg,0\n", "names 1 images that are not in .*none.jpg"),
        ("ImageID,ans\n000.jpg,0\n000.jpg,0\n", "twice, the first: 000.jpg"),
        ("name,ans\n000.jpg,0\n", "no column ImageID"),
        ("ImageID,ans\n", "lists no images"),
        ("ImageID,ans\n000.jpg,0\n,0\n", r"info\.csv has no ImageID in row 2"),
        ("ImageID,ans\n000.jpg,0,\n", "line 2: 3 fields, expected the header's 2"),
        ("ans,ImageID\n0\n", "line 2: 1 fields, expected the header's 2"),
    ],
)
def test_a_wrong_info_csv_is_an_error(tmp_path, content, message):
    data = make_eval(tmp_path / "data", 3)
    (data / "eval" / "info.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_test_images(data)


def test_damaged_metadata_is_an_error_that_names_the_file(small, monkeypatch):
    def broken(image):
        raise struct.error("required argument is not an integer")

    monkeypatch.setattr(ImageOps, "exif_transpose", broken)
    with pytest.raises(InputError, match=r"cannot decode image .*mask1\.jpg"):
        decode(next((small / "train" / "images").glob("*/mask1.jpg")), 8)


def test_squares_are_what_pillow_decodes_and_are_decoded_once(small, tmp_path):
    photographs = read_photographs(small)
    files = list(photographs.files)
    squares = cache_squares(photographs.folder, files, 32, tmp_path / "cache", progress=False)
    with Image.open(photographs.folder / files[3]) as image:
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(squares[3], expected)
    np.testing.assert_array_equal(decode(photographs.folder / files[3], 32), expected)

    written = squares.path.stat()
    again = cache_squares(photographs.folder, files, 32, tmp_path / "cache", progress=False)
    assert again.path == squares.path
    assert os.path.samestat(again.path.stat(), written)  # a second opening does not decode, which writes a new file


def test_a_changed_photograph_is_decoded_again(small, tmp_path):
    photographs = read_photographs(small)
    files = list(photographs.files)
    before = cache_squares(photographs.folder, files, 16, tmp_path / "cache", progress=False)
    Image.new("RGB", (48, 64), "red").save(photographs.folder / files[0])
    after = cache_squares(photographs.folder, files, 16, tmp_path / "cache", progress=False)
    assert after.path != before.path
    assert after[0][8, 8, 0] > 200


def test_a_photograph_that_changes_while_it_is_decoded_is_an_error(small, tmp_path, monkeypatch):
    photographs = read_photographs(small)
    first = photographs.folder / photographs.files[0]
    plain = images.decode
    monkeypatch.setattr(images, "decode", lambda path, size: os.utime(first, (1, 1)) or plain(path, size))
    with pytest.raises(InputError, match="changed while they were decoded"):
        cache_squares(photographs.folder, list(photographs.files), 16, tmp_path / "cache", progress=False)


def test_a_folder_that_is_not_named_in_utf8_is_an_error(tmp_path):
    data = make_people(tmp_path / "data", 1)
    person = next((data / "train" / "images").iterdir())
    os.rename(person, os.fsencode(person.parent) + b"/000999_female_\xc7\xd1_20")
    photographs = read_photographs(data)
    with pytest.raises(InputError, match="the datasets library cannot list"):
        cache_squares(photographs.folder, list(photographs.files), 16, tmp_path / "cache", progress=False)


def test_paths_that_a_glob_would_misread_are_listed(tmp_path):
    data = make_people(tmp_path / "test [1] *eval*", 1)
    photographs = read_photographs(data)
    assert len(cache_squares(photographs.folder, list(photographs.files), 16, tmp_path / "cache", progress=False)) == 7


def test_an_image_that_does_not_decode_is_named_and_leaves_no_cache(small, tmp_path):
    photographs = read_photographs(small)
    (photographs.folder / photographs.files[5]).write_bytes(b"not an image\xff\xd9")
    with pytest.raises(InputError, match=r"cannot decode image .*mask5.jpg"):
        cache_squares(photographs.folder, list(photographs.files), 16, tmp_path / "cache", progress=False)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
