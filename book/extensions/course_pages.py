"""What the pages of the book show of the course: `{course-map}`, and `{exercise-table}` for the teacher.

Both read exercises/course.toml, so a new chapter is on them by itself.
"""

from __future__ import annotations

import html
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

from minivllm.course.catalogue import Chapter, Course, read_course
from minivllm.viz.prerequisites import Stop, prerequisite_map

ROOT = Path(__file__).resolve().parents[2]


def notebook_of(chapter: Chapter) -> str:
    """Its page, seen from book/index.html."""
    return f"../notebooks/{chapter.number:02d}_{chapter.slug}.html"


def imports_torch(course: Course, chapter: Chapter) -> bool:
    """Does the code that its learners write use tensors?"""
    files = [course.solution_file(exercise) for exercise in chapter.exercises]
    return any("import torch" in file.read_text(encoding="utf-8") for file in files)


class course_map(nodes.General, nodes.Element, addnodes.translatable):
    """The chapters as a picture, whose words can be translated until it is drawn."""

    def preserve_original_messages(self) -> None:
        self["words"] = {word: word for stop in self["stops"] for word in (stop.title, stop.note) if word}

    def apply_translated_message(self, original_message: str, translated_message: str) -> None:
        self["words"][original_message] = translated_message

    def extract_original_messages(self) -> list[str]:
        return list(self["words"])


def draw_map(writer: Any, node: course_map) -> None:
    """Inside a page, not as an <img>: there, links do not work."""
    words = node["words"]
    stops = [replace(stop, title=words[stop.title], note=words.get(stop.note, "")) for stop in node["stops"]]
    # An img is one thing to a screen reader, which would not look for links in it.
    drawing = prerequisite_map(stops).to_svg().replace('role="img"', 'role="group"', 1)
    writer.body.append(f'<div class="course-map">{drawing}</div>')
    raise nodes.SkipNode


class CourseMap(Directive):
    """The chapters as a picture whose boxes are links."""

    def run(self) -> list[nodes.Node]:
        course = read_course(ROOT)
        stops = [
            Stop(
                chapter.number,
                chapter.title.split(",")[0],
                chapter.needs,
                notebook_of(chapter),
                "" if imports_torch(course, chapter) else "plain Python",
            )
            for chapter in course.chapters
        ]
        drawing = course_map(stops=stops)
        drawing.source, drawing.line = self.state_machine.get_source_and_line(self.lineno)
        return [drawing]


class ExerciseTable(Directive):
    """One row an exercise: number, title, kind, planted bugs, points (which are minutes)."""

    def run(self) -> list[nodes.Node]:
        lines = ["| | exercise | kind | planted bugs | points |", "|---|---|---|---|---|"]
        for chapter in read_course(ROOT).chapters:
            minutes = sum(exercise.minutes for exercise in chapter.exercises)
            lines.append(f"| **{chapter.number:02d}** | **{chapter.title}** | | | **{minutes}** |")
            lines += [
                f"| {exercise.id} | {exercise.title} | {exercise.kind} | {len(exercise.mutants)} | {exercise.minutes} |"
                for exercise in chapter.exercises
            ]
        parent = nodes.container()
        self.state.nested_parse(StringList(lines, "course.toml"), self.content_offset, parent)
        return parent.children


class LinkSimulator(SphinxTransform):
    """A link to the simulator leads to it, with its settings; MyST would offer a copy of the one file to download."""

    default_priority = 40  # after a translation has been put in

    def apply(self, **kwargs: Any) -> None:
        page = "simulator/index.html"
        for link in list(self.document.findall(addnodes.download_reference)):
            if link["reftarget"].endswith(page):
                settings = re.search(rf"{re.escape(page)}(#[^)]*)", link.parent.rawsource)
                uri = "../" * self.env.docname.count("/") + page + (settings[1] if settings else "")
                link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))


class DescribePictures(SphinxPostTransform):
    """A picture that a cell has drawn says what it shows: its own title, or the words that came with it.

    Otherwise a screen reader would read the name of a file.
    """

    default_priority = 3  # MyST-NB, at 4, keeps one form of each output, and the words are another one

    def run(self, **kwargs: Any) -> None:
        for output in self.document.findall(nodes.container):
            if output.get("nb_element") != "mime_bundle":
                continue
            words = [form.astext() for form in output.children if form["mime_type"] == "text/plain"]
            for picture in output.findall(nodes.image):
                title = title_of(Path(self.env.srcdir, picture["uri"]))
                picture.setdefault("alt", title or " ".join(words))


class BreakPaths(SphinxPostTransform):
    """In a table a path may go on in the next line, behind a slash: long ones leave no room for the other columns."""

    default_priority = 900  # after all that looks for words of code
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for cell in self.document.findall(nodes.entry):
            for literal in list(cell.findall(nodes.literal)):
                if "/" in literal.astext():
                    path = html.escape(literal.astext()).replace("/", "/<wbr>")
                    code = f'<code class="docutils literal notranslate">{path}</code>'
                    literal.replace_self(nodes.raw("", code, format="html"))


def title_of(picture: Path) -> str:
    """What an SVG file says of itself; "" where it says nothing, or is no SVG."""
    text = picture.read_text(encoding="utf-8") if picture.suffix == ".svg" else ""
    found = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
    return html.unescape(found[1]) if found else ""


def copy_simulator(app: Any, error: Exception | None) -> None:
    """The simulator is a page by itself, without Sphinx: it goes to the output as it is."""
    if error is None and app.builder.format == "html":
        shutil.copytree(ROOT / "book" / "simulator", Path(app.outdir) / "simulator", dirs_exist_ok=True)


def keep_indented_blocks(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written to be read in the source: an indented block after an empty line is shown as it stands."""
    result: list[str] = []
    indent = 0  # of the paragraph before
    inside = False  # such a block
    for i, line in enumerate(lines):
        width = len(line) - len(line.lstrip())
        if line.strip():
            after_gap = i > 0 and not lines[i - 1].strip()
            inside = width >= indent + 4 if after_gap and not inside else inside and width >= indent + 4
            if inside and after_gap and result[-2:-1] != ["::"] and "::" not in result[-3:]:
                result += [" " * indent + "::", ""]
            if not inside:
                indent = width
        result.append(line)
    lines[:] = result


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_node(course_map, html=(draw_map, None))
    app.add_directive("course-map", CourseMap)
    app.add_directive("exercise-table", ExerciseTable)
    app.add_transform(LinkSimulator)
    app.add_post_transform(DescribePictures)
    app.add_post_transform(BreakPaths)
    app.connect("autodoc-process-docstring", keep_indented_blocks, priority=400)  # before napoleon
    app.connect("build-finished", copy_simulator)
    return {"parallel_read_safe": True}
