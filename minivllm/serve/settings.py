"""ServerSettings: what the server needs to know apart from the engine's own configuration."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class ServerSettings:
    """Settings of one server.

    Raises:
        ValueError: a name or a key is empty.
    """

    served_model_names: tuple[str, ...] = ("tutor",)  # the first is reported, all are accepted
    api_keys: tuple[str, ...] = ()  # empty = open to everyone who can reach the port
    enable_docs: bool = True  # /docs and /openapi.json
    max_body_bytes: int = 4 * MIB
    max_prompts: int = 1024  # in one completion request
    max_stop_strings: int = 4
    max_bad_words: int = 128
    max_logit_bias: int = 1024
    max_messages: int = 4096

    def __post_init__(self) -> None:
        if not self.served_model_names or not all(self.served_model_names):
            raise ValueError("served_model_names must hold at least one name, and no empty one")
        if not all(self.api_keys):
            raise ValueError("api_key must not be empty: leave it out to serve without a key")
