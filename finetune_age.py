"""Fine-tune the age specialist: three classes, under the two age limits, for `--weighted-ensemble`.

    accelerate launch finetune_age.py --data-location data --pretrained-location pretrained --i 0

Takes the options of finetune.py and shares everything with it but the labels: same people held out, same photographs,
a head of its own. Writes `model/Age_{name}_seed{seed}_i{i}_epoch{epoch}.pt`, which is no ingredient of a soup.
"""

from finetune import run as finetune
from finetune import run_each
from utils.base import training_flags
from utils.base.errors import run_script
from utils.base.options import Options, Parser
from utils.models.model_files import AGE_PREFIX, SPECIALIST


def parser() -> Parser:
    return training_flags.finetune_parser(__doc__, "finetune_age.py")


def run(options: Options):
    """Train one age specialist; returns its path and held-out scores."""
    return finetune(options, attributes=SPECIALIST, prefix=AGE_PREFIX)


def main(argv: list[str] | None = None) -> None:
    run_each(parser().parse(argv), run, prefix=AGE_PREFIX)


if __name__ == "__main__":
    run_script(main)
