"""What is exported runs where its card says, and an export is there whole, or the earlier one is."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from conftest import REPOSITORY, draw_face, files, infer, release_state
from PIL import Image
from safetensors import SafetensorError

from utils.base.files import temporary_beside
from utils.data.labels import plain
from utils.data.preprocessing import preprocessing
from utils.models import exports
from utils.models.checkpoints import read_checkpoint, save_checkpoint
from utils.models.weights import read_weights

CLASSES = ("cat", "dog", "emu")


def checkpoint(seed=0, name="soup", classes=CLASSES, member="a.pt"):
    """A soup of random weights with a record."""
    torch.save(release_state(seed, num_classes=len(classes)), "random.pt")
    weights = read_weights("random.pt")
    meta = {
        "model": weights.config, "labelling": plain(tuple(classes)).record(), "preprocessing": preprocessing(32),
        "options": {"recipe": "uniform"}, "split": None, "family": None, "scores": {},
        "made_from": [{"name": member, "digest": "0" * 64, "weight": 1.0}],
    }  # fmt: skip
    path = Path("model") / f"{name}.pt"
    save_checkpoint(path, weights.state_dict, meta)
    return read_checkpoint(path)


@pytest.fixture
def photographs():
    """As they come: large and on its side, with an alpha channel, with a palette, small."""
    folder = Path("photographs")
    folder.mkdir()
    exif = Image.Exif()
    exif[0x112] = 6
    draw_face(0, 1, 30, 1).resize((1200, 1600)).save(folder / "0.jpg", exif=exif)
    draw_face(1, 0, 60, 2).convert("RGBA").save(folder / "1.png")
    draw_face(2, 1, 20, 3).convert("P").save(folder / "2.png")
    draw_face(2, 0, 40, 4).resize((20, 31)).save(folder / "3.jpg")
    return folder


def run_elsewhere(code):
    """Paste code into a file of another folder, and run it as somebody without this repository would."""
    elsewhere = Path("elsewhere").resolve()
    elsewhere.mkdir(exist_ok=True)
    (elsewhere / "pasted.py").write_text(code)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-I", "pasted.py"],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines(), np.load(elsewhere / "logits.npy")


def test_the_code_of_card_and_page_gives_the_numbers_of_inference(photographs):
    soup = checkpoint()
    exports.export_folder(Path("hub"), soup)
    exports.export_onnx(Path("soup.onnx"), soup, torch.rand(2, 3, 32, 32))
    written = infer(photographs, "--model-name", "hub", "--save-probs")
    with open(written.with_name(f"{written.stem}_probs.csv")) as file:
        probs = np.array([[float(row[name]) for name in CLASSES] for row in csv.DictReader(file)])
    paths = [str(path.resolve()) for path in sorted(photographs.iterdir())]
    card = re.search(r"```python\n(.*?)```", Path("hub/README.md").read_text(), re.DOTALL)[1]
    page = re.search(r"```python\n(.*?)```", (REPOSITORY / "docs" / "soups.md").read_text(), re.DOTALL)[1]
    assert '["photograph.jpg"]' in card
    card = card.replace('"."', repr(str(Path("hub").resolve()))).replace('["photograph.jpg"]', str(paths))
    stacked = f"np.stack([pixel_values_of(path) for path in {paths}])"
    page = page.replace('"soup.onnx"', repr(str(Path("soup.onnx").resolve())))
    page = page.replace('np.stack([pixel_values_of("photograph.jpg")])', stacked)
    for code in (card, page):
        told, logits = run_elsewhere(code + "\nimport numpy\nnumpy.save('logits.npy', logits)\n")
        np.testing.assert_allclose(torch.softmax(torch.from_numpy(logits), -1), probs, atol=1e-5)
        assert [line.split()[1] for line in told] == [CLASSES[k] for k in probs.argmax(1)]


def test_an_export_says_what_it_takes_and_promises_nothing_else():
    soup = checkpoint()
    exports.export_folder(Path("hub"), soup)
    exports.export_onnx(Path("soup.onnx"), soup, torch.rand(2, 3, 32, 32))
    card, config = Path("hub/README.md").read_text(), json.loads(Path("hub/config.json").read_text())
    processor = json.loads(Path("hub/preprocessor_config.json").read_text())
    assert "pipeline_tag" not in card
    assert list(config["id2label"].values()) == list(CLASSES)
    assert processor["size"] == processor["crop_size"] == {"height": 32, "width": 32}
    assert (processor["resample"], processor["do_center_crop"]) == (Image.Resampling.BICUBIC, False)
    session = onnxruntime.InferenceSession("soup.onnx", providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    how = soup.preprocessing
    assert json.loads(told["classes"]) == list(CLASSES)
    assert [json.loads(told[name]) for name in ("mean", "std", "size")] == [how["mean"], how["std"], 32]
    assert (told["resampling"], told["digest"]) == (how["resample"], soup.digest)


def test_names_of_others_are_text_in_the_card():
    odd = "a|b`c* [x](y) <script>\n---\n# d\x1b[31m"
    soup = checkpoint(classes=(odd, "dog", "emu"), member=odd)
    exports.export_folder(Path("hub"), soup)
    card = Path("hub/README.md").read_text()
    front, rest = card.split("---\n", 2)[1:]
    assert front == "library_name: transformers\ntags: [clip, model-soup]\n"
    shown = r"a\|b\`c\* \[x\](y) \<script\> --- \# d \[31m"
    assert rest.count(shown) == 2
    assert "\x1b" not in card
    assert "<script>" not in card


def test_an_earlier_export_is_replaced_in_one_step(monkeypatch):
    first, second = checkpoint(0, "first"), checkpoint(1, "second")
    exports.export_folder(Path("hub"), first)

    def killed(*_):
        raise SystemExit(9)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        exports.export_folder(Path("hub"), second)  # no step between two at which it could be stopped
    assert read_checkpoint(Path("hub")).digest == second.digest
    monkeypatch.setattr(exports, "_swapped", lambda one, other: False)  # a file system that cannot swap
    exports.export_folder(Path("hub"), first)
    assert read_checkpoint(Path("hub")).digest == first.digest
    assert sorted(path.name for path in Path().iterdir()) == ["hub", "model", "random.pt"]


def test_what_a_killed_export_left_is_removed_by_the_next():
    """Of processes that are still there, and of others than exports, nothing is."""
    begin = temporary_beside(Path("hub")).name.removesuffix(f"{os.getpid()}.tmp")
    left, taken = Path(f"{begin}{2**22 + 1}.tmp"), Path(f"{begin}{os.getppid()}.tmp")
    others = [taken, Path(".hub.notes"), Path(f"{begin}junk.tmp")]
    for path in (left, *others):
        path.mkdir()
    exports.export_folder(Path("hub"), checkpoint())
    assert not left.exists()
    assert all(path.is_dir() for path in others)


@pytest.mark.parametrize("fails", ["save_file", "to_json_file"])
def test_a_full_disk_is_one_error_and_leaves_the_earlier_export(monkeypatch, fails):
    first, second = checkpoint(0, "first"), checkpoint(1, "second")
    exports.export_folder(Path("hub"), first)
    before = files()

    def full(*_, **__):
        raise {"save_file": SafetensorError("I/O error: No space left on device (os error 28)"),
               "to_json_file": OSError(28, "No space left on device")}[fails]  # fmt: skip

    if fails == "save_file":
        monkeypatch.setattr(safetensors.torch, "save_file", full)
    else:
        monkeypatch.setattr("transformers.PreTrainedConfig.to_json_file", full)
    with pytest.raises(OSError, match=r"No space left on device.*nothing was written.*'hub'"):
        exports.export_folder(Path("hub"), second)
    assert files() == before
    assert read_checkpoint(Path("hub")).digest == first.digest
