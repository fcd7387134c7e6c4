"""inference.py in shards: killed and started again, over several processes, with images that cannot be read."""

import csv
import errno
import hashlib
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import in_a_copy, infer, make_eval
from forked import Forked, command, torchrun

from utils.base import progress
from utils.base.errors import InputError
from utils.data import unlabelled
from utils.data.submissions import read_submission
from utils.ensembles.combining import as_probs
from utils.ensembles.members import Ensemble, combine_readable
from utils.evaluation import shards
from utils.models.checkpoints import read_checkpoint
from utils.models.clip import Classifier

pytestmark = pytest.mark.slow

SOUP, AGE = "finetune_cp_seed42_epoch2_greedysoup_num3", "Age_finetune_cp_seed42_i0_epoch2"
KILLED_AT = """
import os, signal, sys
import inference
from utils.data import unlabelled
from utils.evaluation import shards
left, plain, unlabelled.SHARD = int(sys.argv.pop(1)), shards.ShardedLogits.keep, 4

def keep(self, shard, logits):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    plain(self, shard, logits)

shards.ShardedLogits.keep = keep
inference.main()
"""


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of 4; how many photographs each model's evaluations decoded is counted."""
    monkeypatch.setattr(unlabelled, "SHARD", 4)
    decoded, plain = [], shards.decode
    monkeypatch.setattr(shards, "decode", lambda path, size: decoded.append(path.name) or plain(path, size))
    return decoded


def parts() -> list[Path]:
    return sorted(Path("cache/logits").rglob("*.npy"))


def test_a_killed_run_goes_on_at_its_shard_and_writes_the_same_file(trained, faces, monkeypatch, small_shards):
    in_a_copy(trained, monkeypatch)
    arguments = ["--weighted-ensemble", AGE, "--save-probs"]
    whole = infer(faces, *arguments)
    wanted = whole.read_bytes(), whole.with_stem(f"{whole.stem}_probs").read_bytes()
    assert len(parts()) == 6  # 10 photographs in shards of 4, 4 and 2, of two models
    shutil.rmtree("cache/logits")
    shutil.rmtree("output")

    script = Path("killed_at.py").resolve()
    script.write_text(KILLED_AT)
    killed = Forked(script, 3, "--workers", 0, "--data-location", faces, *arguments).end()
    assert killed.returncode == -signal.SIGKILL
    assert len(parts()) == 3  # both models' of the first shard, and one of the second
    assert not list(Path().rglob("output*.csv"))

    small_shards.clear()
    again = infer(faces, *arguments)
    assert (again.read_bytes(), again.with_stem(f"{again.stem}_probs").read_bytes()) == wanted
    assert set(small_shards) == set(read_submission(again).ids[4:])  # the first shard is decoded no more
    assert len(parts()) == 6


def test_without_a_terminal_lines_tell_how_far_it_is(trained, faces, monkeypatch, small_shards, capsys):
    in_a_copy(trained, monkeypatch)
    monkeypatch.setattr(progress, "MINUTE", 0)  # a line each time
    infer(faces)
    told = re.findall(r"^predicting: (\d+) of 10, about .* left$", capsys.readouterr().out, re.MULTILINE)
    assert told == ["4", "8"]  # the begin knows no pace, and the end tells of itself


def test_what_was_evaluated_serves_other_ensembles_and_a_changed_photograph_does_not(
    trained, tmp_path, monkeypatch, small_shards
):
    in_a_copy(trained, monkeypatch)
    data = make_eval(tmp_path / "data", 10)
    infer(data)
    assert len(set(small_shards)) == 10
    small_shards.clear()
    infer(data)
    assert not small_shards
    infer(data, "--flip", "--output-dir", "flipped")
    assert len(set(small_shards)) == 10
    small_shards.clear()
    shutil.copyfile(data / "eval/images/000.jpg", data / "eval/images/007.jpg")
    infer(data)
    assert len(set(small_shards)) == 10


@pytest.mark.parametrize("processes", [1, 2])
def test_shards_do_not_depend_on_the_number_of_processes(trained, tmp_path, monkeypatch, processes):
    in_a_copy(trained, monkeypatch)
    data = make_eval(tmp_path / "data", 300)  # two shards
    arguments = ["--data-location", data, "--workers", "0", "--save-probs"]
    result = command("inference.py", *arguments, processes=processes)
    assert result.returncode == 0, result.stderr
    assert len(parts()) == 2
    infer(data, "--save-probs", "--output-dir", "here")
    for name in (f"output_{SOUP}.csv", f"output_{SOUP}_probs.csv"):
        assert Path("output", name).read_bytes() == Path("here", name).read_bytes()
    assert [len(np.load(path)) for path in parts()] == [256, 44]


def broken(folder: Path) -> Path:
    """Ten images to predict: one is missing, one is cut short, one is text."""
    data = make_eval(folder / "data", 10)
    images = data / "eval" / "images"
    (images / "002.jpg").unlink()
    (images / "004.jpg").write_bytes((images / "004.jpg").read_bytes()[:400])
    (images / "005.jpg").write_text("no image\xff\xd9", encoding="latin-1")
    return data


