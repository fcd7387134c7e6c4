"""Every recipe on real (tiny) ingredients: its law, its table, its record, and what a second call costs."""

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import in_a_copy, infer, openai_vision_state, soup, train
from PIL import Image

from utils.base.errors import InputError
from utils.base.flags import RECIPES
from utils.base.options import Options
from utils.data.competition import STEM_MASKS, parse_person
from utils.data.decoding import decode
from utils.data.reading import read_photographs
from utils.data.splits import person_folds, recorded_split
from utils.evaluation.held_out import HeldOut, PartialLogits
from utils.evaluation.scores import score
from utils.models.averaging import Mixture
from utils.models.checkpoints import read_checkpoint
from utils.models.clip import build
from utils.soups.recipes import Soup, recipe_function
from utils.soups.report import verdict

NAME = "finetune_cp_seed42"


@pytest.fixture(scope="module")
def souped(trained, faces, pretrained, tmp_path_factory):
    """The trained sweep after all recipes were followed, by macro-F1, with everything that can be asked beside."""
    folder = tmp_path_factory.mktemp("souped")
    shutil.copytree(trained[0], folder, dirs_exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        arguments = ("--recipe", "all", "--metric", "macro_f1", "--start-from", pretrained / "model_0.pt", "--plot")
        results = soup(faces, *arguments, "--export", "hub/soup", "--export-onnx", "soup.onnx")
    finally:
        os.chdir(before)
    return folder, results


def saved(folder, recipe):
    return read_checkpoint(folder / "model" / f"{NAME}_epoch2_{recipe.replace('-', '')}soup_num3.pt")


def reached(souped, recipe):
    return souped[1][saved(souped[0], recipe).name]["macro_f1"]


def test_no_recipe_that_selects_ends_below_what_it_began_with(souped):
    best = max(scores["macro_f1"] for name, scores in souped[1].items() if "soup" not in name)
    for recipe in ("greedy", "top-k", "radin"):
        assert reached(souped, recipe) >= best, recipe
    for recipe in ("greedy-replacement", "wise-ft"):
        assert reached(souped, recipe) >= reached(souped, "greedy"), recipe
    assert reached(souped, "pruned") >= reached(souped, "uniform")


def table():
    """The rows of the table of recipes, and what follows it."""
    lines = Path(f"logs/recipes_{NAME}_num3_epoch2.txt").read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("recipe "))
    cells = [[cell.strip() for cell in line.split("|")] for line in lines[start:]]
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:] if len(row) > 1}, lines[-1]


