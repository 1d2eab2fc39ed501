"""The book in Chinese: every sentence of the translated pages, its links, code and numbers, and the switch."""

import importlib.util
import re
from collections import Counter
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from babel.messages.pofile import read_po
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "book" / "locale" / "zh_CN" / "LC_MESSAGES"
PAGES = [
    "book/index",
    "book/how_to_use",
    "notebooks/00_first_token",
    "notebooks/03_fragmentation",
    "notebooks/04_block_table",
    "notebooks/05_allocator",
]
WHAT_TO_DO = (
    "Run `make translations`, translate what it lists, and remove each mark `fuzzy` that you have looked at."
)
CHINESE = re.compile("[\u4e00-\u9fff]")


def load(name):
    """A module of book/, which is no package."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / "book" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def messages(file):
    with file.open("rb") as text:
        return [message for message in read_po(text) if message.id]


@pytest.fixture(scope="module")
def english():
    """What there is to translate today."""
    return {page: [m.id for m in found if m.id] for page, found in load("translate").extract(PAGES).items()}


def test_every_catalogue_is_of_a_page_that_is_promised():
    assert sorted(
        file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.glob("*/**/*.po")
    ) == sorted(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_every_sentence_is_translated(page, english):
    translated = {m.id for m in messages(FOLDER / f"{page}.po") if m.string and not m.fuzzy}
    missing = [text[:70] for text in english[page] if text not in translated]
    assert missing == [], f"{page}: {len(missing)} sentences have no Chinese. {WHAT_TO_DO}"
    assert len(english[page]) >= 15


@pytest.mark.parametrize("page", PAGES)
def test_nothing_stays_that_the_page_no_longer_says(page, english):
    assert [m.id[:70] for m in messages(FOLDER / f"{page}.po") if m.id not in english[page]] == [], WHAT_TO_DO


def kept(text):
    """What a translation may move, but not change: targets of links, code, and numbers."""
    found = re.findall(r"\]\(([^)]*)\)", text) + re.findall(r"`[^`]*`", text)
    rest = re.sub(r"\]\([^)]*\)|`[^`]*`", " ", text)
    return Counter(found + re.findall(r"\d+(?:[.,]\d+)*", rest))


@pytest.mark.parametrize("page", PAGES)
def test_links_code_and_numbers_survive(page):
    for message in messages(FOLDER / f"{page}.po"):
        before, after = kept(message.id), kept(message.string)
        assert before == after, f"{message.id}\n{message.string}\n{before - after} {after - before}"


@pytest.mark.parametrize("page", PAGES)
def test_a_sentence_is_chinese(page):
    for message in messages(FOLDER / f"{page}.po"):
        words = re.sub(r"`[^`]*`|\]\([^)]*\)", "", message.id)
        if len(re.findall(r"[A-Za-z]{2,}", words)) > 3:
            assert CHINESE.search(message.string), message.id
            assert not re.search(r"[\u4e00-\u9fff] ?[,;:?!](?!\d)", message.string), message.string


# What is built of it


def words_of(file):
    """The text of a page, without what is code, output or picture."""
    text = file.read_text(encoding="utf-8")
    text = text[text.index("<article") : text.index("</article>")]
    text = re.sub(r"<(pre|script|style|svg|code)\b.*?</\1>", " ", text, flags=re.DOTALL)
    return unescape(re.sub(r"<[^>]+>", "", text))


@pytest.mark.parametrize("page", PAGES)
def test_no_markup_is_left_in_a_translated_page(page, built):
    text = words_of(built / "zh_CN" / f"{page}.html")
    assert len(CHINESE.findall(text)) > 500
    assert [text[m.start() - 20 : m.end() + 20] for m in re.finditer(r"\*\*|\]\(|\\\.", text)] == []
    assert re.search(r"(?<![\w*])\*[\u4e00-\u9fff]", text) is None


@pytest.mark.parametrize("page", PAGES)
def test_each_term_leads_where_the_translation_says(page, built):
    text = (built / "zh_CN" / f"{page}.html").read_text(encoding="utf-8")
    text = text[text.index("<article") : text.index("</article>")]
    links = re.findall(r'<a [^>]*href="[^"]*glossary\.html#([\w-]+)"[^>]*>(.*?)</a>', text)
    said = {
        (anchor, words.strip("*"))
        for message in messages(FOLDER / f"{page}.po")
        for words, anchor in re.findall(r"\[([^\]]+)\]\([^)]*glossary\.md#([\w-]+)\)", message.string)
    }
    assert {(anchor, unescape(re.sub("<[^>]+>", "", words))) for anchor, words in links} == said


@pytest.mark.parametrize("page", PAGES)
def test_the_questions_to_recall_are_chinese_and_still_fold(page, built):
    if page.startswith("notebooks"):
        text = (built / "zh_CN" / f"{page}.html").read_text(encoding="utf-8")
        questions = re.findall(r"<details><summary>(.*?)</summary>", text)
        assert len(questions) == 5 and all(CHINESE.search(question) for question in questions)
        assert text.count("</details>") == 5


def switch(file):
    """(language, target) of each link in the switch of this page, and the language that it says it is in."""
    nav = re.search(r'<nav class="languages".*?</nav>', file.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    links = re.findall(r'<a href="([^"]+)" hreflang="([\w-]+)"', nav)
    (here,) = re.findall(r'lang="([\w-]+)" aria-current="true"', nav)
    return {language: (file.parent / href).resolve() for href, language in links}, here


def test_every_page_leads_to_itself_in_the_other_language(built):
    pages = [
        file for file in built.rglob("*.html") if 'class="languages"' in file.read_text(encoding="utf-8")
    ]
    english = [file for file in pages if "zh_CN" not in file.parts]
    assert len(pages) == 2 * len(english) > 20
    for file in english:
        links, here = switch(file)
        other = (built / "zh_CN" / file.relative_to(built)).resolve()
        assert (links, here) == ({"zh-CN": other}, "en")
        assert switch(other) == ({"en": file.resolve()}, "zh-CN")


def test_a_page_without_a_translation_says_so(built):
    notice = '<p class="not-yet">'
    for page in PAGES:
        assert notice not in (built / "zh_CN" / f"{page}.html").read_text(encoding="utf-8")
    page = "notebooks/06_paged_attention.html"
    assert notice in (built / "zh_CN" / page).read_text(encoding="utf-8")
    assert notice not in (built / page).read_text(encoding="utf-8")


# Search

TEXTS = st.text("块表缓存 ab1_-，。", max_size=12)


@given(before=TEXTS, query=st.text("块表缓存写时", min_size=1, max_size=6), after=TEXTS)
def test_a_chinese_word_is_found_wherever_it_stands(before, query, after):
    pairs = load("extensions/translated").pairs
    wanted = [query[i : i + 2] for i in range(len(query) - 1)] or [query]
    assert set(wanted) <= set(pairs(before + query + after))


@pytest.mark.browser
def test_the_search_page_finds_chinese(built, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    for query, page in (
        ("写时复制", "05_allocator"),
        ("外部碎片", "03_fragmentation"),
        ("块", "04_block_table"),
    ):
        browser.get((built / "zh_CN" / "search.html").as_uri() + "?q=" + quote(query))
        find = f"return document.querySelectorAll('#search-results a[href*=\"{page}\"]').length"
        WebDriverWait(browser, 30).until(lambda driver, script=find: driver.execute_script(script))
    # Both characters are on these pages, but nowhere side by side.
    browser.get((built / "zh_CN" / "search.html").as_uri() + "?q=" + quote("块复"))
    done = "return document.querySelector('#search-results .search-summary')?.textContent.includes('没有') ?? false"
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(done))
    assert browser.execute_script("return splitQuery('块表 slot_mapping 表')") == [
        "块表",
        "slot_mapping",
        "表",
    ]
