"""`python -m minivllm.run_batch -i IN -o OUT`: a file of requests in, a file of answers out, in the same order.

IN is one of two things. A .jsonl file has a request per line, as OpenAI's batches and `vllm run-batch` have them:

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...]}}

and OUT gets a line with `custom_id` and `response` for each. A .json file holds a list of {"id": ..., "prompt": ...}
and OUT becomes a list of {"id", "prompt", "generated"}; an item may bring fields of /v1/completions for itself, or
`messages` in the place of `prompt`. What fails has an `error` and takes nothing else with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
MAX_IN_FLIGHT = 512  # requests that the engine knows of; it runs up to max_num_seqs of them
SAMPLING = {"temperature": float, "top_p": float, "max_tokens": int, "seed": int}


@dataclass(frozen=True)
class Task:
    """One request, and what the answer is filed under."""

    id: Any
    url: str
    body: Mapping[str, Any]
    error: str | None = None  # why it cannot be sent


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job.

    Returns:
        The exit status: 0 when every request was answered, with whatever; 2 for a wrong flag or file.
    """
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    try:
        tasks = read_tasks(Path(args.input_file), _sampling(args))
        is_list = Path(args.input_file).suffix == ".json"
        return _run(tasks, Path(args.output_file), rest, is_list=is_list)
    except (ValueError, OSError) as error:
        parser.error(" ".join(str(error).split()))


def make_parser() -> argparse.ArgumentParser:
    """The job's own flags; all others are those of the server."""
    parser = argparse.ArgumentParser(
        prog="python -m minivllm.run_batch",
        description=(__doc__ or "").split("\n\n", 1)[1],
        epilog="--model and all other flags of the engine are those of `python -m minivllm.serve`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-i", "--input-file", required=True, metavar="IN", help="a .jsonl or .json file")
    parser.add_argument("-o", "--output-file", required=True, metavar="OUT", help="is written anew")
    group = parser.add_argument_group("for all prompts of a .json file")
    for name, kind in SAMPLING.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind)
    group.add_argument("--stop", nargs="+", metavar="TEXT")
    return parser


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(args, name) for name in (*SAMPLING, "stop")}
    return {name: value for name, value in given.items() if value is not None}


def read_tasks(file: Path, defaults: Mapping[str, Any]) -> list[Task]:
    """The requests of a file, in order.

    Raises:
        ValueError: there is no such file, it is of another kind, or holds no request.
    """
    if not file.is_file():
        raise ValueError(f"--input-file: there is no file {file}")
    if file.suffix not in (".json", ".jsonl"):
        raise ValueError(f"--input-file must end in .jsonl or .json, not {file.name!r}")
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        tasks = [_task_of_item(item, defaults) for item in _list(text, file)]
    else:
        lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        tasks = [_task_of_line(line, number) for number, line in lines]
    if not tasks:
        raise ValueError(f"--input-file: {file} holds no request")
    return tasks


def _list(text: str, file: Path) -> list[Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--input-file: {file} is not valid JSON: {error}") from error
    if not isinstance(content, list):
        raise ValueError(f'--input-file: {file} must hold a list of {{"id": ..., "prompt": ...}}')
    return content


def _task_of_item(item: Any, defaults: Mapping[str, Any]) -> Task:
    if not isinstance(item, dict) or ("prompt" not in item) == ("messages" not in item):
        return Task(
            item.get("id") if isinstance(item, dict) else None, "", {}, "an item needs prompt or messages"
        )
    body = {**defaults, **{name: value for name, value in item.items() if name != "id"}}
    return _checked(Task(item.get("id"), ROUTES[0 if "messages" in item else 1], body))


def _task_of_line(line: str, number: int) -> Task:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Task(None, "", {}, f"line {number} is not valid JSON: {error}")
    if not isinstance(given, dict) or not isinstance(given.get("body"), dict):
        return Task(None, "", {}, f"line {number} must be an object with custom_id, url and body")
    task = Task(given.get("custom_id"), str(given.get("url")), given["body"])
    if task.url not in ROUTES:
        return replace(task, error=f"url must be one of {', '.join(ROUTES)}, not {task.url[:100]!r}")
    if given.get("method", "POST") != "POST":
        return replace(task, error=f"method must be POST, not {str(given['method'])[:20]!r}")
    return _checked(task)


def _checked(task: Task) -> Task:
    if task.body.get("stream"):
        return replace(task, error="stream must be false: a batch is read when it is done")
    return task


def _run(tasks: Sequence[Task], output: Path, flags: Sequence[str], *, is_list: bool) -> int:
    from minivllm.async_engine import AsyncLLMEngine
    from minivllm.serve.app import create_app
    from minivllm.serve.arguments import make_parser as server_parser
    from minivllm.serve.arguments import read_arguments

    config, settings = read_arguments(vars(server_parser().parse_args(list(flags))))
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", encoding="utf-8") as file:  # before the model is loaded, which takes long
        engine = AsyncLLMEngine.from_config(config)
        try:
            app = create_app(engine, replace(settings, enable_xray=False, api_keys=()))
            answers = asyncio.run(_answers(app, tasks))
        finally:
            engine.shutdown(timeout=0.5)
        rows = [_item(*pair) if is_list else _line(*pair) for pair in zip(tasks, answers, strict=True)]
        _write(file, rows, is_list=is_list)
    num_failed = sum(status != 200 for status, _ in answers)
    print(f"{len(tasks) - num_failed} of {len(tasks)} requests answered, {num_failed} refused: {output}")
    return 0


async def _answers(app: Any, tasks: Sequence[Task]) -> list[tuple[int, Any]]:
    """(status, body) of every task, in order; up to MAX_IN_FLIGHT run at the same time."""
    from minivllm.serve.in_process import post

    seats = asyncio.Semaphore(MAX_IN_FLIGHT)
    with tqdm(total=len(tasks), desc="requests", file=sys.stderr, dynamic_ncols=True) as bar:

        async def answer(task: Task) -> tuple[int, Any]:
            async with seats:
                found = (400, _error(task.error)) if task.error else await post(app, task.url, task.body)
            bar.update()
            return found

        async with app.router.lifespan_context(app):
            return list(await asyncio.gather(*map(answer, tasks)))


def _error(sentence: str) -> dict[str, Any]:
    return {"error": {"message": sentence, "type": "BadRequestError", "param": None, "code": 400}}


def _line(task: Task, answer: tuple[int, Any]) -> dict[str, Any]:
    """A line of OUT, as OpenAI's batches have it."""
    status, body = answer
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": task.id,
        "response": {"status_code": status, "request_id": body.get("id"), "body": body},
        "error": None if status == 200 else body["error"],
    }


def _item(task: Task, answer: tuple[int, Any]) -> dict[str, Any]:
    """An item of OUT: what came in, and what was generated."""
    status, body = answer
    given = {name: task.body[name] for name in ("prompt", "messages") if name in task.body}
    if status != 200:
        return {"id": task.id, **given, "error": body["error"]["message"]}
    (choice, *_) = body["choices"]
    generated = choice["text"] if "text" in choice else choice["message"]["content"]
    return {"id": task.id, **given, "generated": generated}


def _write(file: Any, rows: Iterable[Mapping[str, Any]], *, is_list: bool) -> None:
    if is_list:
        json.dump(list(rows), file, ensure_ascii=False, indent=2)
        file.write("\n")
        return
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
