"""Predict the test photographs with one checkpoint and write the submission.

    accelerate launch inference.py --model-name model/finetune_cp_seed42_epoch20_greedysoup_num8.pt

Reads `eval/info.csv` (or `.parquet`) and `eval/images/` (or any folder of images); writes
`output/output_{model}.csv` and, with `--save-probs`, the probabilities beside it. Without `--model-name` it takes the
only greedy soup in `model/`; with `--ensemble logs/ensemble_NAME.json` it predicts with the members, weights,
temperature and bias of that file.
Each model's logits are kept in `cache/logits`, 256 photographs at a time: a run that was killed goes on there. With
`--demo` it writes nothing and shows a page that answers one photograph at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from utils.base import files, flags
from utils.base.errors import InputError, run_script
from utils.base.options import Options, Parser, number

if TYPE_CHECKING:
    import numpy as np

    from utils.data.unlabelled import TestImages
    from utils.ensembles.members import Ensemble

FALLBACK = 4  # the most frequent class of the competition's training set
log = logging.getLogger("utils.inference")  # under the project's own logger, whose level the runtime sets


def parser() -> Parser:
    parser = Parser(__doc__, "inference.py")
    flags.add_model_name(parser)
    flags.add_sweep(
        parser,
        "write all submissions of this sweep: best single model, soup, soup with the age specialist, "
        "soft vote, auto ensemble",
    )
    flags.add_ensembles(parser, one_only=True)
    what, saving = parser.group("what"), parser.group("saving and resuming")
    what.add_argument("--no-bias", action="store_true", help="with --ensemble: leave its bias per class out")
    flags.add_demo(parser)
    flags.add_locations(parser)
    saving.add_argument("--output-dir", type=Path, default=files.OUTPUT, help="folder of the submission")
    saving.add_argument("--save-probs", action="store_true", help="also write the probabilities, ImageID,p0..p17")
    saving.add_argument("--format", choices=("csv", "parquet"), default="csv", help="format of the files written")
    parser.group("data").add_argument(
        "--skip-bad", type=number(int, 0, 17), nargs="?", const=FALLBACK, metavar="CLASS",
        help=f"answer images that cannot be read with this class, {FALLBACK} (worn, female, 30 to 59) if none is "
        "named, and list them in a file; without it the first is an error",
    )  # fmt: skip
    flags.add_loader(parser, "images per step and process")
    flags.add_preprocessing(parser)
    flags.add_verbose(parser)
    return parser


def check(options: Options) -> None:
    """Raise `InputError` for options that contradict each other."""
    flags.refuse_beside_sweep(options, "ensemble", "model_name", "weighted_ensemble", "soft_voting", "flip", "demo")
    flags.refuse_beside_ensemble(options, "model_name", "soft_voting_rule", "flip", "mean", "std")
    if options.no_bias and not options.ensemble:
        raise InputError("--no-bias leaves the bias of an ensemble out: give --ensemble")
    own = "data_location", "output_dir", "format", "save_probs", "skip_bad", "batch_size", "workers"
    flags.refuse_beside_demo(options, parser().parse([]), *own)


def run(options: Options) -> Path | dict[str, Path] | None:
    """Write the submission and return its path; with `--sweep` all of a sweep, by what they are; None after
    `--demo`.
    """
    check(options)

    from utils.base import runtime
    from utils.base.files import CACHE, require_writable
    from utils.data.unlabelled import read_test_images
    from utils.evaluation import shards
    from utils.reports import demo_page

    # Runtime
    accelerator = runtime.start_runtime("inference", options.verbose)
    if options.demo:
        demo_page.check_ready(accelerator)
    else:
        require_writable(options.output_dir, CACHE)

    # Models
    manifest, ensembles = read_ensembles(options)
    if options.demo:
        return demo_page.serve(accelerator, ensembles[""], options.demo)

    # Data
    skip_bad = options.skip_bad is not None
    test = read_test_images(options.data_location, skip_bad, accelerator.is_main_process)
    log.info("%d images of %s", test.count, test.folder)

    # Loop
    members = {(one.digest, one.name): one for ensemble in ensembles.values() for one in ensemble.members}
    logits = shards.evaluate(accelerator, list(members.values()), test, options.batch_size, options.workers, skip_bad)
    logits = dict(zip(members, logits, strict=True))

    # Result
    written = {}
    for way, ensemble in ensembles.items():
        kept = [logits[one.digest, one.name] for one in ensemble.members]
        written[way] = options.output_dir / f"output_{ensemble.name}.{options.format}"
        if accelerator.is_main_process:
            write(written[way], ensemble, test, kept, options)
        log.info("saved %s (%d rows)", written[way], test.count)
    if manifest and accelerator.is_main_process:
        manifest.submissions = {way: str(path) for way, path in written.items()}
        manifest.write()
    accelerator.end_training()
    return written if manifest else written[""]


def read_ensembles(options: Options) -> tuple:
    """The manifest of `--sweep` and its ways to predict, by what they are; or None and the one way asked for."""
    from utils.ensembles.auto_ensemble import read_auto_ensemble
    from utils.ensembles.members import read_ensemble
    from utils.ensembles.sweep import read_sweep
    from utils.models.checkpoints import find_checkpoint

    if options.sweep:
        return read_sweep(options)
    if options.ensemble:
        return None, {"": read_auto_ensemble(options.ensemble, options)}
    path = find_checkpoint(options.model_name, options.model_location)
    return None, {"": read_ensemble(path, options)}


def write(output: Path, ensemble: Ensemble, test: TestImages, kept: list, options: Options) -> None:
    """Write one submission, its record, the list of what could not be read, and the probabilities if they are asked
    for; `kept` has the logits of each member, shard by shard.
    """
    import numpy as np

    from utils.data import submissions
    from utils.data.unlabelled import list_unreadable
    from utils.ensembles.combining import as_probs
    from utils.ensembles.members import combine_readable
    from utils.models.checkpoints import versions
    from utils.models.sweeps import sweep_of

    def scores() -> Iterator[np.ndarray]:
        """(n, 18) of each shard; NaN in the rows of images that cannot be read."""
        for shard in range(len(test.shard_sizes)):
            yield combine_readable(ensemble, [one[shard] for one in kept])

    looked = zip(test.shards(), scores(), strict=True)  # once more at the list, which is written below
    preds = np.concatenate([np.where(np.isnan(one[:, 0]), -1, one.argmax(-1)) for _, one in looked])
    listed = options.output_dir / f"unreadable_{ensemble.name}.csv"
    skip_bad = options.skip_bad is not None
    if unreadable := list_unreadable(listed, test, np.flatnonzero(preds < 0), skip_bad):
        preds[preds < 0] = options.skip_bad
        log.warning("%d unreadable images, in %s: answered as class %d", unreadable, listed, options.skip_bad)
    submissions.write_submission(output, test.columns, test.rows(), preds)
    record = {
        "sweep": next((name for one in ensemble.members if (name := sweep_of(one.meta))), None),
        "members": [{"name": one.name, "digest": one.digest, **one.preprocessing} for one in ensemble.members],
        "how": ensemble.how,
        "photographs": {"count": test.count, "unreadable": unreadable},
        "options": options.as_dict(),
        "versions": versions(),
    }
    submissions.write_record(output, record)
    saved = output.with_stem(f"{output.stem}_probs")
    saved.unlink(missing_ok=True)  # those of an earlier submission
    if options.save_probs:
        probs = (row for one in scores() for row in as_probs(one, ensemble.rule))
        submissions.write_probs(saved, test.files(), probs)
        log.info("probabilities: %s", saved)


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
