"""The pretrained ingredients, fetched from the model-soups release or from a mirror of it.

What has arrived of a file lies beside it as `model_{i}.pt.part` and is resumed from there; `model_{i}.pt` itself
appears only with all its bytes. The release has no digests, so a file's size is all that can be verified.
"""

import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from utils.base.errors import InputError
from utils.base.files import open_own, require_writable

log = logging.getLogger(__name__)


RELEASED = 72  # model_0.pt ... model_71.pt
RELEASE_URL = "https://github.com/mlfoundations/model-soups/releases/download/v0.0.2"
CONNECT_TIMEOUT = 10.0  # seconds, at most
PAUSE = 0.5  # seconds before the first retry; one more of these before each further one
CHUNK = 1 << 14  # bytes; what has arrived of a chunk is lost when the connection breaks


class _WrongSize(Exception):
    """A server's answer that was not the bytes it announced."""


@dataclass(frozen=True)
class _Model:
    """One file of the release: where it comes from, where it goes, and how many bytes the server says it has."""

    url: str
    path: Path
    size: int

    @property
    def part(self) -> Path:
        return self.path.with_name(self.path.name + ".part")

    def arrived(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0


@dataclass(frozen=True)
class _Client:
    """How the server is asked: seconds of silence to bear, failures in a row to bear, and a sign for all to stop."""

    timeout: float
    retries: int
    stop: Event = field(default_factory=Event)

    def request(self, method: str, url: str, **headers: str) -> requests.Response:
        headers["Accept-Encoding"] = "identity"  # else the announced length is that of a compressed body
        timeout = (min(self.timeout, CONNECT_TIMEOUT), self.timeout)
        return requests.request(method, url, headers=headers, timeout=timeout, stream=True)

    def persist(self, attempt: Callable[[], int | None], url: str, arrived: Callable[[], int]) -> int | None:
        """The result of `attempt`, tried again after failures; one that brought more bytes than ever starts anew."""
        failures, most = 0, arrived()
        while not self.stop.is_set():
            try:
                return attempt()
            except (requests.RequestException, _WrongSize) as error:
                failures = 0 if arrived() > most else failures + 1
                most = max(most, arrived())
                if failures > self.retries:
                    raise InputError(_explain(error, url)) from error
            self.stop.wait(PAUSE * (failures + 1))

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """An error within, Ctrl-C too, stops all threads."""
        try:
            yield
        except BaseException:
            self.stop.set()
            raise

    def each(
        self, call: Callable, items: list, parallel: int, done: Callable[[int], None] = lambda count: None
    ) -> list:
        """`call` of each item, `parallel` at once; the first error stops the others and is raised."""
        with ThreadPoolExecutor(parallel) as pool, self.stopping():
            call = self.stopping()(call)  # a thread that failed stops all before it takes its next item
            futures = [pool.submit(call, item) for item in items]
            for count, future in enumerate(as_completed(futures), start=1):
                future.result()
                done(count)
        return [future.result() for future in futures]

    def size(self, url: str) -> int:
        """Bytes of the file at `url`."""
        with self.request("HEAD", url) as response:
            _check_status(response)
            length = int(response.headers.get("Content-Length", 0))
        if not length:
            raise InputError(f"{url}: the server does not say how many bytes it has; choose another --model-url")
        return length

    def fetch(self, model: _Model, bar: tqdm) -> None:
        """Fetch what is missing of the model, and move it into place when it has all its bytes."""
        if model.arrived() > model.size:
            _start_over(model, bar)
        if model.arrived() < model.size:
            self._append(model, bar)
        if not self.stop.is_set():
            _check_size(model, model.arrived(), bar)
            model.part.replace(model.path)

    def _append(self, model: _Model, bar: tqdm) -> None:
        offset = model.arrived()
        with self.request("GET", model.url, **({"Range": f"bytes={offset}-"} if offset else {})) as response:
            resumed, sent = response.status_code == 206, response.headers.get("Content-Range", "")
            if response.status_code == 416 or (resumed and not re.fullmatch(rf"bytes {offset}-.*/{model.size}", sent)):
                _start_over(model, bar)
                raise _WrongSize(f"{model.url} cannot be resumed at byte {offset} of {model.size}")
            _check_status(response)
            if not resumed:
                _start_over(model, bar)
                _check_size(model, int(response.headers.get("Content-Length", model.size)), bar)
            # a connection that breaks or stalls shows in the size; what has arrived is worth keeping
            with _named(model.part), open_own(model.part) as file, suppress(requests.RequestException):
                for chunk in response.iter_content(CHUNK):
                    _advance(bar, file.write(chunk))
                    if self.stop.is_set() or file.tell() > model.size:
                        return


def download_models(
    folder: Path,
    indices: Iterable[int],
    url: str = RELEASE_URL,
    parallel: int = 4,
    timeout: float = 30.0,
    retries: int = 5,
    progress: bool = True,
) -> list[Path]:
    """Fetch `{url}/model_{i}.pt` of all `indices` into `folder`, `parallel` at once, and return their paths.

    Files that are there in full are left alone, partial ones are resumed. `timeout` is in seconds without a byte;
    after `retries` failures in a row without progress the download ends. One process per folder at a time. Raises
    `InputError` when the host cannot be reached, a file is not there or has another size than announced, a file of
    another size is in the way, or the disk is too small; `OSError` with the file's name when it cannot be written.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise InputError(f"--model-url {url} is no address of the form https://host/folder")
    require_writable(folder)
    client, names = _Client(timeout, retries), [f"model_{i}.pt" for i in sorted(set(indices))]
    urls = [f"{url.rstrip('/')}/{name}" for name in names]
    sizes = client.each(lambda url: client.persist(lambda: client.size(url), url, lambda: 0), urls, parallel)
    models = [_Model(url, Path(folder) / name, size) for url, name, size in zip(urls, names, sizes, strict=True)]
    missing = [model for model in models if not _in_place(model)]
    total, arrived = sum(model.size for model in missing), sum(model.arrived() for model in missing)
    _require_space(folder, total - arrived)
    scale = {"unit": "B", "unit_scale": True, "disable": None if progress else True}
    with tqdm(total=total, initial=arrived, desc="downloading", **scale) as bar:
        client.each(
            lambda model: client.persist(lambda: client.fetch(model, bar), model.url, model.arrived),
            missing,
            parallel,
            lambda count: bar.set_postfix_str(f"{count}/{len(missing)} files"),
        )
    log.info("fetched %d models into %s, %d were there already", len(missing), folder, len(models) - len(missing))
    return [model.path for model in models]


def _in_place(model: _Model) -> bool:
    if not model.path.exists():
        return False
    if (size := model.path.stat().st_size) != model.size:
        raise InputError(f"{model.path} has {size} bytes, {model.url} has {model.size}: remove the file to fetch it")
    return True


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{folder} needs {needed / 1e9:.2f} GB for the download and has {free / 1e9:.2f} GB free")


def _check_status(response: requests.Response) -> None:
    if response.status_code == 404:
        raise InputError(f"{response.url} does not exist (404): name a mirror that has it with --model-url")
    response.raise_for_status()


def _check_size(model: _Model, size: int, bar: tqdm) -> None:
    """A part that is too short is kept to be resumed, one that is too long can never become right."""
    if size > model.size:
        _start_over(model, bar)
    if size != model.size:
        raise _WrongSize(f"{model.path.name}: {size} bytes of {model.url} instead of the announced {model.size}")


def _start_over(model: _Model, bar: tqdm) -> None:
    _advance(bar, -model.arrived())
    model.part.unlink(missing_ok=True)


def _advance(bar: tqdm, size: int) -> None:
    with bar.get_lock():
        bar.update(size)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An error of the disk names the file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}; what has arrived is kept", str(path)) from error


def _explain(error: Exception, url: str) -> str:
    if isinstance(error, _WrongSize):
        return f"{error}: run again, or name a mirror with --model-url"
    if error.response is not None:
        answer = f"{error.response.status_code} {error.response.reason}"
        return f"{url} answers {answer}: try again later, or name a mirror with --model-url"
    host = urlsplit(error.request.url if error.request else url).hostname
    remedy = "a re-run with a network goes on where this one stopped, --model-url names a mirror"
    return f"{host} cannot be reached ({type(error).__name__}) for {url}: {remedy}"
