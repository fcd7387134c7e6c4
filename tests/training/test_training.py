"""What steers a fine-tuning run: options by index, layers, averages, batches, and what it leaves behind."""

import csv
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import FAST, files, infer, make_people, soup, train
from forked import command
from torch import nn

import finetune
import validation
from utils.base import runtime
from utils.base.errors import InputError
from utils.data.preprocessing import preprocessing
from utils.evaluation import prediction
from utils.models.checkpoints import read_checkpoint
from utils.models.clip import Classifier
from utils.models.weights import read_weights
from utils.training import dataset, setup
from utils.training.dataset import class_weights
from utils.training.index_options import options_of_index
from utils.training.parameters import depth_of, parameter_groups, trainable
from utils.training.resume_state import Progress

pytestmark = pytest.mark.slow

CONFIG = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1, "image_size": 32,
    "patch_size": 8, "projection_dim": 16, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip


def options(*argv):
    return finetune.parser().parse([str(one) for one in argv])


def history(stem):
    with open(f"logs/training/{stem}.csv") as file:
        return list(csv.DictReader(file))


def training_log():
    return Path("logs/training/finetune_cp_seed42_i0.log").read_text()


def test_with_one_start_for_all_an_index_draws_its_options():
    given = options("--model", "tower.pt", "--lr", 1e-3, "--epochs", 10)
    drawn = [options_of_index(given.replace(i=i)) for i in range(20)]
    assert drawn[0] == given
    assert len({one.lr for one in drawn}) == 20
    assert {one.epochs for one in drawn} <= set(range(6, 13))
    assert all(3.9e-4 < one.lr < 1.6e-3 for one in drawn)
    assert {one.mixup > 0 for one in drawn} == {one.label_smoothing > 0 for one in drawn} == {True, False}
    again = options_of_index(given.replace(i=7, random_seed=3))
    assert again == drawn[7].replace(random_seed=3)  # an index draws the same under every seed
    contrastive = given.replace(loss_fn="ContrastiveLoss")
    assert {options_of_index(contrastive.replace(i=i)).mixup for i in range(20)} == {0.0}
    release = options("--i", 7)
    assert options_of_index(release) is release


