"""The manifest of a sweep, and the line that says which submission to hand in."""

import json
from pathlib import Path

import pytest

from utils.base.errors import InputError
from utils.evaluation.hand_in import hand_in_lines, recommended
from utils.evaluation.manifest import AUTO_ENSEMBLE, BEST_SINGLE, HARD_VOTE, REFIT, SOUP, Manifest, read_manifest
from utils.evaluation.results import read_rows, row_line

KNOWN = {"people": "held-out people", "split": "s", "images": 70, "persons": 10}


WHOLE = {"name": "s", "metric": "accuracy", "best": "a.pt", "soups": {"greedy": "g.pt"}, "scores": ["logs/x.jsonl"]}


def row(kind, model, score, low, high, **more):
    """A row of scores whose macro-F1 is `score` between `low` and `high`."""
    scores = {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "macro_f1": score, "macro_f1_interval": [low, high]}
    return {"kind": kind, "model": model, "digest": model, **KNOWN, **scores, **more}


def sweep(rows, submissions):
    """A manifest whose scores are these rows."""
    Path("logs").mkdir(exist_ok=True)
    Path("logs/rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    manifest = Manifest(**{**WHOLE, "metric": "macro_f1", "scores": ["logs/rows.jsonl"]})
    for way, file in submissions.items():
        path = Path(file)
        path.parent.mkdir(exist_ok=True)
        path.write_text(way)
        manifest.add(way, path)
    return manifest


def test_a_manifest_reads_back_and_a_damaged_one_is_named():
    written = Manifest(**WHOLE, submissions={SOUP: "o.csv"})
    path = written.write()
    assert path == Path("logs/sweep_s.json")
    assert read_manifest("s") == written
    assert str(written) == "s"
    whole = json.loads(path.read_text())
    damaged = [
        {"name": "s"},
        *({**whole, key: None} for key in whole.keys() - {"folds"}),
        {**whole, "scores": []},
        {**whole, "name": "t"},
    ]
    for content in damaged:
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"sweep_s\.json is (no|the) manifest of a sweep"):
            read_manifest("s")
    with pytest.raises(InputError, match=r"no scores of a sweep t in .*\(there are: s\): run main.py --greedy-soup"):
        read_manifest("t")


def test_a_sweep_without_a_greedy_soup_says_what_to_run():
    with pytest.raises(InputError, match=r"run main\.py --greedy-soup --name s"):
        _ = Manifest(**{**WHOLE, "soups": {"uniform": "u.pt"}}).soup


def test_the_best_on_held_out_people_is_handed_in():
    rows = [row("ingredient", "a.pt", 0.30, 0.2, 0.4), row("greedy soup", "g.pt", 0.70, 0.6, 0.8)]
    manifest = sweep(rows, {BEST_SINGLE: "output/output_a.csv", SOUP: "output/output_g.csv"})
    last = hand_in_lines(manifest)[-1]
    assert last == (
        "hand in output/output_g.csv: the soup has the best macro-F1 on 10 held-out people, 0.700 [0.600, 0.800]"
    )


@pytest.mark.parametrize(
    ("people", "persons", "units"), [("held-out images", 70, "images"), ("held-out groups", 10, "groups")]
)
def test_what_is_no_people_is_not_called_so(people, persons, units):
    known = {"people": people, "persons": persons}
    rows = [row("ingredient", "a.pt", 0.30, 0.2, 0.4, **known), row("greedy soup", "g.pt", 0.35, 0.3, 0.4, **known)]
    told = hand_in_lines(sweep(rows, {BEST_SINGLE: "output/output_a.csv", SOUP: "output/output_g.csv"}))
    assert told[0].split("|")[1:3] == [f" macro-F1, {units} that chose ", f" {units} that did not "]
    assert f"on {persons} held-out {units}, 0.350" in told[-1]
    assert f"{persons} {units} cannot tell these apart" in told[-1]
    untold = {key: value for key, value in rows[1].items() if key != "people"}  # as an ensemble's own file has it
    ways = [(AUTO_ENSEMBLE, Path("auto.csv"), untold), (BEST_SINGLE, Path("a.csv"), rows[0])]
    assert f"on {persons} held-out {units}, 0.350" in recommended(ways, "macro_f1")[1]


def test_intervals_that_overlap_are_told():
    rows = [row("ingredient", "a.pt", 0.55, 0.5, 0.61), row("greedy soup", "g.pt", 0.70, 0.6, 0.8)]
    rows += [row("soft vote", "g_SV_a", 0.20, 0.1, 0.3)]
    manifest = sweep(rows, {"best single": "output_a.csv", SOUP: "output_g.csv", "soft vote": "output_g_SV_a.csv"})
    assert hand_in_lines(manifest)[-1].endswith(
        "the intervals of 1 of 2 others overlap it, so 10 people cannot tell these apart"
    )


