"""What the pages say is so: commands parse, links and files exist, variables are those of training.sh."""

import re
import shlex
import subprocess
from itertools import pairwise

import pytest
from conftest import REPOSITORY

import finetune
import finetune_age
import hard_voting
import inference
import main
import optuna_script
import summary
import validation
from utils.evaluation.manifest import Manifest

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "README.ko.md", *sorted(DOCS.glob("*.md"))]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
SWEEP = "".join((REPOSITORY / name).read_text(encoding="utf-8") for name in ("training.sh", "utils/jobs.sh"))
CODE = SWEEP + "".join(path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "utils").rglob("*.*[yh]")))
SCRIPTS = {
    f"{module.__name__}.py": module
    for module in (finetune, finetune_age, main, validation, inference, hard_voting, summary, optuna_script)
}
OF_LAUNCH = {"--quiet", "--config_file", "--multi_gpu", "--num_processes", "--num_machines", "--machine_rank"}
OF_LAUNCH |= {"--main_process_ip", "--main_process_port", "--standalone", "--nproc_per_node"}
OTHERS_VARIABLES = {"ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
SUFFIXES = "py|sh|md|txt|yaml|toml|svg|png|pt|html|css|js"
WRITTEN = "model|logs|output|val_img|cache|data|demo_run|pretrained|wandb|train|eval"  # by scripts or by the reader
RUNS = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:accelerate launch|torchrun|python|bash|sbatch) ?[^|]*?\.(?:py|sh)\b")

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def without_blocks(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def in_backticks(text: str) -> list[str]:
    """What a page has in single backticks, which may go over the end of a line."""
    return [re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", without_blocks(text))]


def commands(text: str) -> list[list[str]]:
    """The words of every command in a code block, in a table or in a sentence."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    parts = [part for line in [*lines, *in_backticks(text)] for part in re.split(r"\s*&&\s*", line.strip())]
    return [shlex.split(part) for part in parts if RUNS.match(part) or part.startswith("python -m pytest")]


def variables(words: list[str]) -> list[str]:
    """The environment variables that stand before a command."""
    return [word.split("=")[0] for word in words if re.match(r"[A-Z_]+=", word)]


def check_command(words: list[str]) -> str:
    """Let the parser of a command's script read its flags; returns the script's name."""
    words = [word.removeprefix("../") for word in words]
    at = next(k for k, word in enumerate(words) if re.search(r"\.(py|sh)$", word) or word == "-m")
    script, before, flags = words[at], words[:at], words[at + 1 :]
    options = {word for word in before if word.startswith("--")}
    if script == "-m":
        assert flags[0] == "pytest"
        paths = [word for before, word in pairwise(flags) if before != "-m" and not word.startswith("-")]
        assert all((REPOSITORY / path).exists() for path in paths), words
    elif script == "training.sh":
        assert "sbatch" in before or not options
        finetune.parser().parse(flags)
    elif script in SCRIPTS:
        SCRIPTS[script].parser().parse(flags)
        assert options <= OF_LAUNCH, words
    else:
        assert (REPOSITORY / script).is_file(), words
        known = (REPOSITORY / script).read_text(encoding="utf-8")
        assert all(flag in known for flag in flags if flag.startswith("--")), words
    return script


@pytest.fixture(autouse=True)
def _scored_sweep():
    """Pages name the sweep `finetune_cp` behind `--sweep`, which has to be there."""
    Manifest(name="finetune_cp", metric="accuracy", best="a.pt", soups={}, scores=["rows.jsonl"]).write()


@by_page
def test_commands_parse(page):
    for words in commands(TEXT[page]):
        try:
            check_command(words)
        except SystemExit:
            pytest.fail(f"{page.name}: {shlex.join(words)}")


def test_the_start_pages_run_every_script():
    for page in PAGES[:2]:
        named = {word.removeprefix("../") for words in commands(TEXT[page]) for word in words}
        assert {*SCRIPTS, "training.sh"} <= named, page.name


def test_commands_are_found_wherever_they_stand_and_mistakes_are_noticed():
    page = "```bash\ncd a && python main.py --greedy\n```\n| a | `accelerate launch --quite main.py --greedy-soup` |\n"
    page += (
        "Call `A=1 bash\ntraining.sh --lrate 1`, `python benchmarks/vote.py --repeated 5` or `python -m pytest test`."
    )
    found = commands(page)
    assert len(found) == 5
    for words in found:
        with pytest.raises((SystemExit, AssertionError)):
            check_command(words)


def test_the_readme_is_short():
    assert len(TEXT[REPOSITORY / "README.md"].splitlines()) <= 250


def anchors(page) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@by_page
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(TEXT[page])):
        if not re.match(r"https?:", link):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@by_page
def test_files_in_backticks_exist(page):
    """Those of the repository: a path with a folder, and a script's bare name."""
    for code in in_backticks(TEXT[page]):
        for path in re.findall(rf"^(?:[\w.-]+/)+(?:[\w.-]+\.(?:{SUFFIXES}))?$|^[a-z]\w*\.(?:py|sh|yaml)$", code):
            if not re.match(rf"(?:{WRITTEN})/", path):
                assert (REPOSITORY / path).exists(), f"{page.name}: {path}"


def test_every_file_of_docs_is_linked():
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", TEXT[page])
    }
    tracked = subprocess.run(
        ["git", "ls-files", "docs"], cwd=REPOSITORY, capture_output=True, text=True
    ).stdout.split()
    present = {path for path in DOCS.iterdir() if path.is_file()}
    assert {REPOSITORY / path for path in tracked} <= present
    assert present <= linked


def test_the_set_up_commands_are_there_in_both_languages():
    ends = {"requirements.txt": "bash training.sh", "requirements-dev.txt": "python -m pytest tests"}
    for requirements, end in ends.items():
        command = f"python3 -m venv .venv && source .venv/bin/activate && pip install -r {requirements} && {end}"
        assert (REPOSITORY / requirements).is_file()
        assert all(TEXT[page].count(f"```bash\n{command}\n```") == 1 for page in PAGES[:2])
    assert (REPOSITORY / "requirements-dev.txt").read_text().startswith("-r requirements.txt\n")


def described_variables() -> set[str]:
    """The variables that the header of training.sh describes."""
    header = SWEEP.split("set -euo pipefail")[0]
    lines = re.findall(r"^#   ([A-Z_]+(?:, [A-Z_]+)*)  ", header, re.MULTILINE)
    return {name for line in lines for name in line.split(", ")}


@by_page
def test_variables_of_a_page_are_those_of_training_sh(page):
    before_commands = {name for words in commands(TEXT[page]) for name in variables(words)}
    given = {code.split("=")[0] for code in in_backticks(TEXT[page]) if re.match(r"[A-Z_]+=", code)}
    for name in before_commands | given | (set(in_backticks(TEXT[page])) & described_variables()):
        assert name in OTHERS_VARIABLES or re.search(rf"\$\{{{name}[:}}-]", SWEEP), f"{page.name}: {name}"


def test_the_start_pages_tell_every_variable_of_training_sh():
    assert {"NAME", "STAGES", "TRUTH"} <= described_variables()
    for page in PAGES[:2]:
        rows = re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|", TEXT[page], re.MULTILINE)
        assert {name for row in rows for name in re.findall(r"\w+", row)} == described_variables(), page.name


@by_page
def test_names_of_the_code_in_backticks_exist(page):
    """Words in capitals, such as `METRICS`, are names in the code or variables of training.sh."""
    for name in {code for code in in_backticks(TEXT[page]) if re.fullmatch(r"[A-Z]+(?:_[A-Z]+)+|[A-Z]{4,}", code)}:
        assert re.search(rf"\b{name}\b", CODE), f"{page.name}: {name}"
