"""Score the fine-tuned checkpoints on held-out people and average them into a model soup.

    accelerate launch main.py --greedy-soup

Reads the checkpoints in `model/` and the photographs they were trained on; writes the soups beside them and
`logs/individual_results_*.jsonl`, `logs/greedy_soup_log_*.txt`, `logs/recipes_*.txt`. Each step runs what it needs
first; a search that was killed goes on where it was.
"""

from __future__ import annotations

import logging
import os
import shlex
from functools import partial
from typing import TYPE_CHECKING

from utils.base import files, flags
from utils.base.errors import InputError, run_script, visible
from utils.base.metrics import METRICS
from utils.base.options import RECORDED, Options, Parser
from utils.base.terminal import say

if TYPE_CHECKING:
    from utils.evaluation.results import ScoreBook
    from utils.soups.evaluator import Evaluator
    from utils.soups.inputs import SoupInputs
    from utils.soups.saved import SavedSoup

log = logging.getLogger("utils.main")  # under the project's own logger, whose level the runtime sets


def parser() -> Parser:
    parser = Parser(__doc__, "main.py")
    what = parser.group("what")
    what.add_argument("--greedy-soup", action="store_true", help="average the checkpoints that raise the score")
    what.add_argument("--uniform-soup", action="store_true", help="average all checkpoints")
    what.add_argument("--metric", choices=METRICS, default="accuracy", help="what a soup must improve")
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
    flags.add_memory(parser)
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
    makes_soups = options.eval_individual_models or options.plot or recipes
    if not makes_soups and not options.download_models:
        raise InputError(
            "nothing to do: give --greedy-soup, --uniform-soup, --recipe, --eval-individual-models or --plot"
        )
    check(options, recipes)
    if options.download_models:
        download(options)
    if makes_soups:
        check_names(options)
    return make_soups(options, recipes) if makes_soups else {}


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


def check_names(options: Options) -> None:
    """Raise `InputError` for ingredients and images that are not there, and when several sweeps fit."""
    from utils.models import starts, sweeps

    if options.start_from and not starts.is_source(options.start_from):
        raise InputError(f"--start-from {options.start_from} is no checkpoint file, no folder and no hub id")
    if options.score_on and not options.score_on.exists():
        raise InputError(f"--score-on {options.score_on} is neither a folder with one sub-folder per class nor a CSV")
    if not options.score_on:
        flags.check_files(options)
    if absent := [path for path in options.ingredients or () if not path.exists()]:
        raise InputError(f"--ingredients {absent[0]} does not exist")
    if not options.ingredients:
        asked = options.model_location, options.name, options.random_seed, options.indices, options.epoch
        sweeps.check_names(options, partial(sweeps.find_sweep, *asked))


