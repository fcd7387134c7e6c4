import logging
import os
import re
import resource
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from utils.base.errors import InputError
from utils.models import downloads
from utils.models.downloads import download_models

SIZE = 300_000
FILES = {f"/model_{i}.pt": np.random.default_rng(i).bytes(SIZE + i) for i in range(8)}


class Mirror(ThreadingHTTPServer):
    """An HTTP server of `FILES` on this machine that misbehaves as told and counts what it is asked."""

    daemon_threads = True
    files = FILES
    ranges = True  # does it know Range
    breaks_after = (None,)  # bytes after which it hangs up, for each GET in turn
    stalls_after = None  # bytes after which it says nothing more
    head_says = 0  # bytes by which the announcement differs, by HEAD
    get_says = 0  # and by GET; None announces nothing
    refuses = ()  # {path: status} of GETs
    pause = 0  # seconds after each 10,000 bytes
    interrupts = False  # the client gets Ctrl-C in mid-file

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.gets, self.sent, self.asked, self.closing = Counter(), Counter(), [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        known = self.path in self.server.files
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", len(self.server.files.get(self.path, b"")) + self.server.head_says)
        self.end_headers()

    def do_GET(self):
        server, body, asked = self.server, self.server.files[self.path], self.headers["Range"]
        server.gets[self.path] += 1
        server.asked.append(asked)
        offset = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        self.send_response(dict(server.refuses).get(self.path, 206 if offset else 200))
        total = len(body) + (server.get_says or 0)
        if server.get_says is not None:
            self.send_header("Content-Length", total - offset)
        if offset:
            self.send_header("Content-Range", f"bytes {offset}-{total - 1}/{total}")
        self.end_headers()
        self.close_connection = True
        breaks_after = server.breaks_after[(server.gets[self.path] - 1) % len(server.breaks_after)]
        end = min(len(body), offset + (breaks_after or server.stalls_after or len(body)))
        step = 10_000
        for start in range(offset, end, step):
            if start + step >= end:  # counted before the client has the last byte; not reached when it hangs up
                server.sent[self.path] += end - offset
            self.wfile.write(body[start : min(end, start + step)])
            server.closing.wait(server.pause)
        if server.interrupts:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        if server.stalls_after:
            server.closing.wait(20)


@pytest.fixture
def mirror(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Mirror()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(folder, mirror, indices=(0,), **changes):
    changes = {"timeout": 3, "retries": 2, "progress": False} | changes
    return download_models(folder, indices, mirror.url, **changes)


def assert_same(folder, *indices):
    """Exactly these files lie in `folder`, with the right bytes."""
    assert sorted(os.listdir(folder)) == [f"model_{i}.pt" for i in sorted(indices)]
    for i in indices:
        assert (folder / f"model_{i}.pt").read_bytes() == FILES[f"/model_{i}.pt"]


def test_files_fetched_at_once_are_the_servers_bytes(tmp_path, mirror, caplog):
    with caplog.at_level(logging.INFO):
        paths = fetch(tmp_path, mirror, (2, 0, 1, 2), parallel=3)
    assert paths == [tmp_path / f"model_{i}.pt" for i in range(3)]
    assert_same(tmp_path, 0, 1, 2)
    assert mirror.gets == {f"/model_{i}.pt": 1 for i in range(3)}
    assert "fetched 3 models" in caplog.text


def test_what_is_complete_is_not_fetched_again(tmp_path, mirror, caplog):
    (tmp_path / "model_1.pt").write_bytes(FILES["/model_1.pt"])
    with caplog.at_level(logging.INFO):
        fetch(tmp_path, mirror, (0, 1))
    assert_same(tmp_path, 0, 1)
    assert mirror.gets == {"/model_0.pt": 1}
    assert re.search(r"fetched 1 models .* 1 were there already", caplog.text)


def test_of_a_partial_file_only_the_rest_is_sent(tmp_path, mirror):
    (tmp_path / "model_0.pt.part").write_bytes(FILES["/model_0.pt"][:200_000])
    fetch(tmp_path, mirror)
    assert_same(tmp_path, 0)
    assert mirror.asked == ["bytes=200000-"]
    assert mirror.sent["/model_0.pt"] == SIZE - 200_000


def test_a_part_with_all_its_bytes_is_only_moved(tmp_path, mirror):
    (tmp_path / "model_0.pt.part").write_bytes(FILES["/model_0.pt"])
    fetch(tmp_path, mirror)
    assert_same(tmp_path, 0)
    assert not mirror.gets


def test_a_part_longer_than_the_file_is_thrown_away(tmp_path, mirror):
    (tmp_path / "model_0.pt.part").write_bytes(b"x" * (SIZE + 1))
    fetch(tmp_path, mirror, retries=0)
    assert_same(tmp_path, 0)
    assert mirror.asked == [None]


def test_a_server_without_range_starts_over(tmp_path, mirror):
    mirror.ranges = False
    (tmp_path / "model_0.pt.part").write_bytes(b"x" * 200_000)
    fetch(tmp_path, mirror)
    assert_same(tmp_path, 0)
    assert mirror.sent["/model_0.pt"] == SIZE


def test_a_range_of_another_file_starts_over(tmp_path, mirror):
    class Changed(dict):
        """The file is shorter at the first GET than at HEAD, and is itself again after that."""

        def __getitem__(self, path):
            return FILES[path] if mirror.gets else FILES[path][:250_000]

    mirror.files = Changed(FILES)
    (tmp_path / "model_0.pt.part").write_bytes(b"x" * 200_000)
    fetch(tmp_path, mirror)
    assert_same(tmp_path, 0)
    assert mirror.asked == ["bytes=200000-", None]


def test_a_range_that_cannot_be_had_starts_over(tmp_path, mirror):
    mirror.refuses = {"/model_0.pt": 416}
    (tmp_path / "model_0.pt.part").write_bytes(b"x" * 200_000)
    with pytest.raises(InputError, match="cannot be resumed at byte 200000"):
        fetch(tmp_path, mirror, retries=0)
    mirror.refuses = ()
    fetch(tmp_path, mirror)
    assert_same(tmp_path, 0)


def test_every_break_that_brought_bytes_is_forgiven(tmp_path, mirror):
    mirror.breaks_after = (70_000,)
    fetch(tmp_path, mirror, retries=0)
    assert_same(tmp_path, 0)
    assert mirror.gets["/model_0.pt"] > 4


def test_breaks_without_progress_end(tmp_path, mirror):
    mirror.ranges, mirror.breaks_after = False, (70_000, 20_000, 50_000)
    with pytest.raises(InputError, match=rf"model_0\.pt: \d+ bytes .* announced {SIZE}"):
        fetch(tmp_path, mirror, retries=2)
    assert mirror.gets["/model_0.pt"] == 4  # the first brought the most bytes, then three that brought fewer
    assert os.listdir(tmp_path) == ["model_0.pt.part"]


def test_a_stalling_server_is_retried_then_named(tmp_path, mirror):
    mirror.stalls_after = 10
    started = time.monotonic()
    with pytest.raises(InputError, match=rf"model_0\.pt: 0 bytes of {mirror.url}/model_0\.pt .* announced {SIZE}"):
        fetch(tmp_path, mirror, timeout=0.3, retries=2)
    assert mirror.gets["/model_0.pt"] == 3
    assert time.monotonic() - started < 5
    assert not (tmp_path / "model_0.pt").exists()


def test_a_missing_file_is_named_and_nothing_is_fetched(tmp_path, mirror):
    with pytest.raises(InputError, match=rf"{mirror.url}/model_9\.pt does not exist \(404\).*--model-url"):
        fetch(tmp_path, mirror, (0, 9))
    assert not mirror.gets
    assert os.listdir(tmp_path) == []


def test_a_failing_server_is_retried_then_named(tmp_path, mirror):
    mirror.refuses = {"/model_0.pt": 503}
    with pytest.raises(InputError, match=r"model_0\.pt answers 503 Service Unavailable"):
        fetch(tmp_path, mirror, retries=2)
    assert mirror.gets["/model_0.pt"] == 3
    assert os.listdir(tmp_path) == []


def test_fewer_bytes_than_announced_are_kept_as_a_part(tmp_path, mirror):
    mirror.head_says = mirror.get_says = 1000
    with pytest.raises(InputError, match=rf"model_0\.pt: \d+ bytes .* announced {SIZE + 1000}"):
        fetch(tmp_path, mirror)
    assert os.listdir(tmp_path) == ["model_0.pt.part"]
    part = (tmp_path / "model_0.pt.part").read_bytes()
    assert part
    assert FILES["/model_0.pt"].startswith(part)


@pytest.mark.parametrize("get_says", [0, None])
def test_more_bytes_than_announced_are_thrown_away(tmp_path, mirror, get_says):
    mirror.head_says, mirror.get_says = -1000, get_says
    with pytest.raises(InputError, match=rf"model_0\.pt: {SIZE} bytes .* announced {SIZE - 1000}"):
        fetch(tmp_path, mirror)
    assert os.listdir(tmp_path) == []


def test_an_endless_file_is_not_read_to_its_end(tmp_path, mirror):
    mirror.files = {"/model_0.pt": bytes(30_000_000)}
    mirror.head_says, mirror.get_says = -29_999_000, None
    with pytest.raises(InputError, match=r"\d+ bytes .* announced 1000"):
        fetch(tmp_path, mirror)
    assert mirror.gets
    assert not mirror.sent


def test_two_announcements_that_differ_are_refused_before_the_first_byte(tmp_path, mirror):
    mirror.head_says = 1000
    with pytest.raises(InputError, match=rf"model_0\.pt: {SIZE} bytes .* announced {SIZE + 1000}"):
        fetch(tmp_path, mirror)
    assert os.listdir(tmp_path) == []


def test_a_server_that_hides_the_size_is_refused(tmp_path, mirror):
    mirror.files = {"/model_0.pt": b""}
    with pytest.raises(InputError, match="does not say how many bytes"):
        fetch(tmp_path, mirror)


def test_a_file_of_another_size_is_not_overwritten(tmp_path, mirror):
    (tmp_path / "model_0.pt").write_bytes(b"mine")
    with pytest.raises(InputError, match=rf"model_0\.pt has 4 bytes, .* has {SIZE}: remove the file"):
        fetch(tmp_path, mirror, (0, 1))
    assert (tmp_path / "model_0.pt").read_bytes() == b"mine"
    assert not mirror.gets


def test_a_host_out_of_reach_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        mirror = SimpleNamespace(url=f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(
            InputError, match=rf"^127\.0\.0\.1 cannot be reached .* for {mirror.url}/.* goes on where .*--model-url"
        ):
            fetch(tmp_path, mirror, range(8))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("url", ["example.org/models", "ftp://example.org", "http://"])
def test_a_url_must_be_one(tmp_path, url):
    with pytest.raises(InputError, match=f"--model-url {url} is no address"):
        download_models(tmp_path, [0], url)


def test_a_disk_too_small_is_told_before_the_first_byte(tmp_path, mirror, monkeypatch):
    (tmp_path / "model_0.pt.part").write_bytes(FILES["/model_0.pt"][:200_000])
    needed = 2 * SIZE + 1 - 200_000
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=needed - 1))
    with pytest.raises(InputError, match=r"needs 0\.00 GB .* 0\.00 GB free"):
        fetch(tmp_path, mirror, (0, 1))
    assert not mirror.gets
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=needed))
    fetch(tmp_path, mirror, (0, 1))
    assert_same(tmp_path, 0, 1)


