"""The page of validation.py --review in a real browser: keys, filters, undo, what is kept, what is handed out."""

import csv
import io
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import draw_face, make_people, resize
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from utils.base.errors import InputError
from utils.data.relabel import Decision
from utils.reports import review_page
from utils.reports.review_page import Head, write_review_page
from utils.review.suspects import DUPLICATE, GROUP, IMAGE, LABEL, SWAPPED, Correction, Suspect

HOSTILE = "<script>alert(1)<!--</script><img src=x onerror='alert(2)'>"
HEAD = Head("Suspects of <b>mine</b>", ("All seven & more",), Path("data/train/relabel.csv"), "faces and mine")
DECIDED = [Decision("000005", "age", "57"), Decision("000000", "gender", "female", "corrected")]


def suspect(key, kind, unit, name, attribute, given, suggested, files):
    """One whose suggestion and given value are written as they stand, of an image or a group."""
    accept = (Correction(name, attribute, suggested),) if suggested else ()
    keep = (Correction(name, attribute or kind, given if suggested else "no"),)
    words = f"Evidence of {key}: {HOSTILE}"
    return Suspect(key, kind, unit, name, attribute, given, suggested, 0.9, words, tuple(files), accept, keep)


@pytest.fixture(scope="module")
def suspects(tmp_path_factory):
    """Six of them: two genders, an age, two photographs that are exchanged, a mask, and a duplicate."""
    people = make_people(tmp_path_factory.mktemp("people"), 6) / "train" / "images"
    folders = sorted(people.iterdir())
    seven = [sorted(folder.iterdir(), reverse=True) for folder in folders]  # normal first
    first, second = (f"{folders[3].name}/{stem}" for stem in ("normal", "incorrect_mask"))
    exchanged = Correction(first, "mask", "incorrect"), Correction(second, "mask", "not_worn")
    as_given = Correction(first, "mask", "not_worn"), Correction(second, "mask", "incorrect")
    swapped = suspect("d", SWAPPED, IMAGE, first, "mask", "as named", "exchanged", seven[3][::6] + seven[3][1:6])
    age = suspect("c", LABEL, GROUP, "000002", "age", "46", "64", seven[2])
    return [
        suspect("a", LABEL, GROUP, "000000", "gender", "male", "female", seven[0]),
        suspect("b", LABEL, GROUP, 'quoted, "id"', "gender", "female", "male", seven[1]),
        replace(age, other="21", instead=(Correction("000002", "age", "21"),)),
        replace(swapped, accept=exchanged, keep=as_given),
        suspect("e", LABEL, IMAGE, second, "mask", "incorrect", "worn", seven[3][-1:] + seven[3][:1]),
        suspect("f", DUPLICATE, IMAGE, f"{HOSTILE}/normal", "", "male, 22", "", [seven[5][0], seven[4][0]]),
    ]


@pytest.fixture(scope="module")
def path(suspects, tmp_path_factory):
    return write_review_page(tmp_path_factory.mktemp("page") / "review.html", suspects, DECIDED, HEAD)


@pytest.fixture
def page(path, browser):
    """The page as a browser shows it that has never seen it."""
    return opened(browser, path, afresh=True)


def opened(browser, path, width=1280, afresh=False):
    resize(browser, width)
    if afresh:
        browser.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": "file://", "storageTypes": "local_storage"})
    browser.get(path.as_uri())
    return browser


def press(page, *keys):
    for key in keys:
        page.switch_to.active_element.send_keys(key)


def said(page, name):
    return page.find_element(By.ID, name).text


def current(page):
    return int(page.find_element(By.CSS_SELECTOR, "[aria-current]").get_attribute("id").removeprefix("suspect-"))


def shown(page):
    """The decisions of the rows that are laid out, by number."""
    rows = "return [...document.querySelectorAll('#suspects > li')].map((row) => [row.id, row.dataset.decision])"
    return {int(name.removeprefix("suspect-")): decision for name, decision in page.execute_script(rows)}


def choose(page, **filters):
    change = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change', {bubbles: true}))"
    for name, value in filters.items():
        page.execute_script(change, page.find_element(By.NAME, name), value)


