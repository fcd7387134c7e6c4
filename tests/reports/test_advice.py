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


def test_what_has_several_values_comes_back_as_it_was_given():
    asked = shlex.split(
        "--oversample mask=incorrect age=60+ --half-cutmix 0.3 --half-cutmix-within mask,age --drop-ages 57-59 "
        "--age-limits 25,50"
    )
    given = finetune.parser().parse(asked)
    made = {name: list(one) if isinstance(one, tuple) else one for name, one in given.plain.items()}
    model = SimpleNamespace(parts=("itself",), path=Path("model/x.pt"), meta={"options": made})
    command = commands_of(model, validation.parser().parse([]), validation.parser()).longer
    again = finetune.parser().parse(shlex.split(command)[2:])
    assert again.replace(name=given.name, i=given.i, epochs=given.epochs).plain == given.plain
