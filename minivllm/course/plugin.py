"""The pytest plugin that grades: `pytest exercises/ch05_allocator` runs the tests of tests/exercises/ on it.

A learner's path is mapped to its chapter's grader; the learner's folder itself grades nothing. Each test names its
exercise and tier by `@pytest.mark.exercise("5.3", "smoke")` and takes the code to grade as the argument `impl`.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest

from minivllm.course.catalogue import Course, CourseError, Exercise, find_root, read_course
from minivllm.course.grade_report import GradeReport
from minivllm.course.grading import Implementation
from minivllm.course.learner import implementations
from minivllm.course.state import state_folder
from minivllm.course.time_limit import time_limit
from minivllm.course.triton_here import why_not
from minivllm.course.verdicts import TIERS, Grading, Verdict

GRADING = pytest.StashKey[Grading]()
PROBLEM = pytest.StashKey[str]()  # why there is no grading


def pytest_addoption(parser: pytest.Parser) -> None:
    """--impl, and where the proof puts its results."""
    group = parser.getgroup("course", "the exercises of the course")
    group.addoption(
        "--impl",
        metavar="WHICH",
        help="what to grade: learner (default for paths below exercises/), solutions (default elsewhere), reference, "
        "stub, mutant:NAME, alternative:NAME, or all (every one of these)",
    )
    group.addoption("--verdicts", metavar="FILE", help="write what was found of each implementation, as JSON")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Map paths below exercises/ to graders, before pytest looks at them."""
    try:
        course = read_course(find_root(early_config.invocation_params.dir))
    except CourseError as error:  # who grades nothing need not know
        early_config.stash[PROBLEM] = str(error)
        return
    wanted: set[str] = set()
    known = early_config.known_args_namespace
    for argument in known.file_or_dir:
        found = _exercises_at(course, Path(early_config.invocation_params.dir, argument.split("::")[0]))
        if found is not None:
            wanted |= {exercise.id for exercise in found}
            grader = str(_grader_path(course, found))
            args[args.index(argument)] = grader
            known.file_or_dir = [grader if other == argument else other for other in known.file_or_dir]
    grading = Grading(course, "solutions")
    if wanted:
        grading.wanted, grading.choice = wanted, "learner"
    if chosen := known.impl:
        grading.choice = chosen
    early_config.stash[GRADING] = grading


def _exercises_at(course: Course, path: Path) -> list[Exercise] | None:
    """The exercises that a path below exercises/ stands for; None for any other argument."""
    path = path.resolve()
    top = course.root / "exercises"
    if path != top and top not in path.parents:
        return None
    if state_folder(course) in path.parents:  # tests that the course itself wrote there
        return None
    if path == top:
        return course.exercises
    found = [e for e in course.exercises if path in (course.learner_file(e), course.learner_file(e).parent)]
    if not found:
        raise pytest.UsageError(
            f"{path} belongs to no exercise; `python -m minivllm.course status` lists them"
        )
    return found