def click(page, number, decision):
    button = page.find_element(By.CSS_SELECTOR, f"#suspect-{number} button[data-decision={decision}]")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def handed_out(page, folder):
    """The rows of the relabel.csv that the page hands out."""
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    page.find_element(By.ID, "download").click()
    file, end = folder / "relabel.csv", time.monotonic() + 5
    while not (file.exists() and file.stat().st_size) and time.monotonic() < end:  # it is there before it is written
        time.sleep(0.02)
    text = file.read_text(encoding="utf-8")
    file.unlink()
    return [tuple(row) for row in csv.reader(io.StringIO(text))]


def test_keys_decide_and_go_on(page):
    assert (current(page), said(page, "count")) == (1, "0 of 6 decided")
    words = [one.text for one in page.find_elements(By.CSS_SELECTOR, ".buttons b + span")]
    assert words[:3] == ["change to female", "keep male", "change nothing"]
    assert words[6:10] == ["change to 64", "keep 46", "change to 21", "change nothing"]
    assert words[10:12] + words[16:] == ["exchange the two", "keep as given", "keep as given", "change nothing"]
    press(page, "o")
    assert (set(shown(page).values()), said(page, "last")) == ({""}, "There is no third value here.")
    press(page, "a", "r", "o")
    assert shown(page) == {1: "accept", 2: "reject", 3: "other", 4: "", 5: "", 6: ""}
    assert (current(page), said(page, "count")) == (4, "3 of 6 decided")
    assert said(page, "last").endswith("another value.")
    pressed = page.find_elements(By.CSS_SELECTOR, "[aria-pressed=true]")
    assert [one.get_attribute("data-decision") for one in pressed] == ["accept", "reject", "other"]
    assert page.find_element(By.CSS_SELECTOR, "#suspect-1 .state").text == "accepted: 000000 gender female"
    press(page, Keys.ARROW_UP, "k", "k", "k", "k")
    assert current(page) == 1
    press(page, "R")  # another decision replaces the first, and the next that is open comes
    assert (shown(page)[1], current(page), said(page, "count")) == ("reject", 4, "3 of 6 decided")
    press(page, "j", Keys.ARROW_DOWN, "j")
    assert current(page) == 6
    press(page, "a")
    assert (shown(page)[6], said(page, "last")) == ("", "Nothing to accept: no label can mend this.")
    press(page, "r")
    assert current(page) == 4  # the first that is open, since none is open behind
    press(page, "a", "a")
    assert "All that are shown are decided" in said(page, "last")
    assert page.find_element(By.TAG_NAME, "progress").get_property("value") == 6


def test_keys_of_other_keyboards_and_browsers(page):
    send = "document.body.dispatchEvent(new KeyboardEvent('keydown', {bubbles: true, ...arguments[0]}))"
    for event, decision in (
        ({"key": "ㅁ", "code": "KeyA"}, "accept"),
        ({"key": "r", "code": "KeyR", "ctrlKey": True}, ""),
        ({"key": "r", "code": "KeyR", "repeat": True}, ""),
        ({"key": "q", "code": "KeyA"}, ""),
        ({"key": "r", "code": "KeyP"}, "reject"),
    ):
        number = current(page)
        page.execute_script(send, event)
        assert shown(page)[number] == decision, event
    choose(page, attribute="gender")
    page.find_element(By.NAME, "attribute").send_keys("a")  # chooses age, and decides nothing
    assert list(shown(page).values()) == [""]


def test_no_key_decides_what_is_not_on_the_screen(page):
    page.execute_script("scrollTo(0, document.documentElement.scrollHeight)")
    press(page, "a")
    assert set(shown(page).values()) == {""}
    number = current(page)
    assert number > 1
    press(page, "r")
    assert shown(page)[number] == "reject"


def test_a_click_decides_and_a_double_click_decides_once(page):
    press(page, "j")
    button = page.find_element(By.CSS_SELECTOR, "#suspect-2 button[data-decision=accept]")
    ActionChains(page).double_click(button).perform()  # the next row's lies in the same place by then
    assert list(shown(page).values()) == ["", "accept", "", "", "", ""]
    click(page, 4, "unsure")
    assert (shown(page)[4], current(page)) == ("unsure", 5)


