"""The README's file tree, options and commands are those of the repository."""

import re

from conftest import REPOSITORY

import finetune
import hard_voting
import inference
import main

README = (REPOSITORY / "README.md").read_text()
SCRIPTS = {"finetune.py": finetune, "main.py": main, "inference.py": inference, "hard_voting.py": hard_voting}


def test_the_file_tree_is_complete():
    tree = README.split("## Files")[1].split("```")[1]
    listed = set(re.findall(r"^\s*([\w./]+\.(?:py|sh|yaml))\s", tree, re.MULTILINE))
    present = {path.name for path in [*REPOSITORY.glob("*.py"), *REPOSITORY.glob("*.sh"), *REPOSITORY.glob("*.yaml")]}
    present |= {path.name for path in (REPOSITORY / "utils").glob("*.py") if path.name != "__init__.py"}
    assert listed == present


def test_every_flag_of_every_script_is_told_and_no_other():
    known = {action for module in SCRIPTS.values() for action in module.parser()._option_string_actions}
    for name, module in SCRIPTS.items():
        section = README.split(f"### {name}")[1].split("\n### ")[0]
        told = set(re.findall(r"`(--[\w-]+)", section))
        flags = set(module.parser()._option_string_actions) - {"-h", "--help"}
        common = {"--data-location", "--model-location", "--batch-size", "--workers", "--mean", "--std"}
        assert flags - told - common == set(), name
        assert told - known - {"--help", "--config_file"} == set(), name


def test_commands_parse():
    commands = re.findall(r"accelerate launch (?:--config_file \S+ )?(\w+\.py)((?: --?[\w-]+(?: [\w./]+)?)*)", README)
    assert {name for name, _ in commands} == set(SCRIPTS) - {"hard_voting.py"}
    for name, arguments in commands:
        SCRIPTS[name].parser().parse(arguments.split())
