import errno
import logging
import multiprocessing
import os
import pickle
import shutil

import datasets
import numpy as np
import pytest
from conftest import make_people
from PIL import Image

from utils.base.errors import InputError
from utils.data import images
from utils.data.images import SomeSquares, cache_squares, cached_squares
from utils.data.reading import read_photographs

SIZE = 16


@pytest.fixture
def place(tmp_path):
    """The arguments of `cache_squares` for two people."""
    photographs = read_photographs(make_people(tmp_path / "data", 2))
    return photographs.folder, list(photographs.files), SIZE, tmp_path / "cache"


def kept(place, **how):
    return cache_squares(*place, progress=False, **how)


def damaged(squares, row):
    """Zeros where the square at `row` lies in the cache's file."""
    with open(squares.path, "r+b") as file:
        file.seek(row * SIZE * SIZE * 3)
        file.write(bytes(SIZE * SIZE * 3))


def test_a_damaged_square_is_decoded_again_told_and_put_back(place, caplog):
    right, fingerprint = np.stack(list(kept(place))), kept(place).fingerprint()
    squares = kept(place)
    whole = squares.path.read_bytes()
    damaged(squares, 5)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(squares[5], right[5])
        damaged(squares, 6)
        np.testing.assert_array_equal(squares[6], right[6])
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 1
    assert f"{squares.path} is damaged: {place[0] / place[1][5]} and others" in caplog.text
    assert squares.path.read_bytes() == whole
    assert squares.fingerprint() == fingerprint


@pytest.mark.parametrize("content", [bytes, lambda count: np.random.default_rng(0).bytes(count)])
def test_squares_of_a_power_cut_are_those_of_the_photographs(content, place):
    right, path = np.stack(list(kept(place))), kept(place).path
    path.write_bytes(content(path.stat().st_size))
    squares = SomeSquares(kept(place), np.arange(len(right)))
    np.testing.assert_array_equal(np.stack([squares[row] for row in range(len(right))]), right)


def test_each_process_verifies_what_it_reads(place):
    squares = kept(place)
    right = squares[3]
    assert squares._verified.tolist() == [row == 3 for row in range(14)]
    damaged(squares, 3)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(squares.__getitem__, (3,)), right)
    assert not pickle.loads(pickle.dumps(squares))._verified.any()


def test_a_damaged_square_of_a_photograph_that_gives_other_pixels_is_an_error(place, monkeypatch):
    squares = kept(place)
    damaged(squares, 3)
    monkeypatch.setattr(images, "decode", lambda path, size: np.full((size, size, 3), 7, np.uint8))
    with pytest.raises(InputError, match=r"\.u8 is damaged, and .*now gives other pixels: remove the former"):
        squares[3]


def test_nothing_is_put_back_through_a_link(place, tmp_path):
    squares = kept(place)
    right = squares[2]
    damaged(squares, 2)
    outside = squares.path.rename(tmp_path / "outside")
    content = outside.read_bytes()
    squares.path.symlink_to(outside)
    np.testing.assert_array_equal(kept(place)[2], right)
    assert outside.read_bytes() == content


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    "damage", [lambda whole: bytes(len(whole)), lambda whole: whole[:-1], lambda whole: whole[::-1]]
)
def test_damaged_checksums_are_made_anew(damage, keep, place):
    fingerprint = kept(place, keep=keep).fingerprint()
    (path,) = place[3].rglob("*.sha256")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert cached_squares(*place, keep=keep) is None
    assert kept(place, keep=keep).fingerprint() == fingerprint
    assert path.read_bytes() == whole


def test_a_photograph_replaced_by_one_of_the_same_length_and_time_is_noticed(place):
    before, path = kept(place), place[0] / place[1][0]
    stat = path.stat()
    Image.new("RGB", (48, 64), "red").save(path)
    with open(path, "ab") as file:
        file.truncate(stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = kept(place)
    assert after.fingerprint() != before.fingerprint()
    assert after[0][8, 8, 0] > 200


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b""), lambda file: file.unlink()])
def test_a_damaged_cache_of_the_datasets_library_is_made_anew(damage, place, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    kept(place)
    (file,) = (tmp_path / "hub").rglob("*.arrow")
    damage(file)
    shutil.rmtree(place[3])
    assert len(kept(place)) == 14


def test_what_the_datasets_library_cannot_keep_is_named(place, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub").write_bytes(b"")
    with pytest.raises(InputError, match=rf"cannot list .*, or remove what the library keeps in {tmp_path}/hub"):
        kept(place)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_photographs_are_decoded_where_nothing_can_be_locked(place, monkeypatch, code):
    expected = kept(place).fingerprint()
    shutil.rmtree(place[-1])

    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", place[-1] / "datasets")  # none of it is there yet
    assert kept(place).fingerprint() == expected
