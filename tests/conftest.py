"""Small faces and small backbones that every test can make for itself in a second."""

import csv
import fcntl
import os
import shutil
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import REPOSITORY
from PIL import Image, ImageDraw
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import finetune
import finetune_age
import inference
import main
import validation
from utils.base.digests import digest_of
from utils.base.files import atomic
from utils.data import competition
from utils.data.preprocessing import preprocessing
from utils.models import heads

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest runs two processes
os.environ.setdefault("HF_HUB_OFFLINE", "1")

WIDTH, LAYERS, PATCH, SIZE, DIM = 64, 2, 8, 32, 16


def pytest_collection_modifyitems(items):
    """The longest test, of the whole demo, comes first, so that the other process does all others beside it."""
    items.sort(key=lambda item: not item.name.startswith("test_the_demo_and_the_same_killed"))


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory):
    """Nothing is read from or left in the home folder."""
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hf"))
    os.environ["WANDB_MODE"] = "offline"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Relative paths (logs, cache, pictures) of each test lie in its own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _known_probes():
    """A head's probe takes longer than a training here: the same one is fitted once."""
    known, fit = {}, heads.probe_head

    def probe_head(features, labels, persons, labelling, strength=None):
        given = (*(array.tobytes() for array in (features, labels, persons)), digest_of(labelling.record()), strength)
        if given not in known:
            known[given] = fit(features, labels, persons, labelling, strength)
        return known[given]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "probe_head", probe_head)
        yield


@pytest.fixture
def drawn():
    """Asked for by a test that looks at pictures."""


@pytest.fixture
def plotted():
    """Asked for by a test that looks at a study's pictures."""


@pytest.fixture(autouse=True)
def _undrawn(request, monkeypatch):
    """Pictures are laid out and not drawn, which would take longer than most of what else a test does."""

    def save(figure, path, dpi, **how):
        with atomic(path) as temporary:
            Image.new("RGB", (1, 1)).save(temporary, format="png")

    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("utils.base.pictures._save", save)


