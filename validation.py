"""Show what a model gets wrong on the people it was not trained on, and what ensembles would change.

    accelerate launch validation.py --model-name finetune_cp_seed42_epoch20_greedysoup_num8.pt

Prints accuracy, macro-F1 and error rates per class and attribute; writes confusion matrices and sheets of the
misclassified photographs to `val_img/{model}/`, all scores to `logs/validation_results_{model}.jsonl`, and with
`--weighted-ensemble` the tuned weight of the age specialist to `logs/ensemble_*.json`, where inference.py finds it.
"""

import logging
from collections.abc import Callable

from utils import options as flags
from utils.errors import InputError, run_script

log = logging.getLogger("utils.validation")  # under the project's own logger, whose level the runtime sets


def parser() -> flags.Parser:
    parser = flags.Parser(__doc__)
    flags.add_model_name(parser)
    parser.add_argument("--name", type=flags.run_name, help="without --model-name: the sweep of --i and --random-seed")
    parser.add_argument("--i", type=flags.number(int, 0), help="without --model-name: index of the checkpoint")
    parser.add_argument("--random-seed", type=flags.number(int, 0), help="seed of the checkpoint, which must agree")
    flags.add_ensembles(parser)
    parser.add_argument(
        "--metric", choices=flags.METRICS, default="macro_f1", help="what the age specialist's weight is tuned for"
    )
    flags.add_evaluation_split(parser)
    flags.add_locations(parser)
    flags.add_loader(parser, "images per evaluation step")
    flags.add_cache(parser)
    flags.add_preprocessing(parser)
    return parser


def run(options: flags.Options) -> list[dict]:
    """Score, report and tune; returns one row of scores per way of predicting, the single model first."""
    if options.weighted_ensemble and options.val_ratio is None:
        raise InputError("--weighted-ensemble tunes a weight on held-out people, and --val-ratio None leaves none")

    from utils import engine, ensembles, reports, results
    from utils.data import read_photographs
    from utils.evaluation import HeldOut
    from utils.files import require_writable, write_json_lines
    from utils.splits import evaluation_split
    from utils.sweeps import choose_checkpoint

    # Runtime
    accelerator = engine.start()
    require_writable(flags.LOGS, flags.CACHE, flags.PICTURES)

    # Models
    path = choose_checkpoint(options)
    model = ensembles.read_asked(path, options)
    age, others = ensembles.read_members(options, model)

    # Data
    photographs = read_photographs(options.data_location, options.relabel)
    split, who = evaluation_split(photographs, options, [model, *others, *([age] if age else [])])

    def held_out_of(checkpoint) -> HeldOut:
        kind = (checkpoint.labelling, checkpoint.preprocessing)
        return HeldOut(accelerator, photographs, split.held_out, *kind, options)

    held_out = held_out_of(model)
    log.info("%s on %d images of %s (split %s)", model.name, len(held_out.rows), who, split.digest)

    # Predictions
    logits = held_out.logits(model)
    rows, tuned = compare(model, held_out, age, others, held_out_of, options)

    # Result
    confusions = reports.confusions(held_out.labels, logits.argmax(-1), model.labelling)
    for rate in reports.error_rates(confusions, model.labelling):
        log.info("%s", rate)
    for one in rows:
        log.info("%s", results.describe(one))
    if accelerator.is_main_process:
        if tuned:
            record = {**tuned, "metric": options.metric, "people": who, "split": split.digest}
            path = ensembles.save_age_weight(model, age, record)
            scores = [row[options.metric] for row in (tuned["tuned"], tuned["cross_fitted"], rows[0])]
            log.info(
                "weight of the age specialist %g: %s %.4f on the people it was tuned on, %.4f on others, %.4f without",
                tuned["weight"],
                options.metric,
                *scores,
            )
            log.info("kept for inference.py: %s", path)
        pictures = reports.save_report(flags.PICTURES / model.name, held_out, logits, f"{model.name}, {who}")
        log.info("%d pictures: %s", len(pictures), flags.PICTURES / model.name)
        known = {"digest": model.digest, "people": who, "split": split.digest}
        what = "everyone_validation" if options.val_ratio is None else "validation"
        file = results.file_of(what, model.name)
        log.info("scores: %s", write_json_lines(file, results.with_earlier(file, [{**one, **known} for one in rows])))
    accelerator.end_training()
    return rows


def compare(
    model, held_out, age, others: list, held_out_of: Callable, options: flags.Options
) -> tuple[list, dict | None]:
    """Rows of scores of the model, of each ensemble asked for, and of a hard vote when there are both; and the tuned
    weight of the age specialist, if there is one, with what it is worth.

    `held_out` are the held-out photographs as the model sees them, `held_out_of(checkpoint)` as another one does.
    """
    import numpy as np

    from utils import ensembles, votes

    logits, tuned = held_out.logits(model), None
    preds = {"single": logits.argmax(-1)}
    rows = [held_out.row("single", model.name, preds["single"])]
    if others:
        rule = options.soft_voting_rule or "minmax"
        every = [logits, *(held_out_of(other).logits(other) for other in others)]
        preds["soft vote"] = ensembles.soft_vote(every, rule).argmax(-1)
        rows.append(held_out.row("soft vote", ensembles.soft_voting_name(model, others, rule), preds["soft vote"]))
    if age:
        ages, name = held_out_of(age), ensembles.weighted_name(model, age)
        age_logits = ages.logits(age)
        rows.append(ages.row("age specialist", age.name, age_logits.argmax(-1)))
        given = (logits, age_logits, held_out.labels)
        weight = ensembles.tune_age_weight(*given, model.labelling, options.metric)
        preds["weighted"] = ensembles.cross_fitted_preds(*given, held_out.persons, model.labelling, options.metric)
        rows.append(held_out.row("weighted", name, preds["weighted"]))
        flattered = ensembles.age_corrected(logits, age_logits, weight, model.labelling).argmax(-1)
        flattered = held_out.row("weighted, tuned on these people", name, flattered)
        tuned = {"weight": weight, "cross_fitted": rows[-1], "tuned": flattered}
    if len(preds) == 3:
        vote = votes.attribute_votes(np.stack(list(preds.values())), np.ones(3, np.int64))
        rows.append(held_out.row("hard vote", "of single, soft vote and weighted", vote))
    return rows, tuned


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
