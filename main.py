"""Score the fine-tuned checkpoints on held-out people and average them into a model soup.

    accelerate launch main.py --greedy-soup

Reads the checkpoints in `model/` and the photographs they were trained on; writes the soups beside them and
`logs/individual_results_*.jsonl`, `logs/greedy_soup_log_*.txt`, `logs/recipes_*.txt`. Each step runs what it needs
first; a search that was killed goes on where it was.
"""

import logging
import os

from utils.base import files, flags
from utils.base.errors import InputError, run_script
from utils.base.metrics import METRICS
from utils.base.options import RECORDED, Options, Parser

log = logging.getLogger("utils.main")  # under the project's own logger, whose level the runtime sets


def parser() -> Parser:
    parser = Parser(__doc__, "main.py")
    what = parser.group("what")
    what.add_argument("--greedy-soup", action="store_true", help="average the checkpoints that raise the score")
    what.add_argument("--uniform-soup", action="store_true", help="average all checkpoints")
    what.add_argument("--metric", choices=METRICS, default="accuracy", help="what a soup must raise")
    what.add_argument("--eval-individual-models", action="store_true", help="score every checkpoint by itself")
    what.add_argument("--plot", action="store_true", help="draw ingredients, soups and the greedy path")
    flags.add_recipes(parser)
    what.add_argument("--download-models", action="store_true", help="fetch the release's model_{i}.pt")
    what.add_argument("--model-url", help="mirror to fetch them from (default: the model-soups release)")
    flags.add_selection(parser)
    flags.add_locations(parser)
    flags.add_evaluation_split(parser)
    flags.add_foreign(parser)
    flags.add_loader(parser)
    flags.add_cache(parser)
    flags.add_preprocessing(parser)
    flags.add_verbose(parser)
    return parser


def asked_recipes(options: Options) -> list[str]:
    """The recipes that the flags ask for, each once, in their order; those that need a start last."""
    names = ["uniform"] * options.uniform_soup + ["greedy"] * options.greedy_soup + list(options.recipe or ())
    if "all" in names:
        return [name for name in flags.RECIPES if options.start_from or not flags.RECIPES[name].needs_start]
    return [name for name in flags.RECIPES if name in names]


def run(options: Options) -> dict[str, dict]:
    """Do the steps asked for; returns the scores of each ingredient and soup by name."""
    recipes = asked_recipes(options)
    cooking = options.eval_individual_models or options.plot or recipes
    if not cooking and not options.download_models:
        raise InputError(
            "nothing to do: give --greedy-soup, --uniform-soup, --recipe, --eval-individual-models or --plot"
        )
    check(options, recipes)
    if options.download_models:
        download(options)
    return make_soups(options, recipes) if cooking else {}


def check(options: Options, recipes: list[str]) -> None:
    """Raise `InputError` for options that do not fit together."""
    selecting = [name for name in recipes if flags.RECIPES[name].selects]
    if selecting and not options.val_ratio:
        which = "--greedy-soup" if selecting == ["greedy"] else f"--recipe {selecting[0]}"
        raise InputError(f"{which} selects on held-out people, and --val-ratio {options.val_ratio} leaves none")
    for name in recipes:
        if flags.RECIPES[name].needs_start and not options.start_from:
            raise InputError(
                f"--recipe {name} needs what the ingredients were fine-tuned from: name it with --start-from"
            )
    others = {"--val-ratio": options.val_ratio != RECORDED, "--split-seed": options.split_seed is not None}
    others |= {"--split-by": options.split_by is not None, "--relabel": options.relabel is not None}
    if options.score_on and any(others.values()):
        odd = next(flag for flag, given in others.items() if given)
        raise InputError(f"--score-on names the images and their labels, and {odd} is about others: give one of them")
    written = {"--export": options.export, "--export-onnx": options.export_onnx, "--push-to-hub": options.push_to_hub}
    for flag, value in written.items():
        if value and not recipes:
            raise InputError(f"{flag} writes a soup that this call makes: add --greedy-soup or --recipe")
    chosen = {"--indices": options.indices, "--model-num": options.model_num, "--random-seed": options.random_seed}
    if options.ingredients and any(chosen.values()):
        odd = next(flag for flag, given in chosen.items() if given)
        raise InputError(f"--ingredients names the files, and {odd} chooses among a sweep's: give one of them")
    if options.nested and not selecting:
        raise InputError("--nested tells what a selection is worth: add --greedy-soup or another --recipe")


