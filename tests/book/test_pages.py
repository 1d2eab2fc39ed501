"""The book: it builds without a warning, every link arrives, and nothing in it comes from another place."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Page(HTMLParser):
    """Where a page leads, what it loads, the anchors that it has, and pictures without a description."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.ids, self.silent = [], [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        elif tag == "link" and attrs.get("rel") in ("index", "search", "next", "prev", "canonical"):
            pass
        elif found := attrs.get("src") or (tag in ("link", "use", "image") and attrs.get("href")):
            self.loads.append(found)
        alt = attrs.get("alt") or ""
        # Without a description Sphinx takes the file's name.
        if tag == "img" and (not alt or alt.endswith((".svg", ".png"))):
            self.silent.append(attrs.get("src", "?")[:60])


@pytest.fixture(scope="module")
def pages(built):
    return {path: Page(path) for path in sorted(built.rglob("*.html"))}


def test_every_chapter_and_page_is_in_it(built):
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert (built / "notebooks" / f"{notebook.stem}.html").is_file()
    for page in (*(path.stem for path in (ROOT / "book").glob("*.md") if path.stem != "README"), "api/index"):
        assert (built / "book" / f"{page}.html").is_file()
    assert (built / "index.html").is_file()
    assert (built / "simulator" / "index.html").is_file()


def test_no_number_of_a_result_is_left_unread_and_presets_are_shown(built):
    for page in (built / "book").glob("*.html"):
        assert "{measured}" not in page.read_text(encoding="utf-8"), page
    text = (built / "book" / "tuning.html").read_text(encoding="utf-8")
    assert "16,384" in text and 'class="measured"' in text


def test_every_link_and_anchor_arrives(built, pages):
    lost = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = target.is_file()
            if (
                found and parts.fragment and "=" not in parts.fragment and target in pages
            ):  # settings are no anchor
                found = unquote(parts.fragment) in pages[target].ids
            if not found:
                lost.append(f"{path.relative_to(built)}: {link}")
    assert lost == []


def test_everything_that_a_page_loads_is_there(built, pages):
    lost = [
        f"{path.relative_to(built)}: {found}"
        for path, page in pages.items()
        for found in page.loads
        if not urlsplit(found).scheme and (place := unquote(urlsplit(found).path))
        if not (path.parent / place).is_file()
    ]
    assert lost == []


def test_nothing_is_loaded_from_outside(built, pages):
    outside = [
        f"{path.relative_to(built)}: {found}"
        for path, page in pages.items()
        for found in page.loads
        if urlsplit(found).scheme in ("http", "https") or found.startswith("//")
    ]
    assert outside == []
    for sheet in built.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert "@import" not in text and "url(http" not in text and "url(//" not in text, sheet


def test_every_picture_says_what_it_shows(built, pages):
    silent = [f"{path.relative_to(built)}: {found}" for path, page in pages.items() for found in page.silent]
    assert silent == []


def test_the_map_on_the_front_page_leads_to_every_chapter(built, pages):
    front = pages[built / "book" / "index.html"]
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert front.links.count(f"../notebooks/{notebook.stem}.html") >= 2  # in the map, and at the side


def test_a_long_path_in_a_table_may_go_on_in_the_next_line(built):
    text = (built / "book" / "reading_map.html").read_text(encoding="utf-8")
    assert "vllm/<wbr>v1/<wbr>core/<wbr>block_pool.py" in text
    afternoon = text[text.index('<section id="one-afternoon-in-vllm">') :]  # a list, no table
    assert "vllm/v1/core/block_pool.py" in afternoon and "<wbr>" not in afternoon
