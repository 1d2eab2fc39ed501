"""Which chapters' traces the learner's parts have served. One JSON file, which git ignores.

Like a check, a run belongs to the text of the files that ran: after an edit it no longer counts.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from minivllm.course.catalogue import Course
from minivllm.course.state import digest, state_folder
from minivllm.parts import Parts, files_of


def record_run(course: Course, chapter: int, parts: Parts, output_hash: str, *, is_equal: bool) -> None:
    """Keep the latest run of a chapter's trace. A part in the shadow comes from no file and is not noted.

    A run without files completes no chapter.
    """
    files = {file for name in parts.replaced for file in _files(getattr(parts, name))}
    runs = _read(course)
    runs[str(chapter)] = {
        "is_equal": is_equal,
        "output_hash": output_hash,
        "files": {file: digest(Path(file)) for file in sorted(files)},
    }
    path = _path(course)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(runs, file, indent=1)
    os.replace(temporary, path)


def served_chapters(course: Course) -> set[int]:
    """Chapters whose trace was served, by the files as they are now, with the reference's tokens."""
    return {
        int(chapter)
        for chapter, run in _read(course).items()
        if run["is_equal"]
        and run["files"]
        and all(digest(Path(file)) == found for file, found in run["files"].items())
    }


def _files(part: Any) -> list[str]:
    try:
        return [file for file, _ in files_of(part)]
    except ValueError:
        return []


def _path(course: Course) -> Path:
    return state_folder(course) / "runs.json"


def _read(course: Course) -> dict[str, Any]:
    try:
        runs: dict[str, Any] = json.loads(_path(course).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return runs