def test_a_full_disk_names_the_file(tmp_path, mirror):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"^\[Errno \d+\] File too large; what has arrived is kept") as error:
            fetch(tmp_path, mirror)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(tmp_path / "model_0.pt.part")
    assert mirror.gets["/model_0.pt"] == 1
    fetch(tmp_path, mirror)
    assert_same(tmp_path, 0)


def test_the_first_error_stops_the_others(tmp_path, mirror):
    mirror.stalls_after = 10
    with pytest.raises(InputError):
        fetch(tmp_path, mirror, range(8), parallel=2, timeout=0.7, retries=0)
    assert len(mirror.gets) == 2
    assert not list(tmp_path.glob("*.pt"))


def test_an_error_stops_another_file_between_two_chunks(tmp_path, mirror):
    mirror.pause, mirror.refuses = 0.1, {"/model_1.pt": 503}
    started = time.monotonic()
    with pytest.raises(InputError, match=r"model_1\.pt answers 503"):
        fetch(tmp_path, mirror, (0, 1), retries=0)
    assert time.monotonic() - started < 1.5  # the whole file takes 3 s
    assert not (tmp_path / "model_0.pt").exists()


def test_ctrl_c_stops_all_and_a_later_run_goes_on(tmp_path, mirror):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    mirror.interrupts, mirror.stalls_after = True, 200_000
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path, mirror, range(8), parallel=1, timeout=1, retries=100)
    assert set(os.listdir(tmp_path)) == {"model_0.pt.part"}
    assert mirror.gets == {"/model_0.pt": 1}
    mirror.interrupts, mirror.stalls_after = False, None
    fetch(tmp_path, mirror)
    assert_same(tmp_path, 0)
