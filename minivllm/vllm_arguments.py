"""Arguments of vLLM that this engine does not have, today's and older ones: each gets an alias, a warning, or a no.

`LLM(...)` and the command line of the server ask here, so that both say the same sentence. What EngineConfig has is
never looked up: an argument that the engine learns is no longer refused.
"""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

# name -> what to say; nothing else happens
WITHOUT_EFFECT = {
    "enable_metrics": "metrics are always served, at /metrics",
    "disable_log_requests": "requests are logged only with --enable-log-requests",
    "disable_log_stats": "statistics are served at /metrics, not logged",
    "use_v2_block_manager": "there is one block manager",
    "verbose": "use --log-level debug",
}


class Refusal(NamedTuple):
    """Why an argument is not served, and the values that are accepted all the same, because they change nothing."""

    why: str
    harmless: tuple[Any, ...] = ()


_NO_LORA = "there are no LoRA adapters here"
_TEXT_ONLY = "this engine reads and writes text only"
_BOTH = "one engine both continues texts and embeds them, and does nothing else"
_ONE_NODE = "start one process for each rank with --distributed-executor-backend external_launcher"

REFUSED: dict[str, Refusal] = {
    "enable_lora": Refusal(_NO_LORA),
    "lora_modules": Refusal(_NO_LORA),
    "max_loras": Refusal(_NO_LORA, (1,)),
    "max_lora_rank": Refusal(_NO_LORA, (16,)),
    "max_cpu_loras": Refusal(_NO_LORA),
    "limit_mm_per_prompt": Refusal(_TEXT_ONLY),
    "allowed_local_media_path": Refusal(_TEXT_ONLY, ("",)),
    "allowed_media_domains": Refusal(_TEXT_ONLY),
    "runner": Refusal(_BOTH, ("auto", "generate", "pooling")),
    "convert": Refusal(_BOTH, ("auto", "none", "embed")),
    "task": Refusal(_BOTH, ("auto", "generate", "embed", "embedding")),
    "enable_expert_parallel": Refusal("no model with experts is served"),
    "cpu_offload_gb": Refusal("the whole model stays on one device", (0,)),
    "kv_offloading_size": Refusal("use --swap-space with --preemption-mode swap"),
    "prefix_caching_hash_algo": Refusal("blocks are found by their sha256", ("sha256",)),
    "max_num_queued_tokens": Refusal("use --max-num-queued-reqs"),
    "async_scheduling": Refusal("a step is scheduled when the one before it has returned", ("auto",)),
    "watermark": Refusal("no blocks are kept back", (0,)),
    "stream_interval": Refusal("every token is sent at once", (1,)),
    "nnodes": Refusal(_ONE_NODE, (1,)),
    "skip_tokenizer_init": Refusal("a model folder without a tokenizer takes and gives token ids"),
    "generation_config": Refusal("the model's own generation_config.json is used", ("auto",)),
    "override_generation_config": Refusal("send the values with each request"),
    "logprobs_mode": Refusal("log-probabilities are those before any parameter", ("raw_logprobs",)),
    "structured_outputs_config": Refusal("there is one way to follow a form"),
    "hf_token": Refusal("set HF_TOKEN, which does not show in the list of processes"),
    "trust_request_chat_template": Refusal("a template from a request is never run"),
    "enable_tokenizer_info_endpoint": Refusal("/tokenize and /detokenize are what there is"),
    "ssl_ca_certs": Refusal("clients are known by --api-key, not by certificates"),
    "ssl_cert_reqs": Refusal("clients are known by --api-key, not by certificates", (0,)),
}

# today's short way to say speculative_config -> its key there
SPECULATION = {"spec_method": "method", "spec_model": "model", "spec_tokens": "num_speculative_tokens"}


def engine_arguments(given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """What remains of arguments in vLLM's spelling for EngineConfig, whose fields are `known`.

    Raises:
        ValueError: an argument is not served, or is none of vLLM's or ours.
    """
    given = with_speculation(given)
    for name, value in given.items():
        if name in known:
            continue
        if name in WITHOUT_EFFECT:
            warnings.warn(f"{name} has no effect: {WITHOUT_EFFECT[name]}", stacklevel=3)
        elif name in REFUSED:
            check_refused(name, name, value)
        else:
            raise ValueError(_unknown(name, known))
    return {name: value for name, value in given.items() if name in known}


def check_refused(name: str, shown: str, value: Any) -> None:
    """Raise ValueError if this value of an argument that is not served would change something.

    Args:
        name: of the argument. shown: how the user wrote it. value: None and False change nothing.
    """
    why, harmless = REFUSED[name]
    if value is None or value is False or value in harmless:
        return
    served = f"; it may be {', '.join(map(str, harmless))}" if len(harmless) > 1 else ""
    raise ValueError(f"{shown} is not served: {why}{served}")


def with_speculation(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with spec_method, spec_model and spec_tokens written as one speculative_config.

    Raises:
        ValueError: both ways are used.
    """
    short = {key: given[name] for name, key in SPECULATION.items() if given.get(name) is not None}
    rest = {name: value for name, value in given.items() if name not in SPECULATION}
    if not short:
        return rest
    if rest.get("speculative_config") is not None:
        raise ValueError("speculative_config says it all: leave out spec_method, spec_model and spec_tokens")
    return {**rest, "speculative_config": json.dumps(short)}


def _unknown(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"LLM got an unknown argument {name!r}{hint} It knows: {', '.join(known)}"
