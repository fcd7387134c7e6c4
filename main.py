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
    parser.add_argument(
        "--metric", choices=("accuracy", "macro_f1"), default="accuracy", help="what the greedy soup must raise"
    )
    parser.add_argument("--download-models", action="store_true", help="fetch the release's model_{i}.pt")
    parser.add_argument("--model-url", help="mirror to fetch them from (default: the model-soups release)")
    flags.add_selection(parser)
    flags.add_split(parser, val_ratio_none=True)
    flags.add_locations(parser)
    flags.add_loader(parser, "images per evaluation step")
    flags.add_preprocessing(parser)
    return parser


def run(options: flags.Options) -> dict[str, dict]:
    """Do the steps asked for; returns the scores of each ingredient and soup by name."""
    cooking = options.eval_individual_models or options.uniform_soup or options.greedy_soup
    if options.download_models:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError("--download-models is for one process: run it first, with python main.py")
        from utils.downloads import RELEASE_URL, RELEASED, download_models

        indices = range(min(options.model_num or RELEASED, RELEASED))
        fetched = download_models(options.model_location, indices, options.model_url or RELEASE_URL)
        print(f"{len(fetched)} release models in {options.model_location}")
    if not cooking and options.download_models:
        return {}
    if not cooking:
        raise InputError("nothing to do: give --greedy-soup, --uniform-soup or --eval-individual-models")
    if options.greedy_soup and not options.val_ratio:
        raise InputError(f"--greedy-soup selects on held-out people, and --val-ratio {options.val_ratio} leaves none")

    from utils import engine
    from utils.checkpoints import check_same_kind, read_checkpoint, save_checkpoint, soup_meta
    from utils.data import read_photographs
    from utils.evaluation import HeldOut
    from utils.files import require_writable, write_json_lines, write_text
    from utils.metrics import METRICS
    from utils.soups import greedy_soup
    from utils.splits import evaluation_split
    from utils.sweeps import find_sweep

    # Runtime
    accelerator = engine.start()
    require_writable(options.model_location, flags.LOGS, flags.CACHE)

    # Data
    sweep = find_sweep(options.model_location, options.name, options.random_seed, options.model_num, options.epoch)
    ingredients = [read_checkpoint(one.path, options.mean, options.std) for one in sweep.ingredients]
    check_same_kind(ingredients)
    photographs = read_photographs(options.data_location, options.relabel)
    split, who = evaluation_split(photographs, options, ingredients)
    labelling, preprocessing = ingredients[0].labelling, ingredients[0].preprocessing
    held_out = HeldOut(
        accelerator, photographs, split.held_out, labelling, preprocessing, options.batch_size, options.workers
    )
    log.info("%d ingredients, %d images of %s (split %s)", len(ingredients), len(held_out.rows), who, split.digest)

    # Models
    scores = {}
    for ingredient in ingredients:
        scores[ingredient.name] = held_out.score(held_out.logits(ingredient))
        log.info("%s: %s", ingredient.name, scores[ingredient.name])
    if accelerator.is_main_process:
        rows = [
            {"model": one.path.name, "digest": one.digest, "people": who, **scores[one.name].record()}
            for one in ingredients
        ]
        log.info("scores: %s", write_json_lines(flags.LOGS / f"individual_results_{sweep.log_name()}.jsonl", rows))

    # Soups
    def serve(kind: str, members: list, how: dict) -> None:
        soup_scores, weights = held_out.score_average(members)
        path = sweep.soup_file(options.model_location, kind)
        scores[path.stem] = soup_scores
        if accelerator.is_main_process:
            save_checkpoint(path, weights, soup_meta(members, how, {"people": who, **soup_scores.record()}))
        log.info("%s soup of %d: %s\nsaved %s", kind, len(members), soup_scores, path)

    if options.uniform_soup:
        serve("uniform", ingredients, {"recipe": "uniform"})
    if options.greedy_soup:
        metric = METRICS[options.metric]
        own = [metric(scores[one.name].confusion) for one in ingredients]
        members, lines = [], [f"greedy soup by {options.metric}, {len(held_out.rows)} images, split {split.digest}"]
        for step in greedy_soup(ingredients, own, lambda soup: metric(held_out.score_average(soup)[0].confusion)):
            members += [step.candidate] if step.accepted else []
            verdict = "accepted" if step.accepted else "rejected"
            lines.append(f"{verdict} {step.candidate.name}: {options.metric} with it {float(step.score):.6f}")
            log.info(lines[-1])
        serve("greedy", members, {"recipe": "greedy", "metric": options.metric})
        if accelerator.is_main_process:
            write_text(flags.LOGS / f"greedy_soup_log_{sweep.log_name()}.txt", "\n".join(lines) + "\n")

    # Result
    accelerator.end_training()
    return {name: one.record() for name, one in scores.items()}


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
