"""What reaches a terminal or a log: nothing there steers the terminal."""

import logging
from pathlib import Path

import pytest

from utils.base.errors import InputError, one_line, run_script, visible
from utils.base.options import Parser
from utils.base.terminal import say, start_log

STEERING = "a\x1b[31mRED\x9b2J\x07\r\u202e\udcff"
SHOWN = r"a\x1b[31mRED\x9b2J\x07\r\u202e\udcff"


def test_control_characters_are_shown_and_letters_of_all_scripts_stay():
    assert visible(STEERING) == SHOWN
    assert visible("한글 é\u3000ß$\tx\ny") == "한글 é\u3000ß$\tx\ny"
    assert one_line(InputError(f"{STEERING}\nnext")).startswith(r"a\x1b[31mRED\x9b2J\x07")
    assert one_line(OSError(2, "No such file", "b\x1b[0m\nc")) == r"No such file: b\x1b[0m\nc"


def test_no_line_of_a_script_holds_one(capsys):
    path = start_log("one")
    logging.getLogger("utils.somewhere").info("reading %s", STEERING)
    logging.getLogger("of another library").warning("%s", STEERING)
    say(STEERING)
    with pytest.raises(SystemExit):
        Parser("", "x.py").parse([f"--{STEERING}"])

    def fails():
        raise InputError(STEERING)

    with pytest.raises(SystemExit):
        run_script(fails)
    told = "".join(capsys.readouterr())
    assert told.count(r"a\x1b[31mRED") == 5
    assert r"a\x1b[31mRED" in Path(path).read_text()
    assert not {"\x1b", "\x9b", "\x07", "\r", "\u202e", "\udcff"} & {*told, *Path(path).read_text()}


def test_a_log_takes_the_place_of_a_link_and_leaves_its_target(tmp_path, capsys):
    Path("outside").write_text("theirs")
    Path("logs").mkdir()
    Path("logs/x.log").symlink_to(Path("outside").resolve())
    start_log("x")
    logging.getLogger("utils.x").info("told")
    assert Path("outside").read_text() == "theirs"
    assert Path("logs/x.log").read_text().endswith("told\n")
