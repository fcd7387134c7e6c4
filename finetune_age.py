"""Fine-tune the age specialist: three classes, under the two age limits, for `--weighted-ensemble`.

    accelerate launch finetune_age.py --data-location data --pretrained-location pretrained --i 0

It is finetune.py with `--attributes age`: same people held out, same photographs, a head of its own. Writes
`model/Age_{name}_seed{seed}_i{i}_epoch{epoch}.pt`, which is no ingredient of a soup.
"""

import finetune
from utils.base import training_flags
from utils.base.errors import run_script
from utils.base.options import Options, Parser
from utils.models.model_files import SPECIALIST


def parser() -> Parser:
    return training_flags.finetune_parser(__doc__, "finetune_age.py", SPECIALIST)


def run(options: Options):
    """Train one specialist; returns its path and held-out scores."""
    return finetune.run(options)


def main(argv: list[str] | None = None) -> None:
    finetune.run_each(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
