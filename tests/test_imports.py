"""What scripts import: a package that takes long to import comes in where it is used, and nowhere before."""

import json
import os
import subprocess
import sys

from conftest import AGE, FAST, OTHER, REPOSITORY, SOUP, in_a_copy, infer

SCRIPTS = sorted(path.stem for path in REPOSITORY.glob("*.py"))
OURS = {"torch", "transformers", "accelerate", "albumentations", "cv2", "datasets", "sklearn", "onnx", "onnxruntime"}
OURS |= {"matplotlib", "optuna", "wandb", "pytorch_metric_learning"}
OF_THEIRS = {"torch._dynamo", "torch.distributed.tensor", "scipy", "pandas", "pyarrow", "onnxscript", "sympy"}
NOTE = f"""
import json, sys
sys.path.insert(0, {str(REPOSITORY)!r})
def note(step):
    there = [name for name in {sorted(OURS | OF_THEIRS)} if name in sys.modules]
    print("loaded", json.dumps([step, there]), flush=True)
"""


def loaded(code: str) -> dict[str, set[str]]:
    """The heavy packages that are there after each step of the code, which tells the steps by `note`."""
    env = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run([sys.executable, "-c", NOTE + code], capture_output=True, text=True, env=env, timeout=240)
    assert result.returncode == 0, result.stderr
    lines = [line.removeprefix("loaded ") for line in result.stdout.splitlines() if line.startswith("loaded ")]
    return {step: set(names) for step, names in map(json.loads, lines)}


def test_scripts_and_their_options_import_nothing_heavy():
    found = loaded(f"""
import importlib
for name in {SCRIPTS}:
    importlib.import_module(name).parser().parse([])
    note(name)
""")
    assert found == {name: set() for name in SCRIPTS}


def test_each_way_imports_what_it_uses_and_no_more(trained, faces, pretrained, monkeypatch):
    """One process goes all ways, those that need little first."""
    in_a_copy(trained, monkeypatch)
    predict = ["--model-name", SOUP, "--soft-voting", OTHER]
    infer(faces, *predict)  # so that these logits are cached, as those of held-out people are
    train = [*FAST, "--pretrained-location", str(pretrained), "--head-init", "random", "--fast-dev-run"]
    found = loaded(f"""
import finetune, hard_voting, inference, main, summary, validation
def way(name, script, *options):
    script.run(script.parser().parse(list(options)))
    note(name)
data = ["--data-location", {str(faces)!r}, "--workers", "0"]
way("summary", summary, "--name", "finetune_cp")
way("vote", hard_voting)
way("soup", main, "--greedy-soup", *data)
way("prediction", inference, *data, *{predict})
way("trained already", finetune, *data, *{train[:-3]})
way("validation", validation, *data, "--model-name", {SOUP!r}, "--weighted-ensemble", {AGE!r})
way("training", finetune, *data, *{train}, "--aug-strength", "0")
way("augmentation", finetune, *data, *{train})
way("report", validation, *data, "--model-name", {SOUP!r}, "--report")
""")
    runtime = {"torch", "accelerate"}
    assert found["summary"] == found["vote"] == set()
    assert found["soup"] == found["prediction"] == runtime
    assert found["trained already"] == runtime | {"cv2"}
    assert found["validation"] == runtime | {"cv2", "matplotlib"}
    ours = {way: names & OURS for way, names in found.items()}
    assert ours["training"] == runtime | {"cv2", "matplotlib", "transformers"}
    assert ours["augmentation"] == ours["training"] | {"albumentations"}
    assert ours["report"] == ours["augmentation"] | {"sklearn"}
