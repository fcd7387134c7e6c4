import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, make_eval
from PIL import Image

import hard_voting
from utils.base import pictures
from utils.base.errors import InputError
from utils.data.decoding import decode
from utils.data.origins import write_record
from utils.data.submissions import read_submission
from utils.ensembles.votes import class_votes
from utils.evaluation.manifest import HARD_VOTE, SOFT_VOTE, SOUP, WEIGHTED, Manifest, read_manifest


def save(path, answers, ids=None, header="ImageID,ans"):
    """A submission whose rows are `0.jpg`, `1.jpg`, ... or `ids`."""
    ids = [f"{k}.jpg" for k in range(len(answers))] if ids is None else ids
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "".join(f"{line}\n" for line in [header, *(f"{i},{a}" for i, a in zip(ids, answers, strict=True))])
    )
    return str(path)


def load(path):
    with open(path, newline="") as file:
        return [(row["ImageID"], int(row["ans"])) for row in csv.DictReader(file)]


def test_rows_are_matched_by_id_and_the_first_file_gives_order_and_columns(tmp_path):
    rng = np.random.default_rng(0)
    truth = {f"{k}.jpg": k % 18 for k in range(50)}
    files = []
    for f in range(3):
        ids = [f"{k}.jpg" for k in rng.permutation(50)]
        files.append(tmp_path / f"{f}.csv")
        files[f].write_text("ans,note,ImageID\n" + "".join(f'{truth[i]},"of {f}, kept",{i}\n' for i in ids))
    output = hard_voting.run(hard_voting.parser().parse([*map(str, files), "--output", str(tmp_path / "vote.csv")]))
    assert output.read_bytes() == files[0].read_bytes()


def test_the_default_is_every_submission_in_output_but_probabilities_and_the_vote(tmp_path, capsys):
    save(tmp_path / "output" / "output_b.csv", [0, 5, 3])
    save(tmp_path / "output" / "output_a.csv", [2, 5, 3])
    save(tmp_path / "output" / "output_a_probs.csv", [0.5, 0.5, 0.5], header="ImageID,p0")
    save(tmp_path / "output" / "notes.csv", [1], header="x,y")
    for earlier in ("", ", in place of an earlier file"):
        hard_voting.main([])
        assert load("output/hard_voting.csv") == [("0.jpg", 2), ("1.jpg", 5), ("2.jpg", 3)]
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "attribute vote of 2 files on 3 rows"
        assert [line.split("  ")[-1] for line in said[3:5]] == ["output/output_a.csv", "output/output_b.csv"]
        assert said[-1] == f"saved output/hard_voting.csv{earlier}"
    hard_voting.main(["--output", "output/output_vote.csv"])
    hard_voting.main(["--output", "output/output_vote.csv"])
    assert capsys.readouterr().out.count("vote of 2 files") == 2


def test_submissions_of_several_sweeps_are_not_mixed_unasked(tmp_path):
    one = save(tmp_path / "output" / "output_one_seed42_epoch2_greedysoup_num3.csv", [0])
    for name in ("one_seed42_epoch2_greedysoup_num3_SV_two_seed1_i0_epoch2", "one_auto", "all_auto", "mine"):
        save(tmp_path / "output" / f"output_{name}.csv", [0])
    hard_voting.main([])
    two = save(tmp_path / "output" / "output_two_auto_flip.csv", [2])
    with pytest.raises(InputError, match=r"several sweeps \(one, two\): name one with --sweep, or the files"):
        hard_voting.main([])
    hard_voting.main([one, two])


def test_sweeps_of_several_seeds_and_with_numbers_in_their_names_are_told_apart(tmp_path):
    for name in ("a_seed1-2-3_epoch2_greedysoup_num3", "a_seed2_i0_epoch2", "a_auto_nobias"):
        save(tmp_path / "output" / f"output_{name}.csv", [0])
    hard_voting.main([])  # one sweep
    other = Path(save(tmp_path / "output" / "output_a_seed7_seed1-2_epoch2_greedysoup_num2.csv", [1]))
    with pytest.raises(InputError, match=r"several sweeps \(a, a_seed7\): name one with --sweep"):
        hard_voting.main([])
    other.rename("output/output_b_seed1-2_epoch2_uniformsoup_num2_SV_a_seed1_i0_epoch2.csv")
    with pytest.raises(InputError, match=r"several sweeps \(a, b\)"):
        hard_voting.main([])