def test_a_call_keeps_the_rows_of_other_soups_that_still_fit(trained, faces, pretrained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    soup(faces, "--greedy-soup", "--recipe", "top-k", "--nested")
    before, _ = table()
    gain = before["greedy"]["gain in accuracy on other people"]
    assert re.match(r"no difference|[+-]0\.\d{3} \[", gain)
    soup(faces, "--uniform-soup")
    after, last = table()
    assert list(after) == ["expected single", "best single", "uniform", "greedy", "top-k"]
    for recipe in ("greedy", "top-k"):
        assert after[recipe] == before[recipe] | {"seconds": ""}
    assert last.startswith(("no recipe is safely better than the expected single model on ", "safely better than "))
    soup(faces, "--greedy-soup")  # the same soup again, not tried on other people
    assert table()[0]["greedy"]["gain in accuracy on other people"] == gain
    train(faces, pretrained, "--i", 2, "--wd", 0.5, "--overwrite")  # of which both soups are made
    soup(faces, "--uniform-soup")
    assert list(table()[0]) == ["expected single", "best single", "uniform"]


def told(**gains):
    """An evaluator and a book of soups with these gains (difference, low, high) on other people."""
    ingredients, digits = [SimpleNamespace(name="the best one")], ("difference", "low", "high")
    files = {recipe.replace("_", "-"): f"{recipe}.pt" for recipe in gains}
    rows = {
        f"{recipe}.pt": {
            "gain_on_others": gain and {"macro_f1": dict(zip(digits, gain, strict=True), probability=0.5)}
        }
        for recipe, gain in gains.items()
    }
    evaluator = SimpleNamespace(
        held_out=SimpleNamespace(whose="people"), metric_name="macro_f1", ingredients=ingredients, order=[0]
    )
    return evaluator, SimpleNamespace(rows=rows, soups=lambda: files)


def test_the_verdict_crowns_no_recipe_that_is_not_surely_better_on_others():
    keep = "no recipe is safely better than the expected single model on people that did not choose it"
    assert verdict(*told(greedy=(-0.02, -0.05, 0.01), uniform=(-0.01, -0.03, 0.02))) == keep
    assert verdict(*told(greedy=(0.04, -0.001, 0.08), top_k=None)) == keep
    better = verdict(*told(greedy=(0.01, 0.001, 0.02), top_k=(0.03, 0.002, 0.05)))
    said = f"{keep.removeprefix('no recipe is ')}: top-k, gain in macro-F1 +0.030 [+0.002, "
    assert better.startswith(said)
    assert verdict(*told(greedy=None, uniform=(0.1, 0.05, 0.2))) is None


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_declared_recipe_has_its_function_and_the_function_says_what_it_does(recipe):
    function = recipe_function(recipe)
    assert function.__name__ == recipe.replace("-", "_")
    assert function.__doc__


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_saved_soup_is_the_mixture_that_its_record_tells(souped, recipe):
    soup = saved(souped[0], recipe)
    made_from = soup.meta["made_from"]
    paths = [*(souped[0] / "model").glob("*_i?_epoch2.pt"), *(souped[0] / "cache" / "starts").rglob("start.pt")]
    by_digest = {one.digest: one for one in map(read_checkpoint, paths)}
    members = [by_digest[one["digest"]] for one in made_from]
    assert [member.path.name for member in members] == [one["name"] for one in made_from]
    assert sum(one["weight"] for one in made_from) == pytest.approx(1)
    again = Mixture.of(members, soup.meta["options"]["weights"]).state_dict()
    assert all(torch.equal(tensor, soup.state_dict()[name]) for name, tensor in again.items())
    assert soup.meta["options"]["recipe"] == recipe
    assert soup.split == members[0].split


def test_the_table_has_a_line_for_each_recipe_with_its_scores(souped):
    lines = (souped[0] / f"logs/recipes_{NAME}_num3_epoch2.txt").read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("recipe "))
    rows = {cells[0]: cells for cells in ([cell.strip() for cell in line.split("|")] for line in lines[start + 2 :])}
    assert list(rows) == ["expected single", "best single", *RECIPES]
    assert [rows[recipe][-1] for recipe in RECIPES] == [saved(souped[0], recipe).path.name for recipe in RECIPES]
    for recipe in RECIPES:
        members = saved(souped[0], recipe).meta["made_from"]
        assert int(rows[recipe][1]) == len(members)
        assert rows[recipe][3].startswith(f"{reached(souped, recipe):.3f} [")
    assert rows["uniform"][5] == rows["model-stock"][5] == "0"  # nothing was selected
    assert lines[0] == "doctor: 3 ingredients with the same tensors, classes and preprocessing"
    assert any("distance from the start" in line for line in lines)


def test_the_ensemble_column_is_the_score_of_the_members_averaged_log_probabilities(souped, faces):
    folder = souped[0]
    lines = (folder / f"logs/recipes_{NAME}_num3_epoch2.txt").read_text().splitlines()
    told = next(line for line in lines if line.startswith("uniform")).split("|")[4].strip()
    ingredients = [read_checkpoint(folder / f"model/{NAME}_i{i}_epoch2.pt") for i in range(3)]
    labels, pixels = held_out(faces, ingredients[0])
    log_probs = [build(one.config, one.state_dict()).eval().classify(pixels).log_softmax(-1) for one in ingredients]
    whole = score(torch.stack(log_probs).mean(0).detach().numpy(), labels, ingredients[0].labelling)
    assert told == f"{float(whole.values['accuracy']):.3f} / {float(whole.values['macro_f1']):.3f}"


