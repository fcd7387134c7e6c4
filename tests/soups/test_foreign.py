"""Soups of other people's checkpoints: by file name, with a labelled folder or a CSV to score on."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import DIM, answers, draw_face, files, infer, openai_vision_state, soup, validate

import inference
from utils.base.errors import InputError
from utils.data.labelled import read_labelled_images
from utils.data.labels import plain
from utils.models.checkpoints import read_checkpoint

CLASSES = ("cat", "dog", "emu")


def head(seed: int, num_classes: int = len(CLASSES)) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "classification_head.weight": 10 * torch.randn(num_classes, DIM, generator=generator),
        "classification_head.bias": torch.zeros(num_classes),
    }


@pytest.fixture
def zoo():
    """Three model-soups files of one start with a head of three classes, and 24 images in a folder per class."""
    start, other = openai_vision_state(0), openai_vision_state(1)
    for k in range(3):
        state = {f"model.{name}": tensor + 0.01 * k * other[name] for name, tensor in start.items()} | head(0)
        torch.save({("module." if k else "") + name: tensor for name, tensor in state.items()}, f"zoo_{k}.pt")
    for k, name in enumerate(CLASSES):
        folder = Path("images") / name
        folder.mkdir(parents=True)
        for number in range(8):
            draw_face(k, number % 2, 20 + 20 * k, number).save(folder / f"{number}.png")
    return ("--ingredients", "zoo_0.pt", "zoo_1.pt", "zoo_2.pt", "--score-on", "images")


def test_files_are_souped_and_scored_on_a_folder_per_class(zoo):
    results = soup(Path("nowhere"), *zoo, "--greedy-soup", "--uniform-soup", "--name", "zoo", "--plot")
    assert set(results) == {"zoo_0", "zoo_1", "zoo_2", "zoo_greedysoup_num3", "zoo_uniformsoup_num3"}
    assert {scores["images"] for scores in results.values()} == {24}
    uniform = read_checkpoint(Path("model/zoo_uniformsoup_num3.pt"))
    assert uniform.labelling == plain(CLASSES)
    assert [one["name"] for one in uniform.meta["made_from"]] != []
    rows = [json.loads(line) for line in Path("logs/individual_results_zoo_num3.jsonl").read_text().splitlines()]
    assert rows[0]["people"] == "the set images"
    assert Path("val_img/soups_zoo_num3.png").is_file()


def test_a_csv_scores_alike_and_can_say_which_images_belong_together(zoo):
    by_folder = soup(Path("nowhere"), *zoo, "--eval-individual-models")
    rows = [
        (path, CLASSES.index(path.parts[1]), f"p{k % 5}")
        for k, path in enumerate(sorted(Path("images").rglob("*.png")))
    ]
    with open("labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "person"), *rows])
    by_csv = soup(Path("nowhere"), *zoo[:-1], "labels.csv", "--eval-individual-models")
    assert by_csv == by_folder
    row = json.loads(Path("logs/individual_results_soup_num3.jsonl").read_text().splitlines()[0])
    assert (row["images"], row["persons"]) == (24, 5)


def test_an_exported_soup_is_an_ingredient_again(zoo):
    soup(Path("nowhere"), *zoo, "--uniform-soup", "--export", "hub")
    scored = ("--score-on", "images", "--eval-individual-models")
    file = soup(Path("nowhere"), "--ingredients", "model/soup_uniformsoup_num3.pt", *scored)
    assert soup(Path("nowhere"), "--ingredients", "hub", *scored)["hub"] == file["soup_uniformsoup_num3"]


def test_a_folder_whose_head_lies_in_the_same_file_is_read_too(zoo):
    from safetensors.torch import load_file, save_file

    soup(Path("nowhere"), *zoo, "--uniform-soup", "--export", "hub")
    head_file = Path("hub/classification_head.safetensors")
    save_file(load_file("hub/model.safetensors") | load_file(head_file), "hub/model.safetensors", {"format": "pt"})
    head_file.unlink()
    Path("hub/soup.json").unlink()  # somebody else's folder has no record of ours
    scored = ("--score-on", "images", "--eval-individual-models")
    file = soup(Path("nowhere"), "--ingredients", "model/soup_uniformsoup_num3.pt", *scored)
    assert soup(Path("nowhere"), "--ingredients", "hub", *scored)["hub"] == file["soup_uniformsoup_num3"]


def test_a_start_with_a_head_of_its_own_serves_wise_ft_and_model_stock(zoo):
    torch.save({f"model.{name}": t for name, t in openai_vision_state(0).items()} | head(0), "start.pt")
    soup(Path("nowhere"), *zoo, "--recipe", "model-stock", "wise-ft", "--start-from", "start.pt")
    stock = read_checkpoint(Path("model/soup_modelstocksoup_num3.pt"))
    assert "start.pt" in {one["name"] for one in stock.meta["made_from"]}


def test_files_that_do_not_belong_together_are_one_clear_error(zoo):
    torch.save({f"model.{name}": t for name, t in openai_vision_state(0).items()} | head(0, 5), "five.pt")
    cases = [
        (
            ("--ingredients", "zoo_0.pt", "five.pt", "--score-on", "images"),
            "have 3 classes and the checkpoints' head has 5",
        ),
        (("--ingredients", "zoo_0.pt", "gone.pt", "--score-on", "images"), "--ingredients gone.pt does not exist"),
        (("--ingredients", "zoo_0.pt", "--score-on", "gone"), "--score-on gone is neither a folder"),
        (("--ingredients", "five.pt"), "five.pt has a head of 5 classes, expected 18"),
    ]
    Path("data").mkdir()
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            soup(Path("data"), *arguments, "--greedy-soup")
    shutil.copy("zoo_0.pt", "copy.pt")
    with pytest.raises(InputError, match="1 of the files have the weights of another one"):
        soup(Path("nowhere"), "--ingredients", "zoo_0.pt", "copy.pt", "--score-on", "images", "--greedy-soup")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\n", "the columns are name,label, expected file,label"),
        ("file,label\n", "lists no images"),
        ("file,label\nimages/cat/0.png,cat\nimages/cat/0.png,cat\n", "lists 1 images twice"),
        ("file,label\nimages/cat/99.png,cat\n", "line 2: images/cat/99.png is not there"),
        (
            "file,label,person\nimages/cat/0.png,cat,a\nimages/emu/0.png,emu, \n",
            "line 3: images/emu/0.png has no person",
        ),
    ],
)
def test_a_csv_that_does_not_fit_is_named(zoo, text, message):
    Path("labels.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_labelled_images(Path("labels.csv"))


def test_numbers_are_class_ids_of_whatever_head(zoo):
    Path("labels.csv").write_text("file,label\nimages/cat/0.png,0\nimages/emu/0.png,2\n")
    images = read_labelled_images(Path("labels.csv"))
    assert images.head_classes(1000).num_classes == 1000
    assert images.labels(images.head_classes(1000)).tolist() == [0, 2]
    with pytest.raises(InputError, match="have a label 2, and the checkpoints' head has the class numbers 0 to 1"):
        images.head_classes(2)


def test_files_of_the_same_name_stay_apart(zoo):
    for k in range(3):
        Path(f"run{k}").mkdir()
        Path(f"zoo_{k}.pt").rename(f"run{k}/model.pt")
    paths = [f"run{k}/model.pt" for k in range(3)]
    results = soup(Path("nowhere"), "--ingredients", *paths, "--score-on", "images", "--uniform-soup")
    assert {"run0/model", "run1/model", "run2/model"} < set(results)
    assert len(Path("logs/individual_results_soup_num3.jsonl").read_text().splitlines()) == 3
    made_from = read_checkpoint(Path("model/soup_uniformsoup_num3.pt")).meta["made_from"]
    assert {one["name"] for one in made_from} == set(paths)


def test_links_keep_the_names_that_the_user_gave_them(zoo):
    for k, name in enumerate(("mild", "wild")):
        Path(f"{name}.pt").symlink_to(f"zoo_{k}.pt")
    links = ("--ingredients", "mild.pt", "wild.pt", "--score-on", "images")
    assert set(soup(Path("nowhere"), *links, "--eval-individual-models")) == {"mild", "wild"}


def test_a_soup_never_replaces_its_ingredient(zoo):
    soup(Path("nowhere"), *zoo[:3], "--score-on", "images", "--uniform-soup")
    before = Path("model/soup_uniformsoup_num2.pt").read_bytes()
    again = ("--ingredients", "model/soup_uniformsoup_num2.pt", "zoo_2.pt", "--score-on", "images")
    with pytest.raises(InputError, match=r"the soup would replace its ingredient model/soup_uniformsoup_num2\.pt"):
        soup(Path("nowhere"), *again, "--recipe", "greedy", "uniform")
    assert Path("model/soup_uniformsoup_num2.pt").read_bytes() == before
    soup(Path("nowhere"), *again, "--uniform-soup", "--name", "second")


def test_a_folder_that_was_changed_by_hand_is_noticed(zoo):
    from safetensors.torch import load_file, save_file

    soup(Path("nowhere"), *zoo, "--uniform-soup", "--export", "hub")
    path = "hub/classification_head.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(InputError, match=r"hub is damaged or was edited: its weights have the digest"):
        soup(Path("nowhere"), "--ingredients", "hub", "--score-on", "images", "--eval-individual-models")
    Path("hub/soup.json").write_text("{")
    with pytest.raises(InputError, match=r"hub/soup.json is no record of an exported soup \(Invalid JSON"):
        soup(Path("nowhere"), "--ingredients", "hub", "--score-on", "images", "--eval-individual-models")


@pytest.mark.parametrize(
    ("make", "folder", "message"),
    [
        (lambda: None, ".", "--export . is no folder of its own"),
        (lambda: Path("notes.txt").write_text("mine"), "hub", "--export hub is there and is no exported soup"),
        (lambda: Path("link").symlink_to("hub"), "link", "--export link is no folder of its own"),
        (lambda: Path("file").touch(), "file/hub", "cannot write into file"),
    ],
)
def test_an_export_replaces_an_export_and_nothing_else(zoo, make, folder, message):
    soup(Path("nowhere"), *zoo, "--uniform-soup", "--export", "hub")
    soup(Path("nowhere"), *zoo, "--uniform-soup", "--export", "hub")  # an earlier export is replaced
    shutil.copy("hub/soup.json", "soup.json")
    make()
    if Path("notes.txt").is_file():
        Path("notes.txt").rename("hub/notes.txt")
    before = files()
    with pytest.raises(InputError, match=message):
        soup(Path("nowhere"), *zoo, "--uniform-soup", "--export", folder)
    assert files() == before


def labels_csv(*rows: str) -> Path:
    Path("labels.csv").write_text("file,label\n" + "".join(f"{row}\n" for row in rows))
    return Path("labels.csv")


def test_labels_are_read_strictly(zoo):
    cat, emu = "images/cat/0.png", "images/emu/0.png"
    floats = read_labelled_images(labels_csv(f"{cat},10.0", f"{emu},2.0"))  # as pandas writes them
    assert floats.labels(plain(tuple(map(str, range(18))))).tolist() == [10, 2]
    for odd in ("-1", "1.5", ""):
        with pytest.raises(InputError, match=rf"row 3: label '{odd}' is no class number"):
            read_labelled_images(labels_csv(f"{cat},2", f"{emu},{odd}"))
    with pytest.raises(InputError, match="the class numbers 0 to 2"):
        read_labelled_images(labels_csv(f"{cat},0", f"{emu},{10**25}")).head_classes(3)
    with pytest.raises(InputError, match="have a label 2147483648, and the checkpoints' head"):
        read_labelled_images(labels_csv(f"{cat} ,0", f"{emu},{'9' * 5000}")).head_classes(3)
    absolute = read_labelled_images(labels_csv(f"{Path(cat).resolve()},0", f"./{emu},2"))
    results = soup(Path("nowhere"), *zoo[:-1], "labels.csv", "--eval-individual-models")
    assert {scores["images"] for scores in results.values()} == {len(absolute)} == {2}


def test_folders_are_read_as_shown(zoo):
    hidden = Path("images/cat/.ipynb_checkpoints")
    hidden.mkdir()
    shutil.copy("images/cat/0.png", hidden / "0-checkpoint.png")
    Path("images/__MACOSX").mkdir()
    Path("images/fox").mkdir()  # a class without an image is one all the same
    images = read_labelled_images(Path("images"))
    assert (len(images), images.names) == (24, (*CLASSES, "fox"))
    for k, name in enumerate(("cat", "dog", "emu", "fox"), start=1):
        Path("images", name).rename(f"images/{k}")
    with pytest.raises(InputError, match="could be class numbers or names in sorted order"):
        read_labelled_images(Path("images"))


def test_weights_and_logits_that_are_no_numbers_are_an_error_that_names_the_model(zoo):
    state = torch.load("zoo_1.pt", weights_only=True)
    for value, message in (
        (torch.nan, r"zoo_1\.pt: tensor .* holds NaN or infinite numbers"),
        (3e38, "zoo_1: its logits are NaN"),
    ):
        torch.save({name: torch.full_like(tensor, value) for name, tensor in state.items()}, "zoo_1.pt")
        with pytest.raises(InputError, match=message):
            soup(Path("nowhere"), *zoo, "--greedy-soup")


def test_one_image_or_one_ingredient_does_what_can_be_done(zoo):
    shutil.copy("zoo_0.pt", "start.pt")
    alone = ("--ingredients", "zoo_0.pt", "--score-on", "images", "--start-from", "start.pt")
    results = soup(Path("nowhere"), *alone, "--recipe", "all")
    assert "soup_wiseftsoup_num1" in results
    assert "soup_modelstocksoup_num1" not in results
    with pytest.raises(InputError, match="model-stock measures the angle between ingredients, and there is one"):
        soup(Path("nowhere"), *alone, "--recipe", "model-stock")
    labels_csv("images/cat/0.png,0")
    soup(Path("nowhere"), *zoo[:-1], "labels.csv", "--recipe", "all")
    with pytest.raises(InputError, match="--nested needs two people in each half, and 1 are held out"):
        soup(Path("nowhere"), *zoo[:-1], "labels.csv", "--greedy-soup", "--nested")


def test_a_soup_of_other_classes_answers_with_its_own(zoo, faces):
    soup(Path("nowhere"), *zoo, "--uniform-soup", "--name", "zoo")
    shutil.copy("model/zoo_uniformsoup_num3.pt", "model/again.pt")
    asked = ("--model-name", "zoo_uniformsoup_num3.pt")
    path = infer(faces, *asked, "--save-probs", "--answer", "ids")
    named = infer(faces, *asked, "--output-dir", "named")
    assert set(answers(path).values()) <= {0, 1, 2}
    with open(named) as file:
        assert {row["ImageID"]: CLASSES.index(row["ans"]) for row in csv.DictReader(file)} == answers(path)
    with open(path.with_name(f"{path.stem}_probs.csv")) as file:
        header, *rows = csv.reader(file)
    assert header == ["ImageID", *CLASSES]
    for image, *probs in rows:
        assert sum(map(float, probs)) == pytest.approx(1)
        assert answers(path)[image] == max(range(3), key=lambda k: float(probs[k]))
    assert json.loads(path.with_name(f"{path.name}.json").read_text())["classes"] == list(CLASSES)
    assert answers(infer(faces, *asked, "--soft-voting", "again.pt", "--answer", "ids")) == answers(path)
    for extra, message in (
        (("--skip-bad",), "--skip-bad names none of the classes of zoo_uniformsoup_num3: name one, such as cat"),
        (("--weighted-ensemble", "again.pt"), "is a model of 3 other classes: --weighted-ensemble corrects"),
    ):
        with pytest.raises(InputError, match=message):
            infer(faces, *asked, *extra)


def test_what_a_soup_of_other_classes_cannot_do_is_one_line(zoo, faces, monkeypatch):
    soup(Path("nowhere"), *zoo, "--uniform-soup", "--name", "zoo")
    path, elsewhere = "model/zoo_uniformsoup_num3.pt", "main.py --score-on FOLDER scores it .*, inference.py predicts"
    with pytest.raises(InputError, match=rf"has the classes mask x gender x age, and the model has 3 .*: {elsewhere}"):
        validate(faces, "--model-name", path)
    with pytest.raises(InputError, match=f"and the model has 3 others: {elsewhere}"):
        soup(faces, "--ingredients", path, "--eval-individual-models")
    with pytest.raises(InputError, match="no models with a record in model"):
        validate(faces, "--ensemble", "auto")
    monkeypatch.setattr("utils.reports.demo_page.check_ready", lambda accelerator: None)
    with pytest.raises(InputError, match="--demo shows attributes, and zoo_uniformsoup_num3 tells names"):
        inference.show(inference.parser().parse(["--demo", "--model-name", path]))
