"""The page of inference.py --demo: its answers, what it refuses, and, where gradio is installed, the page itself."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import requests
from conftest import (
    AGE,
    OTHER,
    REPOSITORY,
    SOUP,
    answers,
    draw_face,
    fails_cleanly,
    in_a_copy,
    infer,
    make_eval,
    probs_of,
    resize,
)
from forked import command
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

import inference
from utils.base.errors import InputError
from utils.data import competition
from utils.data.labels import Attribute, Labelling
from utils.ensembles.candidates import find_candidates
from utils.reports import demo_page

CHOSEN = Path("logs/ensemble_some.json")


def asked(monkeypatch, *arguments):
    """The `Demo` that `inference.py --demo` would show."""
    monkeypatch.setattr(demo_page, "check_ready", lambda accelerator: None)
    monkeypatch.setattr(demo_page, "serve", lambda accelerator, ensemble, _: demo_page.Demo(accelerator, ensemble))
    return inference.show(inference.parser().parse(["--demo", *map(str, arguments)]))


def write_chosen():
    """An ensemble of all candidates, mirrored ones too, with a bias that turns predictions."""
    candidates = [one.checkpoint for one in find_candidates(Path("model"), flip=True)]
    weights = 0.1 + 0.05 * np.arange(len(candidates))
    members = [
        {"file": one.path.name, "digest": one.digest, "flip": "flip" in one.preprocessing, "weight": float(weight)}
        for one, weight in zip(candidates, weights / weights.sum(), strict=True)
    ]
    known = {"bias_rule": "per class", "people": "held-out people", "split": "ab", "scores": []}
    content = {"members": members, "temperature": 0.7, "bias": np.linspace(-3, 3, 18).tolist(), **known}
    CHOSEN.write_text(json.dumps(content))
    return members


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Ten photographs to predict, of which one is a PNG and one lies on its side, as its EXIF says."""
    folder = make_eval(tmp_path_factory.mktemp("photographs"))
    images = folder / "eval" / "images"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    draw_face(0, 1, 64, 7).transpose(Image.Transpose.ROTATE_90).resize((900, 700)).save(images / "000.jpg", exif=exif)
    draw_face(2, 0, 25, 8).save(images / "001.png")
    info = folder / "eval" / "info.csv"
    info.write_text(info.read_text().replace("001.jpg", "001.png"))
    return folder


