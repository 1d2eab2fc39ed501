"""The models: one decoder for a family of architectures, its registry, and the loader of checkpoints."""

from minivllm.models.registry import ModelRegistry

__all__ = ["ModelRegistry"]
