"""The server's log: lines for people, or one JSON object each for programs; both carry the id of the request."""

from __future__ import annotations

import copy
import json
import logging
import time
from contextvars import ContextVar
from typing import Any

from uvicorn.config import LOGGING_CONFIG

REQUEST_ID: ContextVar[str | None] = ContextVar(
    "request_id", default=None
)  # of the HTTP request being answered
QUIET_PATHS = ("/status", "/xray")  # what the page itself asks for all the time


class HideQuietPaths(logging.Filter):
    """Keeps the page's own requests out of the access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a line about one of them."""
        arguments = record.args
        if not isinstance(arguments, tuple) or len(arguments) < 3:
            return True
        return not str(arguments[2]).split("?")[0].endswith(QUIET_PATHS)  # behind a prefix, too


class TextFormatter(logging.Formatter):
    """Level, message, and the request's id where a line has one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows on lines of its own."""
        text = super().format(record)
        request_id = REQUEST_ID.get()
        first, *rest = text.split("\n", 1)
        first = f"{first} [{request_id}]" if request_id else first
        return "\n".join([first, *rest])


class JsonFormatter(logging.Formatter):
    """One JSON object for each record: time, level, logger, message, request_id, and the record's own `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """A line without line breaks inside."""
        content: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := REQUEST_ID.get():
            content["request_id"] = request_id
        content.update(getattr(record, "fields", {}))
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)


def log_config(level: str, as_json: bool) -> dict[str, Any]:
    """uvicorn's logging configuration, with minivllm's logger at `level`."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"hide_quiet_paths": {"()": HideQuietPaths}}
    config["handlers"]["access"]["filters"] = ["hide_quiet_paths"]
    config["formatters"]["minivllm"] = {"()": TextFormatter, "fmt": "%(levelname)s:     %(message)s"}
    config["handlers"]["minivllm"] = {**config["handlers"]["default"], "formatter": "minivllm"}
    if as_json:
        config["formatters"] = {"json": {"()": JsonFormatter}}
        for handler in config["handlers"].values():
            handler["formatter"] = "json"
    name = "DEBUG" if level == "trace" else level.upper()
    config["loggers"]["minivllm"] = {"handlers": ["minivllm"], "level": name, "propagate": False}
    return config
