"""Studies whose trials are scored on everybody, fold after fold."""

import json
from pathlib import Path

import numpy as np
import optuna
import pytest
from conftest import REPOSITORY, fails_cleanly, soup
from forked import Forked, command
from test_studies import arguments, search, without_plots

import optuna_script
from utils.base.errors import Diverged, InputError, Interrupted
from utils.base.metrics import METRICS
from utils.data import competition
from utils.data.reading import read_photographs
from utils.data.splits import make_folds
from utils.evaluation.scores import exact_score
from utils.models.sweeps import find_sweep
from utils.training import studies, trials

FOLDS = 3


class Table:
    """Training that takes no time: `score(number, fold)` is what the people of the folds up to this one come to."""

    def __init__(self, score):
        self.score, self.runs = score, []

    def train(self, options):
        path = (
            Path("model")
            / f"{options.name}_seed{options.random_seed}_i{options.i}_fold{options.fold}of{FOLDS}_epoch1.pt"
        )
        self.runs.append((options.random_seed, options.fold))
        path.parent.mkdir(exist_ok=True)
        path.touch()
        state = path.parent / "states" / path.name
        state.parent.mkdir(exist_ok=True)
        state.touch()
        return path, {"macro_f1": 1.0}  # the fold's own score, which is not asked for

    def pooled(self, paths):
        return self.score(self.runs[-1][0], len(paths))


@pytest.fixture
def table(request, monkeypatch):
    without_plots(request, monkeypatch)

    def make(score):
        made = Table(score)
        monkeypatch.setattr("finetune.run", made.train)
        monkeypatch.setattr(trials, "pooled_scorer", lambda *_: made.pooled)
        return made

    return make


def states_of(study):
    return [trial.state.name for trial in study.trials]


def stems(pattern="*.pt", folder="model"):
    return sorted(path.stem for path in Path(folder).glob(pattern))


def test_a_trial_trains_every_fold_with_one_set_of_options_and_reports_the_score_of_the_folds_so_far(
    faces, pretrained, table
):
    made = table(lambda number, folds: number + folds / 10)
    study = search(faces, pretrained, "--folds", FOLDS, "--n-trials", 2)
    assert made.runs == [(number, fold) for number in range(2) for fold in range(FOLDS)]
    assert [trial.intermediate_values for trial in study.trials] == [
        {1: 0.1, 2: 0.2, 3: 0.3},
        {1: 1.1, 2: 1.2, 3: 1.3},
    ]
    assert [trial.value for trial in study.trials] == [0.3, 1.3]
    i = study.trials[0].params["i"]
    assert study.trials[0].user_attrs["checkpoint"] == f"search_seed0_i{i}_epoch1.pt"
    assert json.loads(study.user_attrs["settings"])["folds"] == FOLDS
    sweep = find_sweep(Path("model"), "search", by_name=True)
    assert [(one.seed, len(one.parts)) for one in sweep.ingredients] == [(0, FOLDS), (1, FOLDS)]


def test_a_trial_below_the_median_after_a_fold_is_pruned_and_leaves_no_checkpoints(faces, pretrained, table):
    """The first fold is easy: by the best of its scores so far no trial would ever be below the median."""
    bad = {3: 2, 4: 1}  # the trials below the others, and after how many folds

    def score(number, folds):
        return (0.9, 0.5, 0.5)[folds - 1] - (0.1 if folds >= bad.get(number, 9) else 0)

    made = table(score)
    study = search(faces, pretrained, "--folds", FOLDS, "--n-trials", 6)
    assert states_of(study) == ["COMPLETE"] * 3 + ["PRUNED"] * 2 + ["COMPLETE"]
    assert [made.runs.count((3, fold)) for fold in range(FOLDS)] == [1, 1, 0]
    assert [made.runs.count((4, fold)) for fold in range(FOLDS)] == [1, 0, 0]
    for folder in ("model", "model/states"):
        assert not stems("search_seed[34]_*.pt", folder)
    assert len(stems()) == 4 * FOLDS


