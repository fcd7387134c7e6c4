"""Speed and memory of training, evaluation, soups and inference on one GPU, and what a kill costs: all in one call.

    python benchmarks/gpu.py --minutes 7.5 --output gpu
    python benchmarks/gpu.py --rehearse

Writes `gpu.json` and `gpu.md` whenever there is one more row, so that a call that is cut off leaves what it measured.
It keeps its time: a part for which too little is left is left out and named. `--rehearse` does all parts with a tiny
tower on a CPU, in a minute. It needs the checkout alone: photographs of 384 x 512 are drawn, weights are a random
ViT-B/32.

The code measured is the product's own: `finetune.train` runs the steps, over its own loader or over a batch that lies
on the device; `main.py` searches, `inference.py` predicts, `finetune.py` is killed. Clocks wait for the device. An
image counts the floating-point operations of its matrix products, forward and back, without what is computed again.
Rates are medians of three, with the smallest and the largest. Results: see docs/results.md.
"""

import argparse
import contextlib
import faulthandler
import gc
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a GPU's machine may have no network to ask
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import gpu_models, gpu_training
from benchmarks.full_size import draw_people, release_state
from benchmarks.gpu_bench import DTYPES, FULL, TINY, Bench, Sizes, error_line, forget_runtime, runtime
from benchmarks.gpu_report import Report, copy_rate, matrix_rate
from utils.data.augmentation import pipeline
from utils.data.decoding import decode
from utils.models.checkpoints import versions


def machine(bench: Bench) -> Iterator[dict]:
    """What the device and the CPU can do by themselves."""
    for precision in bench.precisions:
        torch.backends.cuda.matmul.allow_tf32 = precision == "TF32"
        rates = matrix_rate(bench.device, DTYPES[precision], bench.sizes.side)
        torch.backends.cuda.matmul.allow_tf32 = False
        bench.flops[precision] = statistics.median(rates)
        told = ", ".join(f"{rate / 1e12:.4g}" for rate in rates)
        yield {"what": f"matrix product, {precision}", "flops": rates, "note": f"{told} TFLOP/s"}
    plain = torch.randint(0, 256, (bench.sizes.side * 8192,), dtype=torch.uint8)
    sources = {"plain memory": plain}
    if bench.device.type == "cuda":
        sources |= {"pinned memory": plain.pin_memory(), "device": plain.to(bench.device)}
    for what, source in sources.items():
        rates = copy_rate(source, bench.device)
        told = ", ".join(f"{rate / 1e9:.3g}" for rate in rates)
        yield {"what": f"copy from {what} to the device", "bytes": rates, "note": f"{told} GB/s"}
    some = sorted(Path("drawn/train/images").rglob("*.jpg"))[:56]
    squares, augment = [decode(path, 224) for path in some], pipeline("train")
    for what, work in {
        "one core decodes": lambda k: decode(some[k], 224),
        "one core augments": lambda k: augment(image=squares[k])["image"],
    }.items():
        rates = []
        for _ in range(3):
            begin = time.perf_counter()
            for k in range(len(some)):
                work(k)
            rates.append(len(some) / (time.perf_counter() - begin))
        yield bench.rate(rates) | {"what": what}


def cache(bench: Bench) -> Iterator[dict]:
    """The photographs decoded once for all parts."""

    def measure() -> dict:
        with runtime(bench, "fp32", "--val-ratio", 0) as runs:
            return {"note": f"{len(runs.task.rows):,} photographs of 384 x 512, from the files to the first task"}

    yield from bench.each([("photographs decoded into the cache", 20, measure), ("and read again", 5, measure)])


PARTS = {  # in this order: the function, and the seconds it needs at least on a GPU
    "machine": (machine, 10),
    "cache": (cache, 30),
    "device": (gpu_training.on_device, 60),
    "profile": (gpu_training.profiled, 15),
    "compile": (gpu_training.compiled, 45),
    "sources": (gpu_training.sources, 40),
    "evaluation": (gpu_models.evaluation, 30),
    "search": (gpu_models.search, 40),
    "inference": (gpu_models.predicting, 30),
    "resume": (gpu_models.resumed, 60),
    "run": (gpu_training.whole_run, 40),
    "compile-others": (gpu_training.compiled_others, 80),
}


