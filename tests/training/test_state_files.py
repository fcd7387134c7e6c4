"""A state that is not as it was written is one error; nothing goes on from it."""

from pathlib import Path

import pytest
import torch

import finetune
from utils.base.errors import InputError
from utils.models.weights import save_archive
from utils.training.resume_state import read_state

PATH = Path("states/a.pt")
PROGRESS = {
    "epoch": 2, "seen": 4, "step": 9, "total_loss": 1.5, "history": [{"epoch": 1}], "best": {}, "tracker": "ab",
}  # fmt: skip
STATE = {"record": {"lr": 1e-5}, "progress": PROGRESS, "parts": {"model": {"weight": torch.arange(300.0)}}}


def options(*extra):
    return finetune.parser().parse(["--resume", *extra])


@pytest.mark.parametrize(
    "content",
    [
        {**STATE, "progress": {**PROGRESS, "seen": -5}},
        {**STATE, "progress": {**PROGRESS, "epoch": 0}},
        {**STATE, "progress": {**PROGRESS, "step": "9"}},
        {**STATE, "progress": {**PROGRESS, "total_loss": float("nan")}},
        {**STATE, "progress": {**PROGRESS, "history": []}},
        {**STATE, "progress": None},
        {**STATE, "record": "x"},
        {"record": {"lr": 1e-5}},
        [1, 2],
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(
            torch.tensor([7.0]).numpy().tobytes() * 1, torch.tensor([8.0]).numpy().tobytes()
        ),
        lambda content: bytes(len(content)),
        lambda content: b"",
    ],
)
def test_a_damaged_state_is_one_error_that_says_what_to_do(content):
    save_archive(PATH, STATE)
    assert read_state(PATH, STATE["record"], options())["progress"] == PROGRESS
    if callable(content):
        PATH.write_bytes(content(PATH.read_bytes()))
    else:
        save_archive(PATH, content)
    with pytest.raises(InputError, match=r"^states/a.pt is damaged: remove it, or pass --overwrite to begin anew"):
        read_state(PATH, STATE["record"], options())
    assert read_state(PATH, STATE["record"], options("--overwrite")) is None