WAYS = {
    "single": [],
    "flip": ["--flip"],
    "weighted": ["--weighted-ensemble", AGE],
    "soft": ["--soft-voting", OTHER],
    "mean": ["--soft-voting", OTHER, "--soft-voting-rule", "mean"],
    "chosen": ["--ensemble", CHOSEN],
    "no bias": ["--ensemble", CHOSEN, "--no-bias"],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_page_says_what_the_submission_says(way, trained, photographs, monkeypatch):
    in_a_copy(trained, monkeypatch)
    write_chosen()
    submission = infer(photographs, *WAYS[way], "--save-probs")
    demo = asked(monkeypatch, *WAYS[way])
    written = answers(submission)
    for (name, class_id), probs in zip(written.items(), probs_of(submission), strict=True):
        answer = demo.answer(photographs / "eval" / "images" / name)
        assert answer.class_id == class_id
        np.testing.assert_allclose(answer.probs, probs, atol=1e-5)
        assert f"<h2>Mask {answer.labelling.classes[class_id].replace('_', ' ')}</h2>" in demo_page.as_html(
            demo, photographs / "eval" / "images" / name
        )
    assert len(set(written.values())) > 1
    assert (way in ("chosen", "no bias")) == (len(demo.models) < len(demo.ensemble.members))


def test_each_member_speaks_for_itself(trained, photographs, monkeypatch):
    in_a_copy(trained, monkeypatch)
    path = photographs / "eval" / "images" / "001.png"
    single = asked(monkeypatch).answer(path)
    assert len(single.members) == 1
    both = asked(monkeypatch, "--weighted-ensemble", AGE).answer(path)
    model, age = both.members
    assert model == single.members[0]
    assert model.name == SOUP
    assert ", ".join(model.values.values()) == competition.labelling().classes[single.class_id]
    assert model.probability == pytest.approx(single.probs.max())
    assert (age.name, set(age.values)) == (AGE, {"age"})
    assert age.probability >= 1 / 3
    only = asked(monkeypatch)
    assert 'class="members"' not in demo_page.as_html(only, path)


def test_probabilities_of_attributes_by_hand():
    probs = np.zeros(18)
    probs[[0, 7, 10]] = 0.4, 0.35, 0.25  # worn male young; incorrect male middle; incorrect female middle
    answer = demo_page.Answer(0, probs, competition.labelling(), [])
    np.testing.assert_allclose(answer.of_attribute("mask"), [0.4, 0.6, 0])
    np.testing.assert_allclose(answer.of_attribute("gender"), [0.75, 0.25])
    np.testing.assert_allclose(answer.of_attribute("age"), [0.4, 0.6, 0])
    assert answer.values == {"mask": 0, "gender": 0, "age": 0}  # of the class, not of the largest sums


def test_bold_is_the_class_and_names_are_text(photographs):
    probs = np.zeros(18)
    probs[[0, 7, 10]] = 0.4, 0.35, 0.25
    member = demo_page.MemberAnswer("<b>&", {"age": "30 to 59"}, 0.5)
    answer = demo_page.Answer(0, probs, competition.labelling(), [member, member])
    demo = SimpleNamespace(answer=lambda _: answer, ensemble=SimpleNamespace(rule="minmax"))
    html = demo_page.as_html(demo, photographs / "eval" / "images" / "000.jpg")
    bold = re.findall(r'<tr class="said">\s*<th scope="row">([\w ]+)</th><td class="number">([\d.]+) %', html)
    assert bold == [("worn", "40.0"), ("male", "75.0"), ("under 30", "40.0")]
    assert html.count("&lt;b&gt;&amp;") == 2
    assert re.findall(r"<td>(–|30 to 59)</td>", html) == ["–", "–", "30 to 59"] * 2
    assert "Shares of the vote" in html
    assert 'width="187" height="240"' in html  # upright: it is 900 x 700 in the file


def content_of(image, kind, **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


JPEG, PNG = (content_of(draw_face(0, 0, 25, 0), kind) for kind in ("jpeg", "png"))
BOMB = content_of(Image.new("1", (16_000, 16_000)), "png")
BAD = {
    "text": (b"this is no photograph", "no JPEG or PNG"),
    "empty": (b"", "no JPEG or PNG"),
    "script": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "no JPEG or PNG"),
    "another format": (content_of(draw_face(0, 0, 25, 0), "gif"), "no JPEG or PNG"),
    "cut": (JPEG[: len(JPEG) // 2], "cut short or damaged"),
    "end is lost": (PNG[:-4], "cut short or damaged"),
    "damaged": (PNG[:60] + bytes(9) + b"IEND\xaeB`\x82", "cut short or damaged"),
    "large file": (JPEG + bytes(20_000_000) + JPEG[-2:], "has 20.0 MB, and 20 are allowed"),
    "many pixels": (content_of(Image.new("1", (8001, 8001)), "png"), "8001 x 8001 pixels, and 64 million"),
    "bomb": (BOMB, "far more than the 64 million pixels"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_whole_photograph_of_a_sane_size_is_refused(what, tmp_path, monkeypatch):
    content, message = BAD[what]
    path = tmp_path / "upload.jpg"
    path.write_bytes(content)
    if "damaged" not in message:
        monkeypatch.setattr(demo_page, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match=message) as caught:
        demo_page.read_photograph(path, {32})
    assert str(tmp_path) not in str(caught.value)
    html = demo_page.as_html(SimpleNamespace(answer=lambda one: demo_page.read_photograph(one, {32})), path)
    assert re.search(rf'<p role="alert" class="mistake">[^<]*{message}', html)


def test_a_file_that_is_gone_is_refused():
    with pytest.raises(InputError, match="The upload is gone"):
        demo_page.read_photograph(Path("gone.jpg"), {32})


@pytest.mark.parametrize("installed", [None, "3.18.0"])
def test_without_gradio_there_is_one_error_before_any_model_is_read(installed, monkeypatch):
    def version_of(name):
        if installed is None:
            raise demo_page.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(demo_page, "version", version_of)
    with pytest.raises(InputError, match=r'pip install "gradio>=6"'):
        inference.show(inference.parser().parse(["--demo", "--model-name", "missing.pt"]))


@pytest.mark.parametrize(
    "arguments",
    [["--save-probs"], ["--output-dir", "o"], ["--data-location", "d"], ["--batch-size", "1"], ["--workers", "0"]],
)
def test_what_means_nothing_on_a_page_is_refused(arguments):
    with pytest.raises(InputError, match=f"leave {arguments[0]} out"):
        inference.show(inference.parser().parse(["--demo", *arguments]))


def test_addresses(capsys):
    parse = inference.parser().parse
    assert parse(["--demo", "--flip"]).demo == ("127.0.0.1", 7860)
    assert parse(["--demo", "0.0.0.0:80"]).demo == ("0.0.0.0", 80)
    for wrong in ("7860", "host", "host:", "host:0", "host:65536", ":80"):
        with pytest.raises(SystemExit):
            parse(["--demo", wrong])
        assert "127.0.0.1:7860 (host and port)" in capsys.readouterr().err


def test_several_processes_show_no_page():
    with pytest.raises(InputError, match="one page of one process"):
        demo_page.check_ready(2)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def showing(model_location, folder):
    """The page of a soup with an age specialist in its own process: its port, address, folder, process and output."""
    pytest.importorskip("gradio", reason='the page itself needs gradio: pip install "gradio>=6"')
    port = free_port()
    (folder / "uploads").mkdir()
    arguments = ["--demo", f"127.0.0.1:{port}", "--weighted-ensemble", AGE, "--model-location", model_location]
    with open(folder / "output.txt", "w") as output:
        process = subprocess.Popen(
            [sys.executable, REPOSITORY / "inference.py", *arguments],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder / "uploads"), "GRADIO_SHARE": "True"},
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )
    said = (folder / "output.txt").read_text
    try:
        end = time.monotonic() + 90
        while "Ctrl-C ends it" not in said():
            assert process.poll() is None, said()
            assert time.monotonic() < end, said()
            time.sleep(0.2)
        yield SimpleNamespace(port=port, url=f"http://127.0.0.1:{port}", folder=folder, process=process, said=said)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def shown(trained, tmp_path_factory):
    with showing(trained[0] / "model", tmp_path_factory.mktemp("shown")) as one:
        yield one


def ask(shown, path):
    """What the page answers, over HTTP as its own script does."""
    from gradio_client import Client, handle_file

    client = Client(shown.url, verbose=False, analytics_enabled=False)
    emptied, html = client.predict(handle_file(path), api_name="/answer")
    assert emptied is None
    return html


def uploads(shown):
    return [path for path in (shown.folder / "uploads").rglob("*") if path.is_file()]


def test_a_photograph_is_answered_and_nothing_is_kept(shown, trained, photographs, monkeypatch):
    path = photographs / "eval" / "images" / "000.jpg"
    html = ask(shown, path)
    expected = demo_page.as_html(
        asked(monkeypatch, "--weighted-ensemble", AGE, "--model-location", trained[0] / "model"), path
    )
    assert html.split() == expected.split()
    assert "says by itself" in html
    assert uploads(shown) == []
    assert {one.name for one in shown.folder.iterdir()} <= {"uploads", "output.txt", "logs"}
    assert path.name not in "".join(log.read_text() for log in shown.folder.glob("logs/*"))


def test_what_is_no_photograph_gets_a_message_and_no_traceback(shown, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no photograph")
    before = shown.said()
    assert "This file is no JPEG or PNG photograph" in ask(shown, tmp_path / "a.jpg")
    assert uploads(shown) == []
    assert shown.said() == before


def test_only_this_machine_can_reach_it_and_only_one_port_listens(shown):
    process = psutil.Process(shown.process.pid)
    everyone = [process, *process.children(recursive=True)]
    heard = [one.laddr for each in everyone for one in each.net_connections() if one.status == psutil.CONN_LISTEN]
    assert [(one.ip, one.port) for one in heard] == [("127.0.0.1", shown.port)]


def test_a_large_file_is_refused_while_it_arrives(shown):
    files = {"files": ("large.jpg", bytes(20 * 1024**2 + 1))}
    reply = requests.post(f"{shown.url}/gradio_api/upload", files=files, timeout=30)
    assert reply.status_code == 413
    assert uploads(shown) == []


def test_files_of_the_machine_are_neither_answered_nor_removed(shown, photographs):
    path = shown.folder / "own.jpg"
    path.write_bytes((photographs / "eval" / "images" / "000.jpg").read_bytes())
    upload = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
    call = f"{shown.url}/gradio_api/call/answer"
    event = requests.post(call, json={"data": [upload]}, timeout=30).json()["event_id"]
    reply = requests.get(f"{call}/{event}", timeout=30).text
    assert "event: error" in reply
    assert "base64" not in reply
    assert path.exists()
    path.unlink()


def test_a_port_that_is_taken_is_told(shown, trained):
    result = command("inference.py", "--demo", f"127.0.0.1:{shown.port}", "--model-location", trained[0] / "model")
    fails_cleanly(result, f"no page can be opened at 127.0.0.1:{shown.port}: give --demo another host or port")


def test_the_page_in_a_browser(shown, photographs, browser):
    resize(browser, 1280)
    browser.get_log("performance")
    browser.get(shown.url)
    picture = WebDriverWait(browser, 30).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "input[type=file]"))
    picture[0].send_keys(str(photographs / "eval" / "images" / "001.png"))
    WebDriverWait(browser, 30).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#answer h2"))
    assert len(browser.find_elements(By.CSS_SELECTOR, "#answer .said")) == 3
    for width in (1280, 768, 390, 360):
        resize(browser, width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    buttons = browser.find_elements(By.TAG_NAME, "button")
    assert {"Upload file", "Capture from camera"} <= {one.get_attribute("aria-label") for one in buttons}
    assert all(one.text or one.get_attribute("aria-label") for one in buttons if one.is_displayed())
    assert browser.find_elements(By.CSS_SELECTOR, "#answer[aria-live], #answer [aria-live]")
    sent = re.findall(r'"url":"(\w+://[^/"]*)', " ".join(one["message"] for one in browser.get_log("performance")))
    assert set(sent) == {shown.url}
    assert uploads(shown) == []


def test_ctrl_c_ends_it_quietly(trained, photographs, tmp_path):
    with showing(trained[0] / "model", tmp_path) as shown:
        ask(shown, photographs / "eval" / "images" / "000.jpg")
        before = shown.said()
        shown.process.send_signal(signal.SIGINT)
        assert shown.process.wait(30) == 0
        assert shown.said() == before + "the page is closed\n"
        assert list((tmp_path / "uploads").iterdir()) == []


def test_other_classes_have_their_own_words_and_of_many_values_the_likeliest_are_shown():
    labelling = Labelling((Attribute("breed", tuple(f"b{k}" for k in range(30))),))
    assert demo_page.words_about(labelling) == ("Breed", "A guess from one photograph, by a model.")
    assert demo_page.words_about(competition.labelling())[0] == "Mask, gender and age"
    probs = np.roll(np.arange(30) / 435, 5)  # the largest is that of value 4
    answer = demo_page.Answer(class_id=4, probs=probs, labelling=labelling, members=[])
    assert answer.shown("breed") == [4, 3, 2, 1, 0, *range(29, 24, -1)]
