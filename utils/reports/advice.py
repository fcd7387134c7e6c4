"""What to do next about a model: a few steps that its scores call for, each with the command."""

from dataclasses import dataclass

import numpy as np

from utils.base.options import RECORDED, Options, Parser
from utils.base.training_flags import each_index_has_a_start, finetune_parser
from utils.evaluation.alarms import alarm_lines
from utils.evaluation.held_out import HeldOut
from utils.models.checkpoints import Checkpoint
from utils.models.model_files import SPECIALIST, sweep_of
from utils.reports.analysis import OTHER, Mistake, NumberErrors, several

RARE = 0.1  # that macro-F1 lies below accuracy when rare classes are the matter
SURE = 0.9  # probability of a wrong class above which the label may be what is wrong


@dataclass(frozen=True)
class Commands:
    """What the steps tell to type. `page` makes this report, `single` the model's own, `everyone` that of all people;
    `longer`, `adjusted` and `specialist` train as the model was trained, but for twice as many epochs, with logit
    adjustment, and for the age alone; they are empty when nothing tells how it was trained.
    """

    page: str
    single: str
    everyone: str
    longer: str
    adjusted: str
    specialist: str
    ensemble: str


def commands_of(model: Checkpoint, options: Options, parser: Parser) -> Commands:
    """The commands about a model, under the `options` of validation.py and by its `parser`."""
    same = options.replace(model_name=str(model.path), name=None, i=None, random_seed=None)
    without = dict.fromkeys(("sweep", "weighted_ensemble", "soft_voting", "soft_voting_rule", "compare_with"))
    single = same.replace(**without, val_ratio=RECORDED if options.val_ratio is None else options.val_ratio)
    page = options if options.sweep else same
    across_folds = len(model.parts) > 1  # whose own page shows everybody
    every = page, single, page if across_folds else single.replace(val_ratio=None, report=True)
    where = {"data_location": options.data_location, "model_location": options.model_location}
    auto = parser.parse([]).replace(**where, ensemble="auto", name=sweep_of(model.meta))
    made = model.meta["options"] | model.meta.get("reading", {}) if model.meta else {}
    trained = "", "", ""
    if "random_seed" in made:  # no soup
        again = {"name": f"{made['name']}_2"}
        if not each_index_has_a_start(made["model"]):
            again["i"] = 0  # which trains as given; the index would draw once more, about what it drew
        folds = len(model.parts) if across_folds else None
        trained = (
            _training_command(made, folds, "finetune.py", {**where, **again, "epochs": 2 * made["epochs"]}),
            _training_command(made, folds, "finetune.py", {**where, **again, "logit_adjustment": 1.0}),
            _training_command(made, folds, "finetune_age.py", where),
        )
    page, single, everyone, ensemble = (parser.command("validation.py", one) for one in (*every, auto))
    return Commands(page, single, everyone, *trained, ensemble)


def _training_command(made: dict, folds: int | None, script: str, changes: dict) -> str:
    """A run with the options of a checkpoint's record and some `changes`; with `folds` one of each fold."""
    parser = finetune_parser("", script)
    defaults = parser.parse([]).replace(age_limits=tuple(made["age_limits"]))
    known = {name: made[name] for name in defaults.plain if isinstance(made.get(name), str | int | float)}
    known |= {name: made[name] for name in ("values", "limits", "oversample") if made.get(name)}
    known |= {name: tuple(made[name]) for name in ("label_columns", "half_cutmix_within") if made.get(name)}
    known |= {"drop_ages": "{}-{}".format(*made["drop_ages"])} if made.get("drop_ages") else {}
    known.pop("mixed_precision", None)  # what the machine could do
    known |= changes
    if folds:
        known |= {"fold": None, "runs": [f"{known['random_seed']}:{known['i']}:{fold}" for fold in range(folds)]}
    return parser.command(script, defaults.replace(**known))


@dataclass(frozen=True)
class Step:
    """What to do and why, in words, and the command where there is one."""

    words: str
    command: str = ""


def next_steps(
    model: Checkpoint, held_out: HeldOut, preds: dict[str, np.ndarray], parts: dict[str, dict], gains: dict[str, dict],
    found: list[Mistake], borders: dict[str, list[NumberErrors]], commands: Commands, whose: str,
) -> list[Step]:  # fmt: skip
    """The steps, the most urgent first.

    `preds` (N,) and `gains` over the model are by way of predicting, `parts` the scores of the class and of each
    attribute, `found` its mistakes; `borders` are by attribute the errors near each limit of a number, and last those
    of all others. `whose` is what photographs that belong together are called.
    """
    score, labelling = parts["class"], held_out.labelling
    steps = [*_retraining(model, held_out, preds["single"], score, commands)]
    better = [kind for kind, gain in gains.items() if gain["macro_f1"].low > 0]
    if better:
        steps.append(Step(f"Surely better than this model on the same {whose}, by macro-F1: {', '.join(better)}."))
    worst = min(several(labelling), key=lambda name: parts[name]["accuracy"], default=None)
    if worst in SPECIALIST and "weighted" not in preds:
        words = f"Of the attributes the {worst} is wrong most often: put an {worst} specialist beside the model."
        beside = f"{commands.single} --weighted-ensemble Age_NAME.pt"
        steps.append(Step(words, f"{commands.specialist}\n{beside}".strip()))
    wrong = int((preds["single"] != held_out.labels).sum())
    for name, spans in borders.items():
        near = sum(one.wrong_value for one in spans[:-1])
        if near > wrong / 4:
            words = f"{near} of the {wrong} mistakes are a wrong {name} near a limit: few of these can be mended."
            steps.append(Step(words))
    sure = [one for one in found if one.attributes and one.sureness > SURE]
    if sure:
        words = (
            f"{len(sure)} photographs are wrong with a probability above {SURE:.0%}: look whether their labels are "
        )
        words += "right, and put corrections into relabel.csv."
        if commands.everyone == commands.page:
            steps.append(Step(words))
        else:
            words += f" This command shows those of all {whose}, not only of held-out ones."
            steps.append(Step(words, commands.everyone))
    if "soft vote" not in preds:
        steps.append(Step("Let several models answer together; the members are chosen for you.", commands.ensemble))
    if OTHER not in preds:
        low, high = score["macro_f1_interval"]
        words = (
            f"The interval of macro-F1 is {high - low:.2f} wide. Models that differ by less are told apart photograph "
            f"by photograph, on the same {whose}."
        )
        steps.append(Step(words, f"{commands.single} --compare-with OTHER.pt"))
    return steps


def _retraining(
    model: Checkpoint, held_out: HeldOut, preds: np.ndarray, score: dict, commands: Commands
) -> list[Step]:
    """The alarm, or else what rare classes need, with the command that trains another model with it."""
    made = model.meta["options"] if model.meta else {}
    alarms = alarm_lines(held_out.labels, [preds], held_out.labelling.classes)
    gap = score["accuracy"] - score["macro_f1"]
    if not alarms and (gap < RARE or made.get("logit_adjustment")):
        return []
    if not alarms:
        words = f"Macro-F1 lies {gap:.2f} below accuracy: rare classes are predicted too rarely."
        return [Step(words, commands.adjusted)]
    words = alarms[0].removeprefix("ALARM: ")
    command = commands.longer if "--epochs" in words else commands.adjusted
    return [Step(f"{words[0].upper()}{words[1:]}.", command)]
