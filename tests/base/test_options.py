import os
import re
import shlex
import subprocess
import sys

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
from utils.base.options import GROUPS, Parser, default_as_typed

FLAGS = {
    finetune: """age-limits=(30, 60) age-regression=0.0 attributes=None aug-strength=1.0 batch-size=64
        checkpointing-steps=None
        class-weights=none compile=False contrastive-weight=0.1 data-location=data drop-ages=None ema-decay=0.0
        epochs=20 fast-dev-run=False fold=None folds=None freeze=None gradient-accumulation-steps=1
        gradient-checkpointing=False group-column=None group-pattern=None half-cutmix=0.0 half-cutmix-within=None
        head-init=None i=0
        image-column=None hflip=0.5 image-size=None keep=last keep-top=None
        label-columns=None label-smoothing=0.0 layer-decay=1.0 limits=None logit-adjustment=0.0
        loss-fn=CrossEntropyLoss lr=1e-05 metric=macro_f1
        mixed-precision=None mixup=0.0 model=ViT-B/32 model-location=model name=finetune_cp no-cache=False
        old-aug=False oversample=None overwrite=False patience=None pretrained-location=None prompts=None
        push-to-hub=None random-seed=42
        relabel=None report-to=wandb resume=False runs=None sampler=shuffle save-every=None save-img=False
        split-by=person split-column=None split-seed=42 tf32=False tower=None val-ratio=0.2 values=None
        verbose=False warmup-length=500 wd=0.1
        workers=None""",
    main: """batch-size=64 budget=10 data-location=data download-models=False epoch=None
        eval-individual-models=False export=None export-onnx=None greedy-soup=False indices=None ingredients=None
        mean=None memory=None metric=accuracy model-location=model model-num=None model-url=None name=None nested=False
        no-cache=False plot=False push-to-hub=None random-seed=None recipe=None relabel=None save-folds=False
        score-on=None split-by=None split-seed=None start-from=None std=None tower=None uniform-soup=False
        val-ratio=recorded verbose=False workers=None""",
    inference: """answer=None batch-size=64 data-location=data demo=None ensemble=None flip=False format=csv
        image-column=None mean=None members=soup model-location=model model-name=None no-bias=False output-dir=output
        save-probs=False skip-bad=None soft-voting=None soft-voting-rule=None split=None split-column=None std=None
        sweep=None tower=None verbose=False weighted-ensemble=None workers=None""",
    validation: """accept-above=None batch-size=64 compare-with=None data-location=data ensemble=None flip=False i=None
        mean=None metric=macro_f1 model-location=model model-name=None name=None no-cache=False random-seed=None
        relabel=None report=False review=False soft-voting=None soft-voting-rule=None split-by=None split-seed=None
        std=None sweep=None tower=None val-ratio=recorded verbose=False weighted-ensemble=None workers=None""",
    optuna_script: """age-limits=(30, 60) age-regression=0.0 aug-strength-limits=(0.0, 2.0)
        batch-sizes=(32, 64, 128) best=5 class-weights=none compile=False contrastive-weight=0.1 data-location=data
        drop-ages=None ema-decay=0.0 epochs-limits=(5, 20) folds=None freeze=None gradient-accumulation-steps=1
        gradient-checkpointing=False group-column=None group-pattern=None half-cutmix=0.0 half-cutmix-within=None
        head-init=None hflip=0.5 image-column=None image-size=None indices=None keep=last
        label-columns=None limits=None
        label-smoothing-limits=(0.0, 0.2) layer-decay=1.0 logit-adjustment=0.0 loss-fn=CrossEntropyLoss
        lr-limits=(1e-06, 0.0001) metric=macro_f1 mixed-precision=None model=ViT-B/32 model-location=model
        n-trials=30 no-cache=False old-aug=False oversample=None patience=None pretrained-location=None prompts=None
        relabel=None report-to=wandb
        sampler=shuffle split-by=person split-column=None split-seed=42 storage=None study-name=search tf32=False
        tower=None
        val-ratio=0.2 values=None
        verbose=False warmup-length=500 wd-limits=(0.0, 0.3) workers=None""",
    hard_voting: """csv=[] data-location=data mode=None output=None show-disagreements=False sweep=None
        weights=None""",
    summary: "csv=[] name=None truth=None verbose=False",
}
FLAGS[finetune_age] = FLAGS[finetune].replace("attributes=None", "attributes=('age',)")


@pytest.mark.parametrize("script", FLAGS, ids=lambda script: script.__name__)
def test_flags_and_defaults_are_frozen(script):
    defaults = {name.replace("_", "-"): str(value) for name, value in script.parser().parse([]).plain.items()}
    expected = dict(item.split("=") for item in FLAGS[script].replace(", ", ",").split())
    assert {name: value.replace(", ", ",") for name, value in defaults.items()} == expected


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "balanced_accuracy", "log_loss"])
def test_every_script_that_chooses_may_choose_by_each_metric(metric):
    for script in (finetune, finetune_age, main, validation, optuna_script):
        assert script.parser().parse(["--metric", metric]).metric == metric