def record(path, digests, **more):
    """The record beside a submission."""
    members = [{"name": f"{digest}.pt", "digest": digest} for digest in digests]
    write_record(Path(path), {"sweep": "s", "members": members, "how": {}} | more)


OTHERS = {
    "ten classes": (10, 60, "answers none of 60 rows with 12 or above"),
    "one attribute": (3, 12, "answers all 12 rows with 0 to 2, as a model of one attribute does"),
}


@pytest.mark.parametrize(("classes", "rows", "message"), OTHERS.values(), ids=OTHERS)
def test_answers_to_another_question_vote_as_classes_only(classes, rows, message, tmp_path, capsys):
    rng = np.random.default_rng(0)
    answers = rng.integers(0, classes, (3, rows))
    files = [save(tmp_path / f"{f}.csv", one) for f, one in enumerate(answers)]
    with pytest.raises(InputError, match=f"0.csv {message}.*--mode class"):
        hard_voting.main([*files, "--output", "vote.csv"])
    assert not Path("vote.csv").exists()
    hard_voting.main([*files, "--mode", "class", "--output", "vote.csv"])
    expected = class_votes(answers, np.ones(3, np.int64))
    assert [answer for _, answer in load("vote.csv")] == expected.tolist()
    assert "gender" not in capsys.readouterr().out
    whole = save(tmp_path / "whole.csv", rng.permutation(np.arange(rows) % 18))
    with pytest.raises(InputError, match=message):  # beside the 18 classes, too
        hard_voting.main([whole, files[0]])
    for one in files:
        record(one, "a")  # which tells that they are the 18 classes after all
    hard_voting.main([*files, "--output", "vote.csv"])


def test_few_rows_of_few_classes_may_be_of_the_18(tmp_path):
    hard_voting.main([save(tmp_path / "a.csv", [0, 1, 2]), save(tmp_path / "b.csv", [2, 1, 0])])


def test_more_than_18_classes_vote_as_classes(tmp_path):
    files = [save(tmp_path / f"{f}.csv", ans) for f, ans in enumerate([[40, 999, 3], [41, 999, 3], [41, 7, 3]])]
    with pytest.raises(InputError, match=r"0.csv, line 2: ans '40' is no whole number from 0 to 17"):
        hard_voting.main(files)
    hard_voting.main([*files, "--mode", "class", "--output", "vote.csv"])
    assert [answer for _, answer in load("vote.csv")] == [41, 999, 3]
    with pytest.raises(InputError, match="'1000' is no whole number from 0 to 999"):
        hard_voting.main([save(tmp_path / "c.csv", [1000]), "--mode", "class"])


def test_the_record_tells_of_which_classes_a_file_is(tmp_path):
    one, two, whole = (save(tmp_path / f"{name}.csv", [0, 9, 5]) for name in ("one", "two", "whole"))
    ten, other = ({"classes": [f"{letter}{k}" for k in range(10)]} for letter in "xy")
    record(one, "a", **ten)
    record(two, "b", **ten)
    record(whole, "c")
    with pytest.raises(InputError, match=r"one.csv is of 10 classes that are made of no attributes: .*--mode class"):
        hard_voting.main([one, two, "--mode", "attribute"])
    hard_voting.main([one, two])
    for mode in ("class", "attribute"):
        with pytest.raises(InputError, match=r"one.csv and .*whole.csv are of different classes"):
            hard_voting.main([one, whole, "--mode", mode])
    record(two, "b", **other)
    with pytest.raises(InputError, match=r"one.csv and .*two.csv are of different classes"):
        hard_voting.main([one, two, "--mode", "class"])
    save(Path(two), [0, 9, 6])  # edited since, so the record is of another file
    hard_voting.main([one, two, "--mode", "class"])
    with pytest.raises(InputError, match=r"more.csv, line 4: ans '17' is no whole number from 0 to 9"):
        hard_voting.main([one, save(tmp_path / "more.csv", [0, 9, 17]), "--mode", "class"])
    Path(f"{two}.json").write_text("[]")
    with pytest.raises(InputError, match=r"two.csv.json is no record of a submission"):
        hard_voting.main([one, two])


