import ast
import logging
from pathlib import Path

import pytest
import torch
from conftest import checkpoint_record, release_state, split_record

from utils.base.errors import InputError
from utils.data import competition
from utils.data.preprocessing import preprocessing
from utils.models import weights
from utils.models.checkpoints import check_same_kind, read_checkpoint, save_checkpoint, soup_meta
from utils.models.sweeps import find_checkpoint, find_sweep
from utils.models.weights import digest, read_weights, save_archive


def backbone():
    torch.save(release_state(0, num_classes=18), "release.pt")
    return read_weights("release.pt")


def saved(name="model/a_seed42_i0_epoch1.pt", shift=0.0, **changes):
    weights = backbone()
    state = {key: tensor + shift for key, tensor in weights.state_dict.items()}
    save_checkpoint(Path(name), state, checkpoint_record(weights.config, **changes))
    return Path(name)


def test_a_checkpoint_comes_back_as_it_was():
    path = saved()
    checkpoint = read_checkpoint(path)
    assert checkpoint.labelling == competition.labelling()
    assert checkpoint.meta["scores"] == {"accuracy": 0.5}
    assert set(checkpoint.meta["versions"]) >= {"torch", "transformers"}
    assert checkpoint.digest == digest(checkpoint.state_dict()) == digest(backbone().state_dict)
    assert all(tensor.dtype == torch.float32 for tensor in checkpoint.state_dict().values())
    names = set(checkpoint.state_dict())
    assert {"visual_projection.weight", "classification_head.weight", "vision_model.pre_layrnorm.bias"} <= names
    archive = torch.load(path, weights_only=True, mmap=True)
    assert set(archive) == {"state_dict", "meta"}


@pytest.mark.parametrize(("classes", "attributes"), [(18, ("mask", "gender", "age")), (3, ("age",))])
def test_the_originals_files_are_read_with_a_warning(caplog, classes, attributes):
    torch.save(release_state(0, num_classes=classes), "a_seed1_i0_epoch2.pt")
    with caplog.at_level(logging.WARNING):
        checkpoint = read_checkpoint(Path("a_seed1_i0_epoch2.pt"), mean=(0.56, 0.524, 0.501))
    assert checkpoint.labelling.attributes == attributes
    assert checkpoint.split is None
    assert checkpoint.preprocessing["mean"] == [0.56, 0.524, 0.501]
    assert "has no record" in caplog.text


def test_equal_content_makes_equal_bytes_whatever_objects_it_is_made_of():
    state = read_weights(saved("first.pt")).state_dict
    meta = read_checkpoint(Path("first.pt")).meta
    save_checkpoint(Path("one.pt"), state, meta)
    again = ast.literal_eval(repr(meta))  # equal, and made of other objects, as after a run that was resumed
    joined = torch.cat([tensor.flatten() for tensor in state.values()])
    parts = joined.split([tensor.numel() for tensor in state.values()])
    views = {name: part.view(state[name].shape) for name, part in zip(state, parts, strict=True)}
    save_checkpoint(Path("two.pt"), views, again)
    assert Path("one.pt").read_bytes() == Path("two.pt").read_bytes()


def test_other_class_counts_and_missing_heads_are_errors():
    torch.save(release_state(0, num_classes=7), "a.pt")
    with pytest.raises(InputError, match="head of 7 classes, expected 18"):
        read_checkpoint(Path("a.pt"))
    torch.save({k: v for k, v in release_state(0).items() if "head" not in k}, "b.pt")
    with pytest.raises(InputError, match="no classification head"):
        read_checkpoint(Path("b.pt"))
    with pytest.raises(InputError, match="reads format 1"):
        read_checkpoint(saved("c.pt", format=2))


def test_what_may_go_into_one_soup():
    first = read_checkpoint(saved())
    check_same_kind([first, read_checkpoint(saved("model/b.pt", shift=0.1))])
    for changes, message in (
        ({"split": split_record(["q"], ["p"])}, "different splits"),
        ({"family": {"anchor": "x", "head_init": "probe", "inputs": "z"}}, "do not share a start"),
        ({"labelling": competition.labelling(age_limits=(29, 60)).record()}, "other limits or classes"),
        ({"preprocessing": preprocessing(32, mean=(0.5, 0.5, 0.5))}, "other preprocessing"),
        ({"model": {**first.config, "hidden_act": "gelu"}}, "other model configurations"),
    ):
        with pytest.raises(InputError, match=message):
            check_same_kind([first, read_checkpoint(saved("model/b.pt", **changes))])
    torch.save(release_state(0, num_classes=3), "three.pt")
    with pytest.raises(InputError, match=r"classification_head.bias is \(18,\) and \(3,\)"):
        check_same_kind([first, read_checkpoint(Path("three.pt"))])
    torch.save(release_state(0, num_classes=18), "original.pt")
    check_same_kind([first, read_checkpoint(Path("original.pt"))])  # no record: nothing to compare but the tensors