def download(options: Options) -> None:
    """Fetch the release's ingredients."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--download-models is for one process: run it first, with python main.py")
    from utils.models.downloads import RELEASE_URL, RELEASED, download_models

    indices = range(min(options.model_num or RELEASED, RELEASED))
    fetched = download_models(options.model_location, indices, options.model_url or RELEASE_URL)
    print(f"{len(fetched)} release models in {options.model_location}")


def possible(recipes: list[str], inputs, options: Options) -> list[str]:
    """The recipes that these ingredients allow; raises `InputError` when one asked for by name does not, or when a
    soup would replace one of its ingredients.
    """
    if len(inputs.ingredients) == 1 and "model-stock" in recipes:
        if "all" not in options.recipe:
            raise InputError("model-stock measures the angle between ingredients, and there is one: add another")
        recipes = [name for name in recipes if name != "model-stock"]
    read = {one.path.resolve() for one in inputs.ingredients}
    for path in (inputs.names.soup_file(options.model_location, name) for name in recipes):
        if path.resolve() in read:
            raise InputError(f"the soup would replace its ingredient {path}: give another --name or --model-location")
    return recipes


def make_soups(options: Options, recipes: list[str]) -> dict[str, dict]:
    """Score the ingredients, make the soups asked for, and write both down."""
    import numpy as np

    from utils.base import runtime
    from utils.base.files import require_writable, write_text
    from utils.evaluation import results
    from utils.evaluation.held_out import HeldOut
    from utils.evaluation.manifest import Manifest
    from utils.models import exports
    from utils.models.checkpoints import read_checkpoint, save_checkpoint, soup_meta
    from utils.models.pretrained import read_soup_start
    from utils.models.sweeps import saved_soups
    from utils.soups import doctor, nested
    from utils.soups.evaluator import Evaluator
    from utils.soups.inputs import read_inputs
    from utils.soups.recipes import make_soup
    from utils.soups.report import decision_lines, ensemble_row, plot, recipe_table

    # Runtime
    accelerator = runtime.start_runtime(f"main_{options.name}" if options.name else "main", options.verbose)
    require_writable(options.model_location, files.LOGS, files.CACHE, files.PICTURES)

    # Data
    inputs = read_inputs(options)
    ingredients, names = inputs.ingredients, inputs.names
    kind = (ingredients[0].labelling, ingredients[0].preprocessing)
    exports.require_exportable(options, ingredients)
    start = read_soup_start(accelerator, options.start_from, ingredients) if options.start_from else None
    recipes = possible(recipes, inputs, options)
    held_out = HeldOut(accelerator, inputs.photographs, inputs.rows, *kind, options)
    where = f"{len(held_out.rows)} images of {inputs.who} (split {inputs.split})"
    log.info("%d ingredients, %s", len(ingredients), where)

    # Ingredients
    chosen_by = (options.metric, files.LOGS / "journals", start)
    evaluator = Evaluator(held_out, ingredients, *chosen_by, budget=options.budget)
    book = results.ScoreBook(held_out, inputs.who, inputs.split)
    for one, logits in zip(ingredients, evaluator.logits, strict=True):
        book.add("ingredient", one.file_name, one.digest, logits)

    # Soups
    soups, saved, report = [], {}, []
    if recipes:
        report = ["doctor: " + line for line in doctor.examine(evaluator)]
        log.info("\n".join(report))
    for recipe in recipes:
        soup = make_soup(evaluator, recipe)
        path = names.soup_file(options.model_location, recipe)
        if accelerator.is_main_process:
            how = {"recipe": recipe, "metric": options.metric, "weights": soup.mixture.record()}
            told = {"people": inputs.who, **held_out.score(soup.logits).record()}
            meta = soup_meta(soup.mixture.members, soup.mixture.shares, how, told)
            held_out.keep(save_checkpoint(path, soup.mixture.state_dict(), meta), soup.logits)
        accelerator.wait_for_everyone()
        saved[recipe] = read_checkpoint(path)
        book.add(f"{recipe} soup", path.name, saved[recipe].digest, soup.logits)
        soups.append(soup)
        lines = decision_lines(evaluator, soup, where, doctor.explain(evaluator, soup))
        log.info("\n".join([*lines, f"saved {path}"]))
        if recipe == "greedy" and accelerator.is_main_process:
            write_text(files.LOGS / f"greedy_soup_log_{names.log_name()}.txt", "\n".join(lines) + "\n")
        if options.nested and flags.RECIPES[recipe].selects:
            halves = nested.nested_lines(held_out, ingredients, *chosen_by, recipe, options.budget)
            log.info("\n".join(halves))
            report += halves
    for soup in saved_soups(names, options.model_location, ingredients, flags.RECIPES):  # of an earlier call
        if soup.path.name not in book.rows:
            book.add(f"{soup.meta['options']['recipe']} soup", soup.path.name, soup.digest, held_out.logits(soup))

    book.add("ensemble", *ensemble_row(evaluator))

    # Result
    if soups:
        table = recipe_table(evaluator, book, soups)
        log.info(table)
    if accelerator.is_main_process:
        everyone = "everyone_" if options.val_ratio is None else ""
        if soups:
            write_text(files.LOGS / f"recipes_{names.log_name()}.txt", "\n".join([*report, table]) + "\n")
        scores = book.write(everyone, names.log_name(), options.metric)
        for path in scores:
            log.info("scores: %s", path)
        if inputs.sweep and options.val_ratio is not None:
            best = ingredients[evaluator.order[0]].path.name
            Manifest(inputs.sweep, options.metric, best, book.soups(), [str(path) for path in scores]).write()
        if options.plot:
            steps = next((soup.steps for soup in soups if soup.recipe == "greedy"), [])
            picture = files.PICTURES / f"soups_{names.log_name()}.png"
            title = f"{names.log_name()}, {inputs.who}"
            log.info("plot: %s", plot(picture, book.ordered(options.metric), title, steps, options.metric))
        if options.export or options.export_onnx or options.push_to_hub:
            best = max(soups, key=lambda soup: evaluator.score(soup.logits))
            some = np.arange(min(8, len(held_out.rows)))
            exports.export(saved[best.recipe], held_out.pixel_values(some), options)
    accelerator.end_training()
    return book.scores


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
