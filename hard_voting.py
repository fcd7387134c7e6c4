"""Let submissions vote and write the majority's.

    python hard_voting.py output/output_a.csv output/output_b.csv output/output_c.csv

Reads CSV files with the columns ImageID and ans, names of classes or ids as the records beside them say, by default
every `output/output_*.csv` but the `_probs.csv` if they are of one sweep; rows are matched by ImageID. Ties go
to the value with more weight, then to the first file given.
Prints what went into the vote and how often each two files agree. Writes `output/hard_voting.csv`, of a sweep
`output/hard_voting_NAME.csv`, with the first file's columns and order and, with `--show-disagreements`, the
photographs on which the files agree least and the agreement of each two files, to `disagreements.png` and
`agreement.png` in `val_img/hard_voting/`.
"""

from pathlib import Path

from utils.base import flags
from utils.base.errors import InputError, run_script
from utils.base.files import OUTPUT, PICTURES
from utils.base.options import Options, Parser, number
from utils.base.terminal import say
from utils.evaluation.manifest import HARD_VOTE, Manifest, is_voter, read_manifest

SHEET, MATRIX = (PICTURES / "hard_voting" / f"{name}.png" for name in ("disagreements", "agreement"))
MAX_PICTURES, PIXELS = 32, 128


def parser() -> Parser:
    parser = Parser(__doc__, "hard_voting.py", check)
    what = parser.group("what")
    what.add_argument("csv", type=Path, nargs="*", metavar="CSV", help="submissions (default: those in output/)")
    flags.add_sweep(parser, read_manifest, "vote over the submissions of this sweep that inference.py --sweep wrote")
    what.add_argument(
        "--mode",
        choices=("attribute", "class"),
        help="vote on each attribute apart, or on the class (default: attribute, where a class is made of several)",
    )
    what.add_argument(
        "--weights",
        type=number(float, 0, above=True),
        nargs="+",
        metavar="W",
        help="weight of each file's vote, in the order of the files (default: all 1)",
    )
    what.add_argument(
        "--show-disagreements",
        action="store_true",
        help="draw the photographs on which the files agree least, and the agreement of each two files",
    )
    flags.add_data_location(parser)
    parser.group("saving and resuming").add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"file of the voted submission (default: {OUTPUT}/hard_voting.csv, or {OUTPUT}/hard_voting_NAME.csv of "
        "a sweep)",
    )
    return parser


def check(options: Options) -> None:
    """Raise `InputError` for options that contradict each other."""
    if options.sweep and (options.csv or options.weights):
        raise InputError(
            f"--sweep {options.sweep} names the files, one vote each: leave other files and --weights out"
        )


def find_inputs(options: Options, output: Path) -> list[Path]:
    """The files given, those of the sweep, or all in `output/` in sorted order; never the voted file.

    Raises `InputError` when none are given and those are of several sweeps.
    """
    from utils.data.origins import of_one_sweep
    from utils.data.submissions import find_submissions

    voted = output.resolve()
    if named := find_voters(options.sweep) if options.sweep else options.csv:
        if voted in (path.resolve() for path in named):
            raise InputError(f"{output} is an input and the output: give another --output, or leave it out")
        return named
    paths = [path for path in find_submissions() if path.resolve() != voted]
    of_one_sweep(paths, "--sweep")
    if not paths:
        raise InputError(
            f"no submissions output_*.csv in {OUTPUT.resolve()}: run inference.py, or name CSV or Parquet files"
        )
    return paths


def find_voters(sweep: Manifest) -> list[Path]:
    """The submissions of a sweep that vote."""
    paths = [Path(file) for way, file in sweep.submissions.items() if is_voter(way)]
    absent = [path for path in paths if not path.is_file()]
    if absent or not paths:
        gone = f"{absent[0]} is gone" if absent else "there are none"
        raise InputError(f"the submissions of {sweep} cannot vote, {gone}: run inference.py --sweep {sweep}")
    return paths