def test_layer_decay_slows_the_layers_below():
    model = Classifier(CONFIG, 18)
    groups = parameter_groups(model, 1.0, 0.1, layer_decay=0.5)
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    assert len(of) == len(list(model.parameters()))
    expected = {"embeddings": 1 / 8, "layers.0": 1 / 4, "layers.1": 1 / 2, "visual_projection": 1, "head": 1}
    for name, parameter in model.named_parameters():
        for part, lr in expected.items():
            if part in name:
                assert of[id(parameter)]["lr"] == lr
        assert of[id(parameter)]["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
    assert depth_of("vision_model.pre_layrnorm.weight", 2) == 0
    assert len(parameter_groups(model, 1.0, 0.1)) == 2


@pytest.mark.parametrize("mixing", [[], ["--mixup", 0.4]])
def test_the_second_task_learns_and_is_not_kept(faces, pretrained, mixing):
    path, _ = train(faces, pretrained, *mixing, "--name", "one")
    other, _ = train(faces, pretrained, *mixing, "--age-regression", 1, "--name", "two")
    one, two = (read_checkpoint(file) for file in (path, other))
    assert one.digest != two.digest
    assert one.shapes == two.shapes


@pytest.mark.parametrize(("freeze", "frozen"), [("backbone", {0, 1, 2, 3}), ("first-1", {0, 1})])
def test_frozen_parts_stay_as_they_were(faces, pretrained, freeze, frozen):
    path, _ = train(faces, pretrained, "--freeze", freeze, "--epochs", 1)
    before = read_weights(pretrained / "model_0.pt").backbone()
    for name, tensor in read_checkpoint(path).state_dict().items():
        if name in before:
            assert torch.equal(tensor, before[name]) == (depth_of(name, 2) in frozen), name
    with pytest.raises(InputError, match="--freeze first-9: the model has 2 layers"):
        train(faces, pretrained, "--freeze", "first-9", "--name", "other")


def test_class_weights_are_one_on_average():
    labels = np.repeat([0, 1], [9, 1])
    for kind, ratio in (("sqrt", 3), ("balanced", 9)):
        weights = class_weights(labels, kind, 3)
        assert weights[1] / weights[0] == pytest.approx(ratio)
        assert weights[labels].mean() == pytest.approx(1)
    assert class_weights(labels, "none", 3) is None


def test_the_logit_adjustment_knows_the_classes_share_of_the_loss():
    """Drawn or weighed by the root of their size, classes count alike; in full balance there is nothing to adjust."""

    class TrainSet(list):
        labels = np.repeat([0, 1, 2], [64, 16, 4])

    def adjusted(sampler: str, kind: str) -> np.ndarray:
        options = SimpleNamespace(sampler=sampler, logit_adjustment=1.0)
        weights = class_weights(TrainSet.labels, kind, 3)
        return dataset.loss_adjustment(TrainSet(TrainSet.labels), options, 3, weights).exp().numpy()

    np.testing.assert_allclose(adjusted("shuffle", "none"), np.array([64, 16, 4]) / 84, rtol=1e-5)
    np.testing.assert_allclose(adjusted("shuffle", "sqrt"), np.array([8, 4, 2]) / 14, rtol=1e-5)
    np.testing.assert_allclose(adjusted("balanced", "none"), np.array([8, 4, 2]) / 14, rtol=1e-5)
    np.testing.assert_allclose(adjusted("shuffle", "balanced"), 1 / 3, rtol=1e-5)


def test_patience_counts_the_epochs_behind_the_best():
    progress = Progress()
    for epoch, score in enumerate([0.1, 0.3, 0.3, 0.2], start=1):
        assert not progress.finished(epochs=9, patience=2)
        row = {"epoch": epoch, "macro_f1": score}
        progress.note_best(row, "macro_f1", None)
        progress.epoch_done(row)
    assert progress.best["epoch"] == 2
    assert progress.finished(epochs=9, patience=2)
    assert not progress.finished(epochs=9, patience=None)


def test_the_checkpoint_of_the_best_epoch(faces, pretrained):
    asked = ["--epochs", 5, "--lr", "2e-2", "--metric", "accuracy", "--report-to", "csv"]
    path, scores = train(faces, pretrained, *asked, "--keep", "best")
    rows = history(path.stem)
    best = max(rows, key=lambda row: float(row["accuracy"]))
    assert best is not rows[-1]  # else this shows nothing
    assert scores["accuracy"] == float(best["accuracy"])
    meta = read_checkpoint(path).meta
    assert meta["epoch"] == int(best["epoch"])
    assert soup(faces, "--eval-individual-models")[path.stem]["accuracy"] == scores["accuracy"]


def test_every_epoch_leaves_a_row_and_the_run_a_picture(faces, pretrained):
    path, scores = train(faces, pretrained, "--report-to", "csv")
    rows = history(path.stem)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["step"] for row in rows] == ["21", "42"]
    assert float(rows[-1]["macro_f1"]) == scores["macro_f1"]
    assert Path(f"val_img/{path.stem}/curves.png").is_file()
    assert not list(Path("model/states").iterdir())


def test_a_run_tells_a_short_story_and_its_log_all_of_it(pretrained, capsys):
    few = make_people(Path("few"), 10)
    path, scores = train(few, pretrained, "--epochs", 20, "--batch-size", 28)
    story = [line for line in capsys.readouterr().out.splitlines() if not line.endswith(" left")]  # a line a minute
    assert len(story) <= 15
    assert [line.split(":")[0] for line in story if line.startswith("epoch")] == [
        "epoch 6 of 20", "epoch 13 of 20", "epoch 20 of 20",
    ]  # fmt: skip
    assert story[-3:] == [
        f"saved {path}, macro_f1 {scores['macro_f1']:.4f} on held-out people",
        "next, when all runs of the sweep are done: accelerate launch main.py --greedy-soup --name finetune_cp "
        f"--data-location {few}",
        "log: logs/training/finetune_cp_seed42_i0.log",
    ]
    assert all(f"epoch {epoch} of 20: " in training_log() for epoch in range(1, 21))
    train(few, pretrained, "--epochs", 5, "--batch-size", 28, "--verbose", "--name", "other")
    assert capsys.readouterr().out.count("\nepoch ") == 5