def test_the_score_of_a_model_of_everyone_is_said_to_be_its_soups():
    rows = [row("ingredient", "a.pt", 0.55, 0.5, 0.6), row("uniform soup", "u.pt", 0.5, 0.4, 0.6)]
    rows += [row("uniform refit", "r.pt", 0.5, 0.4, 0.6)]
    files = {BEST_SINGLE: "output/output_a.csv", SOUP: "output/output_u.csv", REFIT: "output/output_r.csv"}
    *_, soup, refit, last = hand_in_lines(sweep(rows, files))
    assert "0.500 [0.400, 0.600] of its soup" in refit
    assert "of its soup" not in soup
    assert last.startswith("hand in output/output_r.csv: ")
    assert "0.550 [0.500, 0.600], against 0.500 [0.400, 0.600] of its soup, and 10 people cannot" in last
    assert row_line(rows[2]).endswith("r.pt (trained on everyone: the scores are the soup's)")
    assert row_line(rows[1]).endswith("u.pt")


def with_loss(row, loss, low, high):
    return {**row, "log_loss": loss, "log_loss_interval": [low, high]}


def by_log_loss(rows, submissions):
    manifest = sweep(rows, submissions)
    manifest.metric = "log_loss"
    return hand_in_lines(manifest)


def test_by_log_loss_the_lowest_is_handed_in():
    rows = [with_loss(row("ingredient", "a.pt", 0.7, 0.6, 0.8), 1.5, 1.4, 1.6)]
    rows += [with_loss(row("greedy soup", "g.pt", 0.6, 0.5, 0.7), 1.1, 1.0, 1.3)]
    files = {BEST_SINGLE: "output/output_a.csv", SOUP: "output/output_g.csv"}
    heading, _, single, _, last = by_log_loss(rows, files)
    assert "log-loss, people who chose" in heading
    assert "1.500 [1.400, 1.600]" in single
    assert last == (
        "hand in output/output_g.csv: the soup has the best log-loss on 10 held-out people, 1.100 [1.000, 1.300]"
    )
    rows[1] |= {"log_loss_interval": [0.9, 1.4]}
    assert by_log_loss(rows, files)[-1].endswith(
        "the intervals of all others overlap it, so 10 people cannot tell these apart"
    )


def test_what_has_no_log_loss_is_compared_by_macro_f1_as_all_others_then_are():
    rows = [with_loss(row("greedy soup", "g.pt", 0.4, 0.3, 0.5), 1.1, 1.0, 1.3)]
    rows += [row(HARD_VOTE, "of single and soft vote", 0.6, 0.5, 0.7)]
    heading, _, soup, vote, told, last = by_log_loss(rows, {SOUP: "output_g.csv", HARD_VOTE: "hard_voting.csv"})
    assert "macro-F1, people who chose" in heading
    assert "0.400 [0.300, 0.500]" in soup
    assert "0.600 [0.500, 0.700]" in vote
    assert told == "compared by macro-F1: hard vote has no log-loss"
    assert last.startswith("hand in output_g.csv: the soup has macro-F1 0.400 [0.300, 0.500], and 10 people cannot ")


def test_submissions_scored_on_new_people_have_no_log_loss_which_the_heading_tells():
    manifest = sweep(
        [with_loss(row("ingredient", "a.pt", 0.3, 0.2, 0.4), 1.1, 1.0, 1.3)], {BEST_SINGLE: "output_a.csv"}
    )
    manifest.metric = "log_loss"
    heading, _, line, _ = hand_in_lines(manifest, {"output_a.csv": row("submission", "output_a.csv", 0.1, 0.0, 0.2)})
    assert [cell.strip() for cell in heading.split("|")][3] == "macro-F1, new people"
    assert [cell.strip() for cell in line.split("|")][1:4] == ["1.100 [1.000, 1.300]", "", "0.100 [0.000, 0.200]"]


