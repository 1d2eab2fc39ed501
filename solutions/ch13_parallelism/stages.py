"""Exercise 13.5: Stages and groups."""

from __future__ import annotations

from dataclasses import dataclass


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
