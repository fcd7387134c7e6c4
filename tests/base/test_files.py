import errno
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY

from utils.base.errors import InputError, one_line
from utils.base.files import (
    LONGEST_STEM,
    TEMPORARY_BYTES,
    atomic,
    fitted,
    identity,
    locked,
    require_writable,
    write_text,
)
from utils.evaluation.logit_cache import store_logits
from utils.models.weights import save_archive


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "x.txt"
    write_text(path, "first")

    def fail_half_way():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail_half_way()
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["x.txt"]


@pytest.mark.parametrize("letter", ["a", "한", "🎭"])
def test_a_name_too_long_is_cut_by_its_bytes_and_fits_with_all_that_is_put_around_it(letter, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "h" * 64)
    monkeypatch.setattr("os.getpid", lambda: 4194304)
    assert fitted(letter * 30) == letter * 30
    one, other = fitted(letter * 200), fitted(letter * 201)
    assert max(len(name.encode()) for name in (one, other)) <= LONGEST_STEM
    assert one != other
    assert fitted(one) == one
    assert write_text(f"everyone_individual_results_{one}.jsonl", "x").read_text() == "x"


def test_a_lock_keeps_all_others_out(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from utils.base.files import locked\n"
        "for _ in range(100):\n"
        "    with locked(sys.argv[2] + '.lock'):\n"
        "        os.mkdir(sys.argv[2]); os.rmdir(sys.argv[2])"  # an error while another process has it
    )
    root = str(REPOSITORY)
    others = [subprocess.Popen([sys.executable, "-c", code, root, str(tmp_path / "x")]) for _ in range(4)]
    assert [one.wait(60) for one in others] == [0, 0, 0, 0]
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_behind_is_removed(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from utils.base.files import atomic\n"
        "with atomic(sys.argv[2]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "x.txt"
    root = str(REPOSITORY)
    subprocess.run([sys.executable, "-c", code, root, str(path)], check=False)
    assert len(os.listdir(tmp_path)) == 1
    write_text(path, "whole")
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write into .*file"):
        require_writable(tmp_path / "file" / "folder")
    require_writable(tmp_path / "fine")
    assert os.listdir(tmp_path / "fine") == []


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 200_000),
        lambda path: save_archive(path, {"x": torch.zeros(50_000)}),
        lambda path: store_logits(path.parent, "big", np.zeros((5_000, 18)), np.arange(5_000)),
    ],
)
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path, write):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="nothing was written") as error:
            write(tmp_path / "big")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path / "big") in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_loader_process_failing_is_one_line():
    told = "Caught InputError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    told += "  File x\nutils.base.errors.InputError: cannot decode image a.jpg"
    assert one_line(InputError(told)) == "cannot decode image a.jpg"
    assert one_line(FileNotFoundError(2, "No such file", "x.txt")) == "No such file: x.txt"


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    done, names = [], {}
    plain_fsync, plain_replace = os.fsync, os.replace

    def fsync(number):
        done.append(("flush", os.readlink(f"/proc/self/fd/{number}")))
        plain_fsync(number)

    def replace(source, target):
        names["temporary"] = str(source)
        done.append(("rename", str(target)))
        plain_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    path = tmp_path / "x.txt"
    write_text(path, "text")
    assert done == [("flush", names["temporary"]), ("rename", str(path)), ("flush", str(tmp_path))]
    done.clear()
    store_logits(tmp_path, "key", np.zeros((2, 18)), np.arange(2))  # verified whenever it is read
    assert done == [("rename", str(tmp_path / "key.npz"))]


def test_links_that_were_laid_beforehand_are_not_followed(tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    outside.write_text("theirs")
    seen = []
    with atomic(tmp_path / "x.txt") as temporary:
        seen.append(temporary.name)
        temporary.write_text("mine")
    (tmp_path / seen[0]).symlink_to(outside)
    write_text(tmp_path / "x.txt", "mine again")
    (tmp_path / "x.lock").symlink_to(outside)
    with (
        pytest.raises(InputError, match=r"x\.lock is a link, a folder or a pipe: remove it"),
        locked(tmp_path / "x.lock"),
    ):
        pass
    assert outside.read_text() == "theirs"
    assert (tmp_path / "x.txt").read_text() == "mine again"


@pytest.mark.parametrize("stray", ["junk", "9" * 30, "", "1.2"])
def test_a_stray_file_that_looks_like_a_temporary_one_stops_nobody(tmp_path, stray):
    with atomic(tmp_path / "x.txt") as temporary:
        begin = temporary.name.removesuffix(f"{os.getpid()}.tmp")
    (tmp_path / f"{begin}{stray}.tmp").touch()
    write_text(tmp_path / "x.txt", "text")
    assert sorted(os.listdir(tmp_path)) == sorted([f"{begin}{stray}.tmp", "x.txt"])


def test_a_temporary_name_is_hardly_longer_than_the_final_one(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "a-host-in-a-cluster." * 5)
    name = "n" * (255 - TEMPORARY_BYTES)
    write_text(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_stops_no_work(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path / "x.lock"):
        write_text(tmp_path / "x.txt", "text")
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_kill_while_a_folder_is_tried_leaves_nothing(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from utils.base import files\n"
        "plain = files.tempfile.TemporaryFile\n"
        "def opened(**how):\n"
        "    file = plain(**how); file.write(b'1'); file.flush(); os.kill(os.getpid(), 9)\n"
        "files.tempfile.TemporaryFile = opened\n"
        "files.require_writable(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, str(REPOSITORY), str(tmp_path / "folder")], check=False)
    assert os.listdir(tmp_path / "folder") == []


def test_a_folder_or_file_that_changes_is_another_one(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("aaaa")
    before, folder = identity(path), identity(tmp_path)
    stat = path.stat()
    path.write_text("bbbb")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # of the same length and time
    assert identity(path) != before
    assert identity(tmp_path) != folder


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.txt"), atomic(tmp_path / "x.txt"):
        (tmp_path / "gone.txt").read_text()
    assert os.listdir(tmp_path) == []
