"""The parts of `benchmarks/gpu.py` that train: the loop on the device, compiled, fed by loaders, and whole runs."""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch

import finetune
import utils.evaluation.held_out
import utils.training.job
import utils.training.task
from benchmarks.gpu_bench import Bench, Runs, by_part, new_runtime, runtime
from benchmarks.gpu_report import Clock, now
from utils.training import setup
from utils.training.job import Job
from utils.training.records import RunFiles
from utils.training.resume_state import State

L = TypeVar("L")
TRAINED = [  # what a run of fine-tuning spends its time on
    ("task", utils.training.task, "read_task"),
    ("preparing", setup, "prepare"),
    ("steps", finetune, "train"),
    ("states", State, "save"),
    ("evaluation", utils.evaluation.held_out, "predict"),
    ("checkpoint", utils.training.job, "save_checkpoint"),
]


class Finished(Exception):
    """Raised by a loader that has measured enough; it ends the product's loop before anything is saved."""


class OnDevice:
    """In place of a run's loader: one random batch that lies on the device, again and again.

    `rates` are images a second of three stretches of steps behind those that warm up, which took `warm` seconds.
    """

    steps = 3

    def __init__(self, job: Job, seconds: float = 0.0):
        self.count, self.device, self.seconds, self.rates = job.loader.per_batch, job.accelerator.device, seconds, []
        self.per_batch = self.count
        side, classes = job.task.preprocessing["size"], job.task.labelling.num_classes
        squares = torch.randint(0, 256, (self.count, side, side, 3), dtype=torch.uint8, device=self.device)
        self.batch = squares, torch.randint(0, classes, (self.count,), device=self.device)

    def __len__(self) -> int:
        return 1000

    def of_epoch(self, epoch: int, seen: int):
        begin = now(self.device)
        yield from [self.batch] * 5
        self.warm, begin = now(self.device) - begin, now(self.device)
        yield from [self.batch] * self.steps
        steps = max(self.steps, math.ceil(self.seconds * self.steps / (now(self.device) - begin)))
        for _ in range(3):
            begin = now(self.device)
            yield from [self.batch] * steps
            self.rates.append(steps * self.count / (now(self.device) - begin))
        raise Finished


class Profiled(OnDevice):
    """Three steps under torch's profiler: `wall` is the seconds that they take, `profile` what they did."""

    def of_epoch(self, epoch: int, seen: int):
        yield from [self.batch] * 5
        with torch.profiler.profile() as self.profile:
            begin = now(self.device)
            yield from [self.batch] * self.steps
            self.wall = now(self.device) - begin
        raise Finished


class Epochs:
    """A run's own loader for four epochs in a row: the seconds of each, and those until its first batch was there."""

    def __init__(self, job: Job):
        self.loader, self.device, self.per_batch, self.times = (
            job.loader, job.accelerator.device, job.loader.per_batch, [],
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.loader)

    def of_epoch(self, epoch: int, seen: int):
        for one in range(epoch, epoch + 4):
            begin, first = now(self.device), None
            for batch in self.loader.of_epoch(one):
                first = first or time.perf_counter() - begin
                yield batch
            self.times.append((now(self.device) - begin, first))
        raise Finished


def through_the_loop(bench: Bench, runs: Runs, loader_of: Callable[[Job], L], **changes: object) -> L:
    """The loader that `loader_of(job)` gave in place of the run's own, after the product's loop went over it."""
    accelerator, task, options = runs.accelerator, runs.task, runs.options.replace(**changes)
    bench.let_go(accelerator)
    job = setup.prepare(accelerator, task, RunFiles(options), options)
    loader = loader_of(job)
    with suppress(Finished):
        finetune.train(replace(job, loader=loader), None, lambda epoch, row: None)
    if options.compile:
        torch._dynamo.reset()
    return loader


def on_device(bench: Bench) -> Iterator[dict]:
    """The loop with its data on the device: every batch size in bf16, and every other one in other precisions."""
    for precision in bench.precisions:
        yield from _on_device(bench, precision, bench.sizes.batches[:: 1 if precision == "bf16" else 2], 10)


def compiled(bench: Bench) -> Iterator[dict]:
    """The same with --compile: bf16 at its best batch size and at the default one."""
    yield from _on_device(bench, "bf16", [bench.best_batch, bench.sizes.batches[0]], 45, "--compile")


def compiled_others(bench: Bench) -> Iterator[dict]:
    """The same with --compile in the other precisions at their best batch sizes, then bf16 at all others."""
    for precision in bench.precisions[1:]:
        yield from _on_device(bench, precision, [bench.best.get(precision, (0, 256))[1]], 75, "--compile")
    others = sorted({*bench.sizes.batches[1:]} - {bench.best_batch})
    yield from _on_device(bench, "bf16", others, 75, "--compile")