def test_undo_goes_back_decision_by_decision_and_beyond_a_reload(page):
    assert page.find_element(By.ID, "undo").get_property("disabled")
    press(page, "a", "r", "k", "u")
    assert list(shown(page).values())[:3] == ["accept", "unsure", ""]
    press(page, "z")
    assert (list(shown(page).values())[:3], current(page)) == (["accept", "reject", ""], 2)
    page.refresh()
    page.find_element(By.ID, "undo").click()
    assert list(shown(page).values())[:3] == ["accept", "", ""]
    assert "taken back" in said(page, "last")
    press(page, "z", "z")
    assert said(page, "count") == "0 of 6 decided"


def test_filters_and_progress(page):
    press(page, "a", "r")
    for filters, numbers, count in (
        ({"attribute": "gender"}, [1, 2], "2 of 2"),
        ({"attribute": "mask"}, [4, 5], "0 of 2"),
        ({"attribute": "mask", "kind": SWAPPED}, [4], "0 of 1"),
        ({"kind": LABEL, "decision": "undecided"}, [3, 5], "2 of 4"),
        ({"decision": "accept"}, [1], "2 of 6"),
        ({"decision": "other"}, [], "2 of 6"),
    ):
        choose(page, **filters)
        assert (list(shown(page)), said(page, "count")) == (numbers, f"{count} decided")
        assert page.find_element(By.ID, "none").is_displayed() == (not numbers)
        page.find_element(By.ID, "all").click()
    assert list(shown(page)) == [1, 2, 3, 4, 5, 6]
    choose(page, decision="undecided")
    click(page, 3, "accept")
    assert (list(shown(page)), current(page)) == ([4, 5, 6], 4)
    press(page, "z")
    assert (list(shown(page)), current(page)) == ([3, 4, 5, 6], 3)
    assert "Kind\nany\nlabel (4)\nswapped (1)\nduplicate (1)\n" in said(page, "filters")


def test_what_is_handed_out_holds_what_was_read_and_the_latest_decisions(page, tmp_path):
    header, read = ("id", "attribute", "value", "decision"), ("000005", "age", "57", "corrected")
    assert handed_out(page, tmp_path) == [header, read, ("000000", "gender", "female", "corrected")]
    for number, decision in ((1, "reject"), (2, "accept"), (3, "accept"), (3, "other"), (4, "accept"), (6, "reject")):
        click(page, number, decision)
    first, second = (f"000003_female_Asian_48/{stem}" for stem in ("normal", "incorrect_mask"))
    assert handed_out(page, tmp_path) == [
        header,
        read,
        ("000000", "gender", "male", "reviewed"),
        ('quoted, "id"', "gender", "male", "corrected"),
        ("000002", "age", "21", "corrected"),
        (first, "mask", "incorrect", "corrected"),
        (second, "mask", "not_worn", "corrected"),
        (f"{HOSTILE}/normal", "duplicate", "no", "reviewed"),
    ]
    assert said(page, "last") == "Downloaded: 7 rows, 2 were there before."
    press(page, "z")
    assert len(handed_out(page, tmp_path)) == 7
    steps = (4, "accept", "not_worn"), (5, "accept", "worn"), (4, "reject", "incorrect"), (4, "unsure", "worn")
    for number, decision, value in steps:  # of two suspects that write the same row the later counts
        click(page, number, decision)
        assert [row[2] for row in handed_out(page, tmp_path) if row[0] == second] == [value]
    assert page.get_log("browser") == []


def test_decisions_outlive_a_reload_but_not_another_suggestion(page, suspects, path, tmp_path):
    press(page, "a", "r")
    page.refresh()
    assert list(shown(page).values())[:3] == ["accept", "reject", ""]
    assert (current(page), said(page, "count")) == (3, "2 of 6 decided")
    elsewhere = """const [key, taken] = Object.entries(localStorage)[0];
    localStorage[key] = JSON.stringify(JSON.parse(taken).slice(1));
    dispatchEvent(new StorageEvent("storage", {key}))"""
    page.execute_script(elsewhere)  # as when the page is open twice
    assert list(shown(page).values())[:3] == ["", "reject", ""]
    press(page, "k", "k", "a")
    other = replace(suspects[0], accept=(Correction("000000", "gender", "other"),))
    same = replace(suspects[1], confidence=0.5, evidence="else", files=suspects[0].files)
    made = write_review_page(tmp_path / "again.html", [suspects[2], other, same], DECIDED, HEAD)
    assert shown(opened(page, made)) == {1: "", 2: "", 3: "reject"}
    made = write_review_page(tmp_path / "else.html", suspects, DECIDED, replace(HEAD, storage="another sweep"))
    assert set(shown(opened(page, made)).values()) == {""}