SHAPES = {"attributes": ["colour", "size"], "classes": ["red, big", "red, small", "blue, big", "blue, small"]}


def test_answers_in_names_vote_by_attribute_and_the_vote_is_read_as_they_are(tmp_path, capsys):
    """Of each row's files two say red and two say big, and none says both."""
    names = ["red, small", "blue, big", "red, big"]
    files = [save(tmp_path / f"{name}.csv", [f'"{name}"', '"blue, small"']) for name in names]
    for file in files[:2]:
        record(file, file, answer="names", **SHAPES)
    hard_voting.main([*files[:2], save(tmp_path / "ids.csv", [0, 3]), "--output", "vote.csv"])
    assert "attribute vote of 3 files on 2 rows" in capsys.readouterr().out
    assert Path("vote.csv").read_text() == 'ImageID,ans\n0.jpg,"red, big"\n1.jpg,"blue, small"\n'
    voted = read_submission(Path("vote.csv"))
    assert (voted.answers.tolist(), voted.named) == ([0, 3], True)
    assert json.loads(Path("vote.csv.json").read_text())["how"]["of"][0]["file"] == files[0]
    hard_voting.main([*files[:2], "--mode", "class", "--output", "vote.csv"])
    assert 'ans\n0.jpg,"red, small"' in Path("vote.csv").read_text()


def test_an_answer_that_is_no_name_is_named_with_what_there_is(tmp_path):
    file = save(tmp_path / "a.csv", ["green"])
    record(file, "a", answer="names", classes=["red", "blue"])
    with pytest.raises(InputError, match=r"a.csv, line 2: ans 'green' is none of the classes red, blue"):
        hard_voting.main([file])


def sweep_of_three(corrected, weight):
    """The manifest of a sweep whose soup, soup with an age specialist and soft vote wait for the vote."""
    Path("logs").mkdir(exist_ok=True)
    manifest = Manifest(name="s", metric="macro_f1", best="a.pt", soups={"greedy": "g.pt"}, scores=["logs/rows.jsonl"])
    answers = {SOUP: ("g", [1, 7, 4], {}), WEIGHTED: ("gx", corrected, {"age weight": weight})}
    for way, (models, given, how) in {**answers, SOFT_VOTE: ("ga", [1, 8, 5], {})}.items():
        path = Path(save(Path("output") / f"output_{way.replace(' ', '')}.csv", given))
        record(path, models, how=how)
        manifest.add(way, path)
    manifest.write()


@pytest.mark.parametrize(
    ("corrected", "weight", "files"),
    [([1, 7, 4], 0.0, 2), ([1, 7, 4], 0.5, 3), ([1, 8, 4], 0.5, 3)],
    ids=["weight 0", "equal by chance", "different"],
)
def test_a_model_of_a_sweep_votes_once(corrected, weight, files, capsys):
    sweep_of_three(corrected, weight)
    hard_voting.main(["--sweep", "s"])
    told = capsys.readouterr().out
    assert f"attribute vote of {files} files on 3 rows" in told
    assert ("has the same models and answers as output/output_soup.csv: counted once" in told) == (files == 2)
    assert ("the same answer on every row as [0]: [1]" in told) == (files == 3 and corrected == [1, 7, 4])
    named = ["output/output_soup.csv"] * 2 + ["output/output_softvote.csv"]
    hard_voting.main([*named, "--output", "vote.csv"])  # files that one names count as often as they are named
    assert "vote of 3 files" in capsys.readouterr().out


def test_the_vote_of_a_sweep_is_a_file_of_its_own(tmp_path):
    sweep_of_three([1, 7, 4], 0.5)
    save(tmp_path / "output" / "hard_voting.csv", [5])  # of another sweep, or of files that were named
    save(tmp_path / "output" / "hard_voting_other.csv", [5])
    hard_voting.main(["--sweep", "s"])
    assert load("output/hard_voting_s.csv") == [("0.jpg", 1), ("1.jpg", 7), ("2.jpg", 4)]
    assert load("output/hard_voting.csv") == load("output/hard_voting_other.csv") == [("0.jpg", 5)]
    assert read_manifest("s").submissions[HARD_VOTE] == "output/hard_voting_s.csv"


