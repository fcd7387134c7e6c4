"""The measurement on a GPU, rehearsed on a CPU."""

import json
import os
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import TOWER
from torch.utils.flop_counter import FlopCounterMode

import finetune
from benchmarks import gpu, gpu_models, gpu_report
from utils.models.clip import Classifier


class Forked:
    """In place of a process of its own that starts finetune.py, which takes seconds to import everything again."""

    def __init__(self, folder: Path, argv: list[str]):
        self.pid, self.returncode = os.fork(), None
        if self.pid == 0:
            try:
                os.setsid()
                os.chdir(folder)
                AcceleratorState._reset_state(reset_partial_state=True)
                finetune.main(argv)
                os._exit(0)
            except BaseException:
                (folder / gpu_models.TOLD).write_text(traceback.format_exc())
                os._exit(1)

    def poll(self) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def wait(self) -> int:
        while self.poll() is None:
            pass
        return self.returncode


@pytest.mark.slow
def test_a_rehearsal_does_every_part_and_leaves_json_and_a_table(monkeypatch):
    monkeypatch.setattr(gpu, "TINY", replace(gpu.TINY, batches=(4,), people=10, links=17, ingredients=2))
    monkeypatch.setattr(gpu_models, "start", Forked)
    gpu.main(["--rehearse", "--output", "told"])
    found, table = json.loads(Path("told.json").read_text()), Path("told.md").read_text()
    assert list(found["parts"]) == list(gpu.PARTS)
    for name, part in found["parts"].items():
        assert part["rows"], name
        assert not {"failed", "skipped"} & part.keys(), part
        for row in part["rows"]:
            assert "traceback" not in row, row["traceback"]
            assert f"| {name} | {row['what']} |" in table
    rows = {f"{name}, {row['what']}": row for name, part in found["parts"].items() for row in part["rows"]}
    flops = gpu_report.training_flops({**TOWER, "image_size": 16, "projection_dim": 8})
    measured = sorted(rows["machine, matrix product, fp32"]["flops"])[1]
    row = rows["device, fp32, batch 4"]
    assert row["rate"] == sorted(row["rates"])[1]
    assert row["of_measured"] == pytest.approx(row["rate"] * flops / measured)
    resumed = rows["resume, --mixed-precision no"]
    assert resumed["step"] < 6  # of as many
    assert resumed["left alone twice"]["largest"] == resumed["killed and resumed"]["largest"] == 0
    assert {"loading", "averaging", "forwards"} < rows["search, greedy soup, their logits cached"]["parts"].keys()


def test_without_time_every_part_is_left_out_and_named():
    gpu.main(["--rehearse", "--minutes", "0", "--output", "told"])
    found, table = json.loads(Path("told.json").read_text()), Path("told.md").read_text()
    assert all("were left" in found["parts"][name]["skipped"] for name in gpu.PARTS)
    assert all(f"| {name} | skipped: it needs" in table for name in gpu.PARTS)


def test_a_part_that_fails_is_written_down_and_the_next_one_is_done(monkeypatch):
    def broken(bench):
        yield {"what": "before"}
        raise ValueError("no such kernel")

    def cases(bench):
        yield from bench.each([("one", 0, lambda: 1 / 0), ("other", 0, lambda: {"note": "fine"}), ("late", 9e9, dict)])

    monkeypatch.setattr(gpu, "PARTS", {"first": (broken, 0), "second": (cases, 0)})
    gpu.main(["--rehearse", "--output", "told"])
    table = Path("told.md").read_text().splitlines()[4:]
    assert [line.split(" | ")[1] for line in table] == [
        "before",
        "failed: ValueError: no such kernel",
        "one",
        "other",
        "late",
    ]
    assert "failed: ZeroDivisionError" in table[2]
    assert "left out" in table[4]


@pytest.mark.parametrize("changes", [{}, {"image_size": 48, "num_hidden_layers": 3, "projection_dim": 24}])
def test_the_operations_of_a_tower_are_those_that_torch_counts(changes):
    config = {**TOWER, **changes}
    model = Classifier(config, 18)
    model.training_attention = "eager"  # torch counts what the others compute again in the backward pass
    model.train()
    pixels = torch.zeros(5, 3, config["image_size"], config["image_size"])
    with FlopCounterMode(display=False) as forward:
        logits, _ = model(pixels)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert forward.get_total_flops() == 5 * gpu_report.forward_flops(config)
    assert forward.get_total_flops() + backward.get_total_flops() == 5 * gpu_report.training_flops(config)


def test_a_clock_takes_from_each_function_what_those_take_that_it_calls(monkeypatch):
    class Work:
        time = 0.0

        def outer(self):
            Work.time += 1
            self.inner()
            self.inner()
            Work.time += 4

        def inner(self):
            Work.time += 10

    monkeypatch.setattr(gpu_report, "now", lambda device: Work.time)
    names = [("outer", Work, "outer"), ("inner", Work, "inner")]
    with gpu_report.Clock(torch.device("cpu")).around(names) as clock:
        Work().outer()
        Work.time += 100
    assert clock.seconds == {"outer": 5, "inner": 20, "rest": 100}
    assert clock.calls == {"outer": 1, "inner": 2}
    Work().outer()
    assert clock.calls["outer"] == 1
