"""Show what a model gets wrong on the people it was not trained on, and what ensembles would change.

    accelerate launch validation.py --model-name finetune_cp_seed42_epoch20_greedysoup_num8.pt

Prints the scores and what is wrong most often; `logs/validation.log` has the error rate of each class and attribute.
Writes confusion matrices and sheets of the misclassified photographs to `val_img/{model}/`, all scores to
`logs/validation_results_{model}.jsonl`, and with `--weighted-ensemble` the tuned weight of specialists to
`logs/ensemble_*.json`, where inference.py finds it.
`--report` adds one page to read offline, `val_img/{model}/report.html`.

    accelerate launch validation.py --review

lists the labels that are probably wrong, by all models of a sweep together, and writes them to
`logs/suspects_{name}.csv` and to a page to decide about them, `val_img/{name}/review.html`, which makes relabel.csv.

    accelerate launch validation.py --ensemble auto

selects from all checkpoints in `model/` what predicts best together, and a bias per class, and writes both to
`logs/ensemble_{name}_auto.json` for `inference.py --ensemble`.
Models of a folded sweep (`finetune.py --folds`) go by their names without the fold, and all people decide: each is
scored by the models of the one fold that was trained without them.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from utils.base import files, flags
from utils.base.errors import InputError, run_script
from utils.base.metrics import METRICS
from utils.base.options import Options, Parser, number, run_name
from utils.evaluation.manifest import read_manifest

if TYPE_CHECKING:
    import numpy as np
    from accelerate import Accelerator

    from utils.ensembles.comparison import Comparison
    from utils.evaluation.people import People
    from utils.models.checkpoints import Checkpoint
    from utils.review.suspects import Suspect

OUT_OF_FOLD = (
    "scores are out of fold: for the average over the folds, which inference.py predicts with, and for all their "
    "models together (--members folds) they are an estimate"
)
MORE_PROBABLY_THAN_NOT = 0.5
log = logging.getLogger("utils.validation")  # under the project's own logger, whose level the runtime sets


def parser() -> Parser:
    parser = Parser(__doc__, "validation.py", check)
    flags.add_ensembles(parser)
    what, which = parser.group("what"), parser.group("which checkpoints")
    what.add_argument(
        "--metric", choices=METRICS, default="macro_f1", help="what weights, members and the bias are chosen for"
    )
    what.add_argument("--report", action="store_true", help="also write one HTML page that needs nothing else")
    what.add_argument(
        "--compare-with",
        metavar="OTHER.pt",
        help="another model of the same split: what the model gains over it, and with --report which photographs "
        "changed (default: none)",
    )
    what.add_argument(
        "--review",
        action="store_true",
        help="list the labels that are probably wrong, by all models of the sweep, instead of scoring a model",
    )
    what.add_argument(
        "--accept-above", type=number(float, 0, 1), nargs="?", const=MORE_PROBABLY_THAN_NOT, metavar="P",
        help="with --review: write to relabel.csv all corrections that are right with a probability above P; without "
        f"P above {MORE_PROBABLY_THAN_NOT}, where changes mend more labels than they spoil (default: none)",
    )  # fmt: skip
    flags.add_model_name(parser)
    flags.add_sweep(
        parser,
        read_manifest,
        "score the soup of this sweep with its specialist and its best single model, then choose an ensemble",
    )
    which.add_argument("--name", type=run_name, help="without --model-name: the sweep (default: the only one there)")
    which.add_argument(
        "--i", type=number(int, 0), help="without --model-name: index of the checkpoint (default: the only one there)"
    )
    which.add_argument(
        "--random-seed", type=number(int, 0), help="seed of the checkpoint, which must agree (default: any)"
    )
    flags.add_locations(parser)
    flags.add_evaluation_split(parser)
    flags.add_loader(parser)
    flags.add_cache(parser)
    flags.add_preprocessing(parser)
    flags.add_verbose(parser)
    return parser


def check(options: Options) -> None:
    """Raise `InputError` for options that contradict each other."""
    if options.sweep:
        tuned = f"--sweep {options.sweep} chooses an ensemble"
    elif options.weighted_ensemble:
        tuned = "--weighted-ensemble tunes a weight"
    else:
        tuned = "--ensemble auto selects"
    if (options.ensemble or options.sweep or options.weighted_ensemble) and options.val_ratio is None:
        raise InputError(f"{tuned} on held-out people, and --val-ratio None leaves none")
    if options.accept_above is not None and not options.review:
        raise InputError(f"--accept-above {options.accept_above} accepts suspects of --review: add --review")
    if options.review and options.val_ratio is None:
        raise InputError("--review asks models of people they have not learned from: leave --val-ratio out")
    if options.model_name and options.name:
        raise InputError("--model-name names a file and --name a sweep: give one of them")
    own = "ensemble", "model_name", "name", "i", "random_seed", "weighted_ensemble", "soft_voting", "compare_with"
    flags.refuse_beside_sweep(options, *own, "soft_voting_rule", "flip")
    one = "model_name", "i", "random_seed", "soft_voting_rule", "report", "compare_with"
    flags.refuse_beside_ensemble(options, *one)
    other = "weighted_ensemble", "soft_voting", "soft_voting_rule", "report", "compare_with"
    flags.refuse_beside_review(options, "sweep", "ensemble", *other)


def check_names(options: Options) -> None:
    """Raise `InputError` for files that are not there and for a choice of models that fits several, before torch is
    imported, which takes seconds.
    """
    from utils.models import sweeps

    flags.check_files(options)
    looks = not (options.sweep or options.ensemble or options.model_name)
    choose = partial(sweeps.asked_sweep if options.review else sweeps.choose_checkpoint, options)
    named = options.model_name, *(options.weighted_ensemble or ()), *(options.soft_voting or ())
    sweeps.check_names(options, choose if looks else None, named)


def run(options: Options) -> list[dict]:
    """Score and report one model, or choose an ensemble; with `--sweep` the sweep's soup, and then an ensemble; or
    review labels.

    Returns one row of scores per way of predicting, or one suspect a row.
    """
    check_names(options)
    from utils.base import runtime
    from utils.base.files import require_writable
    from utils.base.terminal import log_file

    accelerator = runtime.start_runtime("validation", options.verbose)
    require_writable(files.LOGS, files.CACHE, files.PICTURES)
    if options.review:
        rows = [vars(one) for one in review_labels(accelerator, options)]
    else:
        rows = (choose_ensemble if options.ensemble else validate_model)(accelerator, options)
    if options.sweep:
        rows += choose_for_sweep(accelerator, options)
        log.info("next: %s", inference_command(options, sweep=options.sweep))
    log.info("everything else: %s", log_file())
    return rows


def scored_people(accelerator: Accelerator, options: Options, checkpoints: list[Checkpoint]) -> People:
    """Whom the checkpoints are scored on; the log tells what scores of folds are."""
    from utils.evaluation.people import read_people

    people = read_people(accelerator, options, checkpoints)
    if len(people.splits) > 1:
        log.log(detail(options), OUT_OF_FOLD)
    return people


def choose_for_sweep(accelerator: Accelerator, options: Options) -> list[dict]:
    """Choose an ensemble of the sweep, unless so few people are held out that none can be chosen."""
    try:
        return choose_ensemble(accelerator, options.replace(name=options.sweep.name))
    except InputError as error:
        log.info("no ensemble is chosen: %s", error)
        return []


def choose_ensemble(accelerator: Accelerator, options: Options) -> list[dict]:
    """Choose an ensemble of all checkpoints and write it; the rows score it on people that it was not chosen on."""
    from utils.base.runtime import from_main
    from utils.ensembles import auto_ensemble, selection
    from utils.ensembles.calibration import NO_BIAS
    from utils.ensembles.candidates import ensemble_name, find_candidates, library_lines, read_library, sweeps_of
    from utils.evaluation import results

    # Models
    candidates = find_candidates(options.model_location, options.name, options.flip)
    name, sweeps = ensemble_name(candidates), sweeps_of(candidates)
    if len(sweeps) > 1:
        log.info("candidates are of several sweeps, --name keeps to one: %s", ", ".join(sweeps))

    # Data
    people = scored_people(accelerator, options, [one.checkpoint for one in candidates])
    model = next(one.checkpoint for one in candidates if not one.is_specialist)
    log.log(detail(options), "%d candidates, scored on %s", len(candidates), people.scored_on)
    library = read_library(candidates, people.view, people.class_counts(model.labelling))
    for line in library_lines(library, options.metric, candidates):
        log.debug(line)

    # Selection
    choice = selection.choose(library, options.metric)

    # Result
    for line in auto_ensemble.selection_lines(library, choice, options.metric):
        log.debug(line)
    members, *calibration, gain = auto_ensemble.summary_lines(library, choice, options.metric)
    log.info(members)
    for line in calibration:
        log.log(detail(options), line)
    log.info(gain)
    rows = auto_ensemble.score_rows(name, people.view(model), choice.crossed)
    for row in rows:
        used = choice.fit.calibration.rule != NO_BIAS or not row["kind"].endswith("bias")
        log.log(logging.INFO if used else logging.DEBUG, results.row_line(row, options.metric))
    scored = {"metric": options.metric, "people": people.who, "split": people.digest, "scores": rows}
    path = from_main(accelerator, lambda: auto_ensemble.write_ensemble(name, candidates, choice, scored))
    log.info("saved %s", path)
    if not options.sweep:
        log.info("next: %s", inference_command(options, ensemble=path))
    return rows


def validate_model(accelerator: Accelerator, options: Options) -> list[dict]:
    """Score one model and what ensembles change, and show its mistakes; the single model's row comes first."""
    from utils.base.runtime import from_main
    from utils.ensembles import members
    from utils.ensembles.comparison import compare
    from utils.evaluation import results
    from utils.evaluation.alarms import alarm_lines
    from utils.models.checkpoints import check_whole
    from utils.models.sweeps import choose_checkpoint
    from utils.reports import mistakes
    from utils.reports.analysis import OTHER
    from utils.reports.rival import read_rival, relabelled_line, rival_line

    # Models
    if options.sweep:
        way = members.way_to_validate(options.sweep, options.model_location)
    else:
        way = replace(members.asked_way(options), model=str(choose_checkpoint(options)))
    by_folds = options.val_ratio is not None  # else the model's own weights are scored, on everyone
    model, specialists, others = members.read_parts(way, options, by_folds)
    check_whole(model)
    rival = read_rival(model, options, by_folds) if options.compare_with else None

    # Data
    people = scored_people(accelerator, options, [model, *others, *specialists, *([rival] if rival else [])])
    held_out = people.view(model)
    log.info("%s, scored on %s", model.name, people.scored_on)

    # Predictions
    logits = held_out.logits(model)
    comparison = compare(model, specialists, others, people.view, options.soft_voting_rule or "minmax", options.metric)
    if rival:
        theirs = people.view(rival).logits(rival)
        comparison = comparison.beside(people.view(rival).row(OTHER, rival.name, theirs), theirs)
        log.info(rival_line(rival.name, held_out, logits, theirs, options.metric))
        if changed := relabelled_line(held_out, logits, theirs, options.metric):
            log.info(changed)

    # Result
    for row in comparison.rows:
        log.info(results.row_line(row, options.metric))
    confusions = mistakes.confusions(held_out.labels, logits.argmax(-1), model.labelling)
    rates = mistakes.error_rates(confusions, model.labelling)
    for rate in rates:
        log.debug(rate)
    log.log(detail(options), "most often wrong: %s", mistakes.worst_rates(rates))
    for line in alarm_lines(held_out.labels, [logits], model.labelling.classes, options.metric):
        log.info(line)

    def write() -> None:
        if comparison.tuned:
            keep_weight(model, specialists, comparison, people, options)
        write_report(model, logits, comparison, people, options)

    from_main(accelerator, write)
    if not options.sweep:
        ensemble = {"weighted_ensemble": options.weighted_ensemble} if specialists else {}
        if others and not specialists:
            ensemble = {"soft_voting": options.soft_voting, "soft_voting_rule": options.soft_voting_rule}
        log.info("next: %s", inference_command(options, model_name=model.path, flip=options.flip, **ensemble))
    return comparison.rows