def test_mode_and_weights_steer_the_vote(tmp_path, capsys):
    files = [save(tmp_path / f"{f}.csv", [answer]) for f, answer in enumerate([5, 1, 16])]
    for flags, expected, differing in [
        ([], 4, 1),
        (["--mode", "class"], 5, 1),
        (["--mode", "class", "--weights", "1", "1", "1.5"], 16, 1),
        (["--weights", "1", "0.5", "2"], 16, 0),
    ]:
        hard_voting.main([*files, "--output", "vote.csv", *flags])
        assert load("vote.csv") == [("0.jpg", expected)]
        assert f"class and attribute voting differ in {differing} rows" in capsys.readouterr().out


def test_a_sheet_of_the_disputed_photographs_is_drawn(tmp_path, capsys, drawn):
    make_eval(tmp_path / "data", 10)
    ids = [f"{k:03d}.jpg" for k in range(10)]
    first, same = (save(tmp_path / f"{f}.csv", range(10), ids) for f in "ab")
    other = save(tmp_path / "c.csv", [0, 1, *range(2, 10)][::-1], ids)
    hard_voting.main([first, same, "--show-disagreements", "--output", "vote.csv"])
    assert not hard_voting.SHEET.exists()
    assert "agree on every row" in capsys.readouterr().out
    hard_voting.main([first, same, other, "--show-disagreements", "--output", "vote.csv"])
    with Image.open("val_img/hard_voting/disagreements.png") as sheet:
        assert sheet.width > 8 * 100
        assert len(sheet.convert("RGB").getcolors(2**24)) > 1000  # photographs, not an empty grid
    assert "saved val_img/hard_voting/disagreements.png" in capsys.readouterr().out


def test_each_disputed_photograph_has_its_files_per_class_under_it(tmp_path, monkeypatch):
    make_eval(tmp_path / "data", 4)
    ids = [f"{k:03d}.jpg" for k in range(4)]
    files = [
        save(tmp_path / f"{f}.csv", ans, ids) for f, ans in enumerate([[1, 2, 5, 9], [1, 3, 1, 9], [1, 3, 16, 9]])
    ]
    sheet = {}

    def keep(path, squares, captions, title):
        sheet.update(zip(captions, squares, strict=True))

    monkeypatch.setattr(pictures, "save_sheet", keep)
    hard_voting.main([*files, "--show-disagreements", "--output", "vote.csv"])
    assert list(sheet) == [
        "002.jpg\nvoted: worn, female, 30 to 59\n1 x worn, female, 60 and over\n1 x worn, male, 30 to 59\n"
        "1 x not_worn, female, 30 to 59",
        "001.jpg\nvoted: worn, female, under 30\n2 x worn, female, under 30\n1 x worn, male, 60 and over",
    ]
    for image, square in zip(["002.jpg", "001.jpg"], sheet.values(), strict=True):
        np.testing.assert_array_equal(square, decode(tmp_path / "data" / "eval" / "images" / image, 128))


