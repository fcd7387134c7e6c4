"""Show what a model gets wrong on the people it was not trained on, and what ensembles would change.

    accelerate launch validation.py --model-name finetune_cp_seed42_epoch20_greedysoup_num8.pt

Prints accuracy, macro-F1 and error rates per class and attribute; writes confusion matrices and sheets of the
misclassified photographs to `val_img/{model}/`, all scores to `logs/validation_results_{model}.jsonl`, and with
`--weighted-ensemble` the tuned weight of the age specialists to `logs/ensemble_*.json`, where inference.py finds it.
`--report` adds one page to read offline, `val_img/{model}/report.html`.

    accelerate launch validation.py --ensemble auto

selects from all checkpoints in `model/` what predicts best together, and a bias per class, and writes both to
`logs/ensemble_{name}_auto.json` for `inference.py --ensemble`.
"""

import logging
from collections.abc import Callable

from utils.base import files, flags
from utils.base.errors import InputError, run_script
from utils.base.metrics import METRICS
from utils.base.options import Options, Parser, number, run_name

log = logging.getLogger("utils.validation")  # under the project's own logger, whose level the runtime sets


def parser() -> Parser:
    parser = Parser(__doc__, "validation.py")
    flags.add_ensembles(parser)
    what, which = parser.group("what"), parser.group("which checkpoints")
    what.add_argument(
        "--metric", choices=METRICS, default="macro_f1", help="what weights, members and the bias are chosen for"
    )
    what.add_argument("--report", action="store_true", help="also write one HTML page that needs nothing else")
    flags.add_model_name(parser)
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


def run(options: Options) -> list[dict]:
    """Score and report one model, or choose an ensemble; returns one row of scores per way of predicting."""
    tuned = "--ensemble auto selects" if options.ensemble else "--weighted-ensemble tunes a weight"
    if (options.ensemble or options.weighted_ensemble) and options.val_ratio is None:
        raise InputError(f"{tuned} on held-out people, and --val-ratio None leaves none")
    flags.refuse_beside_ensemble(options, "model_name", "i", "random_seed", "soft_voting_rule", "report")

    from utils.base import runtime
    from utils.base.files import require_writable

    accelerator = runtime.start_runtime("validation", options.verbose)
    require_writable(files.LOGS, files.CACHE, files.PICTURES)
    rows = (choose if options.ensemble else examine)(accelerator, options)
    accelerator.end_training()
    return rows


def read_people(accelerator, options: Options, checkpoints: list) -> tuple:
    """The photographs and their split, who is held out in words, and the function that gives the held-out photographs
    as a checkpoint sees them. Raises `InputError` when one of the checkpoints has seen them.
    """
    from utils.data.photographs import read_photographs
    from utils.data.splits import evaluation_split
    from utils.evaluation.held_out import views

    photographs = read_photographs(options.data_location, options.relabel)
    split, who = evaluation_split(photographs, options, checkpoints)
    return photographs, split, who, views(accelerator, photographs, split.held_out, options)


def choose(accelerator, options: Options) -> list[dict]:
    """Select an ensemble from all checkpoints and write it; the rows are of people that chose nothing."""
    import numpy as np

    from utils.ensembles import auto_ensemble, selection
    from utils.ensembles.candidates import ensemble_name, find_candidates, library_lines, read_library, sweeps_of
    from utils.evaluation import results

    # Models
    candidates = find_candidates(options.model_location, options.name, options.flip)
    checkpoints = [one.checkpoint for one in candidates]
    name, sweeps = ensemble_name(candidates), sweeps_of(candidates)
    if len(sweeps) > 1:
        log.info("candidates are of several sweeps, --name keeps to one: %s", ", ".join(sweeps))

    # Data
    photographs, split, who, held_out_of = read_people(accelerator, options, checkpoints)
    model = next(one.checkpoint for one in candidates if one.kind != "age")
    held_out = held_out_of(model)
    log.info("%d candidates on %d images of %s (split %s)", len(candidates), len(held_out.rows), who, split.digest)
    trained_on = photographs.labels(model.labelling)[split.train]
    library = read_library(candidates, held_out_of, np.bincount(trained_on, minlength=model.labelling.num_classes))
    log.info("%s", "\n".join(library_lines(library, options.metric)))

    # Selection
    choice = selection.choose(library, options.metric)

    # Result
    rows = auto_ensemble.score_rows(name, held_out, choice.crossed)
    for line in [*auto_ensemble.selection_lines(library, choice, options.metric), *map(results.row_line, rows)]:
        log.info("%s", line)
    if accelerator.is_main_process:
        known = {"metric": options.metric, "people": who, "split": split.digest, "scores": rows}
        path = auto_ensemble.write_ensemble(name, candidates, choice, known)
        log.info("python inference.py --ensemble %s", path)
    return rows