def review_labels(accelerator: Accelerator, options: Options) -> list[Suspect]:
    """List the labels that are probably wrong, for people to decide, or with `--accept-above` by themselves."""
    from utils.base.runtime import from_main
    from utils.base.terminal import counted
    from utils.evaluation.people import read_people
    from utils.reports.label_review import write_review
    from utils.review.predictions import Predictions, mean_log_probs
    from utils.review.reviewers import read_reviewers, scope_line

    # Models
    name, models = read_reviewers(options)

    # Data
    people = read_people(accelerator, options, models)
    held_out = people.view(models[0])
    scope = scope_line(people.splits, int(held_out.relabelled.sum()))
    log.info("%s, %s: %s", name, counted(len(models), "model"), scope)

    # Predictions
    log_probs = mean_log_probs([people.view(one).logits(one) for one in models])
    predictions = Predictions(people.photographs, held_out.rows, log_probs, held_out.labelling)

    # Result
    return from_main(accelerator, lambda: write_review(name, predictions, held_out.squares_at, scope, options))


def detail(options: Options) -> int:
    """The level of what only the story of a single model has room for: a sweep's has two parts."""
    return logging.DEBUG if options.sweep else logging.INFO


def inference_command(options: Options, **asked) -> str:
    """What to type next: the same models on the images to predict, whose place only the user may know."""
    from utils.data.unlabelled import has_own_images

    place = options.data_location if has_own_images(options.data_location) else Path("IMAGES_TO_PREDICT")
    same = {"data_location": place, "model_location": options.model_location}
    return parser().command("inference.py", parser().parse([]).replace(**same, **asked))