def test_both_spellings_work():
    dashes = finetune.parser().parse(["--random-seed", "7", "--old-aug=True", "--name", "a_b"])
    underscores = finetune.parser().parse(["--random_seed", "7", "--old_aug=True", "--name", "a_b"])
    assert dashes.plain == underscores.plain
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
    assert validation.parser().parse(words[2:]).plain == options.plain


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
        (["--batch-size", str(10**18)], f"{10**18} is not at least 1 and at most 1048576"),
        (["--gradient-accumulation-steps", str(10**9)], f"{10**9} is not at least 1 and at most 1048576"),
        (["--epochs", str(10**9)], f"{10**9} is not at least 1 and at most 100000"),
        (["--workers", str(10**5)], "100000 is not at least 0 and at most 1024"),
        (["--i", str(10**30)], "is not at least 0 and at most 999999"),
        (["--name", "a" * 81], "it takes 81 bytes, and 80 are allowed"),
        (["--name", "한" * 27], "it takes 81 bytes, and 80 are allowed"),
    ],
)
def test_a_wrong_flag_or_value_is_named(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        finetune.parser().parse(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "flag"),
    [(inference, "--batch-size"), (main, "--batch-size"), (optuna_script, "--batch-sizes"), (main, "--workers")],
)
def test_a_number_beyond_all_machines_is_refused_by_every_script(script, flag, capsys):
    with pytest.raises(SystemExit):
        script.parser().parse([flag, str(10**30)])
    assert f"argument {flag}: {10**30} is not at least" in capsys.readouterr().err


