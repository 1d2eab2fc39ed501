"""Bring the translations in book/locale/ up to date with the English text; that is `make translations`.

For each catalogue in book/locale/LANGUAGE/LC_MESSAGES, every sentence of its page becomes a message (msgid) to
translate (msgstr). What has not changed keeps its translation. What has changed a little gets the old one and the mark
"fuzzy": it shows in English until somebody has mended it and removed the mark. To translate one more page, name it:

    python book/translate.py notebooks/06_paged_attention
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parents[1]
LOCALE = ROOT / "book" / "locale"
LICENCE = (
    "# Part of the book of minivllm, same licence. The English text is the source, see book/translate.py."
)


def catalogues(language: str) -> dict[str, Path]:
    """The page of each catalogue, such as book/index."""
    folder = LOCALE / language / "LC_MESSAGES"
    files = sorted(folder.glob("*/**/*.po"))  # sphinx.po, with words of the theme, is no page
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def extract(pages: Iterable[str]) -> dict[str, Catalog]:
    """What there is to translate on these pages, in their order, without translations."""
    names = ",".join(f"{page}.{suffix}" for page in pages for suffix in ("md", "ipynb"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-Q",
            "-b",
            "gettext",
            "-c",
            "book",
            "-d",
            str(out / "trees"),
        ]
        # Only these pages are read, so links to others would warn: the book itself is built with warnings as errors.
        subprocess.run([*command, "-D", f"include_patterns={names}", ".", folder], cwd=ROOT, check=True)
        return {page: read_po((out / f"{page}.pot").open("rb")) for page in pages}


def has_words(message: str) -> bool:
    """Is there anything to translate, beside code and numbers?"""
    return re.search(r"[^\W\d_]", re.sub(r"`[^`]*`", "", message)) is not None


def update(file: Path, language: str, source: Catalog) -> tuple[int, int]:
    """Write the catalogue, with the messages of `source`. Returns how many of them want a translator: new, fuzzy."""
    catalogue = read_po(file.open("rb"), locale=language) if file.exists() else Catalog(locale=language)
    catalogue.update(source, update_header_comment=False)
    for message in catalogue:
        if message.id and not message.string and not has_words(message.id):
            message.string = message.id
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(as_text(catalogue, language), encoding="utf-8")
    messages = [message for message in catalogue if message.id]
    return sum(not message.string for message in messages), sum(message.fuzzy for message in messages)


def as_text(catalogue: Catalog, language: str) -> str:
    """The file, one line a message, and no dates or names in its head: git knows them."""
    lines = [LICENCE, 'msgid ""', 'msgstr ""', rf'"Language: {language}\n"']
    lines += [r'"Content-Type: text/plain; charset=utf-8\n"', r'"Content-Transfer-Encoding: 8bit\n"', ""]
    body = Catalog(locale=catalogue.locale)
    for message in catalogue:
        if message.id:
            body[message.id] = message
            message.locations, message.user_comments = [], []
    with tempfile.TemporaryFile() as file:
        write_po(file, body, width=0, omit_header=True, ignore_obsolete=True)
        file.seek(0)
        return "\n".join(lines) + "\n" + file.read().decode().strip() + "\n"


def main(more: list[str]) -> int:
    """The languages are the folders of book/locale/."""
    left = 0
    for language in sorted(folder.name for folder in LOCALE.iterdir()):
        files = catalogues(language)
        files |= {page: LOCALE / language / "LC_MESSAGES" / f"{page}.po" for page in more}
        sources = extract(files)
        for page, file in files.items():
            new, fuzzy = update(file, language, sources[page])
            left += new + fuzzy
            print(
                f"{language} {page}: "
                + (f"{new} to translate, {fuzzy} to look at" if new + fuzzy else "complete")
            )
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
