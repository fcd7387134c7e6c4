"""An option that is new to the program makes no earlier record one of other options."""

import json
from pathlib import Path

import pytest
import torch
from conftest import train

from utils.base import training_flags
from utils.base.errors import InputError
from utils.models.checkpoints import read_checkpoint
from utils.models.weights import save_archive
from utils.training.recorded_options import differences

# what finetune.py wrote for the options of `conftest.train`, before the option of these tests and any later one
EARLIER = json.loads(Path(__file__).with_name("recorded_options.json").read_text())
BY_VERSION = ("start", "anchor, head, labels and photographs", "mixed_precision")  # of the libraries, or by machine


@pytest.fixture
def new_option(monkeypatch):
    """The program as it will be when finetune.py has one more option that steers training."""
    plain = training_flags.add_training

    def with_one_more(parser):
        plain(parser)
        parser.add_argument("--sharpness", type=float, default=0.5, help="new")

    monkeypatch.setattr(training_flags, "add_training", with_one_more)


@pytest.fixture
def earlier(faces, pretrained):
    """A checkpoint that carries the record of an earlier program; what hangs on library versions is made anew."""
    path, _ = train(faces, pretrained)
    content = torch.load(path, weights_only=True)
    made_now = content["meta"]["options"]
    content["meta"]["options"] = EARLIER | {name: made_now[name] for name in BY_VERSION}
    save_archive(path, content)
    return path


def test_a_checkpoint_of_before_the_option_is_there_already(faces, pretrained, earlier, new_option, capsys):
    train(faces, pretrained)
    assert f"{earlier} is there already, trained with the same options: skipped" in capsys.readouterr().out
    assert "sharpness" not in read_checkpoint(earlier).meta["options"]  # the very file, untouched
    with pytest.raises(InputError, match=r"trained with other options.*\(sharpness 0.5 -> 0.7\)"):
        train(faces, pretrained, "--sharpness", 0.7)


def test_the_note_of_keep_top_of_before_the_option_counts(faces, pretrained, earlier, new_option, capsys):
    meta = read_checkpoint(earlier).meta
    note = {key: meta[key] for key in ("options", "scores", "digest")}
    earlier.with_suffix(".dropped.json").write_text(json.dumps(note))
    earlier.unlink()
    train(faces, pretrained)
    assert f"{earlier} was removed by --keep-top, trained with the same options" in capsys.readouterr().out
    path, _ = train(faces, pretrained, "--sharpness", 0.7)  # another run, which the note says nothing of
    assert read_checkpoint(path).meta["options"]["sharpness"] == 0.7


def test_a_state_of_before_the_option_is_resumed(faces, pretrained, new_option, capsys):
    def stop(epoch, scores):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(faces, pretrained, after_epoch=stop)
    state = Path("model/states/finetune_cp_seed42_i0_epoch2.pt")
    content = torch.load(state, weights_only=True)
    del content["record"]["sharpness"]
    save_archive(state, content)
    with pytest.raises(InputError, match=r"state of a run with other options \(sharpness 0.5 -> 0.7\)"):
        train(faces, pretrained, "--resume", "--sharpness", 0.7)
    train(faces, pretrained, "--resume")
    assert "going on behind step 21" in capsys.readouterr().out


def test_what_one_record_lacks_counts_as_its_default():
    assert differences({}, {"ema_decay": 0.0, "age_limits": [30, 60], "wd_limits": [0.0, 0.3]}) == ""
    assert differences({"ema_decay": 0.9}, {}) == "ema_decay 0.9 -> 0.0"
    assert differences({}, {"ema_decay": 0.9}) == "ema_decay 0.0 -> 0.9"
    assert differences({"lr": 1.0}, {"lr": 1.0, "epochs asked": 20}) == "epochs asked None -> 20"  # is no option