def draw_face(mask: int, gender: int, age: int, seed: int) -> Image.Image:
    """A 48 x 64 picture in which mask, gender and age can be seen: mask height, hair length, hair colour."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (48, 64), tuple(int(c) for c in rng.integers(120, 200, 3)))
    draw = ImageDraw.Draw(image)
    hair = (60, 40, 20) if age < 30 else (110, 80, 60) if age < 60 else (225, 225, 225)
    draw.ellipse((4, 2, 44, 64 if gender else 34), fill=hair)
    draw.ellipse((10, 10, 38, 58), fill=(230, 190, 160))
    if mask < 2:
        draw.rectangle((10, (34, 46)[mask], 38, 58), fill=tuple(int(c) for c in rng.integers(0, 255, 3)))
    return image


def make_people(folder: Path, count: int, seed: int = 0) -> Path:
    """`count` people in the competition's layout under `folder/train/images`; gender and age go in turn."""
    for k in range(count):
        gender, age = k % 2, (22, 45, 64)[k // 2 % 3] + k % 5
        person = folder / "train" / "images" / f"{k:06d}_{('male', 'female')[gender]}_Asian_{age}"
        person.mkdir(parents=True)
        for stem, mask in [(f"mask{m}", 0) for m in range(1, 6)] + [("incorrect_mask", 1), ("normal", 2)]:
            draw_face(mask, gender, age, seed * 100_000 + k * 10 + len(stem)).save(person / f"{stem}.jpg", quality=92)
    return folder


def make_eval(folder: Path, count: int = 10) -> Path:
    """`eval/info.csv` and `eval/images`."""
    images = folder / "eval" / "images"
    images.mkdir(parents=True)
    names = [f"{(7 * k) % count:03d}.jpg" for k in range(count)]
    for k, name in enumerate(names):
        draw_face(k % 3, k % 2, (22, 45, 64)[k % 3], 900 + k).save(images / name)
    (folder / "eval" / "info.csv").write_text("ImageID,ans\n" + "".join(f"{name},0\n" for name in names))
    return folder


def openai_vision_state(seed: int, width=WIDTH, layers=LAYERS, patch=PATCH, size=SIZE, dim=DIM) -> dict:
    """A random OpenAI-format vision tower (`visual.*`)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=0.02):
        return torch.randn(*shape, generator=generator) * scale

    state = {
        "visual.class_embedding": normal(width),
        "visual.positional_embedding": normal((size // patch) ** 2 + 1, width),
        "visual.proj": normal(width, dim, scale=width**-0.5),
        "visual.conv1.weight": normal(width, 3, patch, patch, scale=0.1),
    }
    for name in ("ln_pre", "ln_post"):
        state |= {f"visual.{name}.weight": 1 + normal(width), f"visual.{name}.bias": normal(width)}
    for layer in range(layers):
        block = f"visual.transformer.resblocks.{layer}."
        state |= {
            block + "attn.in_proj_weight": normal(3 * width, width, scale=width**-0.5),
            block + "attn.in_proj_bias": normal(3 * width),
            block + "attn.out_proj.weight": normal(width, width, scale=width**-0.5),
            block + "attn.out_proj.bias": normal(width),
            block + "mlp.c_fc.weight": normal(4 * width, width, scale=width**-0.5),
            block + "mlp.c_fc.bias": normal(4 * width),
            block + "mlp.c_proj.weight": normal(width, 4 * width, scale=0.5 * width**-0.5),
            block + "mlp.c_proj.bias": normal(width),
        }
        for name in ("ln_1", "ln_2"):
            state |= {block + name + ".weight": 1 + normal(width), block + name + ".bias": normal(width)}
    return state


def release_state(seed: int, num_classes: int = 1000, prefix: str = "") -> dict:
    """The same in the model-soups release format, with its head and text-tower leftovers."""
    generator = torch.Generator().manual_seed(1000 + seed)
    leftovers = {
        "positional_embedding": (8, 8),
        "text_projection": (8, DIM),
        "token_embedding.weight": (16, 8),
        "ln_final.weight": (8,),
        "ln_final.bias": (8,),
        "logit_scale": (),
    }
    state = {f"model.{name}": tensor for name, tensor in openai_vision_state(seed).items()}
    state |= {f"model.{name}": torch.randn(shape, generator=generator) for name, shape in leftovers.items()}
    state["classification_head.weight"] = torch.randn(num_classes, DIM, generator=generator)
    state["classification_head.bias"] = torch.randn(num_classes, generator=generator)
    return {prefix + name: tensor for name, tensor in state.items()}


TOWER = {
    "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 1,
    "image_size": SIZE, "patch_size": PATCH, "projection_dim": DIM, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip


def split_record(train: list[str], held_out: list[str]) -> dict:
    """What a checkpoint keeps of a split of these people."""
    digest = digest_of(["person", train, held_out])
    named = {"train_ids": train, "held_out_ids": held_out}
    return {"by": "person", "seed": 42, "val_ratio": 0.2, "digest": digest, **named}


def checkpoint_record(config: dict, **changes) -> dict:
    """The record of a fine-tuned checkpoint, with some `changes`."""
    return {
        "model": config,
        "labelling": competition.labelling().record(),
        "preprocessing": preprocessing(config["image_size"]),
        "options": {"lr": 1e-5},
        "split": split_record(["p"], ["q"]),
        "family": {"anchor": "x", "head_init": "probe", "inputs": "y"},
        "scores": {"accuracy": 0.5},
        "made_from": [],
        **changes,
    }


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    """30 people to train on and 10 images to predict; read-only for tests."""
    return make_eval(make_people(tmp_path_factory.mktemp("faces"), 30))


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory) -> Path:
    """`model_0.pt` ... `model_2.pt`, nearby backbones of one start; odd ones with the `module.` prefix."""
    folder = tmp_path_factory.mktemp("pretrained")
    start, other = release_state(0), release_state(1)
    for i in range(3):
        state = {name: tensor + 0.02 * i * other[name] for name, tensor in start.items()}
        prefix = "module." if i % 2 else ""
        torch.save({prefix + name: tensor for name, tensor in state.items()}, folder / f"model_{i}.pt")
    return folder


# models of the fixture `trained`
SOUP = "finetune_cp_seed42_epoch2_greedysoup_num3"
AGE = "Age_finetune_cp_seed42_i0_epoch2"
OTHER = "finetune_cp_seed42_i1_epoch2"

FAST = ["--lr", "2e-3", "--epochs", "2", "--batch-size", "8", "--workers", "0", "--report-to", "none"]


def train(faces, pretrained, *extra, script=finetune, **hooks):
    argv = ["--data-location", str(faces), "--pretrained-location", str(pretrained), *FAST, *map(str, extra)]
    return script.run(script.parser().parse(argv), **hooks)


def soup(faces, *extra):
    return main.run(main.parser().parse(["--data-location", str(faces), "--workers", "0", *map(str, extra)]))


def infer(faces, *extra):
    return inference.run(inference.parser().parse(["--data-location", str(faces), "--workers", "0", *map(str, extra)]))


def validate(faces, *extra):
    options = ["--data-location", str(faces), "--workers", "0", *map(str, extra)]
    return validation.run(validation.parser().parse(options))


def answers(path):
    with open(path) as file:
        return {row["ImageID"]: int(row["ans"]) for row in csv.DictReader(file)}


def probs_of(path):
    with open(path.with_name(f"{path.stem}_probs.csv")) as file:
        return np.array([[float(row[f"p{k}"]) for k in range(18)] for row in csv.DictReader(file)])


@pytest.fixture(scope="session")
def trained(faces, pretrained, tmp_path_factory):
    """A folder with three trained ingredients, an age specialist, both soups and their logs; tests copy what they
    change. With it come the scores that main.py returned.
    """
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for i in range(3):
            train(faces, pretrained, "--i", i, *(["--save-img", "--old-aug", "True"] if i == 2 else []))
        train(faces, pretrained, script=finetune_age)
        results = soup(faces, "--greedy-soup", "--uniform-soup")
    finally:
        os.chdir(before)
    return folder, results


FOLDS = 3


def train_folds(faces, pretrained, *extra, runs, script=finetune):
    """Fine-tune models of folds, one after the other in one process; `runs` are such as `42:0:2`."""
    argv = ["--data-location", str(faces), "--pretrained-location", str(pretrained), *FAST, "--folds", str(FOLDS)]
    options = script.parser().parse([*argv, *map(str, extra), "--runs", *runs])
    finetune.run_each(options)


@pytest.fixture(scope="session")
def trained_folds(faces, pretrained, tmp_path_factory):
    """A folder with two ingredients and an age specialist of three folds each, and both soups; tests copy what they
    change. With it come the scores that main.py returned.
    """
    folder = tmp_path_factory.mktemp("trained_folds")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for script, indices in ((finetune, (0, 1)), (finetune_age, (0,))):
            runs = [f"42:{i}:{fold}" for i in indices for fold in range(FOLDS)]
            train_folds(faces, pretrained, "--epochs", 1, runs=runs, script=script)
        results = soup(faces, "--greedy-soup", "--uniform-soup")
    finally:
        os.chdir(before)
    return folder, results


def in_a_copy(trained, monkeypatch):
    shutil.copytree(trained[0], "trained")
    monkeypatch.chdir("trained")


def files(folder="."):
    return sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())


def fails_cleanly(result, message):
    """One error line that holds `message`, a failing exit code, no traceback, and nothing left half-written."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr, result.stderr
    errors = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, result.stderr
    assert message in errors[0]
    assert not [path for path in files() if path.endswith(".tmp")]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium that logs its console and its network."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with chromedriver on this machine: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as chrome:
        yield chrome


def resize(browser, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


STAND_IN = """#!/usr/bin/env bash
# python SCRIPT ARGUMENT... or accelerate launch --quiet --config_file FILE [...] SCRIPT ARGUMENT...
[[ "$0" == */python && "$1" != */finetune*.py ]] && exec "$PYTHON" "$@"
how="${ACCELERATE_MIXED_PRECISION:-} ${ACCELERATE_USE_CPU:-} ${OMP_NUM_THREADS:-all}"
echo "${CUDA_VISIBLE_DEVICES:-}|$how|$*" >> "$CALLS"
[[ -n "${SAVES:-}" ]] && { python3 -c "$SAVES" "$CALLS" & }
[[ -n "${SLEEP_UNLESS:-}" && "$*" != *"$SLEEP_UNLESS"* ]] && sleep 60
[[ -n "${SLEEP:-}" ]] && sleep "$SLEEP"
[[ -n "${KILL_PARENT:-}" && "$*" == *"$KILL_PARENT"* ]] && kill -9 $PPID
[[ -n "${FAIL:-}" && "$*" == *"$FAIL"* ]] && { echo "error: no luck" >&2; exit 1; }
exit 0
"""


@pytest.fixture
def sweep(tmp_path):
    """Runs training.sh where what starts finetune.py only writes its arguments down; gives the result and them."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("python", "accelerate"):
        (tools / name).write_text(STAND_IN)
        (tools / name).chmod(0o755)
    person = tmp_path / "data" / "000001_male_Asian_25"
    person.mkdir(parents=True)
    (person / "mask1.jpg").touch()  # it is only listed
    (tmp_path / "model").mkdir()
    for i in range(5):
        (tmp_path / "model" / f"model_{i}.pt").touch()

    calls = tmp_path / "calls.txt"

    def start(*arguments, terminal=None, here=REPOSITORY, **env):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "CUDA"))}
        env = {"STAGES": "finetune age", **inherited, "CALLS": str(calls), **env}
        env |= {"PYTHON": sys.executable, "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
        command = ["bash", str(here / "training.sh"), *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        if terminal is not None:
            streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
            streams |= {"start_new_session": True, "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)}
        return subprocess.Popen(command, env=env, **streams)

    def run(*arguments, **env):
        calls.unlink(missing_ok=True)
        process = start(*arguments, **env)
        told = process.communicate(timeout=60)
        result = subprocess.CompletedProcess(process.args, process.returncode, *told)
        return result, calls.read_text().splitlines() if calls.is_file() else []

    run.start = start
    return run