def download(options: Options) -> None:
    """Fetch the release's ingredients."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--download-models is for one process: run it first, with python main.py")
    from utils.models.downloads import RELEASE_URL, RELEASED, download_models

    indices = range(min(options.model_num or RELEASED, RELEASED))
    fetched = download_models(options.model_location, indices, options.model_url or RELEASE_URL)
    say(f"{len(fetched)} release models in {options.model_location}")


def possible(recipes: list[str], inputs: SoupInputs, options: Options) -> list[str]:
    """The recipes that these ingredients allow; raises `InputError` when one asked for by name does not, or when a
    soup would replace one of its ingredients.
    """
    from utils.models.towers import layers_of

    config, impossible = inputs.ingredients[0].config, {}
    if len(inputs.ingredients) == 1:
        impossible["model-stock"] = "measures the angle between ingredients, and there is one: add another"
    if not layers_of(config):
        impossible["learned-by-layer"] = (
            f"needs one stack of layers, and towers of type {config['model_type']} have none"
        )
    for name in impossible.keys() & set(recipes):
        if "all" not in options.recipe:
            raise InputError(f"{name} {impossible[name]}")
    recipes = [name for name in recipes if name not in impossible]
    read = {one.path.resolve() for one in inputs.ingredients}
    for path in (inputs.names.soup_file(options.model_location, name) for name in recipes):
        if path.resolve() in read:
            raise InputError(f"the soup would replace its ingredient {path}: give another --name or --model-location")
    return recipes


def make_soups(options: Options, recipes: list[str]) -> dict[str, dict]:
    """Score the ingredients, make the soups asked for, and write both down."""
    from utils.base import runtime
    from utils.base.files import require_writable
    from utils.base.terminal import log_file
    from utils.models import exports
    from utils.models.pretrained import read_soup_start
    from utils.soups.evaluator import Evaluator
    from utils.soups.inputs import read_inputs

    # Runtime
    accelerator = runtime.start_runtime(f"main_{options.name}" if options.name else "main", options.verbose)
    require_writable(options.model_location, files.LOGS, files.CACHE, files.PICTURES)

    # Data
    inputs = read_inputs(options)
    ingredients = inputs.ingredients
    exports.require_exportable(options, ingredients)
    start = None
    if options.start_from:
        start = read_soup_start(accelerator, options.start_from, ingredients, options.tower)
    recipes = possible(recipes, inputs, options)
    held_out = inputs.held_out(accelerator, options)
    log.info("%d ingredients, scored on %s", len(ingredients), inputs.scored_on)

    # Ingredients
    journals = files.LOGS / "journals"
    evaluator = Evaluator(held_out, ingredients, options.metric, journals, start, budget=options.budget)
    book = score_ingredients(evaluator, inputs, brief=len(recipes) > 1)

    # Soups
    checks = check_ingredients(evaluator) if recipes else []
    soups = [add_soup(evaluator, book, recipe, inputs, options) for recipe in recipes]
    add_others(evaluator, book, inputs, options)

    # Result
    write_results(evaluator, book, soups, checks, inputs, options)
    log.info("next: %s", next_command(soups, evaluator, inputs, options))
    log.info("everything else: %s", log_file())
    return book.scores


def score_ingredients(evaluator: Evaluator, inputs: SoupInputs, brief: bool) -> ScoreBook:
    """The book of scores, with those of each ingredient in it; `brief` where a table of soups will tell the best."""
    from utils.evaluation.alarms import alarm_lines
    from utils.evaluation.results import ScoreBook
    from utils.soups.report import ingredient_lines

    book = ScoreBook(evaluator.held_out, inputs.who, inputs.split)
    for one, logits in zip(evaluator.ingredients, evaluator.logits, strict=True):
        book.add("ingredient", one.file_name, one.digest, logits)
    book.add_expected(evaluator.logits)
    classes = evaluator.held_out.labelling.classes
    alarms = alarm_lines(evaluator.labels, evaluator.logits, classes, evaluator.metric_name)
    for line in ingredient_lines(book, evaluator.metric_name):
        log.log(logging.DEBUG if brief else logging.INFO, line)
    for line in alarms:
        log.info(line)
    return book


def check_ingredients(evaluator: Evaluator) -> list[str]:
    """What the doctor says of the ingredients; the terminal gets the verdict, its last line, and any barrier."""
    from utils.soups import doctor

    lines = [f"doctor: {line}" for line in doctor.examine(evaluator)]
    for line in lines:
        log.log(logging.INFO if line == lines[-1] or "BARRIER" in line else logging.DEBUG, line)
    return lines


def add_soup(evaluator: Evaluator, book: ScoreBook, recipe: str, inputs: SoupInputs, options: Options) -> SavedSoup:
    """Make a soup, save it, add its scores to the book, and write down how it was chosen."""
    from utils.base.files import write_text
    from utils.base.runtime import from_main
    from utils.soups.doctor import diagnosis
    from utils.soups.nested import nested_gain
    from utils.soups.recipes import make_soup
    from utils.soups.report import decision_lines
    from utils.soups.saved import SavedSoup, save_refit, save_soup

    held_out, names = evaluator.held_out, inputs.names
    soup = make_soup(evaluator, recipe)
    path = names.soup_file(options.model_location, recipe)
    checkpoint = save_soup(evaluator, soup, path, inputs.who, options.save_folds)
    book.add(f"{recipe} soup", checkpoint.path.name, checkpoint.digest, soup.logits)
    refit = save_refit(evaluator, soup, names.soup_file(options.model_location, f"{recipe}-refit"), inputs.who)
    if refit:
        book.add_estimate(f"{recipe} refit", refit.path.name, refit.digest, like=checkpoint.path.name)

    gains = held_out.gain(soup.logits, *evaluator.logits)
    disappoints = diagnosis(evaluator, soup)
    lines = decision_lines(evaluator, soup, gains, inputs.scored_on, disappoints)
    for line in lines:
        log.log(logging.INFO if line == disappoints else logging.DEBUG, line)
    if recipe == "greedy":
        told = files.LOGS / f"greedy_soup_log_{names.log_name()}.txt"
        from_main(held_out.accelerator, lambda: write_text(told, visible("\n".join(lines)) + "\n"))

    nested = nested_gain(evaluator, recipe) if options.nested and flags.RECIPES[recipe].selects else None
    if nested:
        book.add_row(nested.row)
        for line in nested.lines:
            log.debug(line)
    return SavedSoup(soup, checkpoint, gains, nested, refit)


def add_others(evaluator: Evaluator, book: ScoreBook, inputs: SoupInputs, options: Options) -> None:
    """Add the scores of what the soups are compared with: soups of earlier calls, and the ingredients' ensemble."""
    from utils.models.folded import soup_across_folds
    from utils.models.sweeps import saved_soups
    from utils.soups.report import add_ensemble

    for soup in saved_soups(inputs.names, options.model_location, evaluator.ingredients, flags.RECIPES):
        if soup.path.name not in book.rows:
            logits = evaluator.held_out.logits(soup_across_folds(soup))
            book.add(f"{soup.meta['options']['recipe']} soup", soup.path.name, soup.digest, logits)
    add_ensemble(book, evaluator)