def test_a_soup_records_what_it_was_made_of():
    members = [read_checkpoint(saved()), read_checkpoint(saved("model/b.pt", shift=0.5))]
    meta = soup_meta(members, [0.25, 0.75], {"recipe": "learned"}, {})
    assert [one["digest"] for one in meta["made_from"]] == [member.digest for member in members]
    assert [one["weight"] for one in meta["made_from"]] == [0.25, 0.75]
    assert meta["split"] == members[0].split
    torch.save(release_state(0, num_classes=18), "other.pt")
    foreign = soup_meta([read_checkpoint(Path("other.pt"))] * 2, [1, 1], {}, {})  # a soup of files without a record
    save_checkpoint(Path("foreign.pt"), backbone().state_dict, foreign)
    mixed = [read_checkpoint(Path("foreign.pt")), members[0]]
    assert soup_meta(mixed, [1, 1], {}, {})["split"] == members[0].split  # whom a part was trained on is not forgotten


def touch(*names):
    Path("model").mkdir(exist_ok=True)
    for name in names:
        (Path("model") / f"{name}.pt").touch()


def test_a_sweep_takes_the_latest_epoch_of_each_ingredient_and_nothing_else():
    touch(
        "a_seed34_i0_epoch20",
        "a_seed42_i0_epoch5",
        "a_seed42_i0_epoch20",
        "a_seed42_i10_epoch20",
        "a_seed42_i2_epoch20",
    )
    touch(
        "Age_a_seed42_i0_epoch20", "a_seed42_epoch20_greedysoup_num3", "model_0", "model_17", ".hidden_seed1_i0_epoch1"
    )
    sweep = find_sweep(Path("model"))
    assert [(one.seed, one.i, one.epoch) for one in sweep.ingredients] == [
        (34, 0, 20),
        (42, 0, 20),
        (42, 2, 20),
        (42, 10, 20),
    ]
    assert sweep.soup_file(Path("model"), "greedy") == Path("model/a_seed34-42_epoch20_greedysoup_num4.pt")
    assert sweep.log_name() == "a_seed34-42_num4_epoch20"
    assert len(find_sweep(Path("model"), seeds=[42]).ingredients) == 3


def test_an_epoch_of_a_sweep_is_found_in_files_of_others_and_of_earlier_programs():
    Path("model").mkdir()
    torch.save(release_state(0, num_classes=18), "model/a_seed42_i0_epoch5.pt")  # without a record
    for i, epochs in enumerate([{"epochs": 5}, {"epochs": 4, "epochs asked": 5}, {"epochs": 4, "epochs asked": 4}], 1):
        options = {"name": "a", "random_seed": 42, "i": i, **epochs}  # the first of a program that drew no epochs
        saved(f"model/a_seed42_i{i}_epoch{epochs['epochs']}.pt", options=options)
    assert [one.i for one in find_sweep(Path("model"), epoch=5).ingredients] == [0, 1, 2]


def test_a_sweep_that_is_not_clear_is_an_error():
    with pytest.raises(InputError, match="model does not exist"):
        find_sweep(Path("model"))
    touch("a_seed42_i0_epoch20", "a_seed42_i2_epoch20")
    with pytest.raises(InputError, match="seed 42 has no index 1"):
        find_sweep(Path("model"), indices=[0, 1, 2])
    with pytest.raises(InputError, match="--random-seed 7"):
        find_sweep(Path("model"), seeds=[7, 42])
    with pytest.raises(InputError, match="no ingredients"):
        find_sweep(Path("model"), name="other")
    touch("b_seed42_i0_epoch20")
    with pytest.raises(InputError, match="choose one with --name: a, b"):
        find_sweep(Path("model"))


