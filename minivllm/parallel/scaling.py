"""A scaling plan on paper: what a division of a model costs on given machines, by the roofline and two link speeds.

Per micro-batch of b requests and per stage, for a decode step:

    read     = (weights of a rank + KV cache of b contexts on a rank) / memory bandwidth
    compute  = 2 x parameters of a rank x b / operations per second
    sums     = 2 x layers of the stage x (latency + 2 (n - 1) / n x b x hidden x bytes / link)      n = tensor ranks
    hop      = latency + b x hidden x bytes / network                                               between stages
    stage    = max(read, compute) + sums + hop

With as many micro-batches in flight as there are stages, a request gets a token every `stages x stage`, and a
replica gives `b / stage` tokens a second. 2 (n - 1) / n is what each rank sends in a ring all-reduce (Patarasuk and
Yuan, 2009). Nothing overlaps in this model, no kernel reaches its roofline in reality, and prefill is left out: it
ranks plans, it does not promise speeds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A decoder, in the words of config.json."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    bytes_per_number: int = 2  # bfloat16

    @property
    def num_params(self) -> int:
        heads = 2 * self.num_attention_heads + 2 * self.num_key_value_heads
        layer = self.hidden_size * (heads * self.head_dim + 3 * self.intermediate_size)
        return self.num_hidden_layers * layer + 2 * self.vocab_size * self.hidden_size

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * self.num_key_value_heads * self.head_dim * self.bytes_per_number * self.num_hidden_layers


@dataclass(frozen=True)
class Machine:
    """One GPU and its two links; bytes and operations per second."""

    memory: float
    memory_bandwidth: float
    operations: float
    link: float  # one direction, to a GPU of the same node
    network: float  # one direction, to another node
    link_latency: float  # seconds, of one message
    network_latency: float
    gpus_per_node: int = 8
    usable_memory: float = 0.92


@dataclass(frozen=True)
class Estimate:
    """What one replica costs and gives."""

    num_gpus: int
    weight_bytes: float  # on each GPU
    room_for_tokens: int  # of KV cache, in the whole replica; 0: the weights alone do not fit
    token_seconds: float  # between two tokens of one request
    tokens_per_second: float  # of all requests
    communication_share: float  # of a step


def estimate(
    shape: Shape, machine: Machine, tensor: int, pipeline: int, batch: int, context: int
) -> Estimate:
    """The formulas above for `tensor` x `pipeline` GPUs, micro-batches of `batch` requests of `context` tokens."""
    ranks = tensor * pipeline
    weights = shape.num_params * shape.bytes_per_number / ranks
    kv_ranks = min(tensor, shape.num_key_value_heads) * pipeline  # beyond that, kv heads are repeated
    kv_cache = batch * context * shape.kv_bytes_per_token / kv_ranks
    read = (weights + kv_cache) / machine.memory_bandwidth
    compute = 2 * shape.num_params * batch / ranks / machine.operations
    message = batch * shape.hidden_size * shape.bytes_per_number
    talking = _sums(shape.num_hidden_layers / pipeline, message, machine, tensor)
    if pipeline > 1:
        talking += machine.network_latency + message / machine.network
    stage = max(read, compute) + talking
    room = machine.memory * machine.usable_memory - weights
    return Estimate(
        num_gpus=ranks,
        weight_bytes=weights,
        room_for_tokens=max(0, int(room * kv_ranks // shape.kv_bytes_per_token)),
        token_seconds=pipeline * stage,
        tokens_per_second=batch / stage,
        communication_share=talking / stage,
    )


def _sums(num_layers: float, message: float, machine: Machine, tensor: int) -> float:
    """Seconds of the two all-reduces of each layer."""
    if tensor == 1:
        return 0.0
    is_inside = tensor <= machine.gpus_per_node
    bandwidth = machine.link if is_inside else machine.network
    latency = machine.link_latency if is_inside else machine.network_latency
    return 2 * num_layers * (latency + 2 * (tensor - 1) / tensor * message / bandwidth)


# An H100 SXM by its data sheet, with one 400 Gbit/s network port for each GPU. The latencies are round assumptions.
H100 = Machine(
    memory=80e9,
    memory_bandwidth=3.35e12,
    operations=989e12,
    link=450e9,
    network=50e9,
    link_latency=10e-6,
    network_latency=30e-6,
)
# Llama 3.1 (Grattafiori et al. 2024). A check on the shapes: they give 8.0, 70.6 and 405.8 billion weights.
MODELS = {
    "8B": Shape(32, 4096, 14336, 32, 8, 128, 128256),
    "70B": Shape(80, 8192, 28672, 64, 8, 128, 128256),
    "405B": Shape(126, 16384, 53248, 128, 8, 128, 128256),
}
PLANS = (  # model, tensor, pipeline, data
    ("8B", 1, 1, 1),
    ("8B", 1, 1, 8),
    ("8B", 8, 1, 1),
    ("70B", 1, 1, 1),
    ("70B", 2, 1, 4),
    ("70B", 4, 1, 2),
    ("70B", 8, 1, 1),
    ("70B", 2, 4, 1),
    ("405B", 8, 1, 1),
    ("405B", 8, 2, 1),
    ("405B", 16, 1, 1),
    ("70B", 8, 1, 64),
    ("405B", 8, 2, 32),
)


def table(batch: int = 64, context: int = 2048) -> str:
    """The plans as a Markdown table."""
    lines = [
        "| model | TP | PP | DP | GPUs | weights on each | room for tokens in a replica | ms per token "
        "| tokens/s in all | talking |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, tensor, pipeline, data in PLANS:
        one = estimate(MODELS[model], H100, tensor, pipeline, batch, context)
        fits = one.room_for_tokens >= batch * context * pipeline
        figures = (
            f"{one.token_seconds * 1e3:.1f} | {data * one.tokens_per_second:,.0f} | {one.communication_share:.0%}"
            if fits
            else "does not fit | | "
        )
        lines.append(
            f"| {model} | {tensor} | {pipeline} | {data} | {data * one.num_gpus} | {one.weight_bytes / 1e9:.0f} GB "
            f"| {one.room_for_tokens:,} | {figures} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
