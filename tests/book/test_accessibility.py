"""Nobody is kept out: axe-core finds nothing serious on any page of the book, in its light and in its dark colours.

axe-core (Deque) is what browsers' own checks are made of. It looks at the page as it is drawn: contrast of every text,
names of buttons, pictures and fields, the order of headings. `axe_core_python` brings it along, so nothing is fetched.
"""

from importlib.resources import files

import pytest

AXE = files("axe_core_python").joinpath("axe.min.js")
GRAVE = ("serious", "critical")
ONE_OF_EACH_KIND = (
    "book/index.html",
    "book/tuning.html",
    "book/api/offline.html",
    "notebooks/04_block_table.html",
    "simulator/index.html",
    "zh_CN/book/index.html",
)
COLORS = ["color-contrast", "link-in-text-block"]  # all that differs between light and dark

RUN = """
const [options, done] = arguments;
axe.run(document, options).then(found => done(found.violations)).catch(error => done([{
  id: String(error), impact: "critical", nodes: [] }]));
"""


def grave(browser, rules=None):
    """What axe-core finds on the open page: a line for each element."""
    options = {"resultTypes": ["violations"], "iframes": False}  # what a frame shows is one of the pages
    if rules:
        options["runOnly"] = {"type": "rule", "values": rules}
    found = browser.execute_async_script(RUN, options)
    return [
        f"{each['impact']}: {each['id']} at {node['target']}"
        for each in found
        if each["impact"] in GRAVE
        for node in each["nodes"] or [{"target": "the page"}]
    ]


def paint(browser, scheme):
    """Show the page in light or dark colours, whether it asks the reader's system or furo's switch."""
    wish = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wish})
    browser.execute_script("document.body.dataset.theme = arguments[0]", scheme)


def kept_out(built, browser, pages):
    """Page -> the first findings on it, in both schemes."""
    browser.set_script_timeout(120)
    script, answer = AXE.read_text(encoding="utf-8"), {}
    for page in pages:
        browser.get((built / page).as_uri())
        browser.execute_script(script)
        paint(browser, "light")
        found = grave(browser)
        paint(browser, "dark")
        found += [f"{each}, dark" for each in grave(browser, COLORS)]
        if found:
            answer[str(page)] = found[:5]
    return answer


@pytest.mark.browser
def test_no_kind_of_page_keeps_a_reader_out(built, browser):
    assert kept_out(built, browser, ONE_OF_EACH_KIND) == {}


@pytest.mark.browser
@pytest.mark.slow
def test_no_page_keeps_a_reader_out(built, browser):
    every = [page.relative_to(built) for page in sorted(built.rglob("*.html"))]
    assert kept_out(built, browser, every) == {}
