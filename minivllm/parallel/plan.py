"""The arithmetic of dividing a model: which rank is where, which layers a stage holds, and what does not divide.

Plain integers, no torch: the driver checks a plan before it starts a process.
"""

from __future__ import annotations

from dataclasses import dataclass

from minivllm.model_config import ModelConfig


@dataclass(frozen=True)
class Plan:
    """`tensor` x `pipeline` ranks share one copy of the model. Neighbouring ranks share layers, as in vLLM."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def world_size(self) -> int:
        """Ranks of one copy of the model."""
        return self.tensor * self.pipeline

    @property
    def output_rank(self) -> int:
        """The rank that reports what was sampled: the first of the last stage."""
        return (self.pipeline - 1) * self.tensor

    def place(self, rank: int) -> tuple[int, int]:
        """(stage, place in the tensor parallel group) of a rank."""
        return divmod(rank, self.tensor)

    def tensor_groups(self) -> list[list[int]]:
        """The ranks of each stage."""
        return [list(range(s * self.tensor, (s + 1) * self.tensor)) for s in range(self.pipeline)]


@dataclass(frozen=True)
class HeadShare:
    """The heads of one tensor parallel rank: consecutive ones."""

    first_head: int
    num_heads: int
    first_kv_head: int
    num_kv_heads: int


def share_heads(num_heads: int, num_kv_heads: int, rank: int, size: int) -> HeadShare:
    """Which query and kv heads one of `size` ranks holds.

    Query heads are split evenly. So are kv heads, as long as there is one for each rank; of fewer, each is held by
    neighbouring ranks, so that every query head finds its kv head on its own rank.

    Raises:
        ValueError: the heads do not divide by the number of ranks, nor the ranks by the number of kv heads.
    """
    if num_heads % size:
        raise ValueError(
            f"tensor_parallel_size: num_attention_heads ({num_heads}) does not divide by {size}."
        )
    heads = num_heads // size
    if size % num_kv_heads == 0:
        return HeadShare(rank * heads, heads, rank * num_kv_heads // size, 1)
    if num_kv_heads % size:
        raise ValueError(
            f"tensor_parallel_size: num_key_value_heads ({num_kv_heads}) does not divide by {size}."
        )
    kv_heads = num_kv_heads // size
    return HeadShare(rank * heads, heads, rank * kv_heads, kv_heads)


def layer_ranges(num_layers: int, num_stages: int) -> list[range]:
    """Contiguous layers for each stage, as even as can be.

    What is left over goes to the stages before the last, the later ones first (vLLM's rule): the last stage has the
    output head to compute, and the first the embedding to hold.

    Raises:
        ValueError: there are fewer layers than stages.
    """
    if num_layers < num_stages:
        raise ValueError(
            f"pipeline_parallel_size ({num_stages}) must be at most the model's number of layers ({num_layers}): "
            "every stage holds at least one"
        )
    each, left_over = divmod(num_layers, num_stages)
    sizes = [each] * num_stages
    for back in range(2, left_over + 2):
        sizes[-back] += 1
    ends = [sum(sizes[: stage + 1]) for stage in range(num_stages)]
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def check_plan(plan: Plan, model: ModelConfig) -> None:
    """Raise ValueError, in one sentence, if the model cannot be divided so."""
    layer_ranges(model.num_hidden_layers, plan.pipeline)
    size = plan.tensor
    for name in ("num_attention_heads", "intermediate_size"):
        total = getattr(model, name)
        if total % size:
            raise ValueError(
                f"tensor_parallel_size ({size}) must divide the model's {name} ({total}); "
                f"it can be {_divisors(model)}"
            )
    kv_heads = model.num_key_value_heads
    if kv_heads % size and size % kv_heads:
        raise ValueError(
            f"tensor_parallel_size ({size}) must divide the model's num_key_value_heads ({kv_heads}) or be a multiple "
            f"of it; it can be {_divisors(model)}"
        )


def _divisors(model: ModelConfig) -> str:
    """The sizes that this model allows, as a list to read."""
    heads, kv_heads, inner = model.num_attention_heads, model.num_key_value_heads, model.intermediate_size
    sizes = [
        size
        for size in range(1, heads + 1)
        if heads % size == 0 and inner % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)
    ]
    return ", ".join(map(str, sizes))