def keep_weight(
    model: Checkpoint, specialists: list[Checkpoint], comparison: Comparison, people: People, options: Options
) -> None:
    """Write the tuned weight to where inference.py reads it."""
    from utils.ensembles import members
    from utils.models.model_files import specialist_name

    tuned, metric = comparison.tuned, options.metric
    record = {**tuned, "metric": metric, "people": people.who, "split": people.digest}
    path = members.save_weight(model, specialists, record)
    on_these, on_others, without = (row[metric] for row in (tuned["tuned"], tuned["cross_fitted"], comparison.rows[0]))
    told = specialist_name(specialists[0].labelling.attributes)
    log.info(
        "weight of the %s %g: %s %.4f on the people it was tuned on, %.4f on others, %.4f without; in %s",
        told, tuned["weight"], metric, on_these, on_others, without, path,
    )  # fmt: skip


def write_report(
    model: Checkpoint, logits: np.ndarray, comparison: Comparison, people: People, options: Options
) -> None:
    """Write the scores, the pictures of mistakes and, with `--report`, the page."""
    from utils.base.files import write_json_lines
    from utils.evaluation import results
    from utils.reports import mistakes
    from utils.reports.analysis import OTHER

    whose, held_out = "everyone_" if options.val_ratio is None else "", people.view(model)
    folder = files.PICTURES / f"{whose}{model.name}"
    pictures = mistakes.save_report(folder, held_out, logits, model.name, people.who)
    log.log(detail(options), "pictures: %d in %s", len(pictures), folder)
    scored = {"digest": model.digest, "people": people.who, "split": people.digest}
    file = results.file_of(f"{whose}validation", model.name)
    rows = [{**row, **scored} for row in comparison.rows if row["kind"] != OTHER]
    rows = results.with_earlier(file, rows)
    log.log(detail(options), "scores: %s", write_json_lines(file, rows))
    if options.report:
        from utils.reports.advice import commands_of
        from utils.reports.page import Subject, save_page

        subject = Subject(
            model=model,
            held_out=held_out,
            photographs=people.photographs,
            logits=logits,
            rows=comparison.rows,
            preds=comparison.preds,
            who=people.who,
            splits=people.splits,
            commands=commands_of(model, options, parser()),
        )
        log.info("report: %s", save_page(folder / "report.html", subject))


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
