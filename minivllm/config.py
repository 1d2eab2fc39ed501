"""What a user may set about the engine, checked in one place. What the model's own folder says is in `ModelConfig`.

The names, defaults and ranges are those of `vllm serve`; where a default differs, the field's comment says why.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minivllm.model_config import ModelConfig
from minivllm.sampling_params import sampling_defaults
from minivllm.speculative_config import SpeculativeConfig, read_speculative_config

__all__ = ["EngineConfig", "ModelConfig"]

DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")
ATTENTION_BACKENDS = ("auto", "torch", "cpp", "triton", "naive")
KV_CACHE_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")  # fp8 is fp8_e4m3
SCHEDULING_POLICIES = ("fcfs", "priority", "shortest-first")
PREEMPTION_MODES = ("recompute", "swap", "auto")
LOAD_FORMATS = ("auto", "safetensors", "dummy")
TOKENIZER_MODES = (
    "auto",
    "hf",
)  # both the Hugging Face tokenizer; vLLM's others are formats of single families
QUANTIZATIONS = ("awq", "int8_per_channel_weight_only", "fp8")
EXECUTOR_BACKENDS = ("uni", "mp", "ray", "external_launcher")
SWITCHES = (
    "trust_remote_code",
    "enforce_eager",
    "enable_prefix_caching",
    "enable_chunked_prefill",
    "enable_static_batching",
)
MAX_BLOCK_SIZE = 256


@dataclass(frozen=True)
class EngineConfig:
    """Settings of one engine; a value that never changes.

    Raises:
        ValueError: a field is out of range, or two fields contradict each other; one sentence that names them.
    """

    model: str = "tutor"  # the name of a model that ships with minivllm, a Hugging Face folder, or a hub id
    tokenizer: str | None = None  # a folder or hub id; None = the model's own
    tokenizer_mode: str = "auto"
    revision: str | None = None  # of a hub id
    download_dir: str | None = None  # where files of a hub id are put; None = the Hugging Face cache
    trust_remote_code: bool = False
    hf_overrides: dict[str, Any] = field(default_factory=dict)  # replaces keys of config.json
    load_format: str = "auto"  # dummy = random weights by `seed`, for measuring without a checkpoint
    dtype: str = "auto"  # the checkpoint's on a GPU; on a CPU float32, or bfloat16 for large models if fast
    device: str = "auto"  # auto = cuda where there is one, else cpu
    attention_backend: str = "auto"
    quantization: str | None = None  # None = what the checkpoint says
    enforce_eager: bool = (
        True  # False = decode in padded batches, recorded as CUDA graphs on a GPU (vLLM's default)
    )
    seed: int = 0  # of requests that bring none

    max_model_len: int | None = (
        None  # prompt + output tokens; None = the model's, or what the KV cache can hold
    )
    max_logprobs: int = 20

    block_size: int = 16  # tokens
    gpu_memory_utilization: float = 0.92  # of a GPU's memory, for weights, activations and KV cache together
    kv_cache_dtype: str = "auto"  # auto = the model's; fp8 is half of 16 bits, and costs some precision
    kv_cache_memory_bytes: int | None = None  # None = see worker/kv_cache.py
    num_gpu_blocks_override: int | None = None  # sets the number of blocks outright, the null block included
    enable_prefix_caching: bool = True

    tensor_parallel_size: int = 1  # ranks that share every layer
    pipeline_parallel_size: int = 1  # stages of consecutive layers
    data_parallel_size: int = 1  # copies of the whole model behind one door
    distributed_executor_backend: str | None = None  # None = uni for one rank, mp for several

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    scheduling_policy: str = "fcfs"
    enable_static_batching: bool = (
        False  # what serving was before continuous batching; to compare (not in vLLM)
    )
    max_num_queued_reqs: int | None = None  # more waiting requests than this are refused
    preemption_mode: str = (
        "recompute"  # or swap or auto, which need swap_space (vLLM V0's; V1 only recomputes)
    )
    swap_space: float = 0.0  # GiB of CPU memory for the blocks of preempted requests

    speculative_config: dict[str, Any] | str | None = None  # keys as in SpeculativeConfig; a dict, or JSON
    speculative_model: str | None = None  # with the next one the older way to say the same
    num_speculative_tokens: int | None = None

    def __post_init__(self) -> None:
        _text("model", self.model)
        _text("device", self.device)
        for name in ("tokenizer", "revision", "download_dir"):
            if getattr(self, name) is not None:
                _text(name, getattr(self, name))
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if not isinstance(self.hf_overrides, dict):
            raise ValueError(f"hf_overrides must be a dict, not {self.hf_overrides!r}")
        _choice("dtype", self.dtype, DTYPES)
        _choice("attention_backend", self.attention_backend, ATTENTION_BACKENDS)
        _choice("kv_cache_dtype", self.kv_cache_dtype, KV_CACHE_DTYPES)
        _choice("load_format", self.load_format, LOAD_FORMATS)
        _choice("tokenizer_mode", self.tokenizer_mode, TOKENIZER_MODES)
        if self.quantization is not None:
            _choice("quantization", self.quantization, QUANTIZATIONS)
        _choice("scheduling_policy", self.scheduling_policy, SCHEDULING_POLICIES)
        _choice("preemption_mode", self.preemption_mode, PREEMPTION_MODES)
        if self.distributed_executor_backend is not None:
            _choice("distributed_executor_backend", self.distributed_executor_backend, EXECUTOR_BACKENDS)
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
            _integer(name, getattr(self, name), 1)
        if self.executor_backend == "uni" and self.num_ranks > 1:
            raise ValueError(
                f"distributed_executor_backend 'uni' is one process, and the parallel sizes ask for {self.num_ranks}: "
                "use mp, or leave it out"
            )
        _integer("block_size", self.block_size, 1, MAX_BLOCK_SIZE)
        _integer("max_num_seqs", self.max_num_seqs, 1)
        _integer("max_num_batched_tokens", self.max_num_batched_tokens, 1)
        _integer("long_prefill_token_threshold", self.long_prefill_token_threshold, 0)
        _integer("max_logprobs", self.max_logprobs, -1)
        _integer("seed", self.seed, 0, 2**63 - 1)
        for name in ("max_model_len", "kv_cache_memory_bytes", "max_num_queued_reqs"):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), 1)
        if self.num_gpu_blocks_override is not None:
            _integer("num_gpu_blocks_override", self.num_gpu_blocks_override, 2)
        utilization = self.gpu_memory_utilization
        if not _is_number(utilization) or not 0 < utilization <= 1:
            raise ValueError(f"gpu_memory_utilization must be in (0, 1], not {utilization!r}")
        if not _is_number(self.swap_space) or self.swap_space < 0:
            raise ValueError(f"swap_space must be a number of GiB, at least 0, not {self.swap_space!r}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs}): every running request needs one token of each step"
            )
        self._check_speculation()

    def _check_speculation(self) -> None:
        if self.speculative_model is not None:
            _text("speculative_model", self.speculative_model)
        if self.num_speculative_tokens is not None:
            _integer("num_speculative_tokens", self.num_speculative_tokens, 1)
        speculation = self.speculation
        if speculation is None:
            return
        if self.pipeline_parallel_size > 1:
            raise ValueError(
                "speculative_config needs pipeline_parallel_size 1: a draft waits for the last stage"
            )
        if speculation.method != "ngram" and self.tensor_parallel_size > 1:
            raise ValueError(
                f"speculative_config method {speculation.method} needs tensor_parallel_size 1; ngram does not"
            )

    @property
    def speculation(self) -> SpeculativeConfig | None:
        """How tokens are drafted; None = not at all."""
        return read_speculative_config(
            self.speculative_config, self.speculative_model, self.num_speculative_tokens
        )

    @property
    def num_ranks(self) -> int:
        """Processes, or devices, that the parallel sizes ask for."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size

    @property
    def executor_backend(self) -> str:
        """How the ranks are run: `distributed_executor_backend`, or what follows from the sizes."""
        return self.distributed_executor_backend or ("uni" if self.num_ranks == 1 else "mp")

    def check_against(self, max_model_len: int) -> None:
        """Raise ValueError if a whole prompt could never be scheduled."""
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < max_model_len:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least max_model_len "
                f"({max_model_len}) when enable_chunked_prefill is off: a prompt is then computed in one step"
            )


