"""Print what came of a sweep as one table: each ingredient, soups, ensembles, votes; accuracy and macro-F1.

    python summary.py --name finetune_cp
    python summary.py --name finetune_cp --truth truth.csv

Reads the scores that main.py and validation.py left in `logs/`. With `--truth`, a CSV of the columns
`ImageID,ans,person`, a second table scores the submissions in `output/` on people that no choice was made on.
"""

from pathlib import Path

from utils.base import files
from utils.base.errors import InputError, run_script
from utils.base.options import Options, Parser, run_name


def parser() -> Parser:
    parser = Parser(__doc__, "summary.py")
    what = parser.group("what")
    what.add_argument(
        "csv", type=Path, nargs="*", metavar="CSV", help="with --truth: submissions (default: those in output/)"
    )
    what.add_argument("--name", type=run_name, help="name of the sweep (default: none, only --truth)")
    what.add_argument(
        "--truth",
        type=Path,
        metavar="FILE",
        help="CSV of the right answers: ImageID,ans,person (default: none, only the scores of --name)",
    )
    return parser


def run(options: Options) -> None:
    """Print the tables."""
    from utils.data.submissions import find_submissions
    from utils.evaluation import results

    if not options.name and not options.truth:
        raise InputError("nothing to sum up: give --name, --truth or both")
    if options.csv and not options.truth:
        raise InputError("submissions are scored against the right answers: give --truth")
    if options.name:
        print(f"\n{results.score_table(results.latest_rows(options.name))}")
    if options.truth:
        voted = files.OUTPUT / "hard_voting.csv"
        there = [*find_submissions(), *([voted] if voted.is_file() else [])]
        submissions = options.csv or results.of_these_images(options.truth, there)
        if not submissions:
            raise InputError(
                f"{files.OUTPUT.resolve()} has no submissions of the images of {options.truth}: run inference.py, "
                "or give CSV files"
            )
        rows, gains = results.score_submissions(options.truth, submissions)
        print(f"\n{results.score_table(rows)}")
        if gains:
            print(f"\nabove {submissions[0].name}, on the same resamplings of people", *gains, sep="\n")


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