def run_parts(bench: Bench, asked: list[str]) -> None:
    """Do the parts that are asked for, each when there is time; what one raises is written down."""
    report = bench.report
    for name in [*asked, *(one for one in PARTS if one not in asked)]:
        part, needed = PARTS[name]
        content = report.parts[name] = {"rows": []}
        begin, needed = time.perf_counter(), needed if bench.device.type == "cuda" else 0
        if name not in asked:
            content["skipped"] = "not asked for"
        elif report.left() < needed:
            content["skipped"] = f"it needs {needed} s, and {report.left():.0f} were left"
        else:
            try:
                for row in part(bench):
                    content["rows"].append(row)
                    report.write()
                    told = f"{row['rate']:,.1f} images/s" if "rate" in row else row.get("note", "")
                    print(f"{report.left():5.0f} s left, {name}: {row['what']}: {told}", flush=True)
            except Exception as error:
                content |= {"failed": error_line(error), "traceback": traceback.format_exc()}
                print(content["traceback"], flush=True)
        content["seconds"] = time.perf_counter() - begin
        report.write()


def lay_out(sizes: Sizes) -> None:
    """`data` in the competition's layout, most of it links to the drawn people; a random tower beside it."""
    draw_people(Path("drawn"), sizes.drawn)
    drawn = sorted(Path("drawn/train/images").iterdir())
    for k in range(sizes.people):
        gender, age = ("male", "female")[k % 2], 20 + k * 45 // sizes.people
        folder = Path(f"data/train/images/{k:06d}_{gender}_Asian_{age}")
        folder.mkdir(parents=True)
        for photograph in drawn[k % len(drawn)].iterdir():
            os.link(photograph, folder / photograph.name)
    images, every = Path("data/eval/images"), sorted(Path("drawn/train/images").rglob("*.jpg"))
    images.mkdir(parents=True)
    names = [f"{k:06d}.jpg" for k in range(sizes.links)]
    for k, name in enumerate(names):
        os.link(every[k % len(every)], images / name)
    (images.parent / "info.csv").write_text("ImageID,ans\n" + "".join(f"{name},0\n" for name in names))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.5, help="time to keep to")
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="what the .json and .md are called")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="these alone, in this order")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=list(DTYPES), help="leave the others out")
    parser.add_argument("--rows", default="", metavar="REGEX", help="rows to measure (default: all)")
    parser.add_argument("--people", type=int, help="people to train on (default: as many as the competition has)")
    parser.add_argument("--rehearse", action="store_true", help="everything tiny, on a CPU")
    return parser


def run(options: argparse.Namespace) -> Report:
    """Measure, and return what was written."""
    device = torch.device("cpu" if options.rehearse else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU: --rehearse runs everything tiny on a CPU")
    sizes = TINY if options.rehearse else FULL
    sizes = replace(sizes, people=options.people or sizes.people)
    if not options.rehearse:  # whatever hangs, the call ends soon after its time, with all rows that were written
        faulthandler.dump_traceback_later(60 * options.minutes + 10, exit=True, file=sys.__stderr__)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    told = {"device": card, "cores": len(os.sched_getaffinity(0)), "rehearsal": options.rehearse}
    told |= {"python": platform.python_version(), **versions()}
    report = Report(options.output.resolve(), options.minutes, told)
    stance = torch.compiler.set_stance("force_eager") if options.rehearse else contextlib.nullcontext()
    environment = mock.patch.dict(os.environ, {"ACCELERATE_USE_CPU": "true"} if options.rehearse else {})
    logging.disable(logging.INFO)
    gc.freeze()  # what is imported already is garbage never: each collection looks at the rest alone
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), stance, environment:
            lay_out(sizes)
            torch.save(release_state(0, **sizes.tower), tower := str(Path(folder) / "model_0.pt"))
            bench = Bench(device, sizes, report, tower, only=tuple(options.precisions), rows=options.rows)
            run_parts(bench, options.parts)
    finally:
        faulthandler.cancel_dump_traceback_later()
        gc.unfreeze()
        logging.disable(logging.NOTSET)
        forget_runtime()
        for handler in list(ours := logging.getLogger("utils").handlers):  # they write into the folder that is gone
            ours.remove(handler)
            handler.close()
    print(report.table())
    return report


def main(argv: list[str] | None = None) -> None:
    run(parser().parse_args(argv))


if __name__ == "__main__":
    main()