def test_a_trial_is_not_pruned_when_all_of_its_folds_are_trained(faces, pretrained, table):
    table(lambda number, folds: 0.1 if (number, folds) == (4, FOLDS) else 0.5)
    assert states_of(search(faces, pretrained, "--folds", FOLDS, "--n-trials", 5)) == ["COMPLETE"] * 5


@pytest.mark.parametrize("error", [Diverged("training diverged"), InputError("the photographs are gone")])
def test_a_trial_that_fails_in_a_later_fold(faces, pretrained, table, monkeypatch, error):
    """One that diverged leaves nothing; what an outer error stopped stays, and is no whole recipe."""
    made = table(lambda number, folds: 0.5)

    def train(options):
        if (options.random_seed, options.fold) == (1, 2):
            raise error
        return made.train(options)

    monkeypatch.setattr("finetune.run", train)
    if isinstance(error, Diverged):
        assert states_of(search(faces, pretrained, "--folds", FOLDS, "--n-trials", 2)) == ["COMPLETE", "PRUNED"]
        assert not stems("search_seed1_*.pt")
    else:
        with pytest.raises(InputError, match="are gone"):
            search(faces, pretrained, "--folds", FOLDS, "--n-trials", 2)
    assert [one.seed for one in find_sweep(Path("model"), "search", by_name=True).ingredients] == [0]


@pytest.mark.parametrize("stop", [Interrupted(15, "stopped in step 4"), KeyboardInterrupt()])
def test_a_stopped_trial_is_gone_on_with_in_the_fold_it_was_in(faces, pretrained, table, monkeypatch, stop):
    made = table(lambda number, folds: 0.5)

    def stopped(options):
        if options.fold == 1:
            raise stop
        return made.train(options)

    with monkeypatch.context() as patch:
        patch.setattr("finetune.run", stopped)
        with pytest.raises(KeyboardInterrupt):
            search(faces, pretrained, "--folds", FOLDS, "--n-trials", 1)
    kept = stems()
    assert len(kept) == 1
    study = search(faces, pretrained, "--folds", FOLDS, "--n-trials", 1)
    assert states_of(study) == ["FAIL", "COMPLETE"]
    assert study.trials[1].params == study.trials[0].params
    assert len(stems()) == FOLDS  # all of the name of trial 0, so finetune.py skips the one that is there
    assert set(kept) < set(stems("search_seed0_*.pt"))


def test_folds_are_a_setting_of_the_study_and_an_old_study_has_none(faces, pretrained, table, monkeypatch):
    table(lambda number, folds: 0.5)
    study = search(faces, pretrained, "--folds", FOLDS, "--n-trials", 1)
    with pytest.raises(InputError, match="folds 3 -> 5"):
        search(faces, pretrained, "--folds", 5, "--n-trials", 2)
    settings = {**json.loads(study.user_attrs["settings"]), "folds": None}
    monkeypatch.setattr("finetune.run", lambda options, after_epoch: (Path("x.pt"), {"macro_f1": 0.5}))
    search(faces, pretrained, "--study-name", "old", "--n-trials", 1)
    old = optuna.load_study(study_name="old", storage=studies.open_storage("logs/optuna/old.journal"))
    settings = json.loads(old.user_attrs["settings"])
    assert settings.pop("folds") is None
    old.set_user_attr("settings", json.dumps(settings))
    assert len(search(faces, pretrained, "--study-name", "old", "--n-trials", 2).trials) == 2


def test_the_study_tells_how_people_score_and_what_comes_next(faces, pretrained, table, capsys):
    table(lambda number, folds: 0.5)
    search(faces, pretrained, "--folds", FOLDS, "--n-trials", 1)
    first, trial, best, following, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("study search: 210 photographs, each held out in one of 3 folds to score on (folds ")
    assert trial.startswith("trial 0 (1 of 1): macro_f1 0.5000")
    assert best.startswith("macro_f1 0.5000: search_seed0_i")
    assert "main.py --greedy-soup --metric macro_f1 --name search --random-seed 0" in following


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--patience 2", "--patience goes by the people held out"),
        ("--keep best", "--keep best goes by the people held out"),
        ("--val-ratio 0.3", "leave --val-ratio out"),
        ("--folds 40", "--folds 40 of 30 persons leaves folds empty: use at most 30"),
        ("--folds 1", "--folds"),
    ],
)
def test_what_does_not_go_with_folds_is_one_error(faces, pretrained, extra, message):
    result = command("optuna_script.py", *arguments(faces, pretrained, "--folds", FOLDS, *extra.split()))
    fails_cleanly(result, message)
    assert not list(Path().rglob("*.journal"))


