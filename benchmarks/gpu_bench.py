"""What the parts of `benchmarks/gpu.py` share: how much is measured, the product's runtime, and checkpoints."""

import contextlib
import gc
import re
import resource
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

import finetune
from benchmarks.gpu_report import Clock, Report, data_sheet, training_flops
from utils.base.options import Options
from utils.models.checkpoints import save_checkpoint
from utils.training import setup, task
from utils.training.records import RunFiles

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "TF32": torch.float32, "fp16": torch.float16}
NAME = "soup_cp"


@dataclass(frozen=True)
class Sizes:
    """How much is measured; `seconds` is how long each of the three timings of a rate takes."""

    people: int
    drawn: int  # of them; the others are links
    links: int  # photographs to predict
    batches: tuple[int, ...]
    evaluated: tuple[int, ...]
    ingredients: int
    seconds: float
    side: int  # of the matrices
    tower: dict[str, int]  # as `full_size.release_state` takes it
    resumed: dict[str, int]
    resumed_in: tuple[str, ...]  # mixed precisions


FULL = Sizes(
    2700, 40, 20_000, (64, 128, 256, 512, 1024), (16, 64, 512), 8, 0.6, 8192, {},
    {"people": 60, "batch_size": 32, "epochs": 2, "checkpointing_steps": 5}, ("no", "bf16"),
)  # fmt: skip
TINY = Sizes(
    12, 4, 24, (4, 8), (16,), 3, 0.01, 64, {"width": 64, "layers": 2, "patch": 8, "size": 16, "dim": 8},
    {"people": 6, "batch_size": 8, "epochs": 2, "checkpointing_steps": 2}, ("no",),
)  # fmt: skip


@dataclass
class Bench:
    """What the parts share: the device, what they read, and what earlier ones found out."""

    device: torch.device
    sizes: Sizes
    report: Report
    tower: str
    flops: dict[str, float] = field(default_factory=dict)  # measured, by precision
    best: dict[str, tuple[float, int]] = field(default_factory=dict)  # rate and batch size on the device, by precision
    on_device: dict[tuple, float] = field(default_factory=dict)  # rate by precision, batch size, and whether compiled
    only: tuple[str, ...] = tuple(DTYPES)  # precisions
    rows: str = ""  # a regular expression of the rows that are measured

    @property
    def precisions(self) -> list[str]:
        """Those of this device, the one to be used first."""
        return [name for name in self.only if self.device.type == "cuda" or name != "fp16"]

    @property
    def best_batch(self) -> int:
        return self.best.get("bf16", (0, 256))[1]

    def options(self, *flags: object) -> Options:
        fixed = ["--model", self.tower, "--head-init", "random", "--report-to", "none", "--name", NAME]
        return finetune.parser().parse([*fixed, *map(str, flags)])

    def rate(self, rates: list[float], precision: str = "", config: dict | None = None) -> dict:
        """A row of images a second, and of training in this precision how much of the device's arithmetic they are."""
        row = {"rate": statistics.median(rates), "rates": rates}
        if config:
            used = row["rate"] * training_flops(config)
            row |= {"of_measured": used / self.flops[precision]} if precision in self.flops else {}
            sheet = data_sheet(self.report.machine["device"])
            row |= {"of_sheet": used / sheet[precision]} if sheet else {}
        return row | self.memory()

    def memory(self) -> dict:
        """The most that was taken on the device since `let_go`, and by this process until now."""
        taken = {"host_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
        if self.device.type == "cuda":
            taken["gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
        return taken

    def let_go(self, accelerator: Accelerator | None = None) -> None:
        """Free what an earlier measurement took on the device, and count memory anew."""
        if accelerator:
            accelerator.free_memory()  # which collects garbage
            accelerator.gradient_accumulation_steps = 1
        else:
            gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def each(self, cases: Iterable[tuple[str, float, Callable[[], dict]]]) -> Iterator[dict]:
        """The rows of (what, seconds it takes at most, a function that makes the row); one that fails is told of."""
        for what, needed, measure in cases:
            if not re.search(self.rows, what):
                continue
            if self.report.left() < needed:
                yield {"what": what, "note": f"left out: {self.report.left():.0f} s are left"}
                continue
            begin = time.perf_counter()
            try:
                yield {"seconds": 0.0, **measure()} | {"what": what, "seconds": time.perf_counter() - begin}
            except Exception as error:
                yield {"what": what, "note": f"failed: {error_line(error)}", "traceback": traceback.format_exc()}
                self.let_go()


def error_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:300]}"


def forget_runtime() -> None:
    """Forget the runtime of an earlier run in this process, as a process of its own would."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def new_runtime(bench: Bench) -> None:
    """Make room for another run, in memory too."""
    forget_runtime()
    bench.let_go()


@dataclass(frozen=True)
class Runs:
    """What runs of the same precision share: the product's runtime, their task and their options."""

    accelerator: Accelerator
    task: task.Task
    options: Options


@contextlib.contextmanager
def runtime(bench: Bench, precision: str, *flags: object) -> Iterator[Runs]:
    """What `finetune.run` makes before its model, in one of the precisions."""
    new_runtime(bench)
    how = {"fp32": ["no"], "TF32": ["no", "--tf32"]}.get(precision, [precision])
    options = bench.options("--mixed-precision", *how, *flags)
    accelerator = setup.start_training(options, RunFiles(options).log_name)
    try:
        yield Runs(accelerator, task.read_task(accelerator, options, options.epochs), options)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
        bench.let_go(accelerator)


def ingredients(bench: Bench, count: int) -> list[Path]:
    """So many checkpoints about one random tower, as a sweep leaves them; those that are there already stay."""
    paths = [Path("model") / f"{NAME}_seed42_i{i}_epoch1.pt" for i in range(count)]
    lacking = [i for i, path in enumerate(paths) if not path.is_file()]
    if lacking:
        with runtime(bench, "fp32") as runs:
            start = {**runs.task.start.backbone(), **runs.task.head(runs.accelerator)}

            def make(i: int) -> None:
                generator = torch.Generator().manual_seed(i)
                state = {
                    name: tensor + 0.1 * tensor.std() * torch.randn(tensor.shape, generator=generator)
                    if tensor.dim() > 1
                    else tensor
                    for name, tensor in start.items()
                }
                place = RunFiles(runs.options.replace(i=i)).ingredient(1)
                save_checkpoint(paths[i], state, runs.task.meta({"epoch": 1}) | {"ingredient": place})

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(make, lacking))
    return paths


def by_part(clock: Clock) -> dict:
    """The seconds of a clock, in a row."""
    told = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in clock.seconds.most_common())
    return {"parts": dict(clock.seconds), "calls": dict(clock.calls), "note": told}
