"""The commands that a report tells to type."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import finetune
import validation
from utils.reports.advice import commands_of
from utils.training.index_options import options_of_index


def test_a_drawn_index_is_trained_again_with_the_options_that_it_drew():
    drawn = options_of_index(finetune.parser().parse(["--model", "tower.pt", "--i", "1", "--epochs", "10"]))
    made = drawn.plain | {"age_limits": list(drawn.age_limits)}
    model = SimpleNamespace(parts=("itself",), path=Path("model/x.pt"), meta={"options": made})
    told = commands_of(model, validation.parser().parse([]), validation.parser())
    for command, epochs in ((told.longer, 2 * drawn.epochs), (told.adjusted, drawn.epochs)):
        again = options_of_index(finetune.parser().parse(shlex.split(command)[2:]))
        assert (again.lr, again.wd, again.mixup, again.epochs) == (drawn.lr, drawn.wd, drawn.mixup, epochs)