def test_images_that_cannot_be_read_are_answered_and_listed_when_asked_for(
    trained, faces, tmp_path, monkeypatch, small_shards, caplog
):
    in_a_copy(trained, monkeypatch)
    data = broken(tmp_path)
    with pytest.raises(InputError, match=r"004\.jpg is cut short .* or pass --skip-bad"):
        infer(data)
    assert not Path("output").exists() or not list(Path("output").iterdir())

    healthy = dict(zip(*_answers(infer(faces)), strict=True))  # the same pictures, all of them whole
    given = dict(zip(*_answers(infer(data, "--skip-bad", 17, "--save-probs")), strict=True))
    bad = {"002.jpg", "004.jpg", "005.jpg"}
    assert {name for name, answer in given.items() if answer == 17} >= bad
    assert all(given[name] == healthy[name] for name in given if name not in bad)

    record = json.loads(Path(f"output/output_{SOUP}.csv.json").read_text())
    assert record["photographs"]["unreadable"] == 3
    with open(f"output/unreadable_{SOUP}.csv", newline="") as file:
        reasons = {row["ImageID"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == bad
    assert all(name in reason for name, reason in reasons.items())
    with open(f"output/output_{SOUP}_probs.csv", newline="") as file:
        probs = {row.pop("ImageID"): np.array(list(row.values()), float) for row in csv.DictReader(file)}
    np.testing.assert_allclose([probs[name] for name in bad], 1 / 18, atol=1e-6)

    assert dict(zip(*_answers(infer(data, "--skip-bad")), strict=True))["002.jpg"] == 4
    small_shards.clear()
    shutil.copyfile(faces / "eval/images/004.jpg", data / "eval/images/004.jpg")
    (data / "eval/images/002.jpg").write_bytes((faces / "eval/images/002.jpg").read_bytes())
    with pytest.raises(InputError, match=r"cannot decode image .*005\.jpg.* or pass --skip-bad"):
        infer(data)
    shutil.copyfile(faces / "eval/images/005.jpg", data / "eval/images/005.jpg")
    assert dict(zip(*_answers(infer(data)), strict=True)) == healthy
    assert not Path(f"output/unreadable_{SOUP}.csv").exists()


def _answers(path: Path) -> tuple[list[str], list[int]]:
    submission = read_submission(path)
    return submission.ids, submission.answers.tolist()


def test_what_an_earlier_run_could_not_read_is_an_error_without_skip_bad(trained, tmp_path, monkeypatch):
    in_a_copy(trained, monkeypatch)
    data = make_eval(tmp_path / "data", 10)
    (data / "eval/images/005.jpg").write_text("no image\xff\xd9", encoding="latin-1")
    infer(data, "--skip-bad")
    with pytest.raises(InputError, match=r"cannot decode image .*005\.jpg.* or pass --skip-bad"):
        infer(data)


def test_one_error_line_over_two_processes(trained, tmp_path, monkeypatch):
    in_a_copy(trained, monkeypatch)
    data = make_eval(tmp_path / "data", 300)
    last = (data / "eval/info.csv").read_text().split()[-1].partition(",")[0]  # of the second shard
    (data / "eval/images" / last).write_text("no image\xff\xd9", encoding="latin-1")
    result = torchrun("inference.py", "--data-location", data, "--workers", "0")
    assert result.returncode != 0
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert last in error
    assert "]: Traceback" not in result.stderr  # of one of ours; torchrun writes its own
    assert not list(Path("output").iterdir())


def test_an_age_specialist_that_lacks_a_row_leaves_it_out():
    ensemble = Ensemble("two", [], lambda logits: logits[0] + logits[1])
    one, other = np.ones((3, 18)), np.ones((3, 18))
    other[1] = np.nan
    scores = combine_readable(ensemble, [one, other])
    assert np.isnan(scores[1]).all()
    assert (scores[[0, 2]] == 2).all()
    np.testing.assert_allclose(as_probs(scores), 1 / 18)


def test_a_list_or_photograph_that_changes_meanwhile_is_noticed(trained, tmp_path, monkeypatch, small_shards):
    in_a_copy(trained, monkeypatch)
    data = make_eval(tmp_path / "data", 10)
    test = unlabelled.read_test_images(data)
    os.utime(data / "eval/images/007.jpg")
    with pytest.raises(InputError, match="changed meanwhile: run the same command again"):
        list(test.shards())
    test = unlabelled.read_test_images(data)
    reversed_list = "ImageID,ans\n" + "".join(f"{name},0\n" for name in reversed(list(test.files())))
    before = infer(data)
    (data / "eval/info.csv").write_text(reversed_list)
    with pytest.raises(InputError, match="changed meanwhile"):
        list(test.shards())
    answers = dict(zip(*_answers(before), strict=True))
    after = _answers(infer(data))
    assert after[0] == list(answers)[::-1]
    assert dict(zip(*after, strict=True)) == answers


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY"])
def test_a_shard_file_that_is_not_whole_is_made_again(trained, faces, monkeypatch, content):
    in_a_copy(trained, monkeypatch)
    wanted = infer(faces).read_bytes()
    (part,) = parts()
    part.write_bytes(content)
    assert infer(faces).read_bytes() == wanted
    assert len(np.load(part)) == 10


def test_a_failing_disk_is_no_unreadable_image(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)

    def broken(path, size):
        raise InputError(f"cannot decode image {path}") from OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shards, "decode", broken)
    with pytest.raises(InputError, match="cannot decode image"):
        infer(faces, "--skip-bad")
    assert not parts()


def test_a_model_that_diverged_is_an_error(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    monkeypatch.setattr(Classifier, "outputs", lambda _, squares, *how: torch.full((len(squares), 18), np.nan))
    with pytest.raises(InputError, match="it diverged"):
        infer(faces)
    assert not parts()


def test_probabilities_of_an_earlier_submission_do_not_stay(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    output = infer(faces, "--save-probs")
    assert output.with_stem(f"{output.stem}_probs").is_file()
    assert infer(faces) == output
    assert not output.with_stem(f"{output.stem}_probs").exists()


def test_parquet_in_and_out_is_the_csv(trained, tmp_path, monkeypatch):
    in_a_copy(trained, monkeypatch)
    data = make_eval(tmp_path / "data", 10)
    as_csv = infer(data, "--save-probs")
    listing = pyarrow.table({"ImageID": read_submission(as_csv).ids, "ans": [0] * 10, "place": ["x"] * 10})
    pyarrow.parquet.write_table(listing, data / "eval" / "info.parquet")
    (data / "eval" / "info.csv").unlink()
    as_parquet = infer(data, "--save-probs", "--format", "parquet")
    assert as_parquet == as_csv.with_suffix(".parquet")
    table = pyarrow.parquet.read_table(as_parquet)
    assert table.column_names == ["ImageID", "ans", "place"]
    assert table["ans"].type == "int64"
    assert _answers(as_parquet) == _answers(as_csv)
    probs = pyarrow.parquet.read_table(as_parquet.with_stem(f"{as_parquet.stem}_probs")).to_pydict()
    assert list(probs) == ["ImageID", *(f"p{k}" for k in range(18))]
    np.testing.assert_allclose(sum(np.array(probs[f"p{k}"]) for k in range(18)), 1)
    assert np.argmax([probs[f"p{k}"] for k in range(18)], 0).tolist() == table["ans"].to_pylist()
    (data / "eval" / "info.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"info\.parquet is no Parquet file"):
        infer(data)


def test_a_submission_has_a_record_of_what_it_was_made_from(trained, faces, monkeypatch):
    in_a_copy(trained, monkeypatch)
    output = infer(faces, "--weighted-ensemble", AGE, "--flip")
    record = json.loads(output.with_name(f"{output.name}.json").read_text())
    assert record["file"] == output.name
    assert record["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    of_files = [read_checkpoint(Path("model") / f"{name}.pt").digest for name in (SOUP, AGE)]
    assert [one["digest"] for one in record["members"]] == of_files
    assert all(one["flip"] for one in record["members"])
    assert record["how"] == {"age weight": 1.0}
    assert record["photographs"]["count"] == 10
    assert record["options"]["weighted_ensemble"] == [AGE]
    assert record["versions"]["torch"]


def test_a_submission_of_other_images_is_warned_of_before_it_is_replaced(
    trained, faces, tmp_path, monkeypatch, capsys
):
    in_a_copy(trained, monkeypatch)
    infer(faces)
    infer(faces)
    assert "will be replaced" not in capsys.readouterr().out
    output = infer(other := make_eval(tmp_path / "other", 4))
    told = capsys.readouterr().out
    assert f"{output} answers other images, or these as they were (--data-location {faces}), and will be" in told
    infer(other / "eval")
    assert "will be replaced" not in capsys.readouterr().out  # the same images by another way
    record_file = output.with_name(f"{output.name}.json")
    record = json.loads(record_file.read_text())
    for location in (faces, other / "eval"):  # an older record has no digest
        record_file.write_text(
            json.dumps({**record, "photographs": {"count": 4}, "options": {"data_location": str(location)}})
        )
        infer(other / "eval")
        assert ("will be replaced" in capsys.readouterr().out) == (location == faces)
    record_file.write_text("{")
    assert infer(other) == output  # a damaged record goes with the file that it is of


def test_rows_are_counted_in_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(unlabelled, "SHARD", 4)
    test = unlabelled.read_test_images(make_eval(tmp_path / "data", 10))
    assert test.shard_sizes == [4, 4, 2] == [len(rows) for rows in test.shards()]
    assert [row[0] for rows in test.shards() for row in rows] == list(test.files())
    one = unlabelled.read_test_images(make_eval(tmp_path / "one", 8))
    assert one.shard_sizes == [4, 4] == [len(rows) for rows in one.shards()]
