"""Predict the test photographs with one checkpoint and write the submission.

    accelerate launch inference.py --model-name model/finetune_cp_seed42_epoch20_greedysoup_num8.pt

Reads `eval/info.csv` (or `.parquet`) and `eval/images/` (or any folder of images); writes
`output/output_{model}.csv` and, with `--save-probs`, the probabilities beside it. Without `--model-name` it takes the
only greedy soup in `model/`; with `--ensemble logs/ensemble_NAME.json` it predicts with the members, weights,
temperature and bias of that file.
Each model's logits are kept in `cache/logits`, 256 photographs at a time: a run that was killed goes on there. With
`--demo` it writes nothing and shows a page that answers one photograph at a time.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from utils.base import files, flags
from utils.base.errors import InputError, run_script
from utils.base.options import Options, Parser, number

FALLBACK = 4  # the most frequent class of the competition's training set
log = logging.getLogger("utils.inference")  # under the project's own logger, whose level the runtime sets


def parser() -> Parser:
    parser = Parser(__doc__, "inference.py")
    flags.add_model_name(parser)
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


def run(options: Options) -> Path | None:
    """Write the submission; returns its path, or None after `--demo`."""
    flags.refuse_beside_ensemble(options, "model_name", "soft_voting_rule", "flip", "mean", "std")
    if options.no_bias and not options.ensemble:
        raise InputError("--no-bias leaves the bias of an ensemble out: give --ensemble")
    own = "data_location", "output_dir", "format", "save_probs", "skip_bad", "batch_size", "workers"
    flags.refuse_beside_demo(options, parser().parse([]), *own)

    import numpy as np

    from utils.base import runtime
    from utils.base.files import require_writable
    from utils.data import submissions, unlabelled
    from utils.ensembles import auto_ensemble, combining, members
    from utils.evaluation import shards
    from utils.models.checkpoints import find_checkpoint, versions
    from utils.reports import demo_page

    # Runtime
    accelerator = runtime.start_runtime("inference", options.verbose)
    if options.demo:
        demo_page.check_ready(accelerator)
    else:
        require_writable(options.output_dir, files.CACHE)

    # Models
    if options.ensemble:
        ensemble = auto_ensemble.read_auto_ensemble(options.ensemble, options)
    else:
        path = find_checkpoint(options.model_name, options.model_location)
        ensemble = members.read_ensemble(path, options)
    if options.demo:
        return demo_page.serve(accelerator, ensemble, options.demo)

    # Data
    skip_bad = options.skip_bad is not None
    test = unlabelled.read_test_images(options.data_location, skip_bad, accelerator.is_main_process)
    log.info("%d images of %s, %s", test.count, test.folder, ensemble.name)

    # Loop
    sizes = options.batch_size, options.workers
    kept = shards.evaluate(accelerator, ensemble.members, test, *sizes, skip_bad)

    def scores() -> Iterator[np.ndarray]:
        """(n, 18) of each shard; NaN in the rows of images that cannot be read."""
        for shard in range(len(test.shard_sizes)):
            yield members.combine_readable(ensemble, [one[shard] for one in kept])

    # Result
    output = options.output_dir / f"output_{ensemble.name}.{options.format}"
    if accelerator.is_main_process:
        looked = zip(test.shards(), scores(), strict=True)  # once more at the list, which is written below
        preds = np.concatenate([np.where(np.isnan(one[:, 0]), -1, one.argmax(-1)) for _, one in looked])
        listed = options.output_dir / f"unreadable_{ensemble.name}.csv"
        if unreadable := unlabelled.list_unreadable(listed, test, np.flatnonzero(preds < 0), skip_bad):
            preds[preds < 0] = options.skip_bad
            log.warning("%d unreadable images, in %s: answered as class %d", unreadable, listed, options.skip_bad)
        submissions.write_submission(output, test.columns, test.rows(), preds)
        record = {
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
            probs = (row for one in scores() for row in combining.as_probs(one, ensemble.rule))
            submissions.write_probs(saved, test.files(), probs)
            log.info("probabilities: %s", saved)
    accelerator.end_training()
    log.info("saved %s (%d rows)", output, test.count)
    return output


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
