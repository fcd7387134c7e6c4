"""Optuna studies: where they are kept, who works on them, and their pictures."""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from statistics import median

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from utils.base.errors import InputError, one_line
from utils.base.files import is_alive
from utils.training.recorded_options import differences
from utils.training.resume_state import state_file

log = logging.getLogger(__name__)

HEARTBEAT = 60  # seconds between signs of life in a database; after two of them missed a trial is taken up again
PLOTTED = 4  # hyperparameters in the contour plot, which has the square of that many panels
INTERRUPTED = "interrupted"  # the mark of a trial that a signal stopped
LOCK_GRACE = 30  # seconds after which the lock of a worker that was killed while it wrote is taken away


class JournalLock:
    """The lock of a journal file: a file beside it that only one worker can create.

    Optuna's own two wait for ever on a link that leads nowhere, such as the lock that Optuna makes on a machine where
    the journal has another path. Here whatever stays for `LOCK_GRACE` seconds is the lock of a killed worker.
    """

    def __init__(self, journal: Path):
        self.path, self.held = journal.with_name(f"{journal.name}.lock"), None

    def acquire(self) -> bool:
        seen, since = None, 0.0
        while True:
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                self.held = self._look()
                return True
            except FileExistsError:
                there = self._look()
            if there != seen:
                seen, since = there, time.monotonic()
            elif there and time.monotonic() - since > LOCK_GRACE and self._take_away(there):
                log.warning("%s is removed: a killed worker left it", self.path)
            time.sleep(0.01)

    def release(self) -> None:
        """Give the lock back; one that was taken away, and is another worker's now, is left to that one."""
        if self._look() == self.held:
            self.path.unlink(missing_ok=True)

    def _take_away(self, stale: tuple[int, int]) -> bool:
        """Remove this lock; whether it was still there. One that another worker has made meanwhile is put back."""
        mine = self.path.with_name(f"{self.path.name}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}")
        try:
            os.rename(self.path, mine)
        except FileNotFoundError:
            return False
        was_stale = self._look(mine) == stale
        if not was_stale:
            with suppress(FileExistsError):
                os.link(mine, self.path, follow_symlinks=False)
        mine.unlink()
        return was_stale

    def _look(self, path: Path | None = None) -> tuple[int, int] | None:
        """What tells this lock, or the one at `path`, from the next one; None when it is gone."""
        try:
            stat = os.lstat(path or self.path)
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns


