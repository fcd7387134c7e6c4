"""The sweep: its grid, its shares, its failures, with a stand-in for what starts finetune.py."""

import contextlib
import os
import pty
import re
import shutil
import time

import psutil
import pytest
from conftest import REPOSITORY


def runs(calls):
    """(script, seed, index) of each run, in the order of the fine-tuning calls."""
    found = [re.search(r"/(finetune\w*\.py) .*--runs ((?:\d+:\d+ )+)--epochs", call) for call in calls]
    return [(one[1], *map(int, run.split(":"))) for one in found for run in one[2].split()]


def test_the_grid_is_seeds_times_indices_then_one_age_specialist(sweep):
    result, calls = sweep("--lr", "3e-5", SEEDS="34 42", INDICES="0 3", EPOCHS="7")
    assert result.returncode == 0, result.stderr
    grid = [("finetune.py", seed, i) for seed in (34, 42) for i in (0, 3)]
    assert runs(calls) == [*grid, ("finetune_age.py", 34, 0)]
    assert all("--epochs 7 " in call and call.endswith("--lr 3e-5") for call in calls)


def array(task, low, high, count=None):
    values = {"ID": task, "MIN": low, "MAX": high, "COUNT": count or high - low + 1}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def test_another_model_takes_every_index_too(sweep):
    result, calls = sweep(MODEL="ViT-B/16", INDICES="0 1", SEEDS="3")
    assert result.returncode == 0, result.stderr
    assert runs(calls) == [("finetune.py", 3, 0), ("finetune.py", 3, 1), ("finetune_age.py", 3, 0)]
    assert all("--model ViT-B/16 " in call and "--resume" in call for call in calls)


def test_lists_may_stand_on_several_lines(sweep):
    result, calls = sweep(SEEDS="1\n2", INDICES="0\n1", STAGES="finetune\nage\t")
    assert result.returncode == 0, result.stderr
    assert len(runs(calls)) == 5


def test_the_tasks_of_an_array_share_the_grid(sweep):
    shares = []
    for task in (3, 4, 5):  # an array may begin anywhere
        result, calls = sweep(SEEDS="1 2", INDICES="0 1 2 3", STAGES="", **array(task, 3, 5))
        assert result.returncode == 0, result.stderr
        assert not re.search(r"main\.py|inference\.py", " ".join(calls))
        shares.append(runs(calls))
    trained = [run for share in shares for run in share if run[0] == "finetune.py"]
    assert sorted(trained) == [("finetune.py", seed, i) for seed in (1, 2) for i in range(4)]
    assert {len([run for run in share if run[0] == "finetune.py"]) for share in shares} == {2, 3}
    assert [run for share in shares for run in share if run[0] == "finetune_age.py"] == [("finetune_age.py", 1, 0)]


def test_one_worker_is_one_process_whose_failure_stops_the_sweep(sweep):
    result, calls = sweep(INDICES="0 1 2", FAIL="42:1")
    assert result.returncode == 1
    assert len(calls) == 1
    assert runs(calls) == [("finetune.py", 42, i) for i in range(3)]
    assert "finetune.py failed: mend what it says" in result.stderr.splitlines()[-1]


def test_a_failing_later_stage_is_named_too(sweep):
    result, _ = sweep(INDICES="0", FAIL="finetune_age.py")
    assert result.returncode == 1
    assert "finetune_age.py failed" in result.stderr.splitlines()[-1]


