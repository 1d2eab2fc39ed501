"""The book in other languages: what Sphinx does not translate by itself, the switch at the side, and Chinese search.

The translations are in book/locale/; `make translations` brings them up to date with the English text.
"""

from __future__ import annotations

import re
from html import escape, unescape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.search.en import SearchEnglish
from sphinx.transforms import SphinxTransform, i18n

LOCALE = Path(__file__).resolve().parents[1] / "locale"
LANGUAGES = {
    "en": "English",
    "zh_CN": "中文",
}  # the first one is at the top of the output, the others in folders
NOT_YET = {"zh_CN": "本页还没有译文，以下是英文原文。"}

DETAILS = re.compile(r"\s*<details>\s*<summary>(.*?)</summary>\s*", re.DOTALL)
CHINESE = "\u3400-\u4dbf\u4e00-\u9fff"


class recall_question(nodes.General, nodes.Element, addnodes.translatable):
    """The line of a <details> that is always seen. In the notebook it is raw HTML, which Sphinx leaves as it is."""

    def preserve_original_messages(self) -> None:
        self["original"] = self["text"]

    def apply_translated_message(self, original_message: str, translated_message: str) -> None:
        self["text"] = translated_message

    def extract_original_messages(self) -> list[str]:
        return [self["original"]]


class FindRecallQuestions(SphinxTransform):
    """Turns the raw HTML of each into a node with a message to translate."""

    default_priority = 5  # before Sphinx looks for messages

    def apply(self, **kwargs: Any) -> None:
        for raw in list(self.document.findall(nodes.raw)):
            if raw.get("format") == "html" and (found := DETAILS.fullmatch(raw.astext())):
                question = recall_question(text=unescape(found[1].strip()))
                question.source, question.line = raw.source, raw.line
                raw.replace_self(question)


def open_details(writer: Any, node: recall_question) -> None:
    """The end tag stands in the text, after the answer."""
    writer.body.append(f"<details><summary>{escape(node['text'], quote=False)}</summary>\n")


def close_details(writer: Any, node: recall_question) -> None:
    """Nothing to write."""


def pairs(text: str) -> list[str]:
    """The words of `text` that can be searched; of a run of Chinese characters, each one and each two neighbours.

    So no dictionary is needed to say where a Chinese word ends, and a word of two or more characters is found in any
    context. The price is a larger index.
    """
    words = re.findall(r"\w+", re.sub(f"([{CHINESE}]+)", r" \1 ", text))
    result: list[str] = []
    for word in words:
        if re.match(f"[{CHINESE}]", word):
            result += list(word) + [word[i : i + 2] for i in range(len(word) - 1)]
        else:
            result.append(word)
    return result


class SearchPairs(SearchEnglish):
    """Chinese without a word list: the query is cut as the text was, and a page has to hold all of its pairs."""

    lang = "zh"
    language_name = "English"  # names the stemmer that the page loads, for the English words
    js_splitter_code = """
var splitQuery = (query) =>
  (query.replace(/([㐀-䶿一-鿿]+)/g, " $1 ").match(/[\\p{Letter}\\p{Number}_]+/gu) || []).flatMap((word) =>
    !/[㐀-䶿一-鿿]/.test(word) || word.length === 1
      ? [word]
      : Array.from({ length: word.length - 1 }, (_, i) => word.slice(i, i + 2)));
"""

    def split(self, input: str) -> list[str]:
        return pairs(input)


def is_translated(language: str, page: str) -> bool:
    """Is there a catalogue for this page?"""
    return (LOCALE / language / "LC_MESSAGES" / f"{page}.po").is_file()


def offer_languages(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """For the templates: the same page in each language, as seen from this one."""
    here = app.config.language
    root = context["content_root"] + ("" if here == "en" else "../")
    uri = app.builder.get_target_uri(pagename)
    context["languages"] = [
        (code, name, f"{root}{'' if code == 'en' else code + '/'}{uri}", code == here)
        for code, name in LANGUAGES.items()
    ]
    context["not_yet"] = ""
    if doctree is not None and here != "en" and not is_translated(here, pagename):
        context["not_yet"] = NOT_YET.get(here, "")


def keep_anchors() -> None:
    """Several links of one paragraph to one page keep the anchors that they have in the translation.

    Sphinx copies what it knows of a link to the link with the same target in the translation. The target of a Markdown
    link is the page alone, so the anchor of the last link to the glossary would become the anchor of all of them.
    """
    i18n.EXCLUDED_PENDING_XREF_ATTRIBUTES = (*i18n.EXCLUDED_PENDING_XREF_ATTRIBUTES, "reftargetid")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    keep_anchors()
    app.add_node(recall_question, html=(open_details, close_details))
    app.add_transform(FindRecallQuestions)
    app.add_search_language(SearchPairs)
    app.connect("html-page-context", offer_languages)
    return {"parallel_read_safe": True}