def open_storage(address: str) -> BaseStorage:
    """A journal file for a path, a database or Redis for a URL. Raises `InputError` when it cannot be reached."""
    public = without_password(address)
    try:
        if "://" not in address:
            storage = JournalStorage(_journal_file(Path(address).resolve()))
        elif address.startswith("redis"):
            storage = JournalStorage(JournalRedisBackend(address))
        else:
            storage = RDBStorage(
                address,
                heartbeat_interval=HEARTBEAT,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
    except Exception as error:  # each database driver has exceptions of its own, and so has each damage of a journal
        what = "cannot be reached" if "://" in address else "is no journal file that can be opened"
        if "table schema" in str(error):
            what = "was made by another version of Optuna (choose another --storage, or change the version)"
        raise InputError(f"--storage {public} {what}: {one_line(error)}") from error
    storage.url = public  # a database's without its password
    return storage


def _journal_file(journal: Path) -> JournalFileBackend:
    journal.parent.mkdir(parents=True, exist_ok=True)
    if journal.exists() and not journal.is_file():
        raise InputError("it is no regular file")
    lock = JournalLock(journal)
    _cut_unfinished(journal, lock)
    return JournalFileBackend(str(journal), lock_obj=lock)


def _cut_unfinished(journal: Path, lock: JournalLock) -> None:
    """Remove the last line when a worker was killed in the middle of it; Optuna would write the next one behind it."""
    if not journal.is_file() or journal.read_bytes()[-1:] in (b"", b"\n"):
        return
    lock.acquire()  # so that nobody is in the middle of it now
    try:
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(journal, whole)
            log.warning("%s: the last line, which a killed worker left unfinished, is removed", journal)
    finally:
        lock.release()


def without_password(address: str) -> str:
    """A storage as it may be shown."""
    scheme, mark, rest = address.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


@contextmanager
def naming(address: str) -> Iterator[None]:
    """Turn what a database says while the block runs into one error that names it."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise InputError(f"--storage {without_password(address)} does not work as a study's: {cause}") from error


class MedianOfFolds(optuna.pruners.BasePruner):
    """Prunes a trial whose score on the folds so far is below the median of the complete trials' on the same folds.

    Optuna's `MedianPruner` would compare the best of a trial's scores after each fold, and so that of an easy fold.
    """

    def __init__(self, startup_trials: int):
        self.startup_trials = startup_trials

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step, complete = trial.last_step, study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        scores = [one.intermediate_values[step] for one in complete if step in one.intermediate_values]
        return len(scores) >= self.startup_trials and trial.intermediate_values[step] < median(scores)


def open_study(name: str, storage: BaseStorage, settings: dict, startup_trials: int, warmup_epochs: int | None):
    """The study of this name, made or gone on with; `settings` must be those that it was begun with.

    A trial is pruned when its score after an epoch is below the median of the others' at that epoch, not before
    `startup_trials` have ended and not in the first `warmup_epochs`; None means that trials are scored after each
    fold, and not after epochs. Raises `InputError` for a study of another program.
    """
    pruner = MedianOfFolds(startup_trials)
    if warmup_epochs is not None:
        pruner = optuna.pruners.MedianPruner(startup_trials, warmup_epochs)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(n_startup_trials=startup_trials),
        pruner=pruner,
    )
    begun = study.user_attrs.get("settings")
    if foreign := _what_is_foreign(study, begun):
        raise InputError(
            f"study {name} in {getattr(storage, 'url', 'this storage')} {foreign}: choose another --study-name or "
            "--storage"
        )
    if begun is None:
        study.set_user_attr("settings", json.dumps(settings))
    elif different := differences(json.loads(begun), settings):
        raise InputError(f"study {name} was begun with other settings ({different}): choose another --study-name")
    return study


def _what_is_foreign(study: optuna.Study, begun: object) -> str:
    """What tells, in words, that a study is not one of ours; empty when nothing does. `begun` are its settings."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(study.directions) > 1:
        return f"has {len(study.directions)} objectives, and here there is one score"
    if study.direction != StudyDirection.MAXIMIZE:
        return "minimises, and here a score is maximised"
    if not all(isinstance(trial.user_attrs.get("checkpoint"), str) for trial in complete):
        return "has trials of another program"
    if begun is None:
        return "has trials and no settings of this program" if study.get_trials(deepcopy=False) else ""
    try:
        return "" if isinstance(json.loads(begun), dict) else "has settings of another program"
    except (ValueError, TypeError, RecursionError):
        return "has damaged settings"


def worker() -> str:
    """This process, as its trials record it."""
    return f"{socket.gethostname()} {os.getpid()}"


def take_up_again(study: optuna.Study) -> list[int]:
    """Queue the trials of workers that are no longer alive once more; returns their numbers. To be called at start-up.

    A database tells by its heartbeat, on all machines; a journal file has none, so that only the workers of this
    machine can be told. A worker with this process's number is an earlier one's. Trials that a signal stopped are
    taken up, too.
    """
    optuna.storages.fail_stale_trials(study)  # does nothing where there is no heartbeat
    taken = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, _, pid = str(trial.user_attrs.get("worker", "")).partition(" ")
        nameless = not host and (datetime.now() - trial.datetime_start).total_seconds() > HEARTBEAT  # killed at once
        here = host == socket.gethostname() and pid.isdecimal()
        dead = here and (int(pid) == os.getpid() or not is_alive(int(pid)))
        if nameless or dead:
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except ValueError:  # another worker has just taken it up
                continue
            RetryHeartbeatStaleTrialCallback()(study, trial)
            taken.append(trial.number)
    again = {trial.system_attrs.get("failed_trial") for trial in study.get_trials(deepcopy=False)}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        if trial.user_attrs.get(INTERRUPTED) and original_number(trial) not in again:
            RetryHeartbeatStaleTrialCallback()(study, trial)
            taken.append(trial.number)
    return taken


def remove_traces(study_name: str, number: int, model_location: Path) -> None:
    """Remove what a trial that ends early would be resumed from: states, and checkpoints of its earlier folds."""
    states = state_file(model_location / "any.pt").parent.glob(f"{study_name}_seed{number}_i*.pt")
    for path in (*states, *model_location.glob(f"{study_name}_seed{number}_i*_fold*of*_epoch*.pt")):
        path.unlink(missing_ok=True)


def check_checkpoints(study: optuna.Study, model_location: Path) -> None:
    """Raise `InputError` when a study that begins finds checkpoints of its name: another study's trials."""
    there = sorted(Path(model_location).glob(f"{study.study_name}_seed*.pt"))
    if there and not study.get_trials(deepcopy=False):
        raise InputError(
            f"the study begins, and {model_location} has checkpoints of its name ({there[0].name}, {len(there)} in "
            "all): choose another --study-name, or remove them"
        )


def original_number(trial: FrozenTrial) -> int:
    """The trial's number, or that of the trial which it takes up again."""
    retried = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if retried is None else retried


def counted(study: optuna.Study) -> int:
    """Trials that are done or under way; failed and waiting ones are not among them."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)))


def best_trials(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """The `count` best completed trials, best first, of equals the earlier one."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda trial: (-trial.value, trial.number))[:count]


def in_words(params: dict) -> str:
    """Hyperparameters with as many digits as people read."""
    return ", ".join(f"{name} {value:.3g}" for name, value in params.items())


def save_pictures(study: optuna.Study, folder: Path, metric: str) -> dict[str, Path]:
    """Write the study's plots of `metric` into `folder`; by name. There are none before two trials are complete."""
    import matplotlib

    matplotlib.use("agg")
    from optuna.visualization import matplotlib as plots

    from utils.base.pictures import save_open_figure

    if len(best_trials(study, 2)) < 2:
        log.debug("fewer than two trials are complete: no pictures of the study yet")
        return {}
    importances = optuna.importance.get_param_importances(study)
    varied = [name for name, importance in importances.items() if importance > 0][:PLOTTED]
    count = len(importances)
    draw = {  # how, and the size in inches
        "history": (lambda: plots.plot_optimization_history(study, target_name=metric), (8, 5)),
        "importance": (lambda: plots.plot_param_importances(study, target_name=metric), (8, 5)),
        "parallel_coordinate": (
            lambda: plots.plot_parallel_coordinate(study, target_name=metric),
            (3 + 1.5 * count, 5),
        ),
        "slice": (lambda: plots.plot_slice(study, target_name=metric), (2 + 2.6 * count, 4.5)),
    }
    if len(varied) > 1:
        side = 1 + 3 * len(varied)
        draw["contour"] = (lambda: plots.plot_contour(study, params=varied, target_name=metric), (side, side))
    pictures = {}
    for name, (plot, size) in draw.items():
        plot()
        pictures[name] = save_open_figure(folder / f"{name}.png", size)
    return pictures
