"""Predict the test photographs with one checkpoint and write the submission.

    accelerate launch inference.py --model-name model/finetune_cp_seed42_epoch20_greedysoup_num8.pt

Reads `eval/info.csv` (or `.parquet`) and `eval/images/`; or any folder of images, a table with a column of files, or a
set of `datasets`, of which it takes the part `test` if there is one. Writes `output/output_{model}.csv` with the names
of classes, or their ids, and with `--save-probs` the probabilities beside it. Without `--model-name` it takes the
only greedy soup in `model/`; with `--ensemble logs/ensemble_NAME.json` it predicts with the members, weights,
temperature and bias of that file. Of a folded sweep `--members folds` predicts with the models of all folds, into a
file `output_..._folds.csv` of its own.
Each model's logits are kept in `cache/logits`, 256 photographs at a time: a run that was killed goes on there. With
`--demo` it writes nothing and shows a page that answers one photograph at a time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from utils.base import data_flags, files, flags
from utils.base.errors import InputError, run_script
from utils.base.options import Options, Parser
from utils.evaluation.manifest import OVER_FOLDS, read_manifest

if TYPE_CHECKING:
    from utils.ensembles.members import Ensemble
    from utils.ensembles.predictor import Predictor

USUAL = "usual"  # what --skip-bad asks for that names no class
log = logging.getLogger("utils.inference")  # under the project's own logger, whose level the runtime sets


def parser() -> Parser:
    parser = Parser(__doc__, "inference.py", check)
    flags.add_model_name(parser)
    flags.add_sweep(
        parser,
        read_manifest,
        "write all submissions of this sweep: best single model, soup, soup with the age specialist, "
        "soft vote, auto ensemble; with --members folds beside those written without it",
    )
    flags.add_ensembles(parser, one_only=True)
    what, saving = parser.group("what"), parser.group("saving and resuming")
    what.add_argument(
        "--members",
        choices=("soup", "folds"),
        default="soup",
        help="what predicts for a model of a folded sweep: the average of its folds, one model; or the models of all "
        "folds, whose log-probabilities are averaged, for as many times the time",
    )
    what.add_argument("--no-bias", action="store_true", help="with --ensemble: leave its bias per class out")
    flags.add_demo(parser)
    flags.add_locations(parser)
    saving.add_argument("--output-dir", type=Path, default=files.OUTPUT, help="folder of the submission")
    saving.add_argument(
        "--answer",
        choices=("names", "ids"),
        help="what stands in the column ans: names of classes or their ids (default: names, but ids of the "
        "competition's classes)",
    )
    saving.add_argument(
        "--save-probs",
        action="store_true",
        help="also write the probabilities, in columns named by class, of the competition's p0,p1...",
    )
    saving.add_argument("--format", choices=("csv", "parquet"), default="csv", help="format of the files written")
    data = parser.group("data")
    data.add_argument(
        "--skip-bad", nargs="?", const=USUAL, metavar="CLASS",
        help="answer images that cannot be read with this class, a name or an id, and list them in a file; of the "
        "competition's classes 4 (worn, female, 30 to 59) if none is named; without it the first is an error",
    )  # fmt: skip
    data_flags.add_columns(parser)
    data.add_argument(
        "--split", metavar="NAME",
        help="the part to predict, of a table with a column of splits, of folders train, val, test or of datasets "
        "(default: test where there is one, else all)",
    )  # fmt: skip
    flags.add_loader(parser, "images per step and process")
    flags.add_preprocessing(parser)
    flags.add_verbose(parser)
    return parser


def check(options: Options) -> None:
    """Raise `InputError` for options that contradict each other."""
    own_ensemble = "weighted_ensemble", "soft_voting", "soft_voting_rule"
    flags.refuse_beside_sweep(options, "ensemble", "model_name", *own_ensemble, "flip", "demo")
    flags.refuse_beside_ensemble(options, "model_name", "soft_voting_rule", "flip", "mean", "std", "tower")
    if options.no_bias and not options.ensemble:
        raise InputError("--no-bias leaves the bias of an ensemble out: give --ensemble")
    own = "data_location", "output_dir", "format", "save_probs", "skip_bad", "batch_size", "workers"
    flags.refuse_beside_demo(options, parser().get_default, own)


def check_names(options: Options) -> None:
    """Raise `InputError` for models that are not there, or when several fit."""
    from utils.models import sweeps

    named = [options.model_name, *(options.weighted_ensemble or ()), *(options.soft_voting or ())]
    looks = not (options.sweep or options.ensemble or options.model_name)
    choose = partial(sweeps.find_checkpoint, None, options.model_location) if looks else None
    sweeps.check_names(options, choose, named)


def run(options: Options) -> Path | dict[str, Path]:
    """Write the submission and return its path; with `--sweep` all of a sweep, by how they are made."""
    flags.check_files(options)
    check_names(options)
    # torch and what builds on it take seconds to import, and a mistake should not wait for them
    from utils.base import runtime
    from utils.base.files import CACHE, require_writable
    from utils.data import answers, origins, unlabelled
    from utils.data.reading import recorded_reading
    from utils.ensembles.members import read_ensembles
    from utils.evaluation import shards

    # Runtime
    accelerator = runtime.start_runtime("inference", options.verbose)
    require_writable(options.output_dir, CACHE)

    # Models
    ensembles = read_ensembles(options)
    answer_bad = class_of_bad(options.skip_bad, ensembles.values())

    # Data
    asked = {name: given for name in ("image_column", "split_column") if (given := getattr(options, name))}
    members = [one for ensemble in ensembles.values() for one in ensemble.members]
    reading = replace(recorded_reading(members), **asked)
    is_main = accelerator.is_main_process
    test = unlabelled.read_test_images(options.data_location, answer_bad, is_main, reading, options.split)
    log.info("%d images of %s", test.count, test.folder)
    if is_main and (seen := unlabelled.told_seen(test, [one.split for one in members], members[0].labelling.classes)):
        log.warning(seen)
    written = {way: options.output_dir / f"output_{one.name}.{options.format}" for way, one in ensembles.items()}
    for path in written.values() if is_main else ():
        if replaced := origins.told_replaced(path, test.names_digest, options.data_location):
            log.warning(replaced)

    # Loop
    models = [one for ensemble in ensembles.values() for one in ensemble.models]
    logits = iter(shards.evaluate(accelerator, models, test, options.batch_size, options.workers))

    # Result
    for way, ensemble in ensembles.items():
        kept = list(islice(logits, len(ensemble.models)))
        if accelerator.is_main_process:
            scores = partial(ensemble.scores, kept, range(len(test.shard_sizes)))
            to_probs = ensemble.to_probs if options.save_probs else None
            record, known = ensemble.record | {"options": options.plain}, ensemble.labelling
            answer = options.answer or answers.usual_answer(known)
            answers.write_answers(written[way], test, scores, record, known, answer, to_probs)
        log.info("saved %s (%d rows)", written[way], test.count)
    if options.sweep and accelerator.is_main_process:
        sweep, by_folds = options.sweep, options.members == "folds"
        for way in [way for way in sweep.submissions if way.endswith(OVER_FOLDS) == by_folds]:
            del sweep.submissions[way]
        for way, path in written.items():
            sweep.add(way, path)
        sweep.write()
    return written if options.sweep else written[""]


def load(source: str | Path) -> Predictor:
    """A model for other programs: a checkpoint, the folder of `main.py --export`, or a hub id.

    `load(source).predict(images)` gives names of classes and probabilities of paths or PIL images.
    """
    from utils.ensembles.predictor import Predictor

    return Predictor(source)


def class_of_bad(asked: str | None, ensembles: Iterable[Ensemble]) -> int | None:
    """The class id of what `--skip-bad` asks for; raises `InputError` for a class that one of these does not have."""
    from utils.data import competition

    found = None
    for one in ensembles if asked is not None else ():
        known = one.labelling
        if asked == USUAL and not competition.is_its(known):
            raise InputError(
                f"--skip-bad names none of the classes of {one.name}: name one, such as {known.classes[0]}"
            )
        text, last = str(competition.FALLBACK) if asked == USUAL else asked, known.num_classes - 1
        ids = {str(class_id): class_id for class_id in range(known.num_classes)}
        found = (ids | {name: class_id for class_id, name in enumerate(known.classes)}).get(text)
        if found is None:
            raise InputError(f"--skip-bad {text} is no class of {one.name}, which has 0 to {last}: name one of them")
    return found


def show(options: Options) -> None:
    """Show a page that answers one photograph at a time, until Ctrl-C."""
    from utils.reports import demo_page

    demo_page.check_ready(int(os.environ.get("WORLD_SIZE", "1")))
    check_names(options)
    from utils.base import runtime
    from utils.ensembles.members import read_ensembles

    accelerator = runtime.start_runtime("demo_page", options.verbose)
    return demo_page.serve(accelerator, read_ensembles(options)[""], options.demo)


def main(argv: list[str] | None = None) -> None:
    options = parser().parse(argv)
    (show if options.demo else run)(options)


if __name__ == "__main__":
    run_script(main)
