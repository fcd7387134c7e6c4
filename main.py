"""Score the fine-tuned checkpoints on held-out people and average them into a model soup.

    accelerate launch main.py --greedy-soup

Reads the checkpoints in `model/` and the photographs they were trained on; writes the soups beside them and
`logs/individual_results_*.jsonl`, `logs/greedy_soup_log_*.txt`. Each step runs what it needs first.
"""

import logging
import os

from utils import options as flags
from utils.errors import InputError, run_script

log = logging.getLogger("utils.main")  # under the project's own logger, whose level the runtime sets


def parser() -> flags.Parser:
    parser = flags.Parser(__doc__)
    parser.add_argument("--eval-individual-models", action="store_true", help="score every checkpoint by itself")
    parser.add_argument("--uniform-soup", action="store_true", help="average all checkpoints")
    parser.add_argument("--greedy-soup", action="store_true", help="average the checkpoints that raise the score")
    parser.add_argument("--plot", action="store_true", help="draw ingredients and soups, accuracy against macro-F1")
    parser.add_argument("--metric", choices=flags.METRICS, default="accuracy", help="what the greedy soup must raise")
    parser.add_argument("--download-models", action="store_true", help="fetch the release's model_{i}.pt")
    parser.add_argument("--model-url", help="mirror to fetch them from (default: the model-soups release)")
    flags.add_selection(parser)
    flags.add_evaluation_split(parser)
    flags.add_locations(parser)
    flags.add_loader(parser, "images per evaluation step")
    flags.add_preprocessing(parser)
    return parser


def run(options: flags.Options) -> dict[str, dict]:
    """Do the steps asked for; returns the scores of each ingredient and soup by name."""
    cooking = options.eval_individual_models or options.uniform_soup or options.greedy_soup or options.plot
    if options.download_models:
        download(options)
    elif not cooking:
        raise InputError("nothing to do: give --greedy-soup, --uniform-soup, --eval-individual-models or --plot")
    return cook(options) if cooking else {}


def download(options: flags.Options) -> None:
    """Fetch the release's ingredients."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--download-models is for one process: run it first, with python main.py")
    from utils.downloads import RELEASE_URL, RELEASED, download_models

    indices = range(min(options.model_num or RELEASED, RELEASED))
    fetched = download_models(options.model_location, indices, options.model_url or RELEASE_URL)
    print(f"{len(fetched)} release models in {options.model_location}")


def cook(options: flags.Options) -> dict[str, dict]:
    """Score the ingredients, make the soups asked for, and write both down."""
    if options.greedy_soup and not options.val_ratio:
        raise InputError(f"--greedy-soup selects on held-out people, and --val-ratio {options.val_ratio} leaves none")

    from utils import engine, results
    from utils.checkpoints import Checkpoint, check_same_kind, read_checkpoint, save_checkpoint, soup_meta
    from utils.data import read_photographs
    from utils.evaluation import HeldOut
    from utils.files import require_writable, write_json_lines, write_text
    from utils.metrics import METRICS
    from utils.soups import greedy_soup
    from utils.splits import evaluation_split
    from utils.sweeps import find_sweep, saved_soups

    # Runtime
    accelerator = engine.start()
    require_writable(options.model_location, flags.LOGS, flags.CACHE, flags.PICTURES)

    # Data
    sweep = find_sweep(
        options.model_location,
        options.name,
        options.random_seed,
        options.indices or (options.model_num and list(range(options.model_num))),
        options.epoch,
    )
    ingredients = [read_checkpoint(one.path, options.mean, options.std) for one in sweep.ingredients]
    check_same_kind(ingredients)
    photographs = read_photographs(options.data_location, options.relabel)
    split, who = evaluation_split(photographs, options, ingredients)
    kind = (ingredients[0].labelling, ingredients[0].preprocessing)
    held_out = HeldOut(accelerator, photographs, split.held_out, *kind, options)
    log.info("%d ingredients, %d images of %s (split %s)", len(ingredients), len(held_out.rows), who, split.digest)

    # Ingredients
    metric = METRICS[options.metric]
    scores, rows = {}, {}

    def score(kind: str, one: Checkpoint, logits) -> None:
        scores[one.name] = held_out.score(logits)
        row = held_out.row(kind, one.path.name, logits.argmax(-1))
        known = {"digest": one.digest, "people": who, "split": split.digest}
        rows[one.name] = {**scores[one.name].record(), **row, **known}
        log.info("%s: %s", one.name, scores[one.name])

    for one in ingredients:
        score("ingredient", one, held_out.logits(one))

    # Soups
    def serve(recipe: str, members: list, **how):
        logits, weights = held_out.average(members)
        path = sweep.soup_file(options.model_location, recipe)
        meta = soup_meta(members, {"recipe": recipe, **how}, {"people": who, **held_out.score(logits).record()})
        if accelerator.is_main_process:
            save_checkpoint(path, weights, meta)
        accelerator.wait_for_everyone()
        score(f"{recipe} soup", read_checkpoint(path), logits)
        log.info("saved %s, made of %d of %d ingredients", path, len(members), len(ingredients))
        return logits

    def trial(members: list):
        return metric(held_out.score(held_out.average(members)[0]).confusion)

    if options.uniform_soup:
        serve("uniform", ingredients)
    if options.greedy_soup:
        own = [metric(scores[one.name].confusion) for one in ingredients]
        members, lines = [], [f"greedy soup by {options.metric}, {len(held_out.rows)} images, split {split.digest}"]
        for step in greedy_soup(ingredients, own, trial):
            members += [step.candidate] if step.accepted else []
            verdict = "accepted" if step.accepted else "rejected"
            lines.append(f"{verdict} {step.candidate.name}: {options.metric} with it {float(step.score):.6f}")
            log.info(lines[-1])
        soup_logits = serve("greedy", members, metric=options.metric)
        gains = held_out.gain(soup_logits, held_out.logits(members[0]))
        lines += [f"{name} of the soup minus that of its best ingredient: {gain}" for name, gain in gains.items()]
        if len(members) == 1:
            lines[-len(gains) :] = [f"the soup is its best ingredient: no other one raised {options.metric}"]
        log.info("\n".join(lines[1 + len(ingredients) :]))

    for soup in saved_soups(sweep, options.model_location, ingredients):  # of an earlier call
        if soup.name not in scores:
            score(f"{soup.meta['options']['recipe']} soup", soup, held_out.logits(soup))

    # Result
    if accelerator.is_main_process:
        if options.greedy_soup:
            write_text(flags.LOGS / f"greedy_soup_log_{sweep.log_name()}.txt", "\n".join(lines) + "\n")
        ranked = sorted((rows[one.name] for one in ingredients), key=lambda row: -row[options.metric])
        soups = [row for name, row in rows.items() if name not in {one.name for one in ingredients}]
        everyone = "everyone_" if options.val_ratio is None else ""
        for what, some in (("individual", ranked), ("soup", soups)):
            log.info("scores: %s", write_json_lines(results.file_of(everyone + what, sweep.log_name()), some))
        if options.plot:
            picture = flags.PICTURES / f"soups_{sweep.log_name()}.png"
            log.info("plot: %s", results.plot(picture, [*ranked, *soups], f"{sweep.log_name()}, {who}"))
    accelerator.end_training()
    return {name: one.record() for name, one in scores.items()}


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