def test_jobs_run_side_by_side_each_on_its_gpus(sweep):
    result, calls = sweep(INDICES="0 1 2 3", STAGES="finetune", CUDA_VISIBLE_DEVICES="4,5,6,7", JOBS="2")
    assert result.returncode == 0, result.stderr
    assert sorted(runs(calls)) == [("finetune.py", 42, i) for i in range(4)]
    assert {call.split("|")[0] for call in calls} == {"4,5", "6,7"}
    assert all("--multi_gpu --num_processes 2 " in call for call in calls)
    assert all("--main_process_port 0 " in call for call in calls)  # any free one, so that runs do not collide
    assert {tuple(index for _, _, index in runs([call])) for call in calls} == {(0, 2), (1, 3)}
    _, calls = sweep(INDICES="0 1 2 3", STAGES="finetune", CUDA_VISIBLE_DEVICES="4,5,6,7")
    assert {call.split("|")[0] for call in calls} == {"4", "5", "6", "7"}
    assert not any("--multi_gpu" in call for call in calls)


def test_more_jobs_than_gpus_share_them_and_no_gpu_means_none(sweep):
    _, calls = sweep(INDICES="0 1 2 3", STAGES="finetune", CUDA_VISIBLE_DEVICES="4,5", JOBS="4")
    assert sorted(call.split("|")[0] for call in calls) == ["4", "4", "5", "5"]
    _, calls = sweep(INDICES="0 1", STAGES="finetune", CUDA_VISIBLE_DEVICES="")
    assert [call.split("|")[0] for call in calls] == [""]
    _, calls = sweep(INDICES="0 1", STAGES="finetune", CUDA_VISIBLE_DEVICES="", JOBS="4")
    assert len(calls) == 2  # no worker without a run


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", "|no false all|"),
        ("mixed_precision: 'no'", "mixed_precision: bf16", "|bf16 false all|"),
        ("use_cpu: false", "use_cpu: true", "|no true all|"),
        ("debug: false", "dynamo_config: {dynamo_backend: INDUCTOR}", None),
        ("distributed_type: 'NO'", "distributed_type: MULTI_GPU", None),
        ("num_processes: 1", "num_processes: 2", None),
    ],
)
def test_one_process_does_without_the_launcher_unless_its_file_asks_for_more(
    sweep, tmp_path, monkeypatch, old, new, expected
):
    here = tmp_path / "checkout"
    here.mkdir()
    for one in (*REPOSITORY.glob("*.py"), REPOSITORY / "utils"):
        (here / one.name).symlink_to(one)
    for name in ("training.sh", "accelerate_config.yaml"):
        (here / name).write_text((REPOSITORY / name).read_text().replace(old, new))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    result, (call,) = sweep(here=here, STAGES="finetune", INDICES="0")
    assert result.returncode == 0, result.stderr
    if expected is None:
        assert f"launch --quiet --config_file {here}/accelerate_config.yaml {here}/finetune.py" in call
    else:
        assert call.startswith(f"{expected}{here}/finetune.py")


def test_a_worker_that_is_killed_stops_the_sweep(sweep):
    result, calls = sweep(INDICES="0 1 2 3", JOBS="2", KILL_PARENT="42:1 ")
    assert result.returncode == 1
    assert "finetune.py failed: mend what it says" in result.stderr
    assert "finetune_age.py" not in " ".join(calls)


def sleepers_of(process, count):
    """The stand-ins that sleep, as soon as there are so many."""
    until, found = time.monotonic() + 20, []
    while len(found) != count and time.monotonic() < until:
        time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        found = [child for child in children if cmdline(child) == ["sleep", "60"]]
    return found


def cmdline(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()


def all_of(terminal):
    """What was written to the other side of a terminal: one read may give a part of it, the last one is an error."""
    told = b""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 10_000):
            told += part
    return told


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_on_a_terminal_ends_the_runs(sweep, jobs):
    ours, theirs = pty.openpty()
    process = sweep.start(INDICES="0 1", JOBS=str(jobs), SLEEP="60", terminal=theirs)
    os.close(theirs)
    sleepers = sleepers_of(process, jobs)
    assert len(sleepers) == jobs
    time.sleep(0.5)  # for training.sh to wait for them
    os.write(ours, b"\x03")
    assert process.wait(timeout=20) == 1
    assert not psutil.wait_procs(sleepers, timeout=10)[1]
    assert b"interrupted; run the same command again" in all_of(ours)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_signal_ends_the_runs_too(sweep, jobs):
    process = sweep.start(INDICES="0 1", JOBS=str(jobs), SLEEP="60")
    sleepers = sleepers_of(process, jobs)
    assert len(sleepers) == jobs
    process.terminate()
    _, told = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "interrupted; run the same command again" in told
    assert not psutil.wait_procs(sleepers, timeout=10)[1]


