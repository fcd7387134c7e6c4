"""Training on any labelling: specialists of any attribute, oversampling, halves that are alike, ages not told."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import AGE, SOUP, in_a_copy, infer, train, validate
from PIL import Image

import finetune
import finetune_age
from utils.base.errors import InputError
from utils.base.files import LONGEST_STEM
from utils.data import competition
from utils.data.labels import Attribute, Labelling
from utils.data.photographs import from_columns
from utils.data.reading import asked_labelling, read_photographs
from utils.ensembles.candidates import find_candidates
from utils.ensembles.members import ways_of_sweep
from utils.evaluation import manifest
from utils.evaluation.hand_in import nothing_chosen
from utils.evaluation.manifest import read_manifest
from utils.models.keep_top import keep_top
from utils.models.model_files import is_specialist, model_files, specialist_prefix
from utils.models.sweeps import find_checkpoint, find_specialists, find_sweep
from utils.training import preflight
from utils.training.dataset import train_set
from utils.training.recorded_options import differences

MASK = "Mask_finetune_cp_seed42_i0_epoch2"


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Twelve images in folders of two classes."""
    folder = tmp_path_factory.mktemp("classes")
    for k in range(12):
        path = folder / ("dark", "light")[k % 2] / f"{k:02d}.png"
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(k).integers(0, 100, (32, 32, 3), np.uint8)
        Image.fromarray(noise + np.uint8(150 * (k % 2))).save(path)
    return folder


def options(*argv):
    return finetune.parser().parse([str(one) for one in argv])


def to_train_on(photographs, *argv, attributes=None):
    """What a run trains on that holds nobody out."""
    given = options(*argv)
    whole = asked_labelling(photographs, given)
    rows, squares = np.arange(len(photographs)), SimpleNamespace(squares=None)
    labelling = whole if attributes is None else whole.only(attributes)
    task = SimpleNamespace(photographs=photographs, labelling=labelling, whole=whole, rows=rows, held_out=squares)
    return train_set(task, given)


def test_any_value_is_shown_once_more_under_its_own_augmentation(faces):
    photographs = read_photographs(faces)
    count = len(photographs)
    shown = to_train_on(photographs, "--oversample", "age=60+", "mask=incorrect")
    old, wrong = (photographs.values["age"] >= 60), (photographs.values["mask"] == 1)
    expected = np.concatenate([np.arange(count), np.flatnonzero(old), np.flatnonzero(wrong)])
    assert shown.rows.tolist() == expected.tolist()
    assert np.flatnonzero(shown.which).tolist() == list(range(count, len(expected)))
    by_name = to_train_on(photographs, "--old-aug", True)
    assert by_name.rows.tolist() == expected[: count + old.sum()].tolist()
    of_the_age = to_train_on(photographs, "--oversample", "mask=incorrect", attributes=("age",))
    assert of_the_age.rows[count:].tolist() == np.flatnonzero(wrong).tolist()
    limits = to_train_on(photographs, "--oversample", "age=46+", "--age-limits", "30,46")
    assert limits.rows[count:].tolist() == np.flatnonzero(photographs.values["age"] >= 46).tolist()
    nobody = read_photographs(faces)
    nobody.values["age"][:] = 20
    with pytest.raises(InputError, match="--old-aug True: no photograph to train on has the age 60 and over"):
        to_train_on(nobody, "--old-aug", True)