def test_a_browser_that_keeps_nothing_says_so_and_works(path, browser, tmp_path):
    page, refusal = opened(browser, path), "Object.defineProperty(window, 'localStorage', {get() { throw Error() }})"
    script = page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": refusal})
    try:
        page.refresh()
        assert page.find_element(By.ID, "refused").is_displayed()
        press(page, "a")
        assert (shown(page)[1], len(handed_out(page, tmp_path))) == ("accept", 3)
        press(page, "a")
        leaves = "return dispatchEvent(new Event('beforeunload', {cancelable: true}))"
        assert not page.execute_script(leaves)  # a browser asks before
        handed_out(page, tmp_path)
        assert page.execute_script(leaves)
    finally:
        page.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    assert not opened(browser, path).find_element(By.ID, "refused").is_displayed()


def test_hostile_names_are_text_and_nothing_is_loaded(path, browser):
    browser.get_log("performance")
    page = opened(browser, path, afresh=True)
    row = page.find_element(By.ID, "suspect-6")
    assert row.find_element(By.CSS_SELECTOR, "h2 .name").text == f"{HOSTILE}/normal"
    assert HOSTILE in row.text.split("Evidence of f: ")[1]
    assert said(page, "suspects").count(HOSTILE) == 7
    assert page.find_elements(By.CSS_SELECTOR, "[onerror], h1 b") == []
    press(page, "r")
    assert page.get_log("browser") == []
    requests = re.findall(r'"url":"(\w+:)', " ".join(one["message"] for one in page.get_log("performance")))
    assert set(requests) <= {"file:", "data:"}
    assert "default-src 'none'" in (text := path.read_text(encoding="utf-8"))
    assert not re.search(r"\w://|@import|url\(|srcset", text)


def test_photographs_are_shown_with_those_in_question_framed(page, suspects):
    cells = """return [...document.querySelectorAll("#suspects figure")].map((figure) => {
      const cells = [...figure.querySelectorAll("li:not(.gap)")], text = (some) => some.map((one) => one.textContent);
      const those = (name) => text(cells.filter((one) => one.matches(name)));
      return [text(cells), those(".large"), those(".in-question"), figure.querySelector("img").naturalWidth]; })"""
    names, large, framed, widths = zip(*page.execute_script(cells), strict=True)
    assert names[0] == ["normal", *(f"mask{k}" for k in (5, 4, 3, 2, 1)), "incorrect_mask"]
    assert names[5] == [f"{file.parent.name}/{file.stem}" for file in suspects[5].files]
    assert [len(some) for some in large] == [1, 1, 1, 2, 1, 2]
    assert list(framed) == [[], [], [], ["normal", "incorrect_mask"], ["incorrect_mask"], names[5]]
    assert list(widths) == [2 * 90 * columns for columns in (5, 5, 5, 7, 3, 4)]


def test_everything_is_reached_by_tab_and_has_a_name(page):
    focused, seen = [], "return document.activeElement.contains(document.elementFromPoint(arguments[0], arguments[1]))"
    for _ in range(16):
        press(page, Keys.TAB)
        one = page.switch_to.active_element
        focused.append(one.get_attribute("name") or one.get_attribute("id") or one.get_attribute("class"))
        box = page.execute_script("return document.activeElement.getBoundingClientRect().toJSON()")
        assert page.execute_script(seen, (box["left"] + box["right"]) / 2, (box["top"] + box["bottom"]) / 2), focused
    assert focused[:7] == ["skip", "attribute", "kind", "decision", "all", "download", ""]
    names = """return [...document.querySelectorAll('#suspects > li, section, form')].map((one) =>
        one.ariaLabel ?? document.getElementById(one.getAttribute('aria-labelledby')).textContent)"""
    assert all(page.execute_script(names))
    assert len(page.find_elements(By.CSS_SELECTOR, "label select")) == 3
    assert page.find_element(By.ID, "last").get_attribute("aria-live") == "polite"
    assert all(one.get_attribute("alt") for one in page.find_elements(By.TAG_NAME, "img"))