def _grader_path(course: Course, exercises: list[Exercise]) -> Path:
    chapters = {exercise.chapter for exercise in exercises}
    if len(chapters) != 1:
        return course.root / "tests" / "exercises"
    return course.grader_file(course.chapter(chapters.pop()))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Set up hypothesis for grading, and the learner's report in the place of pytest's."""
    config.addinivalue_line(
        "markers", "exercise(id, tier): grades an exercise; tier is one of " + ", ".join(TIERS)
    )
    grading = config.stash.get(GRADING, None)
    if grading is None:
        return
    if grading.wanted is not None or config.option.impl:
        _configure_hypothesis(shrink=grading.choice != "all")
    if grading.wanted is not None:
        reporter = config.pluginmanager.getplugin("terminalreporter")
        config.pluginmanager.unregister(reporter)
        config.pluginmanager.register(
            GradeReport(grading, verbose=config.option.verbose > 0), "course-report"
        )


def _configure_hypothesis(shrink: bool) -> None:
    """One bug at a time, and the smallest; in the proof any bug will do."""
    from hypothesis import Phase, settings

    phases = [Phase.explicit, Phase.generate] + ([Phase.shrink] if shrink else [])
    settings.register_profile(
        "grading", settings(), report_multiple_bugs=False, print_blob=False, phases=phases
    )
    settings.load_profile("grading")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a grader's test the implementations that this session is about, as its argument `impl`."""
    marker = metafunc.definition.get_closest_marker("exercise")
    if marker is None or "impl" not in metafunc.fixturenames:
        return
    grading = metafunc.config.stash.get(GRADING, None)
    if grading is None:
        raise pytest.UsageError(metafunc.config.stash[PROBLEM])
    exercise = grading.course.exercise(marker.args[0])
    known = implementations(grading.course, exercise)
    chosen = known if grading.choice == "all" else [grading.choice]
    is_wanted = grading.wanted is None or exercise.id in grading.wanted
    labels = [label for label in chosen if is_wanted and (label in known or label == "learner")]
    metafunc.parametrize(
        "impl", [grading.verdict(exercise, label).implementation for label in labels], ids=labels
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only what is to be graded; and within the graders' places: by exercise, implementation, tier."""
    grading = config.stash.get(GRADING, None)
    if grading is None:
        return
    if grading.wanted is not None:
        items[:] = [item for item in items if _exercise_of(item) in grading.wanted]
    items[:] = [item for item in items if not _exercise_of(item) or _implementation_of(item)]
    places = [index for index, item in enumerate(items) if _exercise_of(item)]
    ordered = sorted((items[index] for index in places), key=lambda item: _order(grading.course, item))
    for index, item in zip(places, ordered, strict=True):
        items[index] = item


def _exercise_of(item: pytest.Item) -> str | None:
    marker = item.get_closest_marker("exercise")
    return marker.args[0] if marker else None


def _order(course: Course, item: pytest.Item) -> tuple[int, str, int]:
    marker = item.get_closest_marker("exercise")
    assert marker is not None
    exercise_id, tier = marker.args
    if tier not in TIERS:
        raise pytest.UsageError(f"{item.nodeid}: the tier must be one of {', '.join(TIERS)}, not {tier!r}")
    position = [exercise.id for exercise in course.exercises].index(exercise_id)
    implementation = _implementation_of(item)
    assert implementation is not None
    return position, implementation.label, TIERS.index(tier)


def _implementation_of(item: pytest.Item) -> Implementation | None:
    """What the test grades; None for other tests, and for an exercise that has no such implementation."""
    callspec = getattr(item, "callspec", None)
    found = callspec.params.get("impl") if callspec and _exercise_of(item) else None
    return found if isinstance(found, Implementation) else None


def _verdict(config: pytest.Config, implementation: Implementation) -> Verdict:
    return config.stash[GRADING].verdict(implementation.exercise, implementation.label)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """An exercise that is red or not started in one tier is not graded any further; one that cannot run, not at all."""
    implementation = _implementation_of(item)
    if implementation is None:
        return
    verdict = _verdict(item.config, implementation)
    verdict.why_not = why_not(implementation.exercise.requires)
    if verdict.why_not:
        pytest.skip(f"exercise {implementation.exercise.id} {verdict.why_not}")
    if verdict.is_over:
        pytest.skip("an earlier tier says enough")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Limit the time of a grader's test."""
    implementation = _implementation_of(item)
    if implementation is None:
        return (yield)
    with time_limit(implementation):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the test's result to its exercise's verdict; "not started" is a skip, not a failure."""
    report = yield
    implementation = _implementation_of(item)
    if implementation is None or report.when != "call":
        return report
    marker = item.get_closest_marker("exercise")
    assert marker is not None
    verdict = _verdict(item.config, implementation)
    verdict.add(marker.args[1], item.name.split("[")[0], call.excinfo.value if call.excinfo else None)
    verdict.printed.append(report.capstdout)
    verdict.details = verdict.details or report.longreprtext
    if verdict.is_not_started and call.excinfo is not None:
        report.outcome = "skipped"
        report.longrepr = (
            str(item.path),
            0,
            f"Skipped: exercise {implementation.exercise.id} is not started",
        )
    elif verdict.failure is not None and call.excinfo is not None and item.config.option.verbose < 1:
        report.longrepr = str(verdict.failure)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write --verdicts."""
    path, grading = session.config.option.verdicts, session.config.stash.get(GRADING, None)
    if path and grading is not None:
        rows = [verdict.as_row() for verdict in grading.verdicts.values()]
        Path(path).write_text(json.dumps(rows), encoding="utf-8")