SAVES = """
import signal, sys, time
def save(*_):
    time.sleep(1)
    open(sys.argv[1], "a").write("saved\\n")
    sys.exit()
signal.signal(signal.SIGTERM, save)
open(sys.argv[1], "a").write("trains\\n")
signal.pause()
"""


def test_a_signal_waits_for_the_state_of_the_run(sweep, tmp_path):
    process = sweep.start(INDICES="0", SLEEP="60", SAVES=SAVES)
    calls = tmp_path / "calls.txt"
    until = time.monotonic() + 20
    while "trains" not in (calls.read_text() if calls.is_file() else "") and time.monotonic() < until:
        time.sleep(0.05)
    process.terminate()
    process.wait(timeout=20)
    assert calls.read_text().endswith("saved\n")  # though what had started it died at once


def test_help_is_the_header(sweep):
    result, calls = sweep("--help")
    assert result.returncode == 0
    assert "PRETRAINED_LOCATION  folder of model_{i}.pt" in result.stdout
    assert calls == []


def test_a_failure_of_one_worker_ends_the_others(sweep):
    begin = time.monotonic()
    result, calls = sweep(INDICES="0 1 2 3 4", JOBS="2", FAIL="42:0", SLEEP_UNLESS="42:0")
    assert result.returncode == 1
    assert len(calls) == 2
    assert time.monotonic() - begin < 30  # the other one would take a minute
    assert "finetune.py failed: mend what it says" in result.stderr
    assert "error: no luck" in result.stderr  # the end of the worker's own log


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"INDICES": "0 9"}, "index 9 has no model/model_9.pt"),
        ({"STAGES": "finetune soupp"}, "STAGES has soupp, which is none of: finetune age soup"),
        ({"JOBS": "many"}, "JOBS is many, expected a whole number"),
        ({"SEEDS": " "}, "STAGES, SEEDS or INDICES is blank"),
        ({"SEEDS": "042"}, "SEEDS has 042, expected whole numbers"),
        ({"extra": "--fast-dev-run", "STAGES": "finetune soup"}, "--fast-dev-run leaves nothing to make a soup of"),
        ({"extra": "--val_ratio=0", "STAGES": "finetune soup"}, "--val_ratio=0 leaves nothing to make a soup of"),
        ({"DATA_LOCATION": "nowhere"}, "there is no folder nowhere"),
        ({"TRUTH": "nowhere.csv"}, "there is no file nowhere.csv"),
        ({"extra": "--epochs=3"}, "--epochs is set by the environment"),
        ({"extra": "--random_seed"}, "--random_seed is set by the environment"),
        (array(7, 1, 7, count=3), "a SLURM array must be a plain range"),
        (
            array(0, 0, 1, count=0) | {"SLURM_ARRAY_TASK_COUNT": "0"},
            "SLURM_ARRAY_TASK_COUNT and SLURM_ARRAY_TASK_STEP",
        ),
        ({"RELABEL": "gone.csv"}, "--relabel gone.csv does not exist"),
        ({"MODEL": "gone.pt"}, "--model gone.pt is neither"),
        ({"extra": "--keep-top=1 --val-ratio=0"}, "--keep-top goes by held-out scores"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(sweep, env, message):
    result, calls = sweep(*env.pop("extra", "").split(), **env)
    assert result.returncode == 1
    assert calls == []
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"METRIC": "f1", "STAGES": "soup"}, "argument --metric: invalid choice: 'f1'"),
        ({"NAME": "../x"}, "argument --name: '../x': use letters"),
        ({"NAME": "n" * 82, "STAGES": "vote"}, "it takes 82 bytes, and 80 are allowed"),
        ({"NAME": "한" * 30}, "it takes 90 bytes, and 80 are allowed"),
        ({"extra": "--lrr"}, "unrecognized arguments: --lrr (did you mean --lr?)"),
        ({"extra": "--lr=fast"}, "argument --lr: 'fast' is no number"),
    ],
)
def test_what_the_scripts_would_refuse_is_told_before_any_of_them_starts(sweep, env, message):
    result, calls = sweep(*env.pop("extra", "").split(), **env)
    assert result.returncode == 1
    assert calls == []
    assert message in result.stderr.splitlines()[0]
    assert result.stderr.splitlines()[1:] == ["see python finetune.py --help"]


