"""Say which submission of a sweep to hand in, and show what everything scores.

    python summary.py --name finetune_cp
    python summary.py --name finetune_cp --truth truth.csv

Reads the scores that main.py and validation.py left in `logs/`, and the submissions that inference.py wrote. With
`--truth`, a CSV of the columns `ImageID,ans,person` with names or ids of classes, the submissions are scored on
people that no choice was made on, too. `--verbose` prints the rows of every ingredient, soup, ensemble and vote, which
the log file has in any case.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from utils.base import flags
from utils.base.errors import InputError, run_script
from utils.base.files import OUTPUT
from utils.base.options import Options, Parser, run_name

if TYPE_CHECKING:
    from utils.evaluation.manifest import Manifest

log = logging.getLogger("utils.summary")  # under the project's own logger, which `start_log` sets


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
        help="CSV of the right answers: ImageID,ans,person; without person each image counts for itself (default: "
        "none, only the scores of --name)",
    )
    flags.add_verbose(parser)
    return parser


def run(options: Options) -> None:
    """Tell the tables."""
    from utils.base.terminal import start_log
    from utils.evaluation import results
    from utils.evaluation.hand_in import hand_in_lines
    from utils.evaluation.manifest import read_manifest

    if not options.name and not options.truth:
        raise InputError("nothing to sum up: give --name, --truth or both")
    if options.csv and not options.truth:
        raise InputError("submissions are scored against the right answers: give --truth")
    manifest = read_manifest(options.name) if options.name else None
    log_file = start_log(f"summary_{options.name}" if options.name else "summary", options.verbose)
    submissions = bool(manifest and manifest.submissions)
    tell = log.debug if submissions else log.info  # what is summed up below
    if manifest:
        tell("%s\n", results.score_table(results.latest_rows(manifest), manifest.metric))
    on_new_people = {}
    if options.truth:
        paths = options.csv or find_scored(options.truth, manifest)
        rows, gains = results.score_submissions(options.truth, paths)
        on_new_people = {row["model"]: row for row in rows}
        tell("%s\n", results.score_table(rows))
        if gains:
            tell("above %s, on the same resamplings of people\n%s\n", paths[0].name, "\n".join(gains))
    if submissions:
        log.info("every model and every gain: %s (--verbose prints it)\n", log_file)
        log.info("%s", "\n".join(hand_in_lines(manifest, on_new_people)))


def find_scored(truth: Path, manifest: Manifest | None) -> list[Path]:
    """The submissions of the sweep, or without one those in `output/` that predict the images of `truth`.

    Raises `InputError` when there are none, and when nothing says of which of several sweeps they are to be.
    """
    from utils.data.origins import of_one_sweep, sweep_of, vote_file
    from utils.data.submissions import find_submissions
    from utils.evaluation.results import of_these_images

    paths, whose = [*find_submissions(), vote_file()], ""
    if manifest:
        named = [Path(file) for file in manifest.submissions.values()]
        paths, whose = named or [path for path in paths if sweep_of(path) == manifest.name], f" of {manifest.name}"
    found = of_these_images(truth, [path for path in paths if path.is_file()])
    if not found:
        raise InputError(
            f"{OUTPUT.resolve()} has no submissions{whose} for the images of {truth}: run inference.py, or give CSV "
            "files"
        )
    if not manifest:
        of_one_sweep(found, "--name")
    return found


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