def test_without_a_cache_the_run_is_the_same(faces, pretrained):
    path, _ = train(faces, pretrained)
    expected = read_checkpoint(path).digest
    path.unlink()
    for squares in Path("cache/squares").iterdir():
        squares.unlink()
    path, _ = train(faces, pretrained, "--no-cache")
    assert read_checkpoint(path).digest == expected
    assert not [name for name in files("cache") if name.endswith(".u8")]


def test_runs_of_one_process_are_the_same_as_of_several(faces, pretrained, capsys):
    argv = ["--data-location", faces, "--pretrained-location", pretrained, *FAST, "--epochs", 1, "--mixup", 0.5]
    alone = [finetune.run(options(*argv, "--i", i, "--random-seed", 7, "--name", "alone"))[0] for i in (0, 1)]
    capsys.readouterr()
    finetune.main([str(one) for one in [*argv, "--runs", "7:0", "7:1", "--name", "together"]])
    told = capsys.readouterr().out
    assert re.findall("^== ([^,\n]*)", told, re.MULTILINE) == [
        "run 1 of 2: together_seed7_i0",
        "run 2 of 2: together_seed7_i1",
    ]
    assert "next, when" not in told
    for path in alone:
        together = read_checkpoint(Path(str(path).replace("alone", "together")))
        assert together.digest == read_checkpoint(path).digest


def test_the_first_run_that_fails_ends_them_all():
    done = []

    def run_one(one):
        done.append((one.random_seed, one.i))
        if one.i == 3:
            raise InputError("no luck")

    with pytest.raises(InputError, match="no luck"):
        finetune.run_each(options("--data-location", ".", "--model", "a/b", "--runs", "7:0", "7:3", "8:0"), run_one)
    assert done == [(7, 0), (7, 3)]


@pytest.mark.parametrize("run", ["7", "7:", "7:x", "4294967296:0", "-1:0"])
def test_a_run_is_a_seed_and_an_index(run, capsys):
    with pytest.raises(SystemExit):
        finetune.parser().parse([f"--runs={run}"])
    assert f"argument --runs: {run!r} is not of the form 42:0 or 42:0:3 (seed, index" in capsys.readouterr().err


def test_a_fast_dev_run_leaves_no_checkpoint(faces, pretrained):
    extra = ["--gradient-accumulation-steps", 2, "--old-aug", "True", "--keep-top", 1]
    extra += ["--push-to-hub", "a/b"]  # which is an error offline, and must not be asked here
    train(faces, pretrained, "--fast-dev-run", *extra)
    assert not [name for name in files() if name.endswith("epoch1.pt")]
    assert not Path("model").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--keep", "best", "--val-ratio", 0], "--keep best goes by held-out scores, and --val-ratio 0 leaves nobody"),
        (["--patience", 2, "--val-ratio", 0], "--patience goes by held-out scores"),
        (["--loss-fn", "ContrastiveLoss", "--half-cutmix", 0.5], "leave out --half-cutmix"),
    ],
)
def test_options_that_contradict_each_other(argv, message):
    with pytest.raises(InputError, match=message):
        finetune.run(options(*argv))


def test_keep_top_leaves_notes_of_what_it_removes(faces, pretrained):
    scores = {}
    for i in range(3):
        path, one = train(faces, pretrained, "--i", i, "--keep-top", 2)
        scores[path.name] = one["macro_f1"]
    worst = min(scores, key=scores.get)
    assert sorted(path.name for path in Path("model").glob("*.pt")) == sorted(scores.keys() - {worst})
    index = worst[worst.index("_i") + 2]
    assert train(faces, pretrained, "--i", index)[1]["macro_f1"] == scores[worst]  # skipped, by its note
    assert not (Path("model") / worst).exists()
    assert len(soup(faces, "--eval-individual-models", "--indices", 0, 1, 2)) == 2