@pytest.mark.parametrize("name", ["ID", "MIN", "MAX", "COUNT", "STEP"])
def test_a_number_of_slurm_is_never_run_as_code(sweep, name, tmp_path):
    result, calls = sweep(**array(0, 0, 0) | {f"SLURM_ARRAY_TASK_{name}": "a[$(touch run)0]"})
    assert not (tmp_path / "run").exists()
    assert (result.returncode, calls) == (1, [])
    assert "is a[$(touch run)0], expected a whole number" in result.stderr


def test_a_name_left_from_a_rehearsal_is_told_before_a_second_sweep_begins(sweep, tmp_path):
    left = tmp_path / "model" / "finetune_cp_seed42_i0_epoch5.pt"
    left.touch()
    result, calls = sweep(EPOCHS="20")
    assert (result.returncode, calls) == (1, [])
    (told,) = result.stderr.splitlines()
    assert f"{left.relative_to(tmp_path)} is of 5 epochs, and with EPOCHS=20 it would be of 20: choose another" in told
    assert sweep(EPOCHS="5")[0].returncode == 0
    assert sweep("--save-every", "5", EPOCHS="20")[0].returncode == 0
    assert sweep("--overwrite", EPOCHS="20")[0].returncode == 0
    assert "is of 5 epochs" not in sweep(EPOCHS="20", STAGES="summary")[0].stderr  # nothing is trained


def test_each_stage_says_which_of_how_many_it_is(sweep):
    result, _ = sweep(INDICES="0 1")
    first, last = (line for line in result.stdout.splitlines() if line.startswith("=="))
    assert first == "== stage 1 of 2: finetune.py, 2 runs, 0 min after the start"
    assert last == "== stage 2 of 2: finetune_age.py, 0 min after the start"


def test_what_a_script_refuses_stops_the_sweep_there(sweep):
    result, calls = sweep(STAGES="validation")
    assert result.returncode == 1
    assert calls == []  # a stage on one process does not wait for the launcher
    told, _, last = result.stderr.splitlines()
    assert told.startswith("validation.py: error: argument --sweep: no scores of a sweep finetune_cp in")
    assert last.startswith("training.sh stopped: ")


@pytest.mark.parametrize(("env", "metric"), [({}, "macro_f1"), ({"METRIC": "log_loss"}, "log_loss")])
def test_every_stage_that_chooses_does_so_by_one_metric(sweep, env, metric):
    """Ingredients, the age specialist, soups, and the weight and the ensemble of validation.py."""
    stages = {"STAGES": "finetune age soup validation", "INDICES": "0", "CUDA_VISIBLE_DEVICES": "0,1", "JOBS": "1"}
    _, calls = sweep(**stages, **env)
    scripts = [re.search(r"/(\w+)\.py ", call)[1] for call in calls]
    assert scripts == ["finetune", "finetune_age", "main", "validation"]
    assert all(f" --metric {metric}" in call for call in calls)