def test_halves_are_alike_in_what_a_group_does_not_share(faces, classes):
    people = read_photographs(faces)
    masks = to_train_on(people, "--half-cutmix", 0.5).mixing.alike
    assert masks.tolist() == people.values["mask"].tolist()
    within = to_train_on(people, "--half-cutmix", 0.5, "--half-cutmix-within", "gender,mask").mixing.alike
    assert within.tolist() == (people.values["mask"] * 2 + people.values["gender"]).tolist()
    alone = read_photographs(classes)
    assert to_train_on(alone, "--half-cutmix", 0.5).mixing.alike.tolist() == alone.values["label"].tolist()
    told = {"colour": list("rrgg"), "size": list("bsbs")}
    grouped = from_columns(Path("set"), list("abcd"), list("xxyy"), told, list("abcd"), {}, {})
    assert to_train_on(grouped, "--half-cutmix", 0.5).mixing.alike.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--oversample", "label=grey"], "--oversample: label 'grey' is none of dark, light"),
        (["--oversample", "colour=red"], "--oversample: there is no attribute 'colour', only label"),
        (["--half-cutmix", 1, "--half-cutmix-within", "mask"], "--half-cutmix-within: there is no attribute 'mask'"),
        (
            ["--old-aug", True],
            "--old-aug True is about ages, .* no age in years, only label: leave it out .*oversample",
        ),
        (["--drop-ages", "57-59"], "--drop-ages is about ages"),
        (["--age-regression", 1], "--age-regression is about ages"),
        (["--age-limits", "20,40"], "--age-limits is about ages"),
        (["--attributes", "label"], "--attributes label .* tells only one, label: leave it out"),
        (["--group-column", "person"], "--group-column says nothing about a folder of images, .*: leave it out"),
        (["--limits", "label=3"], "--limits says nothing about a folder"),
        (["--prompts", "p.csv"], "--prompts p.csv has no prompt for 'light'"),
        (
            ["--prompts", "whole.csv"],
            "--prompts whole.csv are for a zero-shot head, .* gets a linear probe",
        ),
    ],
)
def test_what_the_photographs_do_not_tell_is_said_before_anything_is_decoded(classes, pretrained, argv, message):
    Path("p.csv").write_text("class,prompt\ndark,a dark photo.\n")
    Path("whole.csv").write_text("class,prompt\ndark,a dark photo.\nlight,a light photo.\n")
    with pytest.raises(InputError, match=message):
        train(classes, pretrained, *argv)
    assert not Path("cache/squares").exists()


def test_a_flag_about_another_kind_of_set_is_no_silent_one(faces, classes):
    for argv in (["--values", "gender=female,male"], ["--group-pattern", "(.)"], ["--limits", "height=3"]):
        with pytest.raises(InputError, match=f"{argv[0]} says nothing about a folder of images"):
            asked_labelling(read_photographs(faces), options(*argv))
    assert asked_labelling(read_photographs(faces), options("--limits", "age=20,40")).limits == {"age": (20, 40)}
    listed = from_columns(classes, ["a"], None, {"label": ["x"]}, ["a"], {}, {}, listed_in=classes / "list.csv")
    with pytest.raises(InputError, match="--group-pattern says nothing about a table"):
        asked_labelling(listed, options("--group-pattern", "(.)"))


def test_a_specialist_is_of_some_of_several_attributes(faces, classes, pretrained):
    for argv, message in (
        (["--attributes", "colour"], "--attributes: there is no attribute 'colour', only mask, gender, age"),
        (["--attributes", "age,mask,gender"], "mask, gender, age are all there are, and no specialist's"),
    ):
        with pytest.raises(InputError, match=message):
            train(faces, pretrained, *argv)
    with pytest.raises(InputError, match=r"tells only one, label: leave it out \(finetune_age.py always asks"):
        train(classes, pretrained, script=finetune_age)
    with pytest.raises(InputError, match="give --half-cutmix too"):
        options("--half-cutmix-within", "mask")


def test_a_set_of_one_class_is_an_error_and_small_classes_are_warned_of(classes, pretrained, capsys):
    Image.new("RGB", (32, 32), "red").save(Path("red.png"))
    for folder, names in (("one", ["a"]), ("three", ["a", "b", "c"])):
        for k, name in enumerate(names):
            Path(folder, name).mkdir(parents=True)
            for image in sorted(classes.rglob("*.png"))[: 5 if k < 2 else 1]:
                Path(folder, name, f"{k}_{image.name}").write_bytes(image.read_bytes())
    with pytest.raises(InputError, match="all 5 photographs in one are of one class, 'a'"):
        train(Path("one"), pretrained)
    fast = "--epochs", 1, "--batch-size", 2, "--head-init", "random", "--fast-dev-run"
    train(Path("three"), pretrained, *fast, "--val-ratio", 0.5)
    told = capsys.readouterr().out
    assert "1 of 3 classes have a single image, which is trained on or held out" in told
    assert "held-out images are nearly the same as one to train on" in told
    # of several runs in one process the first says it
    train(Path("three"), pretrained, *fast, "--val-ratio", 0.5, "--runs", "1:0", "42:0")
    assert "held-out images" not in capsys.readouterr().out


def test_the_prefix_of_a_specialist_is_a_word_that_fits_names_of_files():
    assert specialist_prefix(None) == ""
    assert specialist_prefix(("age",)) == "Age_"
    assert specialist_prefix(("gender", "mask_kind")) == "Gender+Mask-kind_"
    assert specialist_prefix(("안경",)) == "안경_"
    long = specialist_prefix(tuple(f"attribute{k}" for k in range(20)))
    assert len(long) == 40
    assert len(long) + 80 < LONGEST_STEM
    assert options("--attributes", "mask,age").attributes == ("age", "mask")