def load_model_config(config: EngineConfig) -> ModelConfig:
    """What the model's folder says, with the overrides of `config`.

    Raises:
        ValueError: there is no such model, or it is not supported.
    """
    made = ModelConfig.from_pretrained(
        resolve_model(config.model),
        revision=config.revision,
        download_dir=config.download_dir,
        trust_remote_code=config.trust_remote_code,
        hf_overrides=config.hf_overrides or None,
    )
    sampling_defaults(made.generation_defaults)  # a value out of range is told now, not to the first request
    return made


def resolve_model(model: str) -> str:
    """A shipped model's name becomes its folder; a folder or a hub id stays as it is.

    Raises:
        ValueError: nothing by that name ships, and it looks like neither a folder nor a hub id.
    """
    from minivllm import zoo

    if Path(model).is_dir():
        return model
    if model in zoo.names():
        return str(zoo.path(model))
    if "/" in model and not model.startswith((".", "/", "~")):
        return model
    raise ValueError(
        f"model {model!r} is neither a folder nor a hub id (owner/name), and not one that ships with minivllm "
        f"({', '.join(zoo.names())})"
    )


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    )


def _integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < low
        or (high is not None and value > high)
    ):
        limits = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be an integer {limits}, not {value!r}")


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a non-empty string, not {value!r}")
