"""The page of validation.py --report: its numbers, its form, and its filters in a real browser."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import AGE, OTHER, SOUP, make_people, resize, validate
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from utils.evaluation.alarms import chance
from utils.evaluation.held_out import HeldOut
from utils.evaluation.results import with_interval
from utils.reports import analysis, page

VOID = {"meta", "link", "img", "br", "input", "wbr"}
REPORT = Path("val_img") / SOUP / "report.html"


def tidy(text):
    return " ".join(text.split())


class Page(HTMLParser):
    """A page's elements as (tag, attributes), tables as rows of texts by caption, and text; every tag must close."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.tables, self.words, self.open = [], {}, [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = tidy("".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.caption, self.rows = "", []
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element at {self.getpos()}"
        if tag == "table":
            self.tables[tidy(self.caption)] = [[tidy(cell) for cell in row] for row in self.rows]

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)
        if "caption" in self.open:
            self.caption += data
        elif {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def made_in(folder, trained, *arguments, where=REPORT):
    """Rows, text and model logits of a report that is made in a copy of the trained sweep in `folder`."""
    shutil.copytree(trained[0], folder / "trained")
    seen = {}

    def remembered(held_out, checkpoint, original=HeldOut.logits):
        seen.setdefault("held_out", held_out)
        return seen.setdefault(checkpoint.name, original(held_out, checkpoint))

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "trained")
        patch.setattr(analysis, "PER_KIND", 4)  # fewer than there are mistakes, so that something is left out
        patch.setattr(page, "AT_ONCE", 9)
        patch.setattr(HeldOut, "logits", remembered)
        rows = validate(*arguments, "--report")
        text = where.read_text(encoding="utf-8")
    path = folder / "trained" / where
    return SimpleNamespace(rows=rows, text=text, page=Page(text), path=path, held_out=seen["held_out"], seen=seen)


@pytest.fixture(scope="module")
def report(trained, faces, tmp_path_factory):
    """The report of the fixture's greedy soup with all ensembles."""
    arguments = (faces, "--weighted-ensemble", AGE, "--soft-voting", OTHER)
    return made_in(tmp_path_factory.mktemp("report"), trained, *arguments)


def cards(page):
    return [item for item in page.all("li") if "data-kind" in item]


def test_the_scores_are_those_of_the_rows(report):
    page, single = report.page, report.rows[0]
    compared = page.tables["Ways of predicting; gains are over the single model"][1:]
    expected = [[with_interval(row, "accuracy"), with_interval(row, "macro_f1")] for row in report.rows]
    assert [row[1:3] for row in compared] == expected
    assert [row[0].split(" (")[0] for row in compared] == [row["kind"] for row in report.rows]
    assert all(bool(row[3]) == (row[0] in ("soft vote", "weighted", "hard vote")) for row in compared)
    parts = page.tables["The class and the attributes it is made of; in brackets the interval"][1:]
    assert parts[0] == ["class", *expected[0]]
    exact = report.held_out.score(report.seen[SOUP]).attributes
    assert [(row[0], float(row[1].split()[0])) for row in parts[1:]] == [
        (name, pytest.approx(float(value), abs=5e-4)) for name, value in exact.items()
    ]
    assert f"macro-F1{single['macro_f1']:.3f}" in page.text.replace(" ", "")
    assert f"Scored on {single['images']} photographs of {single['persons']} people: held-out people" in page.text