def test_a_record_tells_a_specialist_and_an_older_one_is_by_its_attributes():
    plain, asked = ({"options": {"attributes": value}} for value in (None, ["mask"]))
    assert is_specialist(("mask",), asked)
    assert not is_specialist(("age",), plain)  # of a set that tells nothing but ages
    assert is_specialist(("age",), {"options": {"lr": 1.0}})
    assert not is_specialist(("mask",), {"options": {"lr": 1.0}})
    assert differences({"lr": 1.0}, {"lr": 1.0, "attributes": ["age"]}) == ""
    assert "attributes" in differences({"attributes": None}, {"attributes": ["age"]})


def test_a_specialist_of_the_mask_corrects_a_soup_and_is_no_ingredient(
    trained, faces, pretrained, monkeypatch, capsys
):
    in_a_copy(trained, monkeypatch)
    path, _ = train(faces, pretrained, "--attributes", "mask")
    assert path == Path(f"model/{MASK}.pt")
    model = Path("model")
    sweep = read_manifest("finetune_cp")

    # neither by its record nor by its name an ingredient
    for by_name in (False, True):
        assert len(find_sweep(model, by_name=by_name).ingredients) == 3
        assert {one.path.stem for one in model_files(model, by_name) if one.is_specialist} >= {MASK}
    assert find_checkpoint(None, model, by_name=True).stem == SOUP
    assert list(find_specialists(model, "finetune_cp")) == [("age",), ("mask",)]
    ways = ways_of_sweep(sweep, model)
    assert ways[manifest.WEIGHTED].specialists == [f"model/{AGE}.pt"]
    assert "has a mask specialist too, which --weighted-ensemble takes" in capsys.readouterr().out
    assert {one.kind for one in find_candidates(model)} == {"single", "soup", "age", "mask"}
    assert keep_top(model, "finetune_cp", 3, "macro_f1") == []
    taken = options("--name", "finetune_cp", "--epochs", 3, "--model", "tower.pt", "--attributes", "mask")
    with pytest.raises(InputError, match=r"(Mask|Age)_finetune_cp_seed42_i0_epoch2.pt is of 2 epochs"):
        preflight.check_name_is_free(taken)

    # a weight is tuned, kept and read again
    rows = validate(faces, "--model-name", SOUP, "--weighted-ensemble", MASK)
    assert [row["kind"] for row in rows] == ["single", "mask specialist", "weighted"]
    assert "weight of the mask specialist" in capsys.readouterr().out
    weight = json.loads(Path(f"logs/ensemble_{SOUP}_WE_{MASK}.json").read_text())
    assert weight["age"]["name"] == f"{MASK}.pt"  # as records on the disk have always called it
    written = infer(faces, "--model-name", SOUP, "--weighted-ensemble", MASK)
    assert written.name == f"output_{SOUP}_WE_{MASK}.csv"
    with pytest.raises(InputError, match="is a mask specialist of 3 classes, not a model of all classes"):
        validate(faces, "--model-name", MASK)
    with pytest.raises(InputError, match="have other classes: they cannot vote"):
        validate(faces, "--model-name", SOUP, "--weighted-ensemble", MASK, AGE)

    # without the one of the age it is the sweep's
    Path(f"model/{AGE}.pt").unlink()
    way = manifest.with_specialist(("mask",))
    assert way in ways_of_sweep(sweep, model)
    assert manifest.is_voter(way)
    assert not manifest.is_voter(f"{way}{manifest.OVER_FOLDS}")
    for recipe in ("uniform", "greedy"):
        chosen = sweep.model_copy(update={"recommended": recipe})
        assert nothing_chosen(chosen, way) == nothing_chosen(chosen, manifest.SOUP) == (recipe == "uniform")


def test_a_set_of_ages_alone_has_no_specialist_and_makes_a_soup_of_the_whole():
    """Its records say that nobody asked for a part."""
    from utils.models.checkpoints import Checkpoint, check_whole, soup_meta

    labelling = competition.labelling(("age",))
    meta = {"labelling": labelling.record(), "options": {"attributes": None}, "split": None, "family": None}
    one = Checkpoint(Path("a.pt"), {}, {}, meta, {}, "0" * 64)
    check_whole(one)
    assert soup_meta([one], [1], {"recipe": "greedy"}, {})["options"] == {"attributes": None, "recipe": "greedy"}
    assert Labelling((Attribute("age", ("young", "old")),)).limits == {}
