"""What `benchmarks/gpu.py` measures with: clocks, floating-point operations, and the JSON and Markdown it leaves."""

import functools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

DATA_SHEETS = {  # dense FLOP/s by a part of the card's name; H100 and H200 in the SXM form, NVIDIA's data sheets
    "H100 80GB HBM3": {"bf16": 989.4e12, "fp16": 989.4e12, "TF32": 494.7e12, "fp32": 66.9e12},
    "H200": {"bf16": 989.4e12, "fp16": 989.4e12, "TF32": 494.7e12, "fp32": 66.9e12},
    "A100": {"bf16": 312e12, "fp16": 312e12, "TF32": 156e12, "fp32": 19.5e12},
}
COLUMNS = {  # of the table, by the key of a row
    "what": "what", "rate": "images/s", "of_measured": "of the measured FLOP/s", "of_sheet": "of the data sheet's",
    "gpu_gb": "GPU GB", "host_gb": "host GB", "seconds": "seconds", "note": "note",
}  # fmt: skip


def forward_flops(config: dict, num_classes: int = 18) -> int:
    """Floating-point operations of the matrix products that one image takes, a multiplication and an addition as two.

    `config` holds `clip.CONFIG_KEYS`.
    """
    width, inner, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    tokens = 1 + (config["image_size"] // patch) ** 2
    layer = tokens * (4 * width**2 + 2 * width * inner) + 2 * tokens**2 * width
    head = width * config["projection_dim"] + config["projection_dim"] * num_classes
    return _patch_flops(config) + 2 * (config["num_hidden_layers"] * layer + head)


def training_flops(config: dict, num_classes: int = 18) -> int:
    """Those of a forward and a backward pass, which takes twice as many; only the pixels need no gradient. What an
    implementation computes again does not count.
    """
    return 3 * forward_flops(config, num_classes) - _patch_flops(config)


def _patch_flops(config: dict) -> int:
    patches = (config["image_size"] // config["patch_size"]) ** 2
    return 2 * patches * 3 * config["patch_size"] ** 2 * config["hidden_size"]


def now(device: torch.device) -> float:
    """Seconds, when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Clock:
    """The seconds that some functions take while a block runs, each without those of the others that it calls."""

    def __init__(self, device: torch.device):
        self.device, self.seconds, self.calls, self._inner = device, Counter(), Counter(), []

    @contextmanager
    def around(self, functions: Sequence[tuple[str, Any, str]]) -> Iterator["Clock"]:
        """Time functions given as (what they do, where they are found, under which name); `rest` is what is left."""
        with ExitStack() as patches:
            for what, owner, name in functions:
                patches.enter_context(mock.patch.object(owner, name, self._timed(what, getattr(owner, name))))
            begin = now(self.device)
            yield self
            self.seconds["rest"] = now(self.device) - begin - sum(self.seconds.values())

    def _timed(self, what: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def timed(*args, **kwargs):
            begin = now(self.device)
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took, inner = now(self.device) - begin, self._inner.pop()
                self.seconds[what] += took - inner
                self.calls[what] += 1
                if self._inner:
                    self._inner[-1] += took

        return timed


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int, repeats: int = 10) -> list[float]:
    """FLOP/s of square matrix products of random numbers, three times over."""
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    rates = []
    for measured in (False, True, True, True):
        begin = now(device)
        for _ in range(repeats):
            one @ other
        took = now(device) - begin
        rates += [2 * side**3 * repeats / took] * measured
    return rates


def copy_rate(source: torch.Tensor, device: torch.device, repeats: int = 10) -> list[float]:
    """Bytes per second of copies to the device, three times over."""
    target, rates = torch.empty_like(source, device=device), []
    for measured in (False, True, True, True):
        begin = now(device)
        for _ in range(repeats):
            target.copy_(source, non_blocking=True)
        rates += [source.nbytes * repeats / (now(device) - begin)] * measured
    return rates


def data_sheet(card: str) -> dict[str, float]:
    """The dense FLOP/s by precision that a card's maker gives; empty for a card that is not listed here."""
    return next((rates for name, rates in DATA_SHEETS.items() if name in card), {})


class Report:
    """The rows of each part, written to `{output}.json` and `{output}.md` whenever there is one more."""

    def __init__(self, output: Path, minutes: float, machine: dict):
        self.output, self.machine, self.parts = output, machine, {}
        self.begin, self.end = time.monotonic(), time.monotonic() + 60 * minutes

    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()

    def write(self) -> None:
        took = round(time.monotonic() - self.begin, 1)
        content = {"machine": self.machine, "seconds": took, "parts": self.parts}
        for suffix, text in ((".json", json.dumps(content, indent=1)), (".md", self.table())):
            temporary = self.output.with_name(f".{self.output.name}{suffix}")
            temporary.write_text(text + "\n")
            os.replace(temporary, self.output.with_name(self.output.name + suffix))

    def table(self) -> str:
        """One table of all rows; a part without rows says why."""
        lines = [", ".join(f"{name} {value}" for name, value in self.machine.items()), ""]
        lines += [f"| part | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
        for name, part in self.parts.items():
            rows = part["rows"] + [{"what": f"{why}: {part[why]}"} for why in ("skipped", "failed") if why in part]
            for row in rows:
                cells = " | ".join(_cell(key, row) for key in COLUMNS)
                lines.append(f"| {name} | {cells} |")
        return "\n".join(lines)


def _cell(key: str, row: dict) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if key == "rate":
        low, high = min(row["rates"]), max(row["rates"])
        return f"{value:,.0f} ({low:,.0f} to {high:,.0f})"
    if key.startswith("of_"):
        return f"{value:.1%}"
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("|", "/").replace("\n", " ")
