"""ServerSettings and ListenSettings: what the server needs to know apart from the engine's own configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
TOOL_CALL_PARSERS = ("hermes",)


@dataclass(frozen=True)
class ServerSettings:
    """What the application does with requests.

    Raises:
        ValueError: a value is out of range, or two contradict each other.
    """

    served_model_names: tuple[str, ...] = ("tutor",)  # the first is reported, all are accepted
    api_keys: tuple[str, ...] = ()  # empty = open to everyone who can reach the port
    enable_docs: bool = True  # /docs and /openapi.json
    enable_prompt_tokens_details: bool = False  # cached_tokens in `usage`
    enable_force_include_usage: bool = False  # every stream ends with its usage, asked for or not
    enable_server_load_tracking: bool = False  # /load counts the requests being answered
    enable_request_id_headers: bool = False  # X-Request-Id in every response
    enable_log_requests: bool = False  # one line for each request
    enable_xray: bool = True  # the live picture of the engine on the page
    return_tokens_as_token_ids: bool = False  # "token_id:17" instead of text in log-probabilities
    chat_template: str | None = None  # Jinja text; None = the tokenizer's own
    response_role: str = "assistant"
    enable_auto_tool_choice: bool = False
    tool_call_parser: str | None = None
    allowed_origins: tuple[str, ...] = ()  # of other web pages that may call; empty = none
    sse_keep_alive_interval: float = 0.0  # seconds of silence after which a stream sends a comment; 0 = never
    max_body_bytes: int = 4 * MIB
    body_timeout: float = 30.0  # seconds that a client may take to send its body
    max_header_count: int = 256

    def __post_init__(self) -> None:
        if not self.served_model_names or not all(self.served_model_names):
            raise ValueError("served_model_name must be at least one name, and none of them empty")
        if not all(self.api_keys):
            raise ValueError("api_key must not be empty: leave it out to serve without a key")
        if self.tool_call_parser not in (None, *TOOL_CALL_PARSERS):
            known = ", ".join(TOOL_CALL_PARSERS)
            raise ValueError(f"tool_call_parser must be one of {known}, not {self.tool_call_parser!r}")
        if self.enable_auto_tool_choice and self.tool_call_parser is None:
            raise ValueError(
                "enable_auto_tool_choice needs tool_call_parser: the form in which the model calls"
            )
        if not 0 <= self.sse_keep_alive_interval < math.inf:
            raise ValueError(
                f"sse_keep_alive_interval must be at least 0, not {self.sse_keep_alive_interval}"
            )


@dataclass(frozen=True)
class ListenSettings:
    """Where the server listens, and how it ends.

    Raises:
        ValueError: a value is out of range, or two contradict each other.
    """

    host: str | None = "127.0.0.1"
    port: int = 8000
    uds: str | None = None  # path of a Unix socket instead of host and port
    root_path: str = ""  # what a proxy cuts off in front of every path
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    log_level: str = "info"
    log_json: bool = False
    shutdown_timeout: float = 0.0  # seconds that running requests get after SIGTERM
    header_timeout: float = (
        20.0  # seconds in which a connection must bring a whole request line and its headers
    )
    max_incomplete_event_size: int = 4 * MIB  # bytes of headers
    keep_alive_timeout: int = 5  # seconds that an idle connection stays open

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port must be in [0, 65535], not {self.port}")
        if not 0 <= self.shutdown_timeout < math.inf:
            raise ValueError(f"--shutdown-timeout must be at least 0 seconds, not {self.shutdown_timeout}")
        if self.max_incomplete_event_size < 1024:
            raise ValueError("--h11-max-incomplete-event-size must be at least 1024 bytes")
        if self.ssl_keyfile and not self.ssl_certfile:
            raise ValueError("--ssl-keyfile needs --ssl-certfile")
        for path in filter(None, (self.ssl_keyfile, self.ssl_certfile)):
            if not Path(path).is_file():
                raise ValueError(f"there is no file {path}")


def read_template(template: str) -> str:
    """The text of `--chat-template`: a file's content, or the text itself if it looks like Jinja.

    Raises:
        ValueError: it is neither, or the file is no text.
    """
    if "{{" in template or "{%" in template:
        return template
    path = Path(template)
    if not path.is_file():
        raise ValueError(f"--chat-template: there is no file {template}, and it holds no Jinja")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"--chat-template: the file {template} is not UTF-8 text") from error
