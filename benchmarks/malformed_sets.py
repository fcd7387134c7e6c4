"""Sets of photographs that nothing can be learned from, each tried as a user would: one clear error, before training.

    python benchmarks/malformed_sets.py

Makes each set in a folder of its own and starts `finetune.py` on it. It must end with an exit status of 1 or 2 and
one line that names the path, the line or the value, and write no traceback and no checkpoint. Prints a line for each,
and at the end how many were not refused so, which is the exit status.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
START = ["--model", f"{REPOSITORY}/demo/tower.pt", "--epochs", "1", "--report-to", "none", "--workers", "0"]


def images(*names: str) -> None:
    """Small images of random colours; a name that ends in `*12` is twelve of them."""
    for name in names:
        stem, _, count = name.partition("*")
        for k in range(int(count or 1)):
            path = Path(stem.replace("#", str(k)))
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((32, 32), 80 + k).convert("RGB").save(path, format="JPEG")


def table(text: str, path: str = "set/list.csv") -> None:
    images("set/a#.jpg*12", "set/b#.jpg*12")
    Path(path).write_text(text)


def rows(*, header: str = "file,label", more: str = "") -> str:
    """Twelve rows of each of two classes, in columns behind which `more` is written."""
    lines = [f"{kind}{k}.jpg,{kind}{more}" for k in range(12) for kind in "ab"]
    return "\n".join([header, *lines, ""])


def classes(*folders: str) -> None:
    images(*(f"set/{folder}/#.jpg*8" for folder in folders))


def file(path: str, content: bytes | str = b"") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content.encode() if isinstance(content, str) else content)


def people(*folders: str, wanted: str = "mask1 mask2 mask3 mask4 mask5 incorrect_mask normal") -> None:
    for folder in folders:
        images(*(f"set/train/images/{folder}/{name}.jpg" for name in wanted.split()))


def parquet(columns: dict, path: str = "set.parquet") -> None:
    import pyarrow
    from pyarrow import parquet as writer

    Path(path).parent.mkdir(exist_ok=True)
    writer.write_table(pyarrow.table(columns), path)


def of_images(count: int, label: str = "label") -> dict:
    """Columns of images of two classes, as `datasets` writes them."""
    import pyarrow

    kind, content = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}), jpeg()
    column = [{"bytes": content, "path": None}] * count
    return {"image": pyarrow.array(column, kind), label: pyarrow.array([*"ab" * (count // 2)], pyarrow.string())}


def jpeg() -> bytes:
    images("one.jpg")
    return Path("one.jpg").read_bytes()


SIX = [f"{k:06d}_{gender}_Asian_{age}" for k, (gender, age) in enumerate([("male", 20), ("female", 65)] * 3)]
TABLE, BYTES = "set/list.csv", "set.parquet"
Case = tuple[Callable[[], object], str, str]
CASES: dict[str, Case] = {  # what makes the set, the arguments, location first, and a part of the error
    # Folders
    "nothing there": (lambda: None, "nowhere", "nowhere does not exist"),
    "an empty folder": (lambda: Path("set").mkdir(), "set", "no photographs in"),
    "a folder of text files": (lambda: file("set/cat/a.txt", "x"), "set", "no photographs in"),
    "a file of no kind": (lambda: file("set.tsv", "x"), "set.tsv", "set.tsv is no folder, CSV or Parquet"),
    "one class": (lambda: classes("cat"), "set", "are of one class, 'cat'"),
    "an image beside the classes": (lambda: (classes("cat", "dog"), images("set/c.jpg")), "set", "set/c.jpg is in no"),
    "an image beside those of train": (
        lambda: (classes("train/cat", "train/dog"), images("set/train/c.jpg")), "set", "set/train/c.jpg is in no",
    ),
    "Train in capitals": (lambda: classes("Train/cat", "Train/dog", "Val/cat"), "set", "call it train"),
    "a class in val alone": (lambda: classes("train/cat", "train/dog", "val/cow"), "set", "the label 'cow' is held"),
    "an empty val": (
        lambda: (classes("train/cat", "train/dog"), Path("set/val").mkdir()), "set", "set/val holds no images",
    ),
    "an image of no bytes": (lambda: (classes("cat", "dog"), file("set/cat/z.jpg")), "set", "z.jpg"),
    "an image that is text": (lambda: (classes("cat", "dog"), file("set/cat/z.jpg", "hello")), "set", "z.jpg"),
    "an image that is cut off": (lambda: (classes("cat", "dog"), file("set/cat/z.jpg", jpeg()[:300])), "set", "z.jpg"),
    "a link to nowhere": (
        lambda: (classes("cat", "dog"), Path("set/cat/z.jpg").symlink_to("gone.jpg")), "set", "z.jpg",
    ),
    "a pattern that finds nothing": (lambda: classes("cat", "dog"), "set --group-pattern ^x(.)", "--group-pattern"),
    "a pattern that is none": (lambda: classes("cat", "dog"), "set --group-pattern (", "--group-pattern"),
    "columns of folders": (lambda: classes("cat", "dog"), "set --label-columns kind", "--label-columns"),
    # Tables
    "an empty table": (lambda: table(""), TABLE, "list.csv"),
    "a header alone": (lambda: table("file,label\n"), TABLE, "lists no images"),
    "no label column": (lambda: table(rows(header="file,kind")), TABLE, "no label: name one with --label-columns"),
    "no file column": (lambda: table(rows(header="photo,label")), TABLE, "name one with --image-column"),
    "an unknown label column": (lambda: table(rows()), f"{TABLE} --label-columns kind", "no kind"),
    "an unknown group column": (lambda: table(rows()), f"{TABLE} --group-column who", "no who"),
    "an unknown split column": (lambda: table(rows()), f"{TABLE} --split-column side", "no side"),
    "a column twice": (lambda: table(rows(header="file,label,label", more=",x")), TABLE, "2 columns label"),
    "a blank label": (lambda: table(rows() + "a0.jpg,\n"), TABLE, "line 26: the column label is blank"),
    "a label missing": (lambda: table(rows() + "a0.jpg\n"), TABLE, "line 26"),
    "a field too many": (lambda: table(rows() + "a0.jpg,a,b\n"), TABLE, "line 26"),
    "the same image twice": (lambda: table(rows() + "a0.jpg,b\n"), TABLE, "twice, the first: a0.jpg"),
    "the same image by another way": (lambda: table(rows() + "../set/a0.jpg,a\n"), TABLE, "twice, the first: a0.jpg"),
    "an image that is not there": (lambda: table(rows() + "c.jpg,a\n"), TABLE, "line 26: set/c.jpg is not there"),
    "an image of no kind": (lambda: table(rows() + "list.csv,a\n"), TABLE, "line 26: list.csv is none of"),
    "a file outside the folder": (lambda: (table(rows() + "/etc/passwd,a\n")), TABLE, "line 26"),
    "one class in a table": (lambda: table(rows().replace(",b", ",a")), TABLE, "one class"),
    "a NUL in a name": (lambda: table(rows() + "a\0.jpg,a\n"), TABLE, "list.csv"),
    "another encoding": (lambda: table(rows()) or file(TABLE, b"file,label\n\xff\xfe.jpg,a\n"), TABLE, "list.csv"),
    "a picture as a table": (lambda: table(rows()) or file(TABLE, jpeg()), TABLE, "list.csv"),
    "a quote without end": (lambda: table(rows() + '"a0.jpg,a\n'), TABLE, "list.csv"),
    "a comma in a value of two": (
        lambda: table(rows(header="file,label,more", more=",x").replace("a,x", '"a, b",x')),
        f"{TABLE} --label-columns label,more", "has a comma",
    ),
    "a value that is not asked for": (lambda: table(rows()), f"{TABLE} --values label=a,z", "none of a, z"),
    "limits of text": (lambda: table(rows()), f"{TABLE} --limits label=3", "no whole number"),
    "limits of another column": (lambda: table(rows()), f"{TABLE} --limits age=3", "no label column 'age'"),
    "the group is the label": (lambda: table(rows()), f"{TABLE} --group-column label", "is a column of labels"),
    "a group on both sides": (
        lambda: table(rows(header="file,label,who,side", more=",p,train").replace("b,p,train", "b,p,val")),
        f"{TABLE} --group-column who --split-column side", "both sides",
    ),
    "an unknown side": (
        lambda: table(rows(header="file,label,side", more=",train").replace("b3.jpg,b,train", "b3.jpg,b,left")),
        f"{TABLE} --split-column side", "the side 'left'",
    ),
    "nobody to train on": (
        lambda: table(rows(header="file,label,side", more=",val")), f"{TABLE} --split-column side", "the side val",
    ),
    "one group alone": (
        lambda: table(rows(header="file,label,who", more=",p")), f"{TABLE} --group-column who", "side of the split",
    ),
    # The competition's folders
    "a person folder that does not parse": (
        lambda: (people(*SIX), people("000009_male_Asian")), "set", "000009_male_Asian",
    ),
    "an age of letters": (lambda: (people(*SIX), people("000009_male_Asian_old")), "set", "000009_male_Asian_old"),
    "persons without photographs": (lambda: people(*SIX, wanted="me you"), "set", "no photographs in"),
    "a photograph twice": (
        lambda: (people(*SIX), images(f"set/train/images/{SIX[0]}/mask1.png")), "set", "holds both mask1.jpg and",
    ),
    "persons and classes mixed": (lambda: (people(*SIX), images("set/train/images/cat/1.jpg")), "set", "folder 'cat'"),
    # Sets of datasets, and Parquet
    "a Parquet file of no bytes": (lambda: file(BYTES), BYTES, "set.parquet"),
    "a Parquet file that is text": (lambda: file(BYTES, "file,label\n"), BYTES, "set.parquet"),
    "images that are numbers": (lambda: parquet({"image": [1, 2], "label": ["a", "b"]}), BYTES, "1 is none of"),
    "images without bytes": (
        lambda: parquet({"image": [{"bytes": None, "path": None}] * 4, "label": list("abab")}), BYTES, "there is no",
    ),
    "images of broken bytes": (
        lambda: parquet({"image": [{"bytes": b"x", "path": None}] * 20, "label": list("ab") * 10}), BYTES, BYTES,
    ),
    "a folder with a broken Parquet file": (
        lambda: (parquet(of_images(20), "set/train-0.parquet"), file("set/train-1.parquet")), "set", "train-1.parquet",
    ),
    "Parquet files of different columns": (
        lambda: (parquet(of_images(20), "set/a.parquet"), parquet(of_images(20, "kind"), "set/b.parquet")), "set",
        "b.parquet has other columns",
    ),
    "Parquet files without rows": (lambda: parquet(of_images(0), "set/train.parquet"), "set", "has no rows"),
    "Parquet files to predict alone": (lambda: parquet(of_images(20), "set/test.parquet"), "set", "on the side test"),
    "Parquet files of tables": (lambda: parquet({"file": ["a.jpg"], "label": ["a"]}, "set/a.parquet"), "set", "set"),
    "Parquet and folders of images": (
        lambda: (parquet(of_images(20), "set/train.parquet"), classes("rose", "aster")), "set", "folder of images",
    ),
    "a hub id that is not there": (lambda: None, "nobody/no-such-set-of-images", "nobody/no-such-set-of-images"),
}  # fmt: skip


def tried(make: Callable[[], object], arguments: str, part: str, folder: Path) -> str:
    """What is wrong with how a set was refused; empty when all is as it must be."""
    location, *more = arguments.split()
    command = [sys.executable, str(REPOSITORY / "finetune.py"), "--data-location", location, *START, *more]
    before = {path for path in folder.rglob("*") if path.is_file()}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    told = done.stderr.strip().splitlines()
    errors = [line for line in told if re.match(r"(\w+\.py: )?error: ", line)]
    left = {path for path in folder.rglob("*") if path.is_file()} - before
    left = sorted(str(path.relative_to(folder)) for path in left if path.suffix != ".log")
    return (
        "; ".join(
            what
            for what, is_wrong in {
                f"exit status {done.returncode}": done.returncode not in (1, 2),  # 2 for a flag that means nothing
                "a traceback": "Traceback" in done.stderr + done.stdout,
                f"{len(errors)} errors: {done.stderr[-300:]}": len(errors) != 1,
                f"not named: {errors}": errors and part not in errors[0],
                f"left behind: {left}": any(one.startswith("model/") for one in left),
                f"trained: {done.stdout[-200:]}": re.search(r"epoch 1 of 1", done.stdout) is not None,
            }.items()
            if is_wrong
        )
        or f"as it must be: {errors[0]}"
    )


def main() -> None:
    failed = 0
    for name, (make, arguments, part) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            make()
            begin = time.perf_counter()
            told = tried(make, arguments, part, Path(folder))
            failed += not told.startswith("as it must be")
            print(f"{time.perf_counter() - begin:4.1f} s  {name}: {told}", flush=True)
            os.chdir("/")
    print(f"{len(CASES)} kinds, {failed} not refused as they must be")
    sys.exit(failed)


if __name__ == "__main__":
    main()