def test_the_tables_are_counted_from_the_predictions(report):
    held_out, preds = report.held_out, report.seen[SOUP].argmax(-1)
    classes = held_out.labelling.classes
    heat = report.page.tables["class, number of photographs"][1:]
    counts = np.array([[int(cell.replace("·", "0")) for cell in row[1:]] for row in heat])
    for true, pred in np.ndindex(18, 18):
        assert counts[true, pred] == ((held_out.labels == true) & (preds == pred)).sum()
    by_class = report.page.tables["The single model by class; support is the number of photographs"][1:]
    f1 = []
    for k, (name, precision, recall, score, support) in enumerate(by_class):
        right, said, there = counts[k, k], counts[:, k].sum(), counts[k].sum()
        assert (name, int(support)) == (classes[k], there)
        assert precision == (f"{right / said:.3f}" if said else "–")
        assert recall == (f"{right / there:.3f}" if there else "–")
        assert score == (f"{2 * right / (said + there):.3f}" if said + there else "–")
        f1 += [2 * right / (said + there)] if said + there else []
    assert np.mean(f1) == pytest.approx(report.rows[0]["macro_f1"])
    for name in held_out.labelling.attributes:
        assert sum(int(row[-1]) for row in report.page.tables[f"The single model by {name}"][1:]) == len(preds)
    ages = report.page.tables["Errors of the single model by age"][1:]
    assert sum(int(row[3].split()[0]) for row in ages) == (preds != held_out.labels).sum()
    every_way = report.page.tables["F1 of each class by way of predicting"]
    assert every_way[0] == ["class", "single", "soft vote", "weighted", "hard vote"]
    assert [row[1] for row in every_way[1:]] == [row[3] for row in by_class]


def test_nothing_is_loaded(report):
    page = report.page
    links = [value for _, found in page.elements for name, value in found.items() if name in ("src", "href")]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"\w://|@import|url\(|srcset", report.text)
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_everything_has_a_name_to_be_read_out(report):
    page = report.page
    ids = {found["id"] for _, found in page.elements if "id" in found}
    assert page.all("html")[0]["lang"] == "en"
    assert all(found["alt"] for found in page.all("img"))
    assert len(page.all("svg")) == 4
    assert all(found["role"] == "img" and found["aria-labelledby"] in ids for found in page.all("svg"))
    assert all(found["aria-label"] for _, found in page.elements if found.get("tabindex") == "0")
    assert all(found["href"][1:] in ids for found in page.all("a"))
    assert len(page.all("label")) == len(page.all("select")) == 4
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in found for found in page.all("th"))
    for words in ("age in years", "photographs wrong", "F1 (0 to 1)", "probability of the predicted class"):
        assert words in page.text


def test_a_card_says_what_is_wrong_and_can_be_filtered_by_it(report):
    held_out, logits = report.held_out, report.seen[SOUP]
    log_probs = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    wrong = (logits.argmax(-1) != held_out.labels).sum()
    assert (
        f"All {wrong} misclassified photographs of held-out people are in this page; 9 are shown" in report.page.text
    )
    shown, pictures = cards(report.page), [found for found in report.page.all("img") if found["src"] != "data:,"]
    assert len(shown) == len(pictures) == wrong > 9
    assert [float(one["data-loss"]) for one in shown] == sorted(
        (float(one["data-loss"]) for one in shown), reverse=True
    )
    for one, picture in zip(shown, pictures, strict=True):
        k = held_out.ids.tolist().index(picture["alt"].split(": true")[0])
        label, pred = held_out.labels[k], logits[k].argmax()
        names = held_out.labelling.classes
        assert picture["alt"].endswith(f"true {names[label]}, predicted {names[pred]}")
        of = [dict(zip(("mask", "gender", "age"), names[c].split(", "), strict=True)) for c in (label, pred)]
        assert one["data-attribute"].split() == [name for name in of[0] if of[0][name] != of[1][name]]
        assert int(one["data-label"]) == label
        assert float(one["data-loss"]) == pytest.approx(-log_probs[k, label], rel=1e-6)
        assert float(one["data-sureness"]) == pytest.approx(np.exp(log_probs[k, pred]), rel=1e-6)


