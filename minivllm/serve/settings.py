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
    enable_prompt_tokens_details: bool = False  # cached_tokens in `usage`
    max_body_bytes: int = 4 * MIB

    def __post_init__(self) -> None:
        if not self.served_model_names or not all(self.served_model_names):
            raise ValueError("served_model_name must be at least one name, and none of them empty")
        if not all(self.api_keys):
            raise ValueError("api_key must not be empty: leave it out to serve without a key")
