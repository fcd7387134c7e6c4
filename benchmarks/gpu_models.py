"""The parts of `benchmarks/gpu.py` that use models: evaluation, the search for a soup, inference; and kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

import inference
import main as soup_script
import utils.evaluation.held_out
import utils.evaluation.shards
import utils.models.averaging
import utils.models.resident
from benchmarks.full_size import REPOSITORY, draw_people
from benchmarks.gpu_bench import NAME, Bench, by_part, ingredients, new_runtime, runtime
from benchmarks.gpu_report import Clock, now
from utils.base.memory import limit_of
from utils.evaluation.prediction import search_batch
from utils.models.averaging import Mixture
from utils.models.checkpoints import Checkpoint, read_checkpoint
from utils.models.clip import Classifier, build
from utils.models.resident import Resident
from utils.models.weights import read_archive
from utils.training.resume_state import state_file

RUNS, TOLD = ("alone", "again", "killed"), "told.txt"
SEARCHED = [  # what a search spends its time on
    ("loading", Checkpoint, "state_dict"),
    ("loading", utils.models.resident, "build"),
    ("loading", Classifier, "to"),
    ("averaging", utils.models.averaging, "average"),
    ("photographs", utils.evaluation.held_out, "predict"),
    ("forwards", Classifier, "outputs"),
]


def evaluation(bench: Bench) -> Iterator[dict]:
    """Evaluation, always in float32: forwards of photographs on the device, and `predict` as scripts call it."""
    with runtime(bench, "fp32") as runs:
        start, held_out = runs.task.start, runs.task.held_out
        model = build(start.config, {**start.backbone(), **runs.task.head(runs.accelerator)}).to(bench.device).eval()
        count, side = len(held_out.rows), held_out.preprocessing["size"]

        def timed(images: int, work: Callable[[], object]) -> dict:
            rates = []
            for _ in range(4):
                begin = now(bench.device)
                work()
                rates.append(images / (now(bench.device) - begin))
            return bench.rate(rates[1:])

        def forwards(batch: int) -> dict:
            squares = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=bench.device)
            steps = max(3, count // batch)

            def work() -> None:
                with torch.inference_mode():
                    for _ in range(steps):
                        model.outputs(squares, held_out.preprocessing)

            return timed(batch * steps, work)

        def predicted(batch: int, workers: int | None) -> dict:
            held_out.batch_size, held_out.workers = batch, workers
            return timed(count, lambda: held_out.predict(model, progress=""))

        cases = [(f"forwards alone, batch {one}", 10, partial(forwards, one)) for one in bench.sizes.evaluated]
        cases += [(f"predict, batch {one}", 15, partial(predicted, one, None)) for one in bench.sizes.evaluated]
        searched = search_batch(bench.device)
        cases += [(f"predict, batch {searched}, no loaders: a search", 15, partial(predicted, searched, 0))]
        yield from bench.each(cases)


def search(bench: Bench) -> Iterator[dict]:
    """Soups of random ingredients: seconds by part of scoring each, of the greedy search, and of top-k."""

    def written() -> dict:
        return {"note": f"{len(ingredients(bench, bench.sizes.ingredients))} checkpoints"}

    def measure(*flags: str) -> dict:
        new_runtime(bench)
        with Clock(bench.device).around(SEARCHED) as clock:
            soup_script.run(soup_script.parser().parse([*flags, "--name", NAME]))
        row = by_part(clock) | bench.memory()
        for path in sorted(Path("logs/journals").glob("*.jsonl")):
            decisions = [json.loads(line) for line in path.read_text().splitlines()]
            seen = sum(one["seen"] for one in decisions)
            row["note"] += f"; {path.name.split('_')[0]}: {len(decisions)} candidates on {seen} photographs"
        return row

    def averages() -> dict:
        members = [read_checkpoint(path) for path in ingredients(bench, bench.sizes.ingredients)]
        mixture, resident = Mixture.of(members), Resident(bench.device, limit_of(None))
        took = []
        for _ in range(3):  # the first one reads the files
            begin = now(bench.device)
            averaged = mixture.state_dict(resident.read, bench.device)
            took.append(now(bench.device) - begin)
        same = all(torch.equal(averaged[name].cpu(), one) for name, one in mixture.state_dict().items())
        told = f"{', '.join(f'{one:.3f}' for one in took)} s, {resident.taken / 1e9:.1f} GB held; "
        return {"times": took, "note": told + f"{'the same' if same else 'not the same'} bit for bit as on the CPU"}

    yield from bench.each(
        [
            ("ingredients written", 20, written),
            ("averages of all on the device", 10, averages),
            ("each ingredient scored", 20, partial(measure, "--eval-individual-models")),
            ("greedy soup, their logits cached", 20, partial(measure, "--greedy-soup")),
            ("top-k soup, their logits cached", 20, partial(measure, "--recipe", "top-k")),
        ]
    )


def predicting(bench: Bench) -> Iterator[dict]:
    """`inference.py` on links to the drawn photographs."""
    (model,) = ingredients(bench, 1)
    functions = [("predicting", utils.evaluation.shards, "_predict"), ("forwards", Classifier, "outputs")]

    def measure() -> dict:
        shutil.rmtree("cache/logits", ignore_errors=True)
        new_runtime(bench)
        begin = now(bench.device)
        with Clock(bench.device).around(functions) as clock:
            path = inference.run(inference.parser().parse(["--model-name", str(model)]))
        took, rows = now(bench.device) - begin, len(path.read_text().splitlines()) - 1
        assert rows == bench.sizes.links, rows
        return bench.rate([rows / took]) | by_part(clock)

    yield from bench.each([(f"{bench.sizes.links:,} photographs", 20, measure)])


def start(folder: Path, argv: list[str]) -> subprocess.Popen:
    """`finetune.py` with these arguments, in a process group of its own."""
    with open(folder / TOLD, "a") as told:
        command = [sys.executable, str(REPOSITORY / "finetune.py"), *argv]
        environment = {**os.environ, "OMP_NUM_THREADS": "2"}
        return subprocess.Popen(
            command, cwd=folder, stdout=told, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def resumed(bench: Bench) -> Iterator[dict]:
    """Whether a run that was killed with SIGKILL and resumed ends with the weights of one that was left alone.

    For each precision three processes at once: two that are left alone, which tell what the device itself changes from
    run to run, and one that is killed as soon as its first state is there.
    """
    how = bench.sizes.resumed
    draw_people(Path("few"), how["people"])
    fixed = ["--model", bench.tower, "--data-location", str(Path("few").resolve()), "--head-init", "random"]
    fixed += ["--report-to", "none", "--workers", "2", "--lr", "1e-4", "--batch-size", str(how["batch_size"])]
    fixed += ["--epochs", str(how["epochs"]), "--mixed-precision"]
    every = ["--checkpointing-steps", str(how["checkpointing_steps"])]
    ends, precisions = Path("model") / f"finetune_cp_seed42_i0_epoch{how['epochs']}.pt", bench.sizes.resumed_in
    processes, at_step = {}, {}
    try:
        for precision in precisions:
            for run in RUNS:
                (folder := Path(f"resumed_{precision}_{run}")).mkdir()
                processes[folder] = start(folder, [*fixed, precision, *(every if run == "killed" else [])])
        for precision in precisions:
            folder = Path(f"resumed_{precision}_killed")
            state = folder / state_file(ends)
            while not state.is_file():
                wait(bench, processes[folder], folder)
            os.killpg(processes[folder].pid, signal.SIGKILL)
            processes[folder].wait()
            at_step[precision] = read_archive(state)["progress"]["step"]
            processes[folder] = start(folder, [*fixed, precision, "--resume"])
        for folder, process in processes.items():
            while process.poll() is None:
                wait(bench, None, folder)
            if process.returncode:
                raise RuntimeError((folder / TOLD).read_text()[-2000:])
    finally:
        for process in processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    for precision in precisions:
        alone, again, killed = (read_checkpoint(Path(f"resumed_{precision}_{run}") / ends) for run in RUNS)
        row = {"left alone twice": difference(alone, again), "killed and resumed": difference(alone, killed)}
        told = [f"killed behind step {at_step[precision]}", *(f"{what}: {one['told']}" for what, one in row.items())]
        yield row | {"what": f"--mixed-precision {precision}", "step": at_step[precision], "note": "; ".join(told)}


def wait(bench: Bench, process: subprocess.Popen | None, folder: Path) -> None:
    """A moment. Raises `RuntimeError` when a process has ended that should not, or when no time is left."""
    if process is not None and process.poll() is not None:
        raise RuntimeError(f"{folder} ended too soon: {(folder / 'told.txt').read_text()[-2000:]}")
    if bench.report.left() < 5:
        raise RuntimeError(f"no time left for {folder}")
    time.sleep(0.02)


def difference(one: Checkpoint, other: Checkpoint) -> dict:
    """The largest difference between the weights of two checkpoints, and in how many of them there is one."""
    if one.digest == other.digest:
        return {"largest": 0.0, "share": 0.0, "told": "the same weights, bit for bit"}
    here, there = one.state_dict(), other.state_dict()
    parts = [(here[name] - there[name]).abs().flatten() for name in here]
    largest = max(float(part.max()) for part in parts)
    share = sum(int((part > 0).sum()) for part in parts) / sum(len(part) for part in parts)
    return {"largest": largest, "share": share, "told": f"up to {largest:.2g} apart, in {share:.1%} of the weights"}
