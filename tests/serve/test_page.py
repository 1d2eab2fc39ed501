"""The chat page: its files, its headers, and (in headless Chromium) a question typed and answered."""

import re
import time

import pytest

pytestmark = pytest.mark.usefixtures("server")


FILES = ["/", "/docs"]
FILES += [
    f"/static/{name}"
    for name in ("page.css", "xray.css", "api.js", "chat.js", "xray.js", "docs.js", "icon.svg")
]
FILES += ["/static/xray-state.js", "/static/xray-draw.js"]


@pytest.mark.parametrize("path", FILES)
def test_files_come_with_strict_headers(server, path):
    response = server.get(path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert (
        "default-src 'none'" in policy
        and "unsafe" not in policy
        and "http" not in policy
        and "*" not in policy
    )
    assert response.headers["x-content-type-options"] == "nosniff"


def test_page_needs_nothing_from_outside(server):
    for path in FILES:
        text = server.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(", text), path
    for path in ("/", "/docs"):
        page = server.get(path).text
        assert not re.search(r"<script(?![^>]*src=)|style=|\bon\w+=", page)  # what the policy would block
        for used in re.findall(r'(?:src|href)="([^"]+)"', page):
            assert server.get("/" + used).status_code == 200


def test_script_never_writes_html(server):
    for path in FILES:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", server.get(path).text
        ), path


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_a_contrast_of_4_5_in_both_schemes(server):
    css = server.get("/static/page.css").text
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.S)
    )
    pairs = [
        ("text", "page"),
        ("text", "raised"),
        ("text", "question"),
        ("text", "bad-page"),
        ("quiet", "page"),
    ]
    pairs += [
        ("quiet", "sunk"),
        ("quiet", "raised"),
        ("accent", "raised"),
        ("accent", "sunk"),
        ("on-accent", "accent"),
    ]
    for scheme in (light, {**light, **dark}):
        for front, back in pairs:
            high, low = sorted((luminance(scheme[front]), luminance(scheme[back])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (front, scheme[front], back, scheme[back])


@pytest.fixture(scope="module")
def browser(open_chromium):
    driver = open_chromium("window-size=1000,800")
    yield driver
    driver.quit()


class Page:
    """What a visitor does, and sees."""

    def __init__(self, browser, url: str) -> None:
        self.browser = browser
        browser.get(url)
        self.until(lambda: self.text("#status-text").endswith("waiting"))

    def all(self, selector: str):
        return self.browser.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return "".join(element.text for element in self.all(selector))

    def type(self, text: str) -> None:
        self.browser.find_element("id", "question").send_keys(text)

    def until(self, condition, seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.browser.find_element("tag name", "body").text
            time.sleep(0.05)

    def until_answered(self, number: int) -> list[str]:
        self.until(lambda: len(self.all(".answer .note")) == number and not self.all(".is-streaming"))
        return [element.text for element in self.all(".answer .said")]


@pytest.fixture
def page(browser, server):
    page = Page(browser, server.url)
    yield page
    problems = [entry for entry in browser.get_log("browser") if "status of 4" not in entry["message"]]
    assert not problems  # no script error, nothing blocked by the policy, nothing missing


@pytest.mark.browser
def test_question_typed_and_answered(page, fake):
    from selenium.webdriver.common.keys import Keys

    assert page.text("#model") == "fake" and len(page.all("#suggestions button")) == 6
    page.type("first line" + Keys.SHIFT + Keys.ENTER + Keys.NULL + "second <b>line</b>")
    assert not page.all(".question")
    page.type(Keys.ENTER)
    question = "first line\nsecond <b>line</b>"
    assert page.until_answered(1) == [fake.answer_to(question)]
    assert page.text(".question .said") == question and "tokens" in page.text(".note")
    assert page.browser.switch_to.active_element.get_attribute("id") == "question"
    page.type("again" + Keys.ENTER)
    assert page.until_answered(2)[1] == fake.answer_to("again")
    assert page.browser.find_element("id", "announcer").get_attribute("textContent") == fake.answer_to(
        "again"
    )


@pytest.mark.browser
def test_suggestion_new_chat_and_sampling(page, fake, server):
    page.all("#suggestions button")[0].click()
    assert page.until_answered(1) == [fake.answer_to("What is PagedAttention?")]
    assert server.engine.seen[-1].temperature == 0.5  # the model's own
    page.browser.find_element("id", "new-chat").click()
    assert not page.all("#conversation li") and page.browser.find_element("id", "welcome").is_displayed()
    page.browser.find_element("css selector", "summary").click()
    page.browser.find_element("id", "max-tokens").send_keys("7")
    script = (
        "const t = document.getElementById('temperature'); t.value = 0; t.dispatchEvent(new Event('input'))"
    )
    page.browser.execute_script(script)
    page.type("short\n")
    assert page.until_answered(1) == [fake.answer_to("short")[:7]] and "length limit" in page.text(".note")
    assert (server.engine.seen[-1].temperature, server.engine.seen[-1].max_tokens) == (0.0, 7)


@pytest.mark.browser
def test_refusal_is_shown_as_a_sentence_and_the_question_is_kept(page):
    page.browser.execute_script("document.getElementById('question').value = 'x'.repeat(600)")
    page.type("\n")
    page.until(lambda: "too many" in page.text("#error"))
    assert len(page.browser.find_element("id", "question").get_attribute("value")) == 600
    assert not page.all("#conversation li")


@pytest.mark.browser
def test_stop_ends_the_answer_and_frees_its_blocks(browser, slow_server):
    slow_server.engine.step_seconds = 0.1
    page = Page(browser, slow_server.url)
    page.type("long\n")
    page.until(
        lambda: len(page.text(".answer .said")) > 3 and page.text("#status-text").startswith("1 running")
    )
    page.browser.find_element("id", "stop").click()
    slow_server.wait_until_idle(2)
    page.until(lambda: page.text(".note") == "stopped" and page.text("#status-text").startswith("0 running"))
    assert page.browser.find_element("id", "send").is_displayed()


@pytest.mark.browser
def test_page_asks_for_a_key_and_uses_it(browser, fake, serve):
    guarded = serve(fake.FakeEngine(), api_keys=("secret-key",))
    browser.get(guarded.url)
    page = Page.__new__(Page)
    page.browser = browser
    page.until(lambda: page.text("#status-text") == "needs an API key")
    page.type("hello\n")
    page.until(lambda: browser.find_element("id", "key-form").is_displayed())
    browser.find_element("id", "key").send_keys("secret-key\n")
    assert page.until_answered(1) == [fake.answer_to("hello")]


@pytest.mark.browser
def test_dead_engine_is_shown(browser, fake, serve):
    server = serve(fake.FakeEngine())
    page = Page(browser, server.url)
    page.type(fake.DEADLY + "\n")
    page.until(lambda: "engine died" in page.text("#error") and "engine stopped" in page.text("#status-text"))


@pytest.mark.browser
def test_phone_width_needs_no_sideways_scrolling(browser, server):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True},
    )
    page = Page(browser, server.url)
    page.type("word" * 60 + "\n")
    page.until_answered(1)
    width = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 360