def test_the_checkpoint_for_inference():
    touch("a_seed42_i0_epoch20")
    assert find_checkpoint(None, Path("model")).stem == "a_seed42_i0_epoch20"
    touch("a_seed42_i1_epoch20")
    with pytest.raises(InputError, match="several checkpoints, choose one with --model-name"):
        find_checkpoint(None, Path("model"))
    touch("a_seed42_epoch20_greedysoup_num2")
    assert find_checkpoint(None, Path("model")).stem == "a_seed42_epoch20_greedysoup_num2"
    for name in ("a_seed42_i1_epoch20", "a_seed42_i1_epoch20.pt", "model/a_seed42_i1_epoch20.pt"):
        assert find_checkpoint(name, Path("model")).stem == "a_seed42_i1_epoch20"
    with pytest.raises(InputError, match="no checkpoint nothing"):
        find_checkpoint("nothing", Path("model"))


def edited(path, change):
    """The file with its content changed, written anew as torch writes it."""
    content = torch.load(path, weights_only=True)
    change(content)
    save_archive(path, content)
    return path


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


def test_weights_that_are_not_those_of_the_record_are_refused():
    head = "classification_head.bias"
    for change in (
        flip_a_bit,
        lambda path: edited(path, lambda content: content["state_dict"][head].add_(1)),
        lambda path: edited(path, lambda content: content["state_dict"].pop(head)),
        lambda path: edited(path, lambda content: content["state_dict"].update(more=torch.zeros(3))),
        lambda path: edited(path, lambda content: content["state_dict"].update({head: torch.zeros(18).half()})),
        lambda path: edited(path, lambda content: content["state_dict"].update({head: torch.zeros(3, 6)})),
        lambda path: edited(path, lambda content: content["meta"].update(digest="0" * 64)),
    ):
        path = saved()
        read_checkpoint(path)  # which remembers the digest of the file as it was
        change(path)
        with pytest.raises(
            InputError, match=r"model/a_seed42_i0_epoch1.pt is damaged or was edited: its weights have"
        ):
            read_checkpoint(path)
        with pytest.raises(InputError, match="is damaged or was edited"):
            read_weights(path)  # as the start of another run


def test_a_checkpoint_that_is_replaced_while_others_read_it_is_noticed():
    checkpoint = read_checkpoint(saved())
    other = saved("model/other.pt", shift=0.5)
    assert checkpoint.state_dict()
    other.replace(checkpoint.path)
    with pytest.raises(InputError, match=r"a_seed42_i0_epoch1.pt was replaced while this ran: run the same command"):
        checkpoint.state_dict()


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_is_replaced_while_it_is_read_is_read_once_more(monkeypatch, times):
    path, others = saved(), [saved(f"model/other{k}.pt", shift=k + 0.5) for k in range(times)]
    wanted, plain = read_checkpoint(others[-1]).digest, weights.read_archive

    def read(asked):
        content = plain(asked)
        if others:
            others.pop(0).replace(path)
        return content

    monkeypatch.setattr(weights, "read_archive", read)
    if times == 1:
        assert read_checkpoint(path).digest == wanted
    else:
        with pytest.raises(InputError, match=r"epoch1.pt was replaced while it was read: run the same command again"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((("meta", key), "x") for key in ("labelling", "preprocessing", "options", "split", "family", "made_from")),
        *((("meta", key), None) for key in ("model", "labelling", "preprocessing", "options", "made_from", "digest")),
        (("meta", "labelling", "age_limits"), [60, 30]),
        (("meta", "labelling", "age_limits"), [30]),
        (("meta", "labelling", "attributes"), ["evil"]),
        (("meta", "labelling", "attributes"), []),
        (("meta", "labelling", "classes"), ["one"]),
        (("meta", "split", "held_out_ids"), []),
        (("meta", "split", "train_ids"), None),
        (("meta", "split", "by"), "evil"),
        (("meta", "options", "random_seed"), -1),
        (("meta", "made_from"), [{"name": "a.pt"}]),
        (("state_dict",), [1, 2]),
        (("state_dict",), None),
        (("state_dict",), {"classification_head.weight": 5}),
        (("state_dict", "more"), "x"),
        (("state_dict", 7), torch.zeros(2)),
    ],
)
def test_a_damaged_record_is_one_error_that_names_the_file(place, value):
    def change(content):
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = value

    path = edited(saved(), change)
    with pytest.raises(InputError, match=r"^model/a_seed42_i0_epoch1.pt (has a|is) (damaged|record of)"):
        read_checkpoint(path)
