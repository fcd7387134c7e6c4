"""docs/reference.md is what the parsers and training.sh say."""

import importlib.util
import re

import pytest
from conftest import REPOSITORY

SPEC = importlib.util.spec_from_file_location("make_reference", REPOSITORY / "docs" / "make_reference.py")
make_reference = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_reference)


def test_the_page_has_not_drifted():
    make_reference.main(["--check"])


@pytest.mark.parametrize("there", ["nothing", "an older page"])
def test_a_page_that_has_drifted_is_told_and_written_anew(there, tmp_path, monkeypatch):
    monkeypatch.setattr(make_reference, "PAGE", tmp_path / "reference.md")
    if there == "an older page":
        make_reference.PAGE.write_text("# Every flag\n")
    with pytest.raises(SystemExit, match=r"docs/reference.md .* run python docs/make_reference.py") as stop:
        make_reference.main(["--check"])
    assert stop.value.code not in (None, 0)  # a message is printed, and the exit code is 1
    make_reference.main([])
    assert make_reference.PAGE.read_text() == (REPOSITORY / "docs" / "reference.md").read_text()


def test_every_script_every_flag_and_every_variable_has_its_row():
    page = (REPOSITORY / "docs" / "reference.md").read_text()
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    scripts = {path.name for path in REPOSITORY.glob("*.py")}
    assert sections.keys() == scripts | {"training.sh"}
    for name in scripts - {"finetune_age.py"}:  # it points to finetune.py
        parser = importlib.import_module(name.removesuffix(".py")).parser()
        told = re.findall(r"^\| `(--[\w-]+)", sections[name], re.MULTILINE)
        assert sorted(told) == sorted(set(parser._option_string_actions) - {"-h", "--help"})
    header = (REPOSITORY / "training.sh").read_text().split("\nset -")[0]
    variables = re.findall(r"^#   ([A-Z_]+(?:, [A-Z_]+)*)  ", header, re.MULTILINE)
    told = re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|", sections["training.sh"], re.MULTILINE)
    assert [row.replace("`", "") for row in told] == variables


def test_a_table_has_three_columns_whatever_its_cells_hold():
    assert make_reference.table(("a", "b"), [("x|y", "z")]).splitlines()[-1] == r"| x\|y | z |"
    rows = [line for line in (REPOSITORY / "docs" / "reference.md").read_text().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}


def test_the_page_says_nothing_of_python_or_of_this_machine():
    page = (REPOSITORY / "docs" / "reference.md").read_text()
    assert not re.search(r"functools|PosixPath|<function|<class| object at |/home|/tmp|" + str(REPOSITORY), page)