GOOD = "ImageID,ans\na,1\nb,2\nc,3\n"
BAD_FILES = {
    "not UTF-8": (b"ImageID,ans\n\xff\xfe,1\n", "bad.csv is no UTF-8 text"),
    "empty": (b"", "bad.csv is empty"),
    "no rows": (b"ImageID,ans\n", "bad.csv has a header but no rows"),
    "missing ids": (b"ImageID,ans\na,1\n", r"bad.csv lacks 2 images of good.csv, the first: b"),
    "extra ids": (GOOD.encode() + b"d,1\ne,1\n", r"bad.csv has 2 images that good.csv lacks, the first: d"),
    "other ids": (b"ImageID,ans\na,1\nx,2\nc,3\n", r"bad.csv lacks 1 images of good.csv, the first: b"),
    "doubled ids": (b"ImageID,ans\na,1\nb,1\nb,2\na,3\nc,1\n", "bad.csv lists 2 images more than once, the first: a"),
    "label too large": (
        b"ImageID,ans\na,1\nb,18\nc,0\n",
        r"bad.csv, line 3: ans '18' is no whole number from 0 to 17",
    ),
    "label below 0": (b"ImageID,ans\na,-1\nb,18\nc,0\n", r"bad.csv, line 2: ans '-1'"),
    "label with a fraction": (b"ImageID,ans\na,1\n\nb,1.5\nc,0\n", r"bad.csv, line 4: ans '1.5'"),
    "no label": (b"ImageID,ans\na,\nb,1\nc,0\n", r"bad.csv, line 2: ans ''"),
    "short row": (b"ImageID,ans\na,1\nb\nc,0\n", r"bad.csv, line 3: 1 fields, expected the header's 2"),
    "endless field": (b"ImageID,ans\na,1\nb," + b"1" * 200_000, r"bad.csv, line 3: field larger"),
    "probabilities": (b"ImageID,p0,p1\na,1,0\n", r"bad.csv has no column ans \(ImageID,p0,p1\)"),
    "no ImageID": (b"id,ans\na,1\n", r"bad.csv has no column ImageID \(id,ans\)"),
    "two columns ans": (b"ImageID,ans,ans\na,1,2\n", "bad.csv has 2 columns ans"),
    "no id": (b"ImageID,ans\na,1\n ,2\nc,0\n", r"bad.csv, line 3: the column ImageID is blank"),
    "other columns": (b"ImageID,x,ans\na,0,1\nb,0,1\nc,0,1\n", "bad.csv has the columns ImageID,x,ans, but good.csv"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_named_and_nothing_is_written(content, message, tmp_path):
    (tmp_path / "good.csv").write_text(GOOD)
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        hard_voting.main(["good.csv", "bad.csv"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv", "good.csv"]


def test_a_vote_reads_past_pandas_index_and_spaces_behind_ids(tmp_path):
    (tmp_path / "good.csv").write_text(GOOD)
    (tmp_path / "pandas.csv").write_text(",ImageID,ans\n2,b ,2\n0,a,1\n1,c,3\n,,\n")
    hard_voting.main(["pandas.csv", "good.csv", "--output", "vote.csv"])
    assert (tmp_path / "vote.csv").read_text() == "ImageID,ans\nb,2\na,1\nc,3\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["good.csv", "gone.csv"], "gone.csv does not exist"),
        ([], r"no submissions output_\*.csv in .*/output"),
        (["good.csv", "--weights", "1", "2"], "2 weights for 1 files"),
        (["good.csv", "good.csv", "--weights", "1e-30", "1"], "too far apart"),
        (["good.csv", "--output", "good.csv"], "good.csv is an input and the output"),
        (["good.csv", "other.csv", "--show-disagreements"], "data folder data does not exist"),
        (
            ["good.csv", "other.csv", "--show-disagreements", "--data-location", "faces"],
            "1 disputed images .* first: b",
        ),
    ],
)
def test_a_bad_combination_is_named_and_nothing_is_written(argv, message, tmp_path):
    make_eval(tmp_path / "faces", 1)
    (tmp_path / "good.csv").write_text(GOOD)
    (tmp_path / "other.csv").write_text(GOOD.replace("b,2", "b,12"))
    with pytest.raises(InputError, match=message):
        hard_voting.main(argv)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "good.csv", "other.csv"]
    assert (tmp_path / "good.csv").read_text() == GOOD


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "much"])
def test_a_weight_that_is_no_positive_number_is_refused(weight, capsys):
    with pytest.raises(SystemExit) as stop:
        hard_voting.parser().parse(["a.csv", f"--weights={weight}"])
    assert stop.value.code == 2
    assert weight in capsys.readouterr().err


def test_a_mistake_is_one_line_and_exit_code_1(tmp_path):
    (tmp_path / "bad.csv").write_text("ImageID,ans\na,99\n")
    command = [sys.executable, str(REPOSITORY / "hard_voting.py"), "bad.csv"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "error: bad.csv, line 2: ans '99' is no whole number from 0 to 17\n"
    assert result.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


def test_nothing_heavy_is_imported(tmp_path):
    save(tmp_path / "a.csv", [1, 2])
    code = (
        "import sys, hard_voting\n"
        "assert 'numpy' not in sys.modules\n"
        "hard_voting.main(['a.csv', '--output', 'vote.csv'])\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'PIL', 'tqdm', 'sklearn', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": ""}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert load("vote.csv") == [("0.jpg", 1), ("1.jpg", 2)]
