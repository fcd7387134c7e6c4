import os
import shlex
import subprocess
import sys

import pytest
from conftest import REPOSITORY

import finetune
import finetune_age
import inference
import main
import optuna_script
import validation

FLAGS = {
    finetune: """age-limits=(30, 60) age-regression=0.0 aug-strength=1.0 batch-size=64 checkpointing-steps=None
        class-weights=none compile=False contrastive-weight=0.1 data-location=data drop-ages=None ema-decay=0.0
        epochs=20 fast-dev-run=False freeze=None gradient-accumulation-steps=1 gradient-checkpointing=False
        half-cutmix=0.0 head-init=None i=0 image-size=None keep=last keep-top=None label-smoothing=0.0
        layer-decay=1.0 logit-adjustment=0.0 loss-fn=CrossEntropyLoss lr=1e-05 metric=macro_f1
        mixed-precision=None mixup=0.0 model=ViT-B/32 model-location=model name=finetune_cp no-cache=False
        old-aug=False overwrite=False patience=None pretrained-location=None push-to-hub=None random-seed=42
        relabel=None report-to=wandb resume=False sampler=shuffle save-every=None save-img=False split-by=person
        split-seed=42 val-ratio=0.2 warmup-length=500 wd=0.1 workers=None""",
    main: """batch-size=64 budget=10 data-location=data download-models=False epoch=None
        eval-individual-models=False export=None export-onnx=None greedy-soup=False indices=None ingredients=None
        mean=None metric=accuracy model-location=model model-num=None model-url=None name=None nested=False
        no-cache=False plot=False push-to-hub=None random-seed=None recipe=None relabel=None score-on=None
        split-by=None split-seed=None start-from=None std=None uniform-soup=False val-ratio=recorded workers=None""",
    inference: """batch-size=64 data-location=data demo=None ensemble=None flip=False format=csv mean=None
        model-location=model model-name=None no-bias=False output-dir=output save-probs=False skip-bad=None
        soft-voting=None soft-voting-rule=None std=None weighted-ensemble=None workers=None""",
    validation: """batch-size=64 data-location=data ensemble=None flip=False i=None mean=None metric=macro_f1
        model-location=model model-name=None name=None no-cache=False random-seed=None relabel=None report=False
        soft-voting=None soft-voting-rule=None split-by=None split-seed=None std=None val-ratio=recorded
        weighted-ensemble=None workers=None""",
    optuna_script: """age-limits=(30, 60) age-regression=0.0 aug-strength-limits=(0.0, 2.0)
        batch-sizes=(32, 64, 128) best=5 class-weights=none compile=False contrastive-weight=0.1
        data-location=data drop-ages=None ema-decay=0.0 epochs-limits=(5, 20) freeze=None
        gradient-accumulation-steps=1 gradient-checkpointing=False half-cutmix=0.0 head-init=None image-size=None
        indices=None keep=last label-smoothing-limits=(0.0, 0.2) layer-decay=1.0 logit-adjustment=0.0
        loss-fn=CrossEntropyLoss lr-limits=(1e-06, 0.0001) metric=macro_f1 mixed-precision=None model=ViT-B/32
        model-location=model n-trials=30 no-cache=False old-aug=False patience=None pretrained-location=None
        relabel=None report-to=wandb sampler=shuffle split-by=person split-seed=42 storage=None study-name=search
        val-ratio=0.2 warmup-length=500 wd-limits=(0.0, 0.3) workers=None""",
}
FLAGS[finetune_age] = FLAGS[finetune]


@pytest.mark.parametrize("script", FLAGS, ids=lambda script: script.__name__)
def test_flags_and_defaults_are_frozen(script):
    defaults = {name.replace("_", "-"): str(value) for name, value in script.parser().parse([]).as_dict().items()}
    expected = dict(item.split("=") for item in FLAGS[script].replace(", ", ",").split())
    assert {name: value.replace(", ", ",") for name, value in defaults.items()} == expected


def test_both_spellings_work():
    dashes = finetune.parser().parse(["--random-seed", "7", "--old-aug=True", "--name", "a_b"])
    underscores = finetune.parser().parse(["--random_seed", "7", "--old_aug=True", "--name", "a_b"])
    assert dashes.as_dict() == underscores.as_dict()
    assert dashes.random_seed == 7
    assert dashes.name == "a_b"


@pytest.mark.parametrize(
    "line",
    [
        "--val-ratio None --model-name 'a b.pt' --flip",
        "--soft-voting b.pt 'it''s c.pt' --weighted-ensemble a.pt --mean 0.5,0.25,0.125 --workers 0 --report",
    ],
)
def test_options_are_written_as_the_command_that_asks_for_them(line):
    options = validation.parser().parse(shlex.split(line))
    words = shlex.split(validation.parser().command("validation.py", options))
    assert words[:2] == ["python", "validation.py"]
    assert len(words) - 2 == len(shlex.split(line))
    assert validation.parser().parse(words[2:]).as_dict() == options.as_dict()


def test_options_are_read_only():
    options = finetune.parser().parse([])
    with pytest.raises(AttributeError, match="read-only"):
        options.lr = 1.0
    assert options.replace(lr=1.0).lr == 1.0
    assert options.lr == 1e-5
    with pytest.raises(AttributeError, match="no such option"):
        options.replace(learning_rate=1.0)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning-rate", "1"], "unrecognized arguments: --learning-rate 1"),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--lr", "fast"], "'fast' is no number"),
        (["--lr", "nan"], "nan is not above 0"),
        (["--lr", "0"], "0 is not above 0"),
        (["--epochs", "1.5"], "'1.5' is no whole number"),
        (["--val-ratio", "1"], "1 is not at least 0 and at most 0.95"),
        (["--old-aug", "maybe"], "neither True nor False"),
        (["--loss-fn", "MSE"], "invalid choice"),
        (["--age-limits", "60,30"], "30,60"),
        (["--name", "../x"], "use letters"),
        (["--name", "Age_x"], "not beginning with Age_"),
    ],
)
def test_a_wrong_flag_or_value_is_named(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        finetune.parser().parse(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_idle_threads_soon_sleep_unless_the_user_says_otherwise(given, spins):
    code = "import os, utils, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=env | given, stdout=subprocess.PIPE, text=True
    )
    assert told.stdout.split() == [spins, "False"]  # libgomp asks when torch is imported


@pytest.mark.parametrize("script", [f"{script.__name__}.py" for script in FLAGS])
def test_help_does_not_import_torch(script):
    code = (
        f"import sys, runpy; sys.argv = ['{script}', '--help']\n"
        f"try: runpy.run_path('{script}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--data-location" in result.stdout
