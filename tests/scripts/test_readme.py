"""The README's file tree, options, variables and commands are those of the repository."""

import re
import shlex

from conftest import REPOSITORY

import finetune
import finetune_age
import hard_voting
import inference
import main
import optuna_script
import summary
import validation

README = (REPOSITORY / "README.md").read_text()
TRAINING = (REPOSITORY / "training.sh").read_text()
SCRIPTS = {
    f"{module.__name__}.py": module
    for module in (finetune, finetune_age, main, validation, inference, hard_voting, summary, optuna_script)
}
OF_LAUNCH = {"--quiet", "--config_file", "--multi_gpu", "--num_processes", "--num_machines", "--machine_rank"}
OF_LAUNCH |= {"--main_process_ip", "--main_process_port", "--standalone", "--nproc_per_node"}


def flags_of(module):
    return set(module.parser()._option_string_actions) - {"-h", "--help"}


def test_the_file_tree_is_complete():
    tree = README.split("## Files")[1].split("```")[1]
    listed = set(re.findall(r"^\s*([\w./]+\.(?:py|sh|yaml|pt))\s", tree, re.MULTILINE))
    places = [REPOSITORY, REPOSITORY / "utils", REPOSITORY / "demo"]
    present = {path.name for place in places for end in ("py", "sh", "yaml", "pt") for path in place.glob(f"*.{end}")}
    assert listed == present - {"__init__.py"}


def test_every_flag_of_every_script_is_told_and_no_other():
    known = set().union(*map(flags_of, SCRIPTS.values()))
    for name, module in SCRIPTS.items():
        section = README.split(f"### {name}")[1].split("\n### ")[0]
        told = set(re.findall(r"`(--[\w-]+)", section))
        common = {"--data-location", "--model-location", "--batch-size", "--workers", "--mean", "--std"}
        shared = flags_of(finetune) if name == "finetune_age.py" else set()
        assert flags_of(module) - told - common - shared == set(), name
        assert told - known - {"--help"} == set(), name


def test_every_variable_of_the_sweep_is_told_and_no_other():
    section = README.split("### training.sh")[1].split("\n### ")[0]
    told = {
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    header = TRAINING.split("set -euo pipefail")[0]
    described = re.findall(r"^#   ([A-Z_]+(?:, [A-Z_]+)*)  +", header, re.MULTILINE)
    assert told == {name for line in described for name in line.split(", ")}
    assert all(re.search(rf"\$\{{{name}[:}}-]", TRAINING) for name in told)


def test_commands_parse():
    """Every command in a code block, in a table or in a sentence, in English and in Korean."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    commands += re.findall(r"`((?:accelerate|python|ACCELERATE_USE_CPU)[^`]*\.py[^`]*)`", README)
    seen = set()
    for command in commands:
        words = [word.removeprefix("../") for word in shlex.split(command.split("&&")[-1])]
        script = next((k for k, word in enumerate(words) if word in SCRIPTS), None)
        if script is None:  # pip, bash
            continue
        SCRIPTS[words[script]].parser().parse(words[script + 1 :])
        assert {word for word in words[:script] if word.startswith("--")} <= OF_LAUNCH
        seen.add(words[script])
    assert seen == set(SCRIPTS)


def test_the_set_up_commands_are_there_in_both_languages():
    for end in ("bash training.sh", "python -m pytest tests"):
        command = f"python3 -m venv .venv && source .venv/bin/activate && pip install -r requirements.txt && {end}"
        assert README.count(f"```bash\n{command}\n```") == 2
