"""Studies, storages and locks that another program left."""

import os
import re
import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from utils.base.errors import InputError
from utils.training import studies

DATABASE = "sqlite:///foreign.db"
SETTINGS = {"metric": "macro_f1"}


def open_study(address=DATABASE, name="search"):
    with studies.naming(address):
        return studies.open_study(name, studies.open_storage(address), SETTINGS, startup_trials=5, warmup_epochs=2)


def refused(message: str, address=DATABASE) -> None:
    before = optuna.load_study(study_name="search", storage=address).user_attrs if address == DATABASE else None
    with pytest.raises(
        InputError, match=rf"^study search in {re.escape(address)} {message}.*: choose another --study"
    ):
        open_study(address)
    assert before is None or optuna.load_study(study_name="search", storage=address).user_attrs == before


def made(**directions):
    return optuna.create_study(study_name="search", storage=DATABASE, **directions)


def test_a_study_that_minimises_is_refused():
    made(direction="minimize")
    refused("minimises")
    journal = JournalStorage(JournalFileBackend("search.journal"))
    optuna.create_study(study_name="search", storage=journal, direction="minimize")
    refused("minimises", "search.journal")


def test_a_study_of_several_objectives_is_refused():
    made(directions=["maximize", "minimize"])
    refused("has 2 objectives")


def test_trials_of_another_program_are_refused():
    study = made(direction="maximize")
    study.ask()
    refused("has trials and no settings")
    study.optimize(lambda trial: trial.suggest_float("lr", 5, 6), n_trials=1)
    refused("has trials of another program")
    study.set_user_attr("settings", '{"metric": "macro_f1"}')  # an earlier version of this program took it for its own
    refused("has trials of another program")


@pytest.mark.parametrize("settings", ["{", "[1]", 3, {"a": 1}, "[" * 100_000])
def test_damaged_settings_are_refused(settings):
    made(direction="maximize").set_user_attr("settings", settings)
    refused("has (damaged settings|settings of another program)")


def test_an_empty_study_is_begun_and_gone_on_with():
    made(direction="maximize")
    for _ in range(2):
        assert open_study().user_attrs["settings"] == '{"metric": "macro_f1"}'


def test_a_database_of_another_optuna_or_another_program_is_named():
    open_study()
    with sqlite3.connect("foreign.db") as tables:
        tables.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    with pytest.raises(InputError, match=rf"^--storage {DATABASE} was made by another version of Optuna"):
        open_study()
    with sqlite3.connect("other.db") as tables:
        tables.execute("CREATE TABLE studies (name TEXT)")
    with pytest.raises(InputError, match=r"^--storage sqlite:///other\.db does not work as a study's: .*no column"):
        open_study("sqlite:///other.db")


@pytest.mark.parametrize(
    "line", [b"[1]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"op_code":99,"worker_id":""}']
)
def test_a_journal_of_another_program_is_named(line):
    Path("x.journal").write_bytes(line + b"\n")
    with pytest.raises(InputError, match=r"^--storage x\.journal is no journal file that can be opened: "):
        open_study("x.journal")


def test_a_journal_that_would_hang_is_named():
    os.mkfifo("x.journal")
    with pytest.raises(InputError, match="it is no regular file"):
        open_study("x.journal")


@pytest.mark.parametrize("target", [None, "/nowhere/search.journal"])
def test_a_lock_that_nobody_holds_is_taken_away(monkeypatch, target):
    monkeypatch.setattr(studies, "LOCK_GRACE", 0.1)
    lock = Path("search.journal.lock")
    if target:  # as Optuna makes it on a machine where the journal has another path
        lock.symlink_to(target)
    else:
        lock.touch()
    assert open_study("search.journal").user_attrs
    assert not os.path.lexists(lock)


def test_a_lock_keeps_others_out_while_it_is_held(monkeypatch):
    monkeypatch.setattr(studies, "LOCK_GRACE", 0.1)
    held, waited = studies.JournalLock(Path("x").resolve()), []

    def turn(_):  # of a living worker: a new lock each time that this one looks
        held.release()
        waited.append(len(waited))
        if len(waited) < 30:
            held.acquire()

    held.acquire()
    monkeypatch.setattr(studies.time, "sleep", turn)
    assert studies.JournalLock(Path("x").resolve()).acquire()
    assert len(waited) == 30


def test_a_lock_that_another_worker_has_made_meanwhile_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "LOCK_GRACE", 0)
    mine, other = (studies.JournalLock(tmp_path / "a.journal") for _ in range(2))
    mine.path.touch()  # of a killed worker
    looks = []

    def look(path=None, original=mine._look):
        there = original(*([path] if path else []))
        looks.append(there)
        if len(looks) == 2:  # the other one is faster
            mine.path.unlink()
            other.acquire()
        return there

    def sleep(seconds):
        if len(looks) > 9:
            raise TimeoutError

    monkeypatch.setattr(mine, "_look", look)
    monkeypatch.setattr(studies.time, "sleep", sleep)
    monkeypatch.setattr(studies.time, "monotonic", iter([0, *[1] * 99]).__next__)  # only the first lock grows stale
    with pytest.raises(TimeoutError):
        mine.acquire()
    assert other.path.exists()
