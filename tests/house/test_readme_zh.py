"""README.zh.md says what README.md says: the same sections, commands, links and numbers."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
WHAT_TO_DO = "README.md has changed: change README.zh.md in the same way"


def lines_of_code(text):
    """Code is what is indented by four spaces."""
    return [line for line in text.splitlines() if line.startswith("    ")]


def prose(text):
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def links(text):
    """Where it leads, but for the line that switches between the two."""
    return sorted(set(re.findall(r"\]\(([^)]+)\)", text)) - {"README.md", "README.zh.md"})


def test_the_same_code_byte_for_byte():
    assert lines_of_code(CHINESE) == lines_of_code(ENGLISH), WHAT_TO_DO


def test_as_many_headings_in_the_same_order_of_depth():
    depths = [
        [len(marks) for marks in re.findall(r"^(#+) ", prose(text), flags=re.MULTILINE)]
        for text in (CHINESE, ENGLISH)
    ]
    assert depths[0] == depths[1], WHAT_TO_DO
    assert len(depths[0]) > 5


def test_the_same_commands_and_names_in_the_text():
    inline = [sorted(set(re.findall(r"`[^`]+`", prose(text)))) for text in (CHINESE, ENGLISH)]
    assert inline[0] == inline[1], WHAT_TO_DO


def test_the_same_links_and_each_leads_to_the_other():
    assert links(CHINESE) == links(ENGLISH), WHAT_TO_DO
    assert "](README.md)" in CHINESE


def test_the_same_numbers_row_by_row():
    rows = [[line for line in text.splitlines() if line.startswith("|")] for text in (CHINESE, ENGLISH)]
    assert len(rows[0]) == len(rows[1]), WHAT_TO_DO
    for chinese, english in zip(*rows, strict=True):
        numbers = [sorted(re.findall(r"\d+(?:[.,]\d+)*", row)) for row in (chinese, english)]
        assert numbers[0] == numbers[1], WHAT_TO_DO