def test_hostile_names_are_text_and_training_people_are_told_of(trained, tmp_path):
    people = make_people(tmp_path / "people", 8)
    for folder in (people / "train" / "images").iterdir():
        folder.rename(folder.with_name(folder.name.replace("Asian", "<img src=x onerror='alert(1)'>\"&\x1b[31m")))
    where = Path("val_img") / f"everyone_{SOUP}" / "report.html"
    page = made_in(tmp_path, trained, people, "--val-ratio", "None", where=where).page
    assert not [found for _, found in page.elements if "onerror" in found]
    assert "<img src=x onerror='alert(1)'>\"&\\x1b[31m" in page.text
    assert "\x1b" not in page.text
    assert "everyone, training people included" in page.text
    assert "include those of people that the model was trained on" in page.text
    assert "that are not held out do not show here" not in page.text
    assert "--val-ratio None" in page.text.split("this command makes this page:")[1]


def test_a_model_without_a_mistake(trained, faces, tmp_path, monkeypatch):
    monkeypatch.setattr(HeldOut, "logits", lambda self, model: 9 * np.eye(18, dtype=np.float32)[self.labels])
    page = made_in(tmp_path, trained, faces).page
    assert "Not one photograph is misclassified" in page.text
    assert cards(page) == page.all("form") == []


def test_no_report_without_being_asked(trained, faces, tmp_path, monkeypatch):
    shutil.copytree(trained[0], "trained")
    monkeypatch.chdir("trained")
    validate(faces)
    assert not REPORT.exists()


def chosen(page, order="data-loss", **filters):
    """Alternative texts of the cards that pass the filters, in the order in which they should be shown."""
    passing = [
        (float(card[order]), picture["alt"])
        for card, picture in zip(cards(page), (one for one in page.all("img") if "alt" in one), strict=True)
        if all(value in card[f"data-{name}"].split() for name, value in filters.items())
    ]
    return [alt for _, alt in sorted(passing, key=lambda pair: -pair[0])][:9]


def visible(browser):
    pictures = browser.find_elements(By.CSS_SELECTOR, "#mistakes li:not([hidden]) img")
    assert all(picture.is_displayed() for picture in pictures)
    return [picture.get_attribute("alt") for picture in pictures]


def test_the_filters_work_in_a_browser(report, browser):
    resize(browser, 1280)
    browser.get_log("performance")
    browser.get(report.path.as_uri())
    page = report.page
    selects = {name: Select(browser.find_element(By.NAME, name)) for name in ("attribute", "label", "kind")}
    assert visible(browser) == chosen(page)
    classes = [option.get_attribute("value") for option in selects["label"].options][1:]
    assert set(classes) == {card["data-label"] for card in cards(page)}
    for name, values in (("attribute", ["mask", "gender", "age"]), ("label", classes)):
        for value in values:
            selects[name].select_by_value(value)
            assert visible(browser) == chosen(page, **{name: value})
        selects[name].select_by_value("")
    selects["kind"].select_by_value("confident")
    assert len(visible(browser)) == 4
    assert visible(browser) == chosen(page, "data-sureness", kind="confident")
    selects["kind"].select_by_value("worst")
    selects["attribute"].select_by_value("age")
    both = chosen(page, kind="worst", attribute="age")
    assert 0 < len(both) < 9
    assert visible(browser) == both
    assert browser.find_element(By.TAG_NAME, "output").text.startswith(f"{len(both)} of {len(cards(page))} shown")
    browser.find_element(By.CSS_SELECTOR, "#filters button").click()
    assert visible(browser) == chosen(page)
    assert browser.get_log("browser") == []
    requests = re.findall(r'"url":"(\w+:)', " ".join(one["message"] for one in browser.get_log("performance")))
    assert requests
    assert set(requests) <= {"file:", "data:"}