def examine(accelerator, options: Options) -> list[dict]:
    """Score one model, report its mistakes and what ensembles change, and tune the age specialists' weight; the single
    model's row comes first.
    """
    from utils.base.files import write_json_lines
    from utils.ensembles import age_weight, members
    from utils.evaluation import results
    from utils.models.sweeps import choose_checkpoint
    from utils.reports import mistakes

    # Models
    path = choose_checkpoint(options)
    model = members.read_asked(path, options)
    ages, others = members.read_members(options, model)

    # Data
    photographs, split, who, held_out_of = read_people(accelerator, options, [model, *others, *ages])
    held_out = held_out_of(model)
    log.info("%s on %d images of %s (split %s)", model.name, len(held_out.rows), who, split.digest)

    # Predictions
    logits = held_out.logits(model)
    rows, preds, tuned = compare(model, held_out, ages, others, held_out_of, options)

    # Result
    confusions = mistakes.confusions(held_out.labels, logits.argmax(-1), model.labelling)
    for rate in mistakes.error_rates(confusions, model.labelling):
        log.info("%s", rate)
    for one in rows:
        log.info("%s", results.row_line(one))
    if accelerator.is_main_process:
        if tuned:
            record = {**tuned, "metric": options.metric, "people": who, "split": split.digest}
            path = age_weight.save_age_weight(model, ages, record)
            scores = [row[options.metric] for row in (tuned["tuned"], tuned["cross_fitted"], rows[0])]
            log.info(
                "weight of the age specialist %g: %s %.4f on the people it was tuned on, %.4f on others, %.4f without",
                tuned["weight"],
                options.metric,
                *scores,
            )
            log.info("kept for inference.py: %s", path)
        pictures = mistakes.save_report(files.PICTURES / model.name, held_out, logits, f"{model.name}, {who}")
        log.info("%d pictures: %s", len(pictures), files.PICTURES / model.name)
        known = {"digest": model.digest, "people": who, "split": split.digest}
        what = "everyone_validation" if options.val_ratio is None else "validation"
        file = results.file_of(what, model.name)
        log.info("scores: %s", write_json_lines(file, results.with_earlier(file, [{**one, **known} for one in rows])))
        if options.report:
            from utils.reports.page import Subject, save_page

            told = options.replace(model_name=str(model.path), name=None, i=None, random_seed=None)
            command = parser().command("validation.py", told)
            subject = Subject(model, held_out, photographs, logits, rows, preds, who, split, command)
            log.info("report: %s", save_page(files.PICTURES / model.name / "report.html", subject))
    return rows


def compare(
    model, held_out, ages: list, others: list, held_out_of: Callable, options: Options
) -> tuple[list, dict, dict | None]:
    """Rows of scores of the model, of each ensemble asked for, and of a hard vote when there are both; the (N,)
    predicted classes of each by kind; and the tuned weight of the age specialists, if there are any, with what it is
    worth.

    `held_out` are the held-out photographs as the model sees them, `held_out_of(checkpoint)` as another one does.
    """
    import numpy as np

    from utils.ensembles import age_weight, combining, members, votes

    logits, tuned = held_out.logits(model), None
    preds = {"single": logits.argmax(-1)}
    rows = [held_out.row("single", model.name, preds["single"])]
    if others:
        rule = options.soft_voting_rule or "minmax"
        every = [logits, *(held_out_of(other).logits(other) for other in others)]
        preds["soft vote"] = combining.soft_vote(every, rule).argmax(-1)
        rows.append(held_out.row("soft vote", members.soft_voting_name(model, others, rule), preds["soft vote"]))
    if ages:
        name, each = members.weighted_name(model, ages), [held_out_of(age).logits(age) for age in ages]
        for age, one in zip(ages, each, strict=True):
            rows.append(held_out_of(age).row("age specialist", age.name, one.argmax(-1)))
        age_logits = combining.soft_vote(each, "log")
        given = (logits, age_logits, held_out.labels)
        weight = age_weight.tune_age_weight(*given, model.labelling, options.metric)
        preds["weighted"] = age_weight.cross_fitted_preds(*given, held_out.persons, model.labelling, options.metric)
        rows.append(held_out.row("weighted", name, preds["weighted"]))
        flattered = combining.age_corrected(logits, age_logits, weight, model.labelling).argmax(-1)
        flattered = held_out.row("weighted, tuned on these people", name, flattered)
        tuned = {"weight": weight, "cross_fitted": rows[-1], "tuned": flattered}
    if len(preds) == 3:
        preds["hard vote"] = votes.attribute_votes(np.stack(list(preds.values())), np.ones(3, np.int64))
        rows.append(held_out.row("hard vote", "of single, soft vote and weighted", preds["hard vote"]))
    return rows, preds, tuned


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
