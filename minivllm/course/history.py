"""What two control planes were told, as a value: it can be replayed, and written as a pytest file."""

from __future__ import annotations

import os.path
import pprint
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from minivllm.core.scheduler import SchedulerConfig
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.course.catalogue import CourseError, find_root
from minivllm.course.lockstep import DifferenceError, Lockstep, Sizes, make_request
from minivllm.parts import REFERENCE, PartFiles, Parts, parts_from_files
from minivllm.request import RequestStatus

Event = tuple[
    Any, ...
]  # ("add", [fields, ...]), ("steps", n), ("finish", [ids], status), ("fork", parent, fields), ("draft", {id: tokens})


@dataclass
class History:
    """Everything that decides what a control plane does. `outputs` are the tokens that the model answered."""

    sizes: Sizes
    config: dict[str, Any]  # fields of SchedulerConfig that are not the default
    events: list[Event] = field(default_factory=list)
    outputs: dict[str, list[int]] = field(default_factory=dict)

    def record(self, *event: Any) -> None:
        """Append an event; steps in a row become one."""
        if event == ("steps", 1) and self.events and self.events[-1][0] == "steps":
            self.events[-1] = ("steps", self.events[-1][1] + 1)
        else:
            self.events.append(event)

    def replay(self, mine: Parts) -> DifferenceError | None:
        """Tell it to `mine` and to the reference; returns their first difference."""
        config = SchedulerConfig(**self.config)
        pair = Lockstep(self.sizes.build(config, mine), self.sizes.build(config, REFERENCE))
        try:
            for event in self.events:
                self._tell(pair, event)
        except DifferenceError as difference:
            return difference
        return None

    def _tell(self, pair: Lockstep, event: Event) -> None:
        match event:
            case ("add", fields):
                made = dict(pair.mine.requests)
                for one in fields:
                    made[one["request_id"]] = make_request(one, made)
                pair.add([made[one["request_id"]] for one in fields])
            case ("steps", count):
                for _ in range(count):
                    step = pair.schedule()
                    pair.update(step, dict(self._answers(pair, step)))
            case ("finish", ids, status):
                pair.finish(ids, RequestStatus[status])
            case ("fork", parent, fields):
                if parent in pair.mine.requests:
                    child = make_request(fields, pair.mine.requests)
                    pair.fork(pair.mine.requests[parent], child)
            case ("draft", draft_token_ids):
                pair.draft(draft_token_ids)
            case ("append", request_id, token_id):
                for scheduler in (pair.mine, pair.reference):
                    if request_id in scheduler.requests:
                        scheduler.requests[request_id].append_output_token(token_id)

    def _answers(self, pair: Lockstep, step: SchedulerOutput) -> Iterator[tuple[str, list[int]]]:
        """The next recorded tokens of each request whose known tokens are all computed; 0 beyond the record.

        One token, and before it the drafts that are in the record, too.
        """
        for request_id, count in step.num_scheduled_tokens.items():
            request = pair.mine.requests[request_id]
            drafts = list(step.spec_token_ids.get(request_id, ()))
            if step.num_computed_tokens[request_id] + count == request.num_tokens + len(drafts):
                said = [*self.outputs.get(request_id, [])[request.num_output_tokens :], 0]
                num_right = len(os.path.commonprefix([drafts, said[:-1]]))
                yield request_id, said[: num_right + 1]


def changed_fields(config: SchedulerConfig) -> dict[str, Any]:
    """The fields that are not the default; costs of preemption are left out (mode `auto` needs a model)."""
    default = SchedulerConfig()
    changed = {k: v for k, v in asdict(config).items() if v != getattr(default, k)}
    changed.pop("preemption_costs", None)
    return changed


def check_history(history: History, files: Mapping[str, PartFiles]) -> None:
    """Replay a history with the parts of these files; a relative path begins at the course's folder.

    Raises:
        DifferenceError: they do not decide as the reference does.
    """
    found = {part: [(str(find_file(file)), name) for file, name in where] for part, where in files.items()}
    difference = history.replay(parts_from_files(found))
    if difference is not None:
        __tracebackhide__ = True  # pytest shows the message, which says it all
        raise difference.with_traceback(None)


def find_file(file: str) -> Path:
    """A file of a test: its path, if relative, begins at the course's folder."""
    return Path(file) if Path(file).is_absolute() else find_root() / file


def relative_file(file: str) -> str:
    """The path below the course's folder, if it lies there: a test that others can run, too."""
    try:
        return Path(file).resolve().relative_to(find_root()).as_posix()
    except (CourseError, ValueError):
        return file


PYTEST_FILE = '''"""A history in which these parts decide otherwise than the reference: {parts}.

Run it with `python -m pytest {file}`. It is red until every decision is
the reference's, and needs no model.
"""

from minivllm.course.history import History, Sizes, check_history

# Whose code runs: part -> (file, name in it). With {{}} the reference runs alone, and the test is green.
PARTS = {files}

HISTORY = History(
    sizes={sizes},
    config={config},
    events={events},
    outputs={outputs},
)


def test_every_decision_is_the_references():
    check_history(HISTORY, PARTS)
'''


def write_pytest_file(path: Path, history: History, files: Mapping[str, PartFiles]) -> None:
    """Write the history as a test that anybody can run."""

    def shown(value: Any, indent: int = 4) -> str:
        return pprint.pformat(value, width=100, sort_dicts=False).replace("\n", "\n" + " " * indent)

    path.parent.mkdir(parents=True, exist_ok=True)
    text = PYTEST_FILE.format(
        parts=", ".join(sorted(files)),
        file=path.name,
        files=shown({part: [(relative_file(f), n) for f, n in where] for part, where in files.items()}, 0),
        sizes=history.sizes,
        config=shown(history.config),
        events=shown(history.events),
        outputs=shown(history.outputs),
    )
    path.write_text(text, encoding="utf-8")