def test_every_photograph_is_reached_and_a_number_leads_to_its_photographs(report, browser):
    resize(browser, 1280)
    browser.get(report.path.as_uri())
    held_out, preds = report.held_out, report.seen[SOUP].argmax(-1)
    more, wrong = browser.find_element(By.ID, "more"), int((preds != held_out.labels).sum())
    for shown in [*range(9, wrong, 9), wrong]:
        assert len(visible(browser)) == shown
        assert more.is_displayed() == (shown < wrong)
        if shown < wrong:
            more.click()
    for link in browser.find_elements(By.CSS_SELECTOR, "td a[data-filter=cell]"):
        browser.execute_script("arguments[0].click()", link)
        part, true, pred = link.get_attribute("data-value").split("-")
        names = held_out.labelling.classes if part == "class" else held_out.labelling.values[part]
        count = len(visible(browser))
        assert count == min(9, int(link.get_attribute("textContent")))
        chosen_cell = Select(browser.find_element(By.NAME, "cell")).first_selected_option.text
        assert chosen_cell == f"{names[int(true)]} taken for {names[int(pred)]} ({link.get_attribute('textContent')})"
    assert browser.current_url.endswith("#photographs")
    assert browser.get_log("browser") == []


def test_two_models_are_compared_on_the_same_people(trained, faces, tmp_path):
    one, two = OTHER, OTHER.replace("i1", "i2")
    where = Path("val_img") / one / "report.html"
    arguments = (faces, "--model-name", one, "--compare-with", two)
    made = made_in(tmp_path, trained, *arguments, where=where)
    labels, (ours, theirs) = made.held_out.labels, (made.seen[name].argmax(-1) for name in (one, two))
    won, lost = ((ours == labels) & (theirs != labels)).sum(), ((theirs == labels) & (ours != labels)).sum()
    assert (
        f"this model alone is right on {won} , the other alone on {lost} of {len(labels)}"
        in made.page.text.replace(f"{won},", f"{won} ,")
    )
    kinds = [card["data-kind"].split() for card in cards(made.page)]
    assert sum("won" in kind for kind in kinds) == won
    assert sum("lost" in kind for kind in kinds) == lost
    compared = made.page.tables["Ways of predicting; gains are over the single model"]
    gain = made.held_out.gain(made.seen[two], made.seen[one])["accuracy"]
    assert compared[-1][0] == "other model"
    assert compared[-1][3] == str(gain)
    logged = (tmp_path / "trained" / "logs" / "validation.log").read_text()
    assert f"gain over {two}: accuracy {made.held_out.gain(made.seen[one], made.seen[two])['accuracy']}" in logged
    assert f"only this model is right on {won}, only the other on {lost}" in logged
    rows = (tmp_path / "trained" / "logs" / f"validation_results_{one}.jsonl").read_text()
    assert two not in rows


def test_the_page_says_what_to_do_next_and_whose_photographs_it_shows(report):
    held_out = report.held_out.persons
    assert "held-out people" in report.page.text.split("misclassified photographs of")[1][:20]
    trained_on = 30 - len(set(held_out))
    assert f"Wrong labels among the {trained_on} people that are not held out do not show here" in report.page.text
    steps = report.page.text.split("What to do next")[-1]
    assert "validation.py --data-location" in steps
    assert "--compare-with OTHER.pt" in steps
    assert f"chance {chance(report.held_out.labels, 18, 'macro_f1'):.3f}" in report.page.text


def test_the_filters_are_reached_and_moved_by_keys(report, browser):
    resize(browser, 1280)
    browser.get(report.path.as_uri())
    focused = [browser.switch_to.active_element]
    for _ in range(60):
        focused[-1].send_keys(Keys.TAB)
        focused.append(browser.switch_to.active_element)
        if focused[-1].get_attribute("name") == "attribute":
            break
    assert focused[1].get_attribute("class") == "skip"
    focused[-1].send_keys(Keys.ARROW_DOWN)
    assert focused[-1].get_attribute("value") == "mask"
    assert visible(browser) == chosen(report.page, attribute="mask")


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_the_page_fits_every_width(report, browser, width):
    resize(browser, width)
    browser.get(report.path.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_light_and_dark_and_on_paper(report, browser):
    browser.get(report.path.as_uri())

    def look(media="", scheme="light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour))), browser.find_element(By.ID, "filters").is_displayed()

    try:
        assert look() == (3 * 255, True)
        assert look(scheme="dark")[0] < 3 * 60
        assert look("print", "dark") == (3 * 255, False)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