class Told:
    """Held-out photographs of a fold whose models predict what the table says."""

    def __init__(self, photographs, rows, predicted):
        self.accelerator, self.labelling, self.preprocessing, self.images_digest = (
            None,
            competition.labelling(),
            {},
            "",
        )
        self.rows, self.ids, self.persons = rows, photographs.ids[rows], photographs.persons[rows]
        self.relabelled, self.resident, self.whose = photographs.relabelled[rows], None, photographs.whose
        self.labels, self.predicted = photographs.labels(self.labelling)[rows], predicted[rows]

    def logits(self, model):
        return self.predicted


@pytest.mark.parametrize("metric", METRICS)
def test_the_score_is_counted_over_the_people_of_all_folds_and_no_mean_of_theirs(faces, metric, monkeypatch):
    photographs = read_photographs(faces)
    folds = make_folds(photographs, 4, 42)
    labels = photographs.labels(competition.labelling())
    predicted = np.random.default_rng(0).normal(2 * np.eye(18)[labels]).astype(np.float32)
    told = {id(fold.held_out): Told(photographs, fold.held_out, predicted) for fold in folds}
    monkeypatch.setattr(trials, "make_folds", lambda *_: folds)
    monkeypatch.setattr(trials, "views", lambda _, __, rows, ___: lambda model: told[id(rows)])
    monkeypatch.setattr(trials, "read_checkpoint", lambda path: path)
    asked = ["--data-location", str(faces), "--folds", "4", "--metric", metric]
    options, _ = optuna_script.options_of_all_trials(optuna_script.parser().parse(asked))
    pooled = trials.pooled_scorer(None, options)
    for count in (1, 2, 4):
        rows = np.concatenate([fold.held_out for fold in folds[:count]])
        expected = METRICS[metric].shown(exact_score(METRICS[metric], labels[rows], predicted[rows], 18))
        assert pooled([Path(f"fold{k}.pt") for k in range(count)]) == expected


def test_a_loss_is_told_as_it_is_and_the_study_looks_for_the_smallest(faces, pretrained, table, capsys, plotted):
    table(lambda number, folds: number + folds / 10)
    study = search(faces, pretrained, "--folds", FOLDS, "--n-trials", 2, "--metric", "log_loss")
    assert [trial.value for trial in study.trials] == [-0.3, -1.3]
    assert study.trials[0].intermediate_values == {1: -0.1, 2: -0.2, 3: -0.3}
    assert "log_loss 0.3000: search_seed0_i" in capsys.readouterr().out


@pytest.mark.slow
def test_a_real_study_killed_between_two_folds_goes_on_there_and_its_trials_are_souped(faces, pretrained):
    asked = ["--folds", "2", "--n-trials", "2", "--epochs-limits", "1", "1"]
    done = []
    study = Forked(REPOSITORY / "optuna_script.py", *arguments(faces, pretrained, *asked))
    study.stop(lambda: done.extend(Path("model").glob("search_seed0_i?_fold0of2_epoch1.pt")) or done)
    written = done[0].stat().st_mtime_ns
    study = search(faces, pretrained, *asked)
    assert states_of(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert done[0].stat().st_mtime_ns == written
    results = soup(faces, "--greedy-soup", "--name", "search", "--metric", "macro_f1")
    for trial in study.trials[1:]:
        assert results[Path(trial.user_attrs["checkpoint"]).stem]["macro_f1"] == trial.value  # everybody's, exactly
        assert trial.intermediate_values[2] == trial.value != trial.intermediate_values[1]