def test_what_keep_top_removes_goes_with_its_earlier_epochs(faces, pretrained):
    for seed in (1, 2):
        train(faces, pretrained, "--random-seed", seed, "--save-every", 1)
    before = sorted(path.name for path in Path("model").glob("*.pt"))
    assert len(before) == 4
    train(faces, pretrained, "--random-seed", 2, "--save-every", 1, "--keep-top", 1)  # done already, but this is not
    left = sorted(path.name for path in Path("model").glob("*.pt"))
    assert left in (before[:2], before[2:])
    assert len(soup(faces, "--eval-individual-models", "--random-seed", 1, 2)) == 1


def test_keep_top_leaves_runs_that_are_under_way_alone(faces, pretrained):
    train(faces, pretrained, "--random-seed", 1, "--save-every", 1)
    Path("model/finetune_cp_seed1_i0_epoch2.pt").unlink()  # as if it were in its second epoch
    train(faces, pretrained, "--random-seed", 2, "--keep-top", 1)
    assert sorted(path.name for path in Path("model").glob("*.pt")) == [
        "finetune_cp_seed1_i0_epoch1.pt", "finetune_cp_seed2_i0_epoch2.pt",
    ]  # fmt: skip


def test_a_damaged_note_is_named(faces, pretrained):
    Path("model").mkdir()
    Path("model/finetune_cp_seed42_i0_epoch2.dropped.json").write_text("")
    with pytest.raises(InputError, match=r"epoch2\.dropped\.json is no note of --keep-top .* remove it"):
        train(faces, pretrained)


def test_overwrite_replaces_other_options_only(faces, pretrained, capsys):
    train(faces, pretrained, "--epochs", 1, "--overwrite")
    train(faces, pretrained, "--epochs", 1, "--overwrite")
    assert "trained with the same options: skipped" in capsys.readouterr().out
    Path("model/finetune_cp_seed42_i0_epoch1.pt").write_bytes(b"damaged")
    with pytest.raises(InputError, match="or is damaged"):
        train(faces, pretrained, "--epochs", 1)
    path, _ = train(faces, pretrained, "--epochs", 1, "--overwrite")
    assert read_checkpoint(path).meta is not None


def test_an_epoch_of_whole_steps_says_what_it_leaves_out(faces, pretrained):
    train(faces, pretrained, "--epochs", 1, "--batch-size", 50)
    assert "an epoch is 3 steps of 50: 18 photographs, other ones each time, are left out" in training_log()
    with pytest.raises(InputError, match="168 photographs to train on are less than a step of 200"):
        train(faces, pretrained, "--epochs", 1, "--batch-size", 50, "--gradient-accumulation-steps", 4, "--name", "b")
    assert train(faces, pretrained, "--epochs", 1, "--batch-size", 200, "--name", "c")[0].is_file()  # one of 168


def test_an_epoch_is_what_its_sweep_was_asked_for(faces, pretrained):
    given = options("--model", "x", "--epochs", 4)
    i = next(i for i in range(1, 20) if options_of_index(given.replace(i=i)).epochs == 3)
    tower = pretrained / "model_0.pt"
    for index in (0, i):
        train(faces, pretrained, "--model", tower, "--epochs", 4, "--i", index)
    assert {path.stem for path in Path("model").glob("*.pt")} == {
        "finetune_cp_seed42_i0_epoch4", f"finetune_cp_seed42_i{i}_epoch3",
    }  # fmt: skip
    assert len(soup(faces, "--eval-individual-models", "--epoch", 4)) == 2
    with pytest.raises(InputError, match="no ingredients of --epoch 3 in model: there are finetune"):
        soup(faces, "--eval-individual-models", "--epoch", 3)