def held_out(faces, checkpoint) -> tuple[np.ndarray, torch.Tensor]:
    """Class ids (N,) and pixel values of the held-out photographs, read here without any of the pipeline."""
    labels, pixels = [], []
    mean, std = (np.array(checkpoint.preprocessing[key], np.float32) for key in ("mean", "std"))
    for name in checkpoint.split["held_out_ids"]:
        person = parse_person(name)
        for path in sorted((faces / "train" / "images" / name).iterdir()):
            age = int(person.age >= 30) + int(person.age >= 60)
            labels.append(STEM_MASKS[path.stem] * 6 + person.gender * 3 + age)
            square = decode(path, checkpoint.preprocessing["size"]).astype(np.float32) / 255
            pixels.append(torch.from_numpy((square - mean) / std).permute(2, 0, 1))
    return np.array(labels), torch.stack(pixels)


def test_a_second_call_evaluates_nothing(souped, faces, pretrained, monkeypatch, tmp_path):
    shutil.copytree(souped[0], tmp_path / "again")
    monkeypatch.chdir(tmp_path / "again")
    monkeypatch.setattr("utils.models.resident.build", None)
    journals = {path: path.read_bytes() for path in Path("logs/journals").iterdir()}
    searches = [recipe for recipe in RECIPES if not recipe.startswith("learned")]
    arguments = ("--recipe", *searches, "--metric", "macro_f1", "--start-from", pretrained / "model_0.pt")
    assert soup(faces, *arguments) == souped[1]
    assert {path: path.read_bytes() for path in Path("logs/journals").iterdir()} == journals


@pytest.mark.parametrize("order", ["as searched", "another"])
def test_the_published_choice_says_what_macro_f1_would_choose_and_saves_none_of_it(
    souped, faces, order, monkeypatch, tmp_path, capsys
):
    shutil.copytree(souped[0], tmp_path / "again")
    monkeypatch.chdir(tmp_path / "again")
    if order == "another":  # a search that keeps its first and best model only, whatever else would raise the score
        monkeypatch.setattr("utils.soups.recipes.make_soup", lambda evaluator, _: single_model(evaluator))
    soup(faces, "--greedy-soup")
    (told,) = re.findall(r"^saved model/\S+\.pt; (macro-F1 would have .*)$", capsys.readouterr().out, re.MULTILINE)
    by_accuracy, by_macro_f1 = saved(Path(), "greedy"), saved(souped[0], "greedy")
    assert by_accuracy.meta["options"]["metric"] == "accuracy"
    if by_accuracy.digest == by_macro_f1.digest:
        assert told == "macro-F1 would have chosen the same greedy soup"
    else:
        count, own = len(by_macro_f1.meta["made_from"]), by_accuracy.meta["scores"]["macro_f1"]
        assert told == (
            f"macro-F1 would have chosen a greedy soup of {count}, with macro-F1 {reached(souped, 'greedy'):.4f} "
            f"instead of {own:.4f}: --metric macro_f1 makes it, in place of this one"
        )
    soup(faces, "--greedy-soup", "--metric", "macro_f1")
    assert "would have chosen" not in capsys.readouterr().out


def single_model(evaluator):
    """The soup of the worst ingredient."""
    evaluator.begin("greedy")
    worst = evaluator.order[-1]
    mixture = Mixture.of([evaluator.ingredients[worst]])
    return Soup("greedy", mixture, evaluator.logits[worst], [], 0, "", 0.0)


def test_a_lost_logit_cache_costs_an_evaluation_and_changes_nothing(souped, faces, monkeypatch, tmp_path):
    shutil.copytree(souped[0], tmp_path / "again")
    monkeypatch.chdir(tmp_path / "again")
    shutil.rmtree("logs/logits")
    results = soup(faces, "--greedy-soup", "--metric", "macro_f1")
    assert all(results[name] == pytest.approx(souped[1][name], rel=1e-5) for name in results)