def test_words_stand_out_from_their_ground(page):
    contrast = """const ground = (one) => { const colour = getComputedStyle(one).backgroundColor;
      return colour === "rgba(0, 0, 0, 0)" ? ground(one.parentElement) : colour; };
    const light = (colour) => { const [r, g, b] = colour.match(/[\\d.]+/g).map((value) => value / 255)
        .map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
      return 0.05 + 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    return [...document.querySelectorAll("p, dt, dd, h1, h2, h2 span, button, select, output, #how li")]
      .filter((one) => one.checkVisibility() && !one.disabled)
      .map((one) => light(getComputedStyle(one).color) / light(ground(one)));"""
    press(page, "a", "r", "u")
    for scheme in ("dark", "light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        ratios = page.execute_script(contrast)
        assert len(ratios) > 40
        assert min(max(ratio, 1 / ratio) for ratio in ratios) >= 4.5, scheme


def test_no_width_scrolls_sideways_and_a_phone_has_large_buttons(path, browser):
    page = opened(browser, path, 390, afresh=True)
    click(page, 4, "accept")
    fits = """const right = (one) => one.getBoundingClientRect().right;
      return [...document.querySelectorAll(".buttons, .buttons *, figure ol")].every((one) =>
        right(one) <= right(one.matches("figure ol") ? one.previousElementSibling : one.parentElement) + 0.1)"""
    for width in (1100, 961, 800, 360, 390):
        resize(browser, width)
        assert page.execute_script(fits), width
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.find_element(By.CSS_SELECTOR, "#suspect-4 img").size["width"] > 0.8 * width
    places = [one.rect for one in page.find_elements(By.CSS_SELECTOR, "#suspect-3 button")]
    assert [len({one[axis] for one in places}) for axis in "xy"] == [2, 2]  # four buttons
    sizes = [one.size for one in page.find_elements(By.CSS_SELECTOR, "#suspect-4 button")]
    assert all(size["height"] >= 44 and size["width"] >= 90 for size in sizes)
    assert page.find_element(By.ID, "bar").size["height"] < 150 > page.find_element(By.ID, "undo").size["height"] >= 40


def test_2700_suspects_open_and_are_decided_without_a_stall(browser, suspects, tmp_path, monkeypatch):
    jpeg = io.BytesIO()
    draw_face(0, 0, 30, 1).resize((450, 240)).save(jpeg, "jpeg")
    monkeypatch.setattr(review_page, "mosaic", lambda *_: (jpeg.getvalue(), (450, 240)))
    many = [replace(suspects[k % 2], key=str(k), attribute="gender" if k % 900 else "age") for k in range(2700)]
    path = write_review_page(tmp_path / "review.html", many, DECIDED, HEAD)
    page = opened(browser, path, afresh=True)
    assert (len(shown(page)), said(page, "count")) == (60, "0 of 2700 decided")
    page.execute_script("""longest = 0; new PerformanceObserver((tasks) => {
      longest = Math.max(longest, ...tasks.getEntries().map((task) => task.duration));
    }).observe({type: "longtask"})""")
    press(page, *"aruaruz")
    for _ in range(3):
        page.execute_script("scrollTo(0, document.documentElement.scrollHeight)")
        time.sleep(0.1)
    assert len(shown(page)) > 60
    choose(page, attribute="age")
    assert list(shown(page)) == [1, 901, 1801]
    click(page, 1801, "unsure")
    page.find_element(By.ID, "all").click()
    press(page, "z")  # goes to the row, far behind those that are laid out
    assert current(page) == 1801
    assert len(shown(page)) > 1800
    assert page.execute_script("return longest") < 2000  # milliseconds; far fewer on a machine that does nothing else


def test_no_suspect_and_a_photograph_that_cannot_be_read(suspects, browser, tmp_path):
    page = opened(browser, write_review_page(tmp_path / "review.html", [], [], HEAD))
    assert "nothing is to be decided" in page.find_element(By.TAG_NAME, "main").text
    assert page.find_elements(By.TAG_NAME, "form") == page.get_log("browser") == []
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        write_review_page(tmp_path / "none.html", [replace(suspects[0], files=(broken,))], [], HEAD)
    assert not (tmp_path / "none.html").exists()