def _on_device(bench: Bench, precision: str, batches: Sequence[int], needed: float, *flags: str) -> Iterator[dict]:
    """The rows of some batch sizes, each of which takes `needed` seconds at most."""
    with runtime(bench, precision, "--val-ratio", 0, *flags) as runs:

        def measure(batch: int) -> dict:
            loader = through_the_loop(bench, runs, partial(OnDevice, seconds=bench.sizes.seconds), batch_size=batch)
            row = bench.rate(loader.rates, precision, runs.task.start.config) | {"warm": loader.warm}
            if loader.count != batch:
                row["note"] = f"no room: {batch // loader.count} times {loader.count}"
            bench.on_device[precision, batch, runs.options.compile] = row["rate"]
            if runs.options.compile:
                row["note"] = f"{loader.warm:.0f} s to compile"
            else:
                bench.best[precision] = max(bench.best.get(precision, (0, 0)), (row["rate"], batch))
            return row

        yield from bench.each((f"{precision}, batch {one}", needed, partial(measure, one)) for one in batches)


def profiled(bench: Bench) -> Iterator[dict]:
    """What the device does in a step of bf16, and how much of the time it waits for the CPU."""
    on_gpu = bench.device.type == "cuda"
    kind = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    spent = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    with runtime(bench, "bf16", "--val-ratio", 0) as runs:
        for batch in sorted({bench.sizes.batches[0], bench.best_batch}):
            loader = through_the_loop(bench, runs, Profiled, batch_size=batch)
            events = [
                (getattr(one, spent) / 1e6, one.count, one.key)
                for one in loader.profile.key_averages()
                if one.device_type == kind and not one.is_user_annotation
            ]
            busy, count = (sum(one[k] for one in events) for k in (0, 1))
            told = f"{count / loader.steps:.0f} kernels and copies, which keep it busy for {busy / loader.wall:.0%}"
            yield {"what": f"a step of {batch}", "seconds": loader.wall / loader.steps, "note": told}
            for took, count, name in sorted(events, reverse=True)[:16]:
                told = f"{took / busy:.1%} of it, {count / loader.steps:.0f} times"
                yield {"what": f"a step of {batch}, {name[:90]}", "seconds": took / loader.steps, "note": told}


def sources(bench: Bench) -> Iterator[dict]:
    """The loop in bf16 at its best batch size, fed from the cache and by decoding on the fly, by loader processes."""
    batch = min(bench.best_batch, 512)
    fixed = ["--val-ratio", 0, "--batch-size", batch]

    def measure(flags: list, share: float) -> dict:
        with runtime(bench, "bf16", *fixed, *flags) as runs:
            rows = runs.task.rows
            few = replace(runs, task=replace(runs.task, rows=rows[: max(batch, int(len(rows) * share))]))
            loader = through_the_loop(bench, few, Epochs)
            images, later = len(loader) * loader.per_batch, loader.times[1:]
            row = bench.rate([images / took for took, _ in later], "bf16", runs.task.start.config)
            first = statistics.median(first for _, first in later)
            steady = statistics.median((images - loader.per_batch) / (took - first) for took, first in later)
            workers = loader.loader.source.num_workers
            row |= {"times": loader.times, "steady": steady, "workers": workers}
            row["note"] = f"batch {batch}, {workers} loaders; an epoch's first batch takes {first:.2f} s, then "
            row["note"] += f"{steady:,.0f} images/s"
            if there := bench.on_device.get(("bf16", batch, runs.options.compile)):
                row["note"] += f"; {row['rate'] / there:.1%} of the speed on the device with this batch"
            return row

    cases = (
        ("from the cache", [], 1.0),
        ("from the cache, compiled", ["--compile"], 1.0),
        ("from the cache, half as many loaders", ["--workers", len(os.sched_getaffinity(0)) // 2], 1.0),
        ("from the cache, not augmented", ["--aug-strength", 0], 1.0),
        ("decoded on the fly", ["--no-cache"], 0.4),
    )
    yield from bench.each((what, 25, partial(measure, flags, share)) for what, flags, share in cases)


def whole_run(bench: Bench) -> Iterator[dict]:
    """Two epochs of `finetune.py` in bf16 with a fifth of the people held out: seconds by part."""

    def measure(batch: int) -> dict:
        new_runtime(bench)
        flags = ["--mixed-precision", "bf16", "--epochs", 2, "--batch-size", batch, "--overwrite"]
        with Clock(bench.device).around(TRAINED) as clock:
            finetune.run(bench.options(*flags).replace(name="whole_run"))
        return by_part(clock) | bench.memory()

    batches = sorted({bench.sizes.batches[0], bench.best_batch})
    yield from bench.each((f"two epochs, batch {one}", 30, partial(measure, one)) for one in batches)
