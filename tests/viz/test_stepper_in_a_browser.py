"""The Stepper in Chromium: buttons, slider, keys and clicks move it; without JavaScript one frame stands still."""

import re
import time

import pytest

pytestmark = pytest.mark.browser

WORDS = ["zero", "one", "two", "three"]


def make_page(tmp_path):
    from minivllm.viz.drawing import Drawing, group, label, rect
    from minivllm.viz.stepper import Frame, Stepper, explore

    def frame(index):
        jump = group([rect(0, 20, 40, 20, 'class="mv-ink"')], go=3)
        return Frame(
            Drawing(200, 60, (label(0, 12, WORDS[index]), jump), WORDS[index], ""), f"caption {index}"
        )

    def knobs(a, b):
        return Frame(Drawing(200, 60, (label(0, 12, f"{a}{b}"),), "x", ""), f"{a}{b}")

    story = Stepper([frame(index) for index in range(4)], "A story", start=1).to_html()
    choice = explore(knobs, "Knobs", a=["p", "q"], b=["x", "y", "z"]).to_html()
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset='utf-8'><body>{story}{choice}", encoding="utf-8")
    return page.as_uri()


@pytest.fixture
def browser(open_chromium):
    driver = open_chromium()
    yield driver
    driver.quit()


def find(parent, selector):
    return parent.find_elements("css selector", selector)


def test_every_way_to_move(browser, tmp_path):
    from selenium.webdriver.common.keys import Keys

    browser.get(make_page(tmp_path))
    figure, knobs = find(browser, "figure.mv-stepper")
    caption, view = find(figure, "figcaption")[0], find(figure, ".mv-view")[0]
    back, play, forth = find(figure, "button")

    def is_at(index):
        shown = find(view, "text")[0].text
        return (caption.text, shown) == (f"caption {index}", WORDS[index])

    assert is_at(1)
    forth.click()
    assert is_at(2)
    back.click()
    back.click()
    back.click()  # there is nothing before the first
    assert is_at(0)
    find(view, "[data-go]")[0].click()
    assert is_at(3)
    figure.send_keys(Keys.ARROW_LEFT)
    assert is_at(2)
    figure.send_keys(Keys.HOME)
    assert is_at(0)
    figure.send_keys(Keys.END, Keys.ARROW_RIGHT)
    assert is_at(3)
    find(figure, "input")[0].send_keys(Keys.ARROW_LEFT)
    assert is_at(2)
    assert find(figure, "output")[0].text == "3 of 4"
    figure.send_keys(Keys.HOME)
    play.click()
    assert play.text == "Pause"
    deadline = time.monotonic() + 20
    while play.text == "Pause" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert is_at(3) and play.text == "Play"

    sliders = find(knobs, "input")
    assert len(sliders) == 2 and find(knobs, "button") == []
    sliders[0].send_keys(Keys.ARROW_RIGHT)
    sliders[1].send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert find(knobs, "figcaption")[0].text == "qz"


def test_without_javascript_one_frame_stands_still(open_chromium, tmp_path):
    driver = open_chromium(javascript=False)
    try:
        driver.get(make_page(tmp_path))
        figure = find(driver, "figure.mv-stepper")[0]
        (image,) = find(figure, ".mv-view img")
        assert image.get_attribute("alt") == "one" and image.size["width"] > 100
        assert not find(figure, ".mv-controls")[0].is_displayed()
        assert find(figure, "figcaption")[0].text == "caption 1"
    finally:
        driver.quit()


def test_dark_pages_and_calm_readers(open_chromium, tmp_path):
    driver = open_chromium("force-prefers-reduced-motion")
    try:
        url = make_page(tmp_path)
        driver.get(url)
        assert not find(driver, ".mv-play")[0].is_displayed()
        for theme, ink in (("light", "26, 26, 26"), ("dark", "240, 240, 240")):
            driver.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
            color = find(driver, "figcaption")[0].value_of_css_property("color")
            assert re.search(r"\((\d+, \d+, \d+)", color)[1] == ink
    finally:
        driver.quit()