def test_a_batch_without_room_is_halved_and_accumulated():
    model = nn.Linear(1, 1)
    model.config = {"image_size": 4}
    tried = []

    def forward(pixel_values):
        tried.append(len(pixel_values))
        if len(pixel_values) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return model.weight * pixel_values.sum(), None

    model.forward = forward
    accelerator = SimpleNamespace(
        device=SimpleNamespace(type="cuda"), autocast=torch.inference_mode, gather=lambda tensor: tensor
    )
    accelerator.autocast = lambda: torch.enable_grad()
    zeros, torch_tensor = torch.zeros, torch.tensor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "zeros", lambda shape, device: zeros(shape))
        patch.setattr(torch, "tensor", lambda values, device: torch_tensor(values))
        size = setup.fitting_batch_size(accelerator, model, options("--batch-size", 12))
    assert tried == [12, 6, 3]
    assert size == 3
    assert accelerator.gradient_accumulation_steps == 4
    assert model.weight.grad is None


def test_two_processes_of_half_a_batch_follow_one_curve(faces, pretrained):
    common = ["--data-location", faces, "--pretrained-location", pretrained, "--epochs", 3, "--lr", "1e-3"]
    common += ["--report-to", "csv", "--workers", 0]
    finetune.run(options(*common, "--batch-size", 8, "--name", "one"))
    assert command("finetune.py", *common, "--batch-size", 4, "--name", "two", processes=2).returncode == 0
    one, two = (history(f"{name}_seed42_i0_epoch3") for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        assert first["step"] == second["step"]
        assert float(first["train_loss"]) == pytest.approx(float(second["train_loss"]), abs=1e-4)


def test_a_flip_is_the_mean_of_both_sides():
    torch.manual_seed(0)
    model, accelerator = Classifier(CONFIG, 18), runtime.start_runtime("test")
    squares = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    how = preprocessing(32)
    here, mirrored = (
        prediction.predict(accelerator, model, some, np.arange(5), how, 4)
        for some in (squares, np.ascontiguousarray(squares[:, :, ::-1]))
    )
    both = prediction.predict(accelerator, model, squares, np.arange(5), {**how, "flip": True}, 4)
    assert np.abs(here - mirrored).max() > 1e-3
    np.testing.assert_allclose(both, (here + mirrored) / 2, atol=1e-6)


@pytest.mark.parametrize(("mixed_precision", "attention"), [("no", "sdpa"), ("bf16", "eager")])
def test_attention_in_training_is_the_quicker_one_and_changes_no_evaluation(pretrained, mixed_precision, attention):
    start = read_weights(pretrained / "model_0.pt")
    head = {"classification_head.weight": torch.randn(18, 16), "classification_head.bias": torch.zeros(18)}
    accelerator = SimpleNamespace(device=torch.device("cpu"), mixed_precision=mixed_precision)
    model = trainable(accelerator, start, head, options())
    squares = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    evaluation = runtime.start_runtime("test"), model, squares, np.arange(5), preprocessing(32), 4
    assert model.training_attention == attention

    before = prediction.predict(*evaluation)
    assert model.vision_model.config._attn_implementation == "sdpa"
    model.train()
    assert model.vision_model.config._attn_implementation == attention
    in_training, _ = model(torch.ones(2, 3, 32, 32))
    torch.testing.assert_close(in_training, model.eval()(torch.ones(2, 3, 32, 32))[0], atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(prediction.predict(*evaluation), before)


def test_flipped_predictions_have_a_name_of_their_own(faces, pretrained):
    path, _ = train(faces, pretrained, "--epochs", 1)
    argv = ["--model-name", path.stem, "--data-location", str(faces), "--workers", "0"]
    plain, flipped = (validation.run(validation.parser().parse([*argv, *extra]))[0] for extra in ([], ["--flip"]))
    assert flipped["model"] == f"{plain['model']}_flip"
    assert len(list(Path("logs/logits").glob("*.npz"))) == 2  # evaluated anew, and kept apart
    assert infer(faces, "--model-name", path.stem, "--flip").name == f"output_{path.stem}_flip.csv"