NO_ARTIST = """#!/usr/bin/env bash
[[ "$1" == */demo/faces.py ]] || exec "${0%/*}/stand_in/python" "$@"
echo "faces.py ${*:2}" >> "$CALLS"
mkdir -p "$2/1_male_x_25" && touch "$2/1_male_x_25/normal.jpg" "$2/eval_truth.csv"
"""


def test_the_demo_draws_once_and_holds_out_half(sweep, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    shutil.rmtree(tmp_path / "data")
    python, stand_in = tmp_path / "tools" / "python", tmp_path / "tools" / "stand_in" / "python"
    stand_in.parent.mkdir()
    python.rename(stand_in)
    python.write_text(NO_ARTIST)
    python.chmod(0o755)
    (tmp_path / "demo_run/data/half_drawn").mkdir(parents=True)
    result, calls = sweep(STAGES="finetune")
    assert result.returncode == 0, result.stderr
    assert calls[0] == "faces.py data"
    assert not (tmp_path / "demo_run/data/half_drawn").exists()
    assert runs(calls[1:]) == [("finetune.py", 42, i) for i in range(4)]
    assert " --val-ratio 0.5 " in calls[1]
    assert calls[1].startswith("|no false 1|")  # as many threads as the scores in README.md come from
    _, calls = sweep("--val-ratio", "0.3", STAGES="finetune")
    assert runs(calls) == [("finetune.py", 42, i) for i in range(4)]
    assert calls[0].endswith(" --val-ratio 0.3")  # the last one counts
    _, calls = sweep(STAGES="finetune", FOLDS="2")
    assert "--val-ratio" not in calls[0]  # folds say who is held out


def test_a_set_without_an_age_has_no_stage_of_its_specialist(sweep, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "a.jpg").touch()
    result, _ = sweep(DATA_LOCATION="pets", INDICES="0", STAGES="", FAIL="finetune.py")
    assert "== stage 1 of 6: finetune.py" in result.stdout  # and not of 7
    result, _ = sweep(DATA_LOCATION="data", INDICES="0", STAGES="", FAIL="finetune.py")
    assert "== stage 1 of 7: finetune.py" in result.stdout
    table = tmp_path / "pets.csv"
    table.write_text("file,kind,age,old age\npets/cat/a.jpg,cat,3,3\npets/dog/a.jpg,dog,9,9\n")
    for columns, limits, stages in (("kind,age", "age=5", 7), ("age", "age=5", 6), ("kind,old age", "old age=5", 6)):
        asked = ["--label-columns", columns, "--limits", limits]
        result, _ = sweep(*asked, DATA_LOCATION="pets.csv", INDICES="0", STAGES="", FAIL="finetune.py")
        assert f"== stage 1 of {stages}: finetune.py" in result.stdout, columns


def test_a_set_with_nothing_to_predict_is_told_before_training(sweep, tmp_path):
    for name in ("train/cat", "train/dog", "val/cat"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "a.jpg").touch()
    result, calls = sweep(DATA_LOCATION="pets", INDICES="0", STAGES="")
    assert (result.returncode, calls) == (1, [])
    assert "pets has photographs to train on and no folder eval or test" in result.stderr
    result, _ = sweep(DATA_LOCATION="pets", INDICES="0", STAGES="", TEST_LOCATION="pets/val", FAIL="finetune.py")
    assert "== stage 1 of 6: finetune.py" in result.stdout


def test_a_table_or_folder_that_is_not_there_or_not_read_is_one_line(sweep, tmp_path):
    result, calls = sweep(DATA_LOCATION="gone.csv")
    assert (result.returncode, calls) == (1, [])
    assert "there is no folder gone.csv" in result.stderr
    (tmp_path / "pets.csv").write_text("file,kind\n")
    result, calls = sweep(DATA_LOCATION="pets.csv")
    assert (result.returncode, calls) == (1, [])
    assert "and no label: name one with --label-columns" in result.stderr
