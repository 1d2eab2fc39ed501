"""Which class serves which architecture. Imports a model's module only when that model is asked for."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from minivllm.model_config import FAMILIES

MODELS: Mapping[str, str] = MappingProxyType(dict.fromkeys(FAMILIES, "minivllm.models.decoder:DecoderModel"))


class ModelRegistry:
    """vLLM's name for this table."""

    @staticmethod
    def get_supported_archs() -> list[str]:
        """Names as they stand under `architectures` in config.json."""
        return sorted(MODELS)

    @staticmethod
    def resolve(architecture: str) -> type:
        """The class that serves an architecture.

        Raises:
            ValueError: none does.
        """
        if architecture not in MODELS:
            supported = ", ".join(ModelRegistry.get_supported_archs())
            raise ValueError(f"model: architecture not supported: {architecture}. Supported: {supported}.")
        module, _, name = MODELS[architecture].partition(":")
        resolved: type = getattr(import_module(module), name)
        return resolved