@pytest.mark.parametrize("script", FLAGS, ids=lambda script: script.__name__)
def test_help_has_a_short_usage_and_titles_in_one_order(script, capsys):
    parser = script.parser()
    with pytest.raises(SystemExit) as stop:
        parser.parse(["--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    files = " [CSV ...]" if script in (hard_voting, summary) else ""
    assert told.splitlines()[:2] == [f"usage: {script.__name__}.py{files} [options]", ""]
    titles = re.findall(r"^(\w[\w ]*):$", told, re.MULTILINE)
    assert titles == [title for title in GROUPS if title in titles]  # "options" is none of them
    assert titles[0] == "what"
    assert titles[-1] == "runtime"


def test_flags_of_a_group_stand_together_and_the_titles_follow_the_same_order(capsys):
    parser = Parser("A script.", "script.py")
    parser.group("data").add_argument("--a", help="of the data")
    parser.group("what").add_argument("--b", help="what")
    parser.group("data").add_argument("--c", help="of the data too")
    with pytest.raises(SystemExit):
        parser.parse(["--help"])
    words = re.findall(r"^(\w+(?= *:$)|  --\w)", capsys.readouterr().out, re.MULTILINE)
    assert words == ["what", "  --b", "data", "  --a", "  --c", "runtime"]
    with pytest.raises(KeyError):
        parser.group("miscellaneous")


@pytest.mark.parametrize("script", FLAGS, ids=lambda script: script.__name__)
def test_every_flag_tells_its_default(script):
    """A switch is off; of any other flag `--help` shows the default, in the help text's own words where it is None."""
    for action in script.parser()._actions:
        switch = action.nargs == 0 or action.const is not None
        told = re.search(r"\(default: .+\)$", action.help)
        assert switch or (default_as_typed(action) is None) == bool(told), action.dest


@pytest.mark.parametrize(
    ("flag", "shown"), [("--i", "0"), ("--lr", "1e-05"), ("--old-aug", "False"), ("--age-limits", "30,60")]
)
def test_a_default_is_shown_as_one_would_type_it(flag, shown):
    parser = finetune.parser()
    (action,) = (one for one in parser._actions if flag in one.option_strings)
    assert default_as_typed(action) == shown
    assert parser.parse([flag, shown]).plain == parser.parse([]).plain


@pytest.mark.parametrize(
    ("script", "argv", "line"),
    [
        (finetune, ["--eopchs", "3"], "--eopchs 3 (did you mean --epochs?)"),
        (finetune, ["--batchsize=4", "--resum"], "--batchsize=4 --resum (did you mean --batch-size and --resume?)"),
        (finetune, ["--seed", "3"], "--seed 3 (did you mean --random-seed?)"),
        (finetune, ["-lr", "1"], "-lr 1 (did you mean --lr?)"),
        (finetune, ["--gpu"], "--gpu"),
        (main, ["--greedy_soop"], "--greedy-soop (did you mean --greedy-soup?)"),
        (main, ["greedy-soup"], "greedy-soup"),
        (hard_voting, ["a.csv", "--moed", "class"], "--moed class (did you mean --mode?)"),
    ],
)
def test_a_mistyped_flag_is_one_line_that_names_the_nearest_and_one_that_says_where_to_look(
    script, argv, line, capsys
):
    with pytest.raises(SystemExit) as stop:
        script.parser().parse(argv)
    assert stop.value.code == 2
    told, name = capsys.readouterr(), f"{script.__name__}.py"
    assert told.err == f"{name}: error: unrecognized arguments: {line}\nsee python {name} --help\n"
    assert told.out == ""


def test_a_wrong_value_is_one_line_too(capsys):
    with pytest.raises(SystemExit):
        finetune.parser().parse(["--lr", "fast"])
    assert capsys.readouterr().err == (
        "finetune.py: error: argument --lr: 'fast' is no number\nsee python finetune.py --help\n"
    )


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


@pytest.mark.parametrize("argument", ["--help", "--no-such-flag"])
@pytest.mark.parametrize("script", [f"{script.__name__}.py" for script in FLAGS])
def test_help_and_a_mistyped_flag_do_not_import_torch(script, argument):
    code = (
        f"import sys, runpy; sys.argv = ['{script}', '{argument}']\n"
        f"try: runpy.run_path('{script}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"usage: {script}" in result.stdout if argument == "--help" else argument in result.stderr


@pytest.mark.parametrize("script", FLAGS, ids=lambda script: script.__name__)
def test_no_flag_takes_an_empty_value(script, capsys):
    """An empty path would be the folder that one is in, an empty name no name at all."""
    actions = [one for one in script.parser()._actions if one.nargs != 0]
    for action in actions:
        flag, count = action.option_strings[:1], action.nargs if isinstance(action.nargs, int) else 1
        with pytest.raises(SystemExit):
            script.parser().parse([*flag, *[""] * count])
        assert f"argument {(flag or [action.metavar])[0]}: is empty: give a value" in capsys.readouterr().err


MISTAKES = [
    ("finetune.py", ["--data-location", "gone"], "data folder gone does not exist"),
    ("finetune.py", ["--data-location", "data", "--model", "gone.pt"], "--model gone.pt is neither"),
    ("finetune.py", ["--data-location", "data"], "model/model_0.pt is missing"),
    ("finetune.py", ["--mixup", "0.2", "--loss-fn", "ContrastiveLoss"], "leave out --mixup"),
    ("finetune_age.py", ["--relabel", "gone.csv"], "gone.csv does not exist"),
    ("optuna_script.py", ["--indices", "7"], "model has no model_{i}.pt"),
    ("main.py", ["--greedy-soup"], "model holds several sweeps, choose one with --name: a, b"),
    ("main.py", ["--greedy-soup", "--score-on", "gone"], "--score-on gone is neither"),
    ("main.py", ["--greedy-soup", "--ingredients", "gone.pt"], "--ingredients gone.pt does not exist"),
    ("main.py", ["--recipe", "wise-ft", "--start-from", "gone.pt"], "gone.pt is no checkpoint file"),
    ("validation.py", [], "several checkpoints, choose one with --model-name: a_seed1_epoch2_greedysoup_num2.pt, b_"),
    ("validation.py", ["--name", "a"], "must mean one checkpoint, they mean a_seed1_i0_epoch2.pt, a_seed1_i1_epoch2"),
    ("validation.py", ["--review"], "model holds several sweeps, choose one with --name: a, b"),
    ("validation.py", ["--model-name", "gone"], "no checkpoint gone, neither here nor in model"),
    ("validation.py", ["--weighted-ensemble", "gone"], "no checkpoint gone, neither here nor in model"),
    ("inference.py", [], "several checkpoints, choose one with --model-name"),
    ("inference.py", ["--model-location", "gone"], "model folder gone does not exist"),
    ("inference.py", ["--demo"], 'pip install "gradio>=6"'),
    ("hard_voting.py", ["gone.csv"], "gone.csv does not exist"),
    ("summary.py", ["--name", "gone"], "no scores of a sweep gone"),
]


@pytest.mark.parametrize(("script", "arguments", "message"), MISTAKES, ids=[f"{m[0]} {m[2]}" for m in MISTAKES])
def test_what_options_and_file_names_show_to_be_wrong_is_said_before_torch_is_imported(
    script, arguments, message, tmp_path
):
    for folder in ("data", "model", "blocked"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        for stem in ("i0_epoch2", "i1_epoch2", "epoch2_greedysoup_num2"):
            (tmp_path / "model" / f"{name}_seed1_{stem}.pt").touch()
    for package in ("torch", "transformers", "accelerate", "gradio"):
        (tmp_path / "blocked" / f"{package}.py").write_text("raise SystemExit('it was imported')")
    command = [sys.executable, str(REPOSITORY / script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "blocked"})
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
