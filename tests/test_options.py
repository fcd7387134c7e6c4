import subprocess
import sys

import pytest
from conftest import REPOSITORY

import finetune
import inference
import main

FLAGS = {
    finetune: """aug-strength=1.0 age-limits=(30, 60) batch-size=64 contrastive-weight=0.1 data-location=data epochs=20
        gradient-accumulation-steps=1 head-init=None i=0 image-size=None label-smoothing=0.0 loss-fn=CrossEntropyLoss
        lr=1e-05 model-location=model model=ViT-B/32 name=finetune_cp old-aug=False overwrite=False
        pretrained-location=None random-seed=42 relabel=None report-to=wandb sampler=shuffle save-every=None
        save-img=False split-by=person split-seed=42 val-ratio=0.2 warmup-length=500 wd=0.1""",
    main: """batch-size=64 data-location=data download-models=False model-url=None epoch=None
        eval-individual-models=False greedy-soup=False mean=None
        metric=accuracy model-location=model model-num=None name=None random-seed=None relabel=None split-by=person
        split-seed=42 std=None uniform-soup=False val-ratio=0.2""",
    inference: """batch-size=64 data-location=data mean=None model-location=model model-name=None output-dir=output
        save-probs=False std=None""",
}


@pytest.mark.parametrize("script", FLAGS, ids=lambda script: script.__name__)
def test_flags_and_defaults_are_frozen(script):
    defaults = {name.replace("_", "-"): str(value) for name, value in script.parser().parse([]).as_dict().items()}
    assert int(defaults.pop("workers")) >= 0  # follows the machine
    expected = dict(item.split("=") for item in FLAGS[script].replace("30, 60", "30,60").split())
    assert {name: value.replace(", ", ",") for name, value in defaults.items()} == expected


def test_both_spellings_work():
    dashes = finetune.parser().parse(["--random-seed", "7", "--old-aug=True", "--name", "a_b"])
    underscores = finetune.parser().parse(["--random_seed", "7", "--old_aug=True", "--name", "a_b"])
    assert dashes.as_dict() == underscores.as_dict()
    assert dashes.random_seed == 7
    assert dashes.name == "a_b"


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


@pytest.mark.parametrize("script", ["finetune.py", "main.py", "inference.py"])
def test_help_does_not_import_torch(script):
    code = (
        f"import sys, runpy; sys.argv = ['{script}', '--help']\n"
        f"try: runpy.run_path('{script}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--batch-size" in result.stdout
