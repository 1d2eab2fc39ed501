"""Exercise 13.5: Stages and groups. (implement, about 20 minutes)

tensor x pipeline ranks share one copy of a model. They are numbered stage by stage, so that the
ranks of a stage, which have the most to say to one another, are neighbours: with tensor 2 and
pipeline 3

    stage 0: ranks 0 1     stage 1: ranks 2 3     stage 2: ranks 4 5

Write where a rank stands, which ranks form a group, and which rank reports the sampled tokens: the
first of the last stage. And write which layers each stage holds: consecutive ones, as even as can
be. The last stage also computes the logits, so what is left over goes to the stages before it, the
later ones first: 6 layers on 4 stages are 1, 2, 2, 1. With fewer layers than stages, raise a
ValueError.

Check: python -m minivllm.course check 13.5     (or: python -m pytest exercises/ch13_parallelism/stages.py)
Stuck: python -m minivllm.course hint 13.5
"""

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
        raise NotImplementedError("exercise 13.5: Plan.output_rank")

    def place(self, rank: int) -> tuple[int, int]:
        """(stage, place in the tensor parallel group) of a rank."""
        raise NotImplementedError("exercise 13.5: Plan.place")

    def tensor_groups(self) -> list[list[int]]:
        """The ranks of each stage."""
        raise NotImplementedError("exercise 13.5: Plan.tensor_groups")


def layer_ranges(num_layers: int, num_stages: int) -> list[range]:
    """Contiguous layers for each stage, as even as can be.

    What is left over goes to the stages before the last, the later ones first (vLLM's rule): the last stage has the
    output head to compute, and the first the embedding to hold.

    Raises:
        ValueError: there are fewer layers than stages.
    """
    raise NotImplementedError("exercise 13.5: layer_ranges")