def write_results(
    evaluator: Evaluator,
    book: ScoreBook,
    soups: list[SavedSoup],
    checks: list[str],
    inputs: SoupInputs,
    options: Options,
) -> None:
    """Show the soups, write scores, manifest and table of recipes, draw the plot, and export the best soup."""
    from utils.base.files import write_text
    from utils.evaluation.manifest import Manifest
    from utils.evaluation.results import file_of
    from utils.soups.report import folded_parts, note_how, plot, recipe_table, recommended, soup_lines, verdict

    log_name, whose = inputs.names.log_name(), "everyone_" if options.val_ratio is None else ""
    note_how(evaluator, book, soups, file_of(f"{whose}soup", log_name))
    if soups:
        table = recipe_table(evaluator, book, soups)
        log.debug(table)
        for line in soup_lines(evaluator, book, soups):
            log.info(line)
        log.info("saved %s", saved_line(soups, evaluator, verdict(evaluator, book)))
    if not evaluator.held_out.accelerator.is_main_process:
        return
    written = book.write(whose, log_name, options.metric)
    if inputs.sweep and options.val_ratio is not None:
        recipe, reason = recommended(evaluator, book, soups)
        Manifest(
            name=inputs.sweep,
            metric=options.metric,
            best=evaluator.ingredients[evaluator.order[0]].path.name,
            soups=book.soups(),
            scores=list(map(str, written)),
            recommended=recipe,
            reason=reason,
            **folded_parts(evaluator, soups, recipe),
        ).write()
        if len(soups) > 1:
            log.info("go on with the %s soup: %s", recipe, reason)
    if soups:
        report = checks + [line for one in soups if one.nested for line in one.nested.lines]
        lines = visible("\n".join([*report, table]))
        written.append(write_text(files.LOGS / f"recipes_{whose}{log_name}.txt", f"{lines}\n"))
    if options.plot:
        steps = next((one.soup.steps for one in soups if one.soup.recipe == "greedy"), [])
        picture = files.PICTURES / f"soups_{whose}{log_name}.png"
        title = f"{log_name}, {inputs.who}"
        written.append(plot(picture, book.ordered(options.metric), title, steps, options.metric))
    log.info("written: %s", ", ".join(map(str, written)))
    if options.export or options.export_onnx or options.push_to_hub:
        export_best(evaluator, soups, options)


def best_soup(soups: list[SavedSoup], evaluator: Evaluator) -> SavedSoup:
    """The soup that scores best; of equal ones the first."""
    return max(soups, key=lambda one: evaluator.score(one.soup.logits))


def saved_line(soups: list[SavedSoup], evaluator: Evaluator, verdict: str | None) -> str:
    """Where the soups are, in words; the `verdict` on them, or else which one scores best; and of a greedy soup by
    accuracy what macro-F1 would have chosen.
    """
    from utils.soups.by_macro_f1 import other_choice

    path = best_soup(soups, evaluator).checkpoint.path
    parts = [str(path) if len(soups) == 1 else f"{len(soups)} soups in {path.parent}"]
    if verdict:
        parts.append(verdict)
    elif len(soups) > 1:
        parts = [f"{parts[0]}, the best one on the {evaluator.held_out.whose} that chose is {path}"]
    greedy = next((one.soup for one in soups if one.soup.recipe == "greedy"), None)
    if greedy is not None and evaluator.metric_name == "accuracy" and len(evaluator.ingredients) > 1:
        parts.append(other_choice(evaluator, greedy))
    return "; ".join(parts)


def export_best(evaluator: Evaluator, soups: list[SavedSoup], options: Options) -> None:
    """Export the soup that scores best, compared on a few photographs with the model that is written."""
    import numpy as np

    from utils.models import exports

    held_out = evaluator.held_out
    some = np.arange(min(8, len(held_out.rows)))
    exports.export(best_soup(soups, evaluator).checkpoint, held_out.pixel_values(some), options)


def next_command(soups: list[SavedSoup], evaluator: Evaluator, inputs: SoupInputs, options: Options) -> str:
    """What to type next: look at the best soup's mistakes, or make a soup."""
    if not soups:
        asked = options.replace(greedy_soup=True, eval_individual_models=False, download_models=False)
        return parser().command("main.py", asked if asked.val_ratio else asked.replace(val_ratio=RECORDED))
    if options.score_on:
        return "the same command with --export FOLDER or --export-onnx FILE takes the best soup to other programs"
    best = best_soup(soups, evaluator)
    is_of_sweep = inputs.sweep and best.soup.recipe == "greedy" and options.val_ratio is not None
    asked = ["--sweep", inputs.sweep] if is_of_sweep else ["--model-name", str(best.checkpoint.path)]
    both = "data_location", "model_location", "relabel", "val_ratio", "split_seed", "split_by"  # flags of both scripts
    shared = {name: getattr(options, name) for name in both}
    same = parser().command("validation.py", parser().parse([]).replace(**shared))
    return shlex.join([*shlex.split(same), *asked])


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