def run(options: Options) -> Path:
    """Write the voted submission; returns its path."""
    from utils.data import submissions
    from utils.data.origins import told_classes, vote_file
    from utils.ensembles import agreement, votes

    # Data
    output = options.output or vote_file(options.sweep and options.sweep.name)
    paths = find_inputs(options, output)
    known, _ = told_classes(paths) or (None, None)
    mode = options.mode or ("class" if known and len(known.attributes) < 2 else "attribute")
    if mode == "class" and not known:
        known = submissions.ANY_CLASSES
    given = [submissions.read_submission(path, known=known) for path in paths]
    classes = votes.classes_of_vote(given, mode)
    answers = submissions.align(given)  # (F, N)
    if not (options.csv or options.weights):  # files that one names count as often as they are named
        for k, first in sorted(votes.repeated(given, answers).items(), reverse=True):
            say(f"{paths[k]} has the same models and answers as {paths[first]}: counted once")
            del given[k]
        paths, answers = [one.path for one in given], submissions.align(given)
    asked = options.weights or [1] * len(paths)
    weights = votes.whole_weights(asked, len(paths))

    # Vote
    by_mode = {"class": votes.class_votes(answers, weights)}
    if classes.attributes:
        by_mode["attribute"] = votes.attribute_votes(answers, weights, classes)
    preds = by_mode[mode]

    # Result
    files, same = list(map(str, paths)), agreement.agreement(answers)
    say(f"{mode} vote of {len(paths)} files on {len(preds)} rows")
    say("\n".join(agreement.file_lines(files, asked, answers, preds, classes)))
    if len(classes.attributes) > 1:
        say(f"class and attribute voting differ in {(by_mode['class'] != by_mode['attribute']).sum()} rows")
    if len(paths) > 1:
        say("\n".join(agreement.comparison_lines(same, len(preds))))
    if options.show_disagreements:
        rows = votes.most_disputed(answers, weights, MAX_PICTURES)
        if len(rows):
            images = [given[0].ids[row] for row in rows]
            say(f"saved {draw(options.data_location, images, answers[:, rows], preds[rows], classes.classes)}")
        else:
            say("the files agree on every row: no sheet of disagreements")
        if len(paths) > 1:
            from utils.base.pictures import save_agreement

            say(f"saved {save_agreement(MATRIX, same, len(preds), files)}")
    earlier = ", in place of an earlier file" if output.exists() else ""
    names = classes.classes if given[0].named else None
    submissions.write_submission(output, given[0].columns, given[0].rows, preds, names)
    write_vote_record(output, given, mode, asked, options.sweep)
    say(f"saved {output}{earlier}")
    if options.sweep:
        options.sweep.submissions.pop(HARD_VOTE, None)
        if mode == "attribute" or len(classes.attributes) < 2:  # the vote that validation.py scores
            options.sweep.add(HARD_VOTE, output)
        options.sweep.write()
    return output


def write_vote_record(output: Path, given: list, mode: str, weights: list[float], sweep: Manifest | None) -> None:
    """Tell beside the vote who voted, and what its answers mean, where that is known."""
    from utils.base.files import sha256_of
    from utils.data import submissions
    from utils.data.origins import told_classes, write_record

    voters = [
        {"file": str(one.path), "sha256": sha256_of(one.path), "weight": weight}
        for one, weight in zip(given, weights, strict=True)
    ]
    record = {"sweep": sweep and sweep.name, "how": {"vote": mode, "of": voters}}
    if told := told_classes([one.path for one in given]):
        record |= {"answer": submissions.NAMES if given[0].named else submissions.IDS, **told[0].record()}
    write_record(output, record)


def draw(data_location: Path, images: list[str], answers, preds, names: tuple[str, ...]) -> Path:
    """Draw the photographs named `images`, captioned with the files per class in `answers` (F, N) and with `preds`;
    `names` are those of the classes.
    """
    from collections import Counter

    import numpy as np

    from utils.base.pictures import save_sheet
    from utils.data.unlabelled import read_test_images

    test = read_test_images(data_location, answer_bad=0)
    unknown = sorted(set(images) - set(test.files()))
    if unknown:
        raise InputError(f"{len(unknown)} disputed images are not in {test.folder}, the first: {unknown[0]}")
    squares = np.stack([picture(test.folder / image) for image in images])
    captions = []
    for image, column, pred in zip(images, answers.T.tolist(), preds, strict=True):
        counts = [f"{files} x {names[class_id]}" for class_id, files in Counter(column).most_common()]
        shown = [*counts[:3], *(["..."] if len(counts) > 3 else [])]  # what fits under a picture
        captions.append("\n".join([image, f"voted: {names[pred]}", *shown]))
    return save_sheet(
        SHEET, squares, captions, title="most disputed first: the voted class, and how many files say what"
    )


def picture(path: Path):
    """(S, S, 3) uint8 of a photograph, or grey when it cannot be read."""
    import numpy as np

    from utils.data.decoding import decode

    try:
        return decode(path, PIXELS)
    except InputError:
        return np.full((PIXELS, PIXELS, 3), 128, np.uint8)


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
