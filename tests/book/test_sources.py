"""The pages of book/ as text: what they name is there, and what they count comes from results."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from minivllm.course.catalogue import read_course
from minivllm.course.points import as_table
from minivllm.presets import PRESETS
from minivllm.serve.arguments import make_parser

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
OTHERS_FLAGS = {  # of docker, curl and systemctl, and of our own benchmarks
    "--build-arg", "--gpus", "--ipc", "--retry", "--retry-connrefused", "--fail", "--now",
    "--trace", "--matrix", "--request-rate", "--num-prompts",
}  # fmt: skip


def text_of(name):
    return (BOOK / f"{name}.md").read_text(encoding="utf-8")


def rows_of(text):
    """The cells of every table row that is not a head."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def load(name):
    spec = importlib.util.spec_from_file_location(name, BOOK / "extensions" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_file_on_the_reading_map_exists():
    rows = [row for row in rows_of(text_of("reading_map")) if row[0] != "here"]
    assert len(rows) > 50
    for ours, theirs, _ in rows:
        assert (ROOT / ours.strip("`")).exists(), ours
        assert theirs == "none" or re.match(r"`(vllm|csrc)/[\w/]+(\.py|\.cu|\.[ch]pp|/)`$", theirs), theirs


def test_the_reading_map_has_every_file_or_the_folder_around_it():
    named = {row[0].strip("`") for row in rows_of(text_of("reading_map"))}
    ours = [path for folder in ("minivllm", "kernels") for path in (ROOT / folder).rglob("*.*")]
    sources = [path for path in ours if path.suffix in {".py", ".cpp", ".h"} and path.name != "__init__.py"]
    assert len(sources) > 300
    for path in (path.relative_to(ROOT) for path in sources):
        assert {path.as_posix(), *(f"{parent.as_posix()}/" for parent in path.parents)} & named, path


def test_every_chapter_has_its_papers_and_every_link_its_own_number():
    text = text_of("papers")
    for chapter in read_course(ROOT).chapters:
        (heading,) = re.findall(rf"^## {chapter.number:02d} (.*)$", text, re.M)
        assert heading == chapter.title
    links = re.findall(r"\[arXiv:(\S+?)\]\(https://arxiv\.org/abs/(\S+?)\)", text)
    assert len(links) > 30 and all(shown == linked for shown, linked in links)
    assert len(links) == text.count("arxiv.org")
    assert all(re.fullmatch(r"\d{4}\.\d{4,5}", shown) for shown, _ in links)


def minutes(clock):
    hours, minutes = clock.split(":")
    return 60 * int(hours) + int(minutes)


def test_what_is_to_be_done_in_a_day_fits_into_it():
    course = read_course(ROOT)
    rows = [row for row in rows_of(text_of("instructor")) if re.match(r"\d\d:\d\d to", row[0])]
    assert len(rows) == 6
    for when, chapter, exercises, _ in rows:
        begin, end = (minutes(clock) for clock in when.split(" to "))
        chosen = [course.exercise(each) for each in exercises.split(", ")]
        assert {exercise.chapter for exercise in chosen} == {int(chapter[:2])}
        assert sum(exercise.minutes for exercise in chosen) <= 0.75 * (end - begin), when


def test_five_weeks_have_every_chapter_and_name_exercises_that_exist():
    course = read_course(ROOT)
    weeks = [row for row in rows_of(text_of("instructor")) if re.fullmatch(r"\d", row[0])]
    listed = {int(number) for row in weeks for number in row[1].split(", ")}
    assert len(weeks) == 5 and {chapter.number for chapter in course.chapters} <= listed
    for row in weeks:
        for exercise in re.findall(r"\d+\.\d+", row[3]):
            course.exercise(exercise)


def test_the_object_for_a_classroom_has_the_keys_that_the_page_shows():
    shown = set(re.findall(r'"(\w+)":', text_of("instructor").split("## Grading a class")[1]))
    table = as_table(read_course(ROOT).select("5.3"), [])
    assert shown <= {*table, *table["exercises"][0]}


@pytest.mark.parametrize("page", ["deployment", "tuning"])
def test_flags_on_a_page_are_flags(page):
    known = {option for action in make_parser()._actions for option in action.option_strings}
    found = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text_of(page)))
    assert found and found <= known | OTHERS_FLAGS


def test_metrics_on_a_page_are_served():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "minivllm" / "serve").glob("*.py"))
    for page in ("deployment", "tuning"):
        for name in re.findall(r"vllm:(\w+)", text_of(page)):
            assert f'"{name.removesuffix("_total")}"' in sources.replace("vllm:", ""), name


def test_files_that_a_page_names_are_there():
    for page in ("deployment", "tuning", "instructor"):
        for name in re.findall(r"`((?:minivllm|tests|book|exercises)/[\w/.-]+)`", text_of(page)):
            assert (ROOT / name).exists(), name
    for name in re.findall(r"^\| `([\w.-]+)` \|", text_of("deployment"), re.M):
        assert (ROOT / "minivllm" / "serve" / "deploy" / name).is_file(), name


def test_a_peer_table_has_what_was_measured():
    said = {"output_tokens_per_second": 1234.4, "peak_mib": 2048}
    ours = said | {"ratio_of_minivllm": {"median": 1.0, "min": 1.0, "max": 1.0}}
    theirs = said | {"ratio_of_minivllm": {"median": 1.5, "min": 1.25, "max": 2.0}, "peak_mib": 512}
    result = {
        "engines": {"minivllm": "minivllm 1", "other": "other 2"},
        "workloads": {"W1": {"engines": {"minivllm": ours, "other": theirs}}},
    }
    assert list(load("measured").peer_rows(result)) == [
        "| | W1, tokens/s | minivllm | peak MiB |",
        "|---|---:|---:|---:|",
        "| minivllm | 1,234 |  | 2,048 |",
        "| other | 1,234 | 1.50x (1.25\u00a0-\u00a02.00) | 512 |",
    ]


def test_every_measured_number_on_every_page_can_be_looked_up():
    look_up = load("measured").look_up
    roles = [
        text
        for page in BOOK.glob("*.md")
        for text in re.findall(r"\{measured\}`([^`]+)`", page.read_text(encoding="utf-8"))
    ]
    assert len(roles) > 20 and all(look_up(text) for text in roles)


def test_measured_reads_one_value_or_says_what_is_missing(tmp_path):
    look_up = load("measured").look_up
    (tmp_path / "some.json").write_text(
        json.dumps({"rows": [{"share": 0.256}], "many": 12345, "name": "a, b"})
    )
    assert look_up("some/rows/0/share:.1%", tmp_path) == "25.6%"
    assert look_up("some/many:,", tmp_path) == "12,345" and look_up("some/name", tmp_path) == "a, b"
    for text, sentence in {
        "none/x": "there is no result none.json",
        "some/rows/1/share": "has no rows/1/share",
        "some/rows/x": "has no rows/x",
        "some/rows": "is not one value",
        "some/name:.1f": "format",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            look_up(text, tmp_path)


def test_presets_have_the_same_parameters_so_that_a_table_can_show_them():
    assert len({tuple(preset) for preset in PRESETS.values()}) == 1
