"""Write docs/reference.md: every flag of every script, from the parsers, and the variables of training.sh.

    python docs/make_reference.py
    python docs/make_reference.py --check

With `--check` it writes nothing, and exits with code 1 when the page is not what the parsers say.
"""

import argparse
import importlib
import re
import sys
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from utils.base.options import Parser, default_as_typed  # noqa: E402

SCRIPTS = (
    "finetune", "finetune_age", "main", "validation", "inference", "hard_voting", "summary", "optuna_script",
)  # fmt: skip
PAGE = ROOT / "docs" / "reference.md"
COMMAND = "python docs/make_reference.py"
INTRODUCTION = f"""# Every flag and variable

This page is generated: change the parsers, then run `{COMMAND}`.

`python SCRIPT --help` prints the same. Each flag may be spelt `--a-b` or `--a_b`, and none may be abbreviated. A
switch is off unless it is given. Relative paths are relative to the folder in which the command is run.
"""


def reference() -> str:
    """The page."""
    sections, told = [], {}
    for parser in (importlib.import_module(name).parser() for name in SCRIPTS):
        tables = flag_tables(parser)
        same = told.setdefault(tables, parser.prog)
        flags = tables if same == parser.prog else f"It has the flags of [{same}](#{same.replace('.', '')}).\n"
        sections.append(f"{opening(parser)}\n{flags}")
    training = training_section((ROOT / "training.sh").read_text(encoding="utf-8"))
    return "\n".join([INTRODUCTION, *sections, training])


def opening(parser: Parser) -> str:
    """A script's purpose and its commands, as its docstring tells them."""
    lines = parser.description.splitlines()
    commands = [line.strip() for line in lines if line.startswith("    ")]
    return "\n".join([f"## {parser.prog}", "", lines[0], "", "```bash", *commands, "```", ""])


def flag_tables(parser: Parser) -> str:
    """One table for each group of a script's flags."""
    return "\n".join(
        f"**{title}**\n\n{table(('flag', 'default', 'meaning'), rows)}\n"
        for title, group in parser.groups.items()
        if (rows := [row(parser, action) for action in group._group_actions if "--help" not in action.option_strings])
    )


def row(parser: Parser, action: argparse.Action) -> tuple[str, str, str]:
    """What is typed, the default, and the meaning; a default that the help text tells is taken out of it."""
    formatter = parser.formatter_class(parser.prog)
    (typed,) = action.option_strings or [""]
    if action.nargs != 0:
        metavar = formatter._get_default_metavar_for_optional(action) if typed else action.metavar
        typed = f"{typed} {formatter._format_args(action, metavar)}".strip()
    told = re.fullmatch(r"(.*) \(default: (.*)\)", action.help)
    if told:
        meaning, default = map(with_flags_as_code, told.groups())
    else:
        value = default_as_typed(action)
        meaning, default = with_flags_as_code(action.help), "off" if value is None else f"`{value}`"
    return f"`{typed}`", default, meaning


def with_flags_as_code(text: str) -> str:
    return re.sub(r"(?<![\w`-])--[a-z][\w-]*(=[\w-]+)?|model_\{i\}\.pt", r"`\g<0>`", text)


def table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table, in which a bar inside a cell is no border."""
    lines = [titles, ("---",) * len(titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def training_section(script: str) -> str:
    """The header of training.sh: sentences, commands, and a table of its variables."""
    header = [line[1:].removeprefix(" ") for line in script.split("\nset -")[0].splitlines()[1:]]
    parts = []
    for kind, lines in groupby(header, kind_of_line):
        if kind == "variable":
            cells = [re.split(r" {2,}", line.strip(), maxsplit=2) for line in lines]
            parts.append(table(("variable", "meaning", "default"), [variable_row(*line) for line in cells]))
        elif kind == "command":
            parts.append("\n".join(["```bash", *(re.sub(" {3,}", "  # ", line.strip()) for line in lines), "```"]))
        else:
            parts.append(with_flags_as_code("\n".join(lines).strip()))
    return "\n\n".join(["## training.sh", *(part for part in parts if part)]) + "\n"


def kind_of_line(line: str) -> str:
    if not line.startswith("  "):
        return "text"
    return "variable" if re.match(r"  [A-Z_]+(, [A-Z_]+)*  ", line) else "command"


def variable_row(names: str, meaning: str, default: str = "") -> tuple[str, str, str]:
    return (
        ", ".join(f"`{name}`" for name in names.split(", ")),
        with_flags_as_code(meaning),
        re.sub(" +", " ", default),
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only tell whether the page is up to date")
    page = reference()
    if not parser.parse_args(argv).check:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
        sys.exit(f"docs/{PAGE.name} is not what the parsers and training.sh say: run {COMMAND}")


if __name__ == "__main__":
    main()