def test_the_exported_folder_is_what_transformers_and_its_card_say(souped, faces):
    from safetensors.torch import load_file
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    folder = souped[0] / "hub" / "soup"
    record = json.loads((folder / "soup.json").read_text())
    best = max(RECIPES, key=lambda recipe: (reached(souped, recipe), -list(RECIPES).index(recipe)))
    exported = saved(souped[0], best)
    assert record == exported.meta  # of the soups made, the best one
    card = (folder / "README.md").read_text()
    assert exported.digest in card
    assert all(one["name"] in card and one["digest"][:16] in card for one in exported.meta["made_from"])

    model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    processor, head = CLIPImageProcessor.from_pretrained(folder), load_file(folder / "classification_head.safetensors")
    assert head.keys() == {"classification_head.weight", "classification_head.bias"}
    images = [Image.open(path).convert("RGB") for path in sorted((faces / "eval" / "images").iterdir())[:4]]
    with torch.inference_mode():
        features = model(**processor(images, return_tensors="pt")).image_embeds
        logits = torch.nn.functional.normalize(features, dim=-1) @ head["classification_head.weight"].T
        logits += head["classification_head.bias"]
        expected = build(exported.config, exported.state_dict()).eval()
        pixels = processor(images, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(logits, expected.classify(pixels), rtol=0, atol=1e-4)
    again = read_checkpoint(folder)
    assert (again.digest, again.labelling, again.preprocessing) == (
        exported.digest, exported.labelling, exported.preprocessing,
    )  # fmt: skip


def test_an_exported_folder_predicts_like_the_file(souped, faces, monkeypatch):
    monkeypatch.chdir(souped[0])
    folder = Path("hub/soup").resolve()
    best = max(RECIPES, key=lambda recipe: (reached(souped, recipe), -list(RECIPES).index(recipe)))
    from_folder, from_file = (
        infer(faces, "--model-name", one).read_text() for one in (folder, saved(Path(), best).path)
    )
    assert from_folder == from_file


def test_onnx_gives_the_same_logits_for_any_number_of_images(souped, faces):
    import onnxruntime

    best = max(RECIPES, key=lambda recipe: (reached(souped, recipe), -list(RECIPES).index(recipe)))
    checkpoint = saved(souped[0], best)
    _, pixels = held_out(faces, checkpoint)
    session = onnxruntime.InferenceSession(souped[0] / "soup.onnx", providers=["CPUExecutionProvider"])
    model = build(checkpoint.config, checkpoint.state_dict()).eval()
    for count in (1, 5):
        (logits,) = session.run(None, {"pixel_values": pixels[:count].numpy()})
        np.testing.assert_allclose(logits, model.classify(pixels[:count]).detach().numpy(), atol=1e-4)


def test_the_plot_shows_the_greedy_path_beside_the_scores(souped):
    with Image.open(souped[0] / f"val_img/soups_{NAME}_num3_epoch2.png") as image:
        assert image.width > 1.8 * image.height


def test_the_order_of_looking_changes_no_bit_of_the_logits(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    ingredients = [read_checkpoint(Path(f"model/{NAME}_i{i}_epoch2.pt")) for i in range(3)]
    photographs = read_photographs(faces, None)
    rows = recorded_split(photographs, ingredients[0].split).held_out
    kind = (ingredients[0].labelling, ingredients[0].preprocessing)
    logits = []
    for seed in range(3):  # each in a cache of its own, so that all are evaluated
        options = Options(batch_size=64, workers=0, no_cache=False)
        place = HeldOut(Accelerator(cpu=True), photographs, rows, *kind, options, Path(f"logits{seed}"))
        order = np.random.default_rng(seed).permutation(len(rows))
        trial = PartialLogits(place, Mixture.of(ingredients))
        for start in range(0, len(order), 16):
            trial.evaluate(order[start : start + 16])
        logits.append(trial.logits)
    assert np.array_equal(logits[0], logits[1])
    assert np.array_equal(logits[0], logits[2])


def test_nested_reports_on_people_that_chose_nothing(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    soup(faces, "--greedy-soup", "--nested")
    lines = Path(f"logs/recipes_{NAME}_num3_epoch2.txt").read_text().splitlines()
    told = [line for line in lines if line.startswith("greedy chosen on 3 people")]
    assert len(told) == 2  # both ways round
    assert all(
        re.search(r"accuracy 0\.\d{4}, macro_f1 0\.\d{4}.* on the other 3; best single ", line) for line in told
    )
    assert any(line.startswith("all ways together, gain in macro_f1 over the expected single") for line in lines)
    journals = list(Path("logs/journals").glob("greedy_accuracy_*.jsonl"))
    assert len(journals) == 3  # all people, and each half


def test_the_halves_are_alike_and_nobody_is_in_both():
    persons = np.repeat([f"p{k:02d}" for k in range(20)], 7)
    labels = np.repeat(np.arange(20) % 4, 7)
    one, other = person_folds(labels, persons, 2)
    assert not set(persons[one]) & set(persons[other])
    assert sorted([*one, *other]) == list(range(140))
    np.testing.assert_array_equal(np.bincount(labels[one]) // 7 + np.bincount(labels[other]) // 7, [5] * 4)
    assert abs(np.bincount(labels[one]) - np.bincount(labels[other])).max() <= 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "model-stock"), "--recipe model-stock needs what the ingredients were fine-tuned from"),
        (("--nested", "--uniform-soup"), "--nested tells what a selection is worth"),
        (("--export", "hub", "--eval-individual-models"), "--export writes a soup that this call makes"),
        (("--recipe", "radin", "--val-ratio", "None"), "--recipe radin selects on held-out people"),
        (("--greedy-soup", "--export", "logs"), "--export logs is there and is no exported soup"),
        (("--greedy-soup", "--export-onnx", "logs"), "--export-onnx logs is a folder"),
        (("--greedy-soup", "--score-on", "x", "--val-ratio", "None"), "--val-ratio None leaves none"),
        (("--uniform-soup", "--score-on", "x", "--relabel", "y"), "and --relabel is about others"),
        (("--greedy-soup", "--start-from", "nothing.pt"), "nothing.pt is no checkpoint file"),
    ],
)
def test_what_does_not_fit_together_is_said_before_any_work(trained, faces, monkeypatch, arguments, message):
    in_a_copy(trained, monkeypatch)
    monkeypatch.setattr("utils.evaluation.held_out.PartialLogits.evaluate", None)
    with pytest.raises(InputError, match=re.escape(message)):
        soup(faces, *arguments)


def test_a_sweep_scored_on_other_images_leaves_its_own_files_alone(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    before = {
        path: path.read_bytes()
        for path in [*Path("logs").glob("*.json*"), *Path("logs").glob("*.txt"), *Path("model").glob("*.pt")]
    }
    names = sorted(path.name for path in (faces / "eval" / "images").iterdir())
    rows = "".join(f"{faces}/eval/images/{name},{k % 18}\n" for k, name in enumerate(names))
    Path("others.csv").write_text("file,label\n" + rows)
    results = soup(faces, "--greedy-soup", "--score-on", "others.csv")
    assert any(name.endswith("_on_others_greedysoup_num3") for name in results)
    assert {path: path.read_bytes() for path in before} == before


def test_a_start_of_another_size_is_an_error_that_names_the_tensor(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    torch.save({f"model.{name}": t for name, t in openai_vision_state(0, layers=3).items()}, "three_layers.pt")
    with pytest.raises(
        InputError, match=r"--start-from three_layers.pt and finetune_cp.* are different architectures: "
    ):
        soup(faces, "--greedy-soup", "--start-from", "three_layers.pt")
