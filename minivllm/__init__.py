"""minivllm: a readable LLM inference engine, and the course that grows out of it.

Only public names stand here, and each is loaded when it is first asked for (PEP 562): ``import minivllm``
costs milliseconds and never imports torch, so the torch-free parts (``minivllm.core`` and whatever is built on
it alone) stay torch-free.

    from minivllm import LLM, SamplingParams
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from minivllm.async_engine import AsyncLLMEngine
    from minivllm.config import EngineConfig, ModelConfig
    from minivllm.engine import LLMEngine
    from minivllm.llm import LLM
    from minivllm.models import ModelRegistry
    from minivllm.outputs import CompletionOutput, EmbeddingRequestOutput, RequestOutput
    from minivllm.pooling_params import PoolingParams
    from minivllm.sampling_params import BeamSearchParams, SamplingParams, StructuredOutputsParams

_MODULE_OF = {
    "LLM": "minivllm.llm",
    "LLMEngine": "minivllm.engine",
    "AsyncLLMEngine": "minivllm.async_engine",
    "EngineConfig": "minivllm.config",
    "ModelConfig": "minivllm.config",
    "ModelRegistry": "minivllm.models",
    "SamplingParams": "minivllm.sampling_params",
    "BeamSearchParams": "minivllm.sampling_params",
    "PoolingParams": "minivllm.pooling_params",
    "StructuredOutputsParams": "minivllm.sampling_params",
    "RequestOutput": "minivllm.outputs",
    "CompletionOutput": "minivllm.outputs",
    "EmbeddingRequestOutput": "minivllm.outputs",
}

__all__ = [
    "LLM",
    "AsyncLLMEngine",
    "BeamSearchParams",
    "CompletionOutput",
    "EmbeddingRequestOutput",
    "EngineConfig",
    "LLMEngine",
    "ModelConfig",
    "ModelRegistry",
    "PoolingParams",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use.

    Raises:
        AttributeError: the package has no such public name.
    """
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # the next access no longer comes through here
    return value


def __dir__() -> list[str]:
    """Public names as well as what is already loaded, so that tab completion shows them."""
    return sorted({*globals(), *__all__})
