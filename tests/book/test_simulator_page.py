"""The simulator page: its files, its colours, and (in headless Chromium) what a reader does with it."""

import json
import re
import time
from pathlib import Path

import pytest

from minivllm.sim.memory_report import run_memory
from minivllm.sim.policies import make_policy
from minivllm.sim.trace import fixed_trace
from minivllm.sim.usage import CLASSES
from minivllm.viz.palette import MEMORY_STYLES, contrast

FOLDER = Path(__file__).resolve().parents[2] / "book" / "simulator"
PAGE = (FOLDER / "index.html").as_uri()
FILES = ("index.html", "simulator.css", "memory.js", "page.js")


def text_of(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def colors():
    """Both schemes of the style sheet: name -> "#rrggbb"."""
    blocks = re.findall(r":root \{(.*?)\}", text_of("simulator.css"), re.S)
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-fA-F]{6})", block)) for block in blocks)
    return light, {**light, **dark}


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_outside_and_nothing_typed_becomes_markup(name):
    text = text_of(name).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|@import|url\((?!#)|\bimport\b (?!minivllm|run_memory|make_|fixed_)", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(", text)
    if name == "index.html":
        for used in re.findall(r'<(?:script|link)[^>]*(?:src|href)="(?!data:,)([^"]+)"', text):
            assert (FOLDER / used).is_file(), used


def test_its_colours_and_words_are_the_packages():
    light, _ = colors()
    for name, style in MEMORY_STYLES.items():
        assert light[name].upper() == style.color.upper()
        assert f'{name}: "{style.label}"' in text_of("page.js")


def test_text_has_a_contrast_of_4_5_in_both_schemes():
    pairs = [
        ("text", "page"),
        ("text", "raised"),
        ("quiet", "page"),
        ("quiet", "raised"),
        ("on-accent", "accent"),
    ]
    pairs += [("text", "bad-page"), ("on-used", "used")]
    for scheme in colors():
        for front, back in pairs:
            assert contrast(scheme[front], scheme[back]) >= 4.5, (front, back)


class Page:
    """What a reader does, and sees."""

    def __init__(self, browser, address=""):
        self.browser = browser
        browser.get("about:blank")  # an address that differs only after the # would load nothing
        browser.get_log("browser")
        browser.get(PAGE + address)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.browser.find_element("css selector", selector)

    def text(self, selector):
        return self.one(selector).text

    def fill(self, selector, value):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.browser.execute_script(script, self.one(selector), value)

    def press(self, key):
        self.one("body").send_keys(key)

    def averages(self):
        rows = [row.text.split() for row in self.all("#averages tbody tr")]
        return {row[0]: [float(value) for value in row[1:]] for row in rows}


@pytest.fixture
def open_page(browser):
    yield lambda address="": Page(browser, address)
    assert browser.get_log("browser") == []  # no script error, nothing missing


@pytest.mark.browser
def test_five_policies_and_every_slot_drawn(open_page):
    page = open_page("#step=9")
    assert [each.text.split()[0] for each in page.all(".panel h2")] == [
        "max",
        "pow2",
        "oracle",
        "buddy",
        "paged",
    ]
    assert page.text("#step-text") == "step 9 of 57"
    for panel in page.all(".panel"):
        area = page.browser.execute_script(
            "const map = arguments[0].querySelector('.map');"
            "const area = [...map.querySelectorAll('rect')].reduce((sum, r) => sum + 1 * r.getAttribute('width'), 0);"
            "return 64 * area / map.viewBox.baseVal.width",
            panel,
        )
        assert area == pytest.approx(256)
        title = panel.find_element("css selector", ".map title").get_attribute("textContent")
        counts = panel.find_element("css selector", ".counts").text
        assert counts in title and title.startswith(panel.get_dom_attribute("data-policy"))
        assert sum(int(number) for number in re.findall(r"[a-z] (\d+) \(", counts)) == 256


@pytest.mark.browser
def test_the_averages_are_those_of_the_python_it_shows(open_page):
    page = open_page("#capacity=96&block_size=8&placement=-first-fit&trace=0-6-11,0-6-3,0-6-11,0-6-3,1-16-9")
    shown = page.averages()
    assert list(shown) == ["max-first-fit", "pow2-first-fit", "oracle-first-fit", "buddy", "paged"]
    program = page.one("#python").get_attribute("textContent")
    summaries = []
    exec(program, {"print": summaries.append})  # our own text, of our own page
    for summary in summaries:
        row = shown[summary.policy]
        assert row[:5] == pytest.approx([100 * summary.shares[name] for name in CLASSES], abs=0.051)
        assert row[6:8] == [summary.num_steps, summary.num_preemptions]
    assert len(summaries) == 5


@pytest.mark.browser
def test_a_changed_number_is_computed_again(open_page):
    page = open_page()
    before = page.averages()
    page.fill("#block_size", "64")
    assert page.averages()["paged"] != before["paged"] and page.averages()["max"] == before["max"]
    page.fill("[aria-label='output of r1']", "30")
    assert page.averages()["max"] != before["max"]
    assert "block_size=64" in page.browser.current_url and "trace=0-13-30," in page.browser.current_url
    again = Page(page.browser, "#" + page.browser.current_url.split("#")[1])
    assert again.one("#block_size").get_attribute("value") == "64"
    assert again.one("[aria-label='output of r1']").get_attribute("value") == "30"


@pytest.mark.browser
@pytest.mark.parametrize("value", ["0", "-3", "", "9999", "2.5"])
def test_a_number_out_of_range_gets_a_sentence_and_changes_nothing(open_page, value):
    page = open_page()
    before = page.averages()
    page.fill("#capacity", value)
    assert page.text("#refusal").startswith("capacity must be a whole number from 8 to 1024")
    assert page.one("#capacity").get_attribute("aria-invalid") == "true" and page.averages() == before
    page.fill("#capacity", "128")
    assert not page.one("#refusal").is_displayed() and page.averages() != before


@pytest.mark.browser
def test_what_can_never_fit_gets_the_simulators_sentence(open_page):
    page = open_page("#capacity=40&max_model_len=64&trace=0-12-8")
    with pytest.raises(ValueError, match="in one piece") as caught:
        run_memory(fixed_trace([(12, 8)]), make_policy("max", 40, max_model_len=64))
    assert page.text(".panel[data-policy=max] .refusal") == str(caught.value)
    assert "max" not in page.averages() and "paged" in page.averages()
    page.fill("#block_size", "64")
    assert "block_size must be in [1, 40]" in page.text(".panel[data-policy=paged] .refusal")
    page.fill("#capacity", "8")
    assert page.text("#averages-note") == "No policy can hold these requests." and not page.averages()


@pytest.mark.browser
def test_keys_buttons_and_a_click_on_the_curve_move_time(open_page):
    from selenium.webdriver.common.keys import Keys

    page = open_page()
    for key, expected in [
        (Keys.ARROW_RIGHT, 1),
        (Keys.ARROW_RIGHT, 2),
        (Keys.ARROW_LEFT, 1),
        (Keys.END, 57),
        (Keys.HOME, 0),
    ]:
        page.press(key)
        assert page.text("#step-text") == f"step {expected} of 57"
    page.one("#forward").click()
    page.fill("#step", "20")
    page.one("#back").click()
    assert page.text("#step-text") == "step 19 of 57"
    page.one(".curve").click()  # in its middle, between steps 28 and 29
    clicked = page.text("#step-text")
    assert clicked in ("step 28 of 57", "step 29 of 57")
    page.one("#capacity").send_keys(Keys.ARROW_LEFT)  # inside a field, arrows are the field's
    assert page.text("#step-text") == clicked


@pytest.mark.browser
def test_play_moves_time_until_it_is_paused(open_page):
    page = open_page("#max_model_len=256&trace=0-1-200")  # a minute long, however slow the machine is
    page.press(" ")
    assert page.text("#play") == "Pause"
    deadline = time.monotonic() + 30
    while page.text("#step-text") == "step 0 of 199" and time.monotonic() < deadline:
        time.sleep(0.05)
    page.one("#play").click()
    stopped = page.text("#step-text")
    assert page.text("#play") == "Play" and stopped != "step 0 of 199"
    time.sleep(0.8)  # more than two steps
    assert page.text("#step-text") == stopped


@pytest.mark.browser
def test_requests_are_added_removed_and_pointed_at(open_page):
    page = open_page("#trace=0-12-8,0-5-30")
    page.one("#add").click()
    assert [row.text.split()[0] for row in page.all("#trace tbody tr")] == ["r1", "r2", "r3"]
    page.one("[aria-label='Remove r1']").click()
    page.one("[aria-label='Remove r2']").click()
    assert (
        "trace=0-5-30&" in page.browser.current_url and not page.one("[aria-label='Remove r1']").is_enabled()
    )
    assert not page.all(".is-chosen")
    page.browser.execute_script("arguments[0].focus()", page.one("[aria-label='prompt of r1']"))
    assert page.all(".is-chosen")
    for button in page.all("#presets button"):
        button.click()
        assert len(page.all(".panel .map")) == 5


@pytest.mark.browser
def test_it_fits_a_phone_and_a_nonsense_address_does_no_harm(open_page, browser):
    device = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    page = open_page("#capacity=0&block_size=x&trace=1-2,<b>&step=99999")
    width = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width == 390
    assert page.text("#step-text") == "step 57 of 57"


@pytest.mark.browser
def test_without_javascript_it_says_what_to_do(browser):
    browser.get("about:blank")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(PAGE + "#")
    source = browser.find_element("css selector", "noscript").text
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "python -m minivllm.sim memory" in source


def test_the_page_begins_with_the_trace_of_chapter_03():
    notebook = json.loads(
        (FOLDER.parents[1] / "notebooks" / "03_fragmentation.ipynb").read_text(encoding="utf-8")
    )
    source = next("".join(cell["source"]) for cell in notebook["cells"] if cell["id"] == "picture-policies")
    given = {"fixed_trace": fixed_trace, "memory_stepper": lambda *_, **__: None}
    exec("\n".join(line for line in source.splitlines() if not line.startswith("from ")), given)
    preset = re.search(r'"Mixed chats": \{\s*trace: (\[.*?\]),\s*\}', text_of("page.js"), re.S).group(1)
    shown = json.loads(re.sub(r",\s*\]", "]", preset))
    assert shown == [[r.arrival, r.prompt_len, r.output_len] for r in given["trace"].requests]