def test_rows_of_before_the_new_metrics_read_back_as_they_are():
    old = row("greedy soup", "g.pt", 0.4, 0.3, 0.5, gain_on_others=None)
    new = with_loss(row("ingredient", "a.pt", 0.3, 0.2, 0.4), 1.1, 1.0, 1.3)
    Path("rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (old, new)))
    assert read_rows(Path("rows.jsonl")) == [old, new]
    assert "log-loss" not in row_line(old, "log_loss")
    assert "log-loss 1.100 [1.000, 1.300]" in row_line(new, "log_loss")
    for damaged in ({"log_loss": -1.0}, {"log_loss": None}, {"balanced_accuracy": 2.0}):
        Path("rows.jsonl").write_text(json.dumps({**new, **damaged}))
        with pytest.raises(InputError, match=f"line 1, {next(iter(damaged))}: input should be"):
            read_rows(Path("rows.jsonl"))


def test_of_equal_scores_what_averages_most_models_is_handed_in():
    equal = row("greedy soup", "g", 0.7, 0.6, 0.8)
    rows = [(SOUP, Path("g.csv"), equal), (AUTO_ENSEMBLE, Path("auto.csv"), equal)]
    assert recommended(rows, "macro_f1")[0] == Path("auto.csv")
    assert recommended(rows[::-1], "macro_f1")[0] == Path("auto.csv")
    assert recommended([(SOUP, Path("g.csv"), "not scored")], "macro_f1") is None


def test_the_auto_ensemble_is_handed_in_where_held_out_people_cannot_tell_it_from_the_best():
    best = (SOUP, Path("g.csv"), row("greedy soup", "g", 0.7, 0.6, 0.8))
    near = (AUTO_ENSEMBLE, Path("auto.csv"), row("auto ensemble", "s_auto", 0.65, 0.55, 0.75))
    far = (AUTO_ENSEMBLE, Path("auto.csv"), row("auto ensemble", "s_auto", 0.5, 0.45, 0.59))
    assert recommended([best, near], "macro_f1") == (
        Path("auto.csv"),
        "on real photographs the auto ensemble did best on new people (docs/results.md); here the soup has the best "
        "macro-F1 on 10 held-out people, 0.700 [0.600, 0.800], against 0.650 [0.550, 0.750], and 10 people cannot "
        "tell these apart",
    )
    assert recommended([best, far], "macro_f1")[0] == Path("g.csv")


def test_a_refit_soup_goes_before_an_auto_ensemble_and_that_before_a_soup():
    refit, auto, soup = (
        (way, Path(f"{way}.csv"), row(way, way, score, score - 0.1, score + 0.1))
        for way, score in ((REFIT, 0.60), (AUTO_ENSEMBLE, 0.65), (SOUP, 0.62))
    )
    assert recommended([soup, auto, refit], "macro_f1")[0] == refit[1]
    assert recommended([soup, auto], "macro_f1")[0] == auto[1]
    far = (REFIT, refit[1], row(REFIT, REFIT, 0.3, 0.2, 0.4))
    assert recommended([soup, auto, far], "macro_f1")[0] == auto[1]
    same = (REFIT, refit[1], row(REFIT, REFIT, 0.65, 0.55, 0.75))
    assert recommended([(SOUP, soup[1], row(SOUP, "s", 0.65, 0.55, 0.75)), same], "macro_f1")[0] == same[1]


def test_what_nobody_scored_says_so_and_is_never_recommended():
    rows = [row("ingredient", "a.pt", 0.3, 0.2, 0.4), row("hard vote", "of all", 0.2, 0.1, 0.3)]
    manifest = sweep(rows, {BEST_SINGLE: "output_a.csv", SOUP: "output_g.csv", HARD_VOTE: "hard_voting.csv"})
    lines = hand_in_lines(manifest)
    assert "not scored" in next(line for line in lines if line.startswith(SOUP))
    assert "0.200 [0.100, 0.300]" in next(line for line in lines if line.startswith(HARD_VOTE))
    assert lines[-1].startswith("hand in output_a.csv: ")


def test_scores_on_new_people_stand_in_a_column_of_their_own():
    manifest = sweep([row("ingredient", "a.pt", 0.3, 0.2, 0.4)], {BEST_SINGLE: "output/output_a.csv"})
    new = {"output_a.csv": row("submission", "output_a.csv", 0.1, 0.0, 0.2)}
    heading, _, line, _ = hand_in_lines(manifest, new)
    heading, line = ([cell.strip() for cell in row.split("|")] for row in (heading, line))
    assert heading == ["submission", "macro-F1, people who chose", "people who did not", "new people", "file"]
    assert line == ["best single", "0.300 [0.200, 0.400]", "", "0.100 [0.000, 0.200]", "output/output_a.csv"]


def test_scores_of_people_who_chose_and_of_people_who_did_not_are_never_in_one_column():
    rows = [row("ingredient", "a.pt", 0.3, 0.2, 0.4), row("greedy soup", "g.pt", 0.4, 0.3, 0.5)]
    rows += [row("auto ensemble", "s_auto", 0.35, 0.3, 0.5)]
    files = {SOUP: "output/output_g.csv", AUTO_ENSEMBLE: "output/output_s_auto.csv"}
    _, _, soup, auto, _ = hand_in_lines(sweep(rows, files))
    assert [cell.strip() for cell in soup.split("|")] == [SOUP, "0.400 [0.300, 0.500]", "", files[SOUP]]
    assert [cell.strip() for cell in auto.split("|")] == [
        AUTO_ENSEMBLE,
        "",
        "0.350 [0.300, 0.500]",
        files[AUTO_ENSEMBLE],
    ]


def test_a_vote_that_is_the_soup_has_no_score_of_its_own():
    rows = [row("greedy soup", "g.pt", 0.5, 0.4, 0.6), row(HARD_VOTE, "of single and soft vote", 0.9, 0.8, 1.0)]
    manifest = sweep(rows, {SOUP: "output/output_g.csv", HARD_VOTE: "output/hard_voting_s.csv"})
    Path("output/hard_voting_s.csv").write_text(Path("output/output_g.csv").read_text())
    manifest.add(HARD_VOTE, Path("output/hard_voting_s.csv"))
    told = hand_in_lines(manifest)
    assert any("hard vote" in line and "the same answers as the soup" in line for line in told)
    assert told[-1].startswith("hand in output/output_g.csv: the soup has the best macro-F1")
