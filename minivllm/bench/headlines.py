"""The headline figures of vLLM's guides as we measure them: what is claimed, what is drawn, what differs here.

What this is not: measuring. Each entry names a benchmark and reads its result; `figures.py` draws them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minivllm.viz.bars import Bar, Bars

Result = Mapping[str, Any]
METHODS = {"nearest": "to nearest", "awq": "AWQ"}


@dataclass(frozen=True)
class Headline:
    """One figure of the book."""

    name: str  # of the benchmark and of its result file
    title: str
    claimed: str  # what guides to vLLM and papers say
    bars: Callable[[Result], Sequence[Bars]]
    found: Callable[[Result], str]  # one sentence with the numbers of the result
    differs: str  # between the original setting and ours


def _throughput(result: Result) -> list[Bars]:
    rows = result["contestants"]
    bars = [
        Bar(name, row["output_tokens_per_second"], _many(row["output_tokens_per_second"]), name == "minivllm")
        for name, row in rows.items()
    ]
    return [Bars("Output tokens per second", bars)]


def _throughput_found(result: Result) -> str:
    ratios = ", ".join(
        f"{ratio:.1f} times that of {name}" for name, ratio in result["ratio_of_minivllm_to"].items()
    )
    agreement = result["greedy_agreement"]
    return (
        f"A throughput {ratios}, on {result['num_requests']} requests with "
        f"{_many(result['output_tokens'])} output tokens; {agreement:.0%} of the greedy tokens are equal."
    )


def _batching(result: Result) -> list[Bars]:
    rows = {"continuous batching": result["rows"]["continuous"], "static batching": result["rows"]["static"]}

    def of(key: str, title: str) -> Bars:
        return Bars(title, [Bar(n, r[key], _many(r[key]), n[0] == "c") for n, r in rows.items()])

    return [
        of("steps", "Steps until all is done"),
        of("seats_in_use", f"Seats in use, of {result['max_num_seqs']}"),
        of("output_tokens_per_second", "Output tokens per second"),
    ]


def _batching_found(result: Result) -> str:
    continuous, static = result["rows"]["continuous"], result["rows"]["static"]
    return (
        f"{static['steps'] / continuous['steps']:.1f} times fewer steps and {result['ratio']:.1f} times the output "
        f"tokens per second, for {result['num_requests']} requests of mixed lengths in {result['max_num_seqs']} seats."
    )


def _kv_waste(result: Result) -> list[Bars]:
    return [
        Bars(
            f"Waste: {row['kind']}",
            [
                Bar("paged, blocks of 16", row["paged_waste"], f"{row['paged_waste']:.1%}"),
                Bar(
                    "one piece per request", row["contiguous_waste"], f"{row['contiguous_waste']:.1%}", False
                ),
            ],
        )
        for row in result["rows"]
    ]


def _kv_waste_found(result: Result) -> str:
    parts = [
        f"{row['contiguous_waste']:.1%} becomes {row['paged_waste']:.1%} ({row['kind']})"
        for row in result["rows"]
    ]
    return "; ".join(parts) + ", averaged over all steps of a live engine."


def _prefix(result: Result) -> list[Bars]:
    computed = result["prompt_tokens_computed"]
    seconds = {key: statistics.median(values) for key, values in result["seconds"].items()}

    def of(title: str, values: Mapping[str, float], digits: str) -> Bars:
        return Bars(
            title,
            [
                Bar("with prefix cache", values["with"], format(values["with"], digits)),
                Bar("without", values["without"], format(values["without"], digits), False),
            ],
        )

    return [of("Prompt tokens computed", computed, ","), of("Seconds, median", seconds, ".2f")]


def _prefix_found(result: Result) -> str:
    computed = result["prompt_tokens_computed"]
    spared = 1 - computed["with"] / computed["without"]
    return (
        f"{spared:.0%} of the prompt tokens are not computed, and {result['num_requests']} requests are done "
        f"{result['speedup']:.1f} times as fast."
    )


def _sharing(result: Result) -> list[Bars]:
    return [
        Bars(
            f"Blocks in use: {row['kind']}",
            [
                Bar("shared", row["blocks"], _many(row["blocks"])),
                Bar("each its own", row["unshared"], _many(row["unshared"]), False),
            ],
        )
        for row in result["rows"]
    ]


def _sharing_found(result: Result) -> str:
    saved = " and ".join(f"{row['saved']:.0%} ({row['kind']})" for row in result["rows"])
    lengths = f"a prompt of {result['prompt_len']} tokens and {result['output']} more"
    return f"Sharing saves {saved} of the blocks, for {lengths}."


def _is_set(row: Result) -> bool:
    """Was the draft made to agree at a set rate?"""
    return str(row["prompts"]).startswith("set")


def _speculation(result: Result) -> list[Bars]:
    sizes = sorted({row["batch_size"] for row in result["rows"]})
    groups = []
    for is_set, title in ((False, "Real drafts"), (True, "Drafts right at a set rate")):
        for size in sizes:
            rows = [r for r in result["rows"] if r["batch_size"] == size and _is_set(r) == is_set]
            bars = [Bar(_speculation_name(row), row["speedup"], f"{row['speedup']:.2f}") for row in rows]
            if bars:
                plain = Bar("no speculation", 1.0, "1", False)
                groups.append(Bars(f"Speed-up, batches of {size}: {title.lower()}", [plain, *bars]))
    return groups


def _speculation_name(row: Result) -> str:
    target = "large random target, " if row["target"] == "random" else ""
    return f"{target}{row['method'].replace('_', ' ')}, {row['prompts']}"


def _speculation_found(result: Result) -> str:
    said = []
    for is_set, title in ((False, "with real drafts"), (True, "with drafts that are right at a set rate")):
        ratios = [row["speedup"] for row in result["rows"] if _is_set(row) == is_set]
        if ratios:
            said.append(f"from {min(ratios):.2f} to {max(ratios):.2f} times the speed {title}")
    equal = "equal" if all(row["greedy_tokens_equal"] for row in result["rows"]) else "not all equal"
    drafted = f"{result['num_speculative_tokens']} tokens are drafted"
    return f"{'; '.join(said).capitalize()}; {drafted}, the greedy tokens are {equal}."


def _quantization(result: Result) -> list[Bars]:
    rows = result["rows"]
    sizes = [
        Bar(name, row["matrix_megabytes"], f"{row['matrix_megabytes']:.1f} MB", row["bits_per_weight"] < 16)
        for name, row in rows.items()
    ]
    fewer = [("float32", rows["float32"]["perplexity"])] + [
        (f"{row['bits']} bits, {METHODS[row['method']]}", row["perplexity"]) for row in result["few_bits"]
    ]
    perplexity = [Bar(name, value, f"{value:.3f}", name != "float32") for name, value in fewer]
    return [Bars("Size of the weight matrices", sizes), Bars("Perplexity on held-out rows", perplexity)]


def _quantization_found(result: Result) -> str:
    half, four = result["rows"]["bfloat16"], result["rows"]["int4, AWQ"]
    return (
        f"The matrices of `{result['model']}` shrink from {half['matrix_megabytes']:.1f} to "
        f"{four['matrix_megabytes']:.1f} MB, {1 - four['matrix_megabytes'] / half['matrix_megabytes']:.0%} less "
        f"than in bfloat16; perplexity goes from {half['perplexity']:.4f} to {four['perplexity']:.4f}."
    )


def _many(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.1f}"


HEADLINES = (
    Headline(
        "throughput",
        "Throughput beside transformers",
        "3 to 5 times, in one guide 4.2 times the throughput of `generate`, with Llama-7B on a GPU.",
        _throughput,
        _throughput_found,
        "Our model is more than a thousand times smaller, so that a step costs calls rather than weights, and both "
        "run on a CPU.",
    ),
    Headline(
        "batching",
        "Continuous against static batching",
        "3 to 10 times the throughput; seats that idle until the longest answer ends.",
        _batching,
        _batching_found,
        "The tenfold of the guides needs many seats and very uneven lengths. The steps are a property of the "
        "schedule and hold anywhere; on a GPU the time follows them, on a CPU a fuller step also takes longer.",
    ),
    Headline(
        "kv-waste",
        "Memory that holds nothing",
        "60 to 80 % wasted by contiguous reservation, under 4 % by paging.",
        _kv_waste,
        _kv_waste_found,
        "Lengths are drawn around the means of the paper's traces or for short chats, not taken from the traces. "
        "Counting does not depend on the machine. Short answers waste more: half a block of a short request is a "
        "larger share.",
    ),
    Headline(
        "prefix-caching",
        "Prefix caching",
        "50 to 90 % less prompt computed, 2 to 5 times the throughput.",
        _prefix,
        _prefix_found,
        "All requests share one long prefix and have short answers: the best case. With less in common, the share "
        "falls in proportion.",
    ),
    Headline(
        "sharing",
        "One prompt, many answers",
        "Parallel samples and beams share the prompt's blocks, and copy a block only when they write to it.",
        _sharing,
        _sharing_found,
        "Blocks are counted at their peak in our engine. Today's vLLM shares full blocks by prefix; fork and "
        "copy-on-write are the paper's way.",
    ),
    Headline(
        "spec-decode",
        "Speculative decoding",
        "2 to 3 times, with a draft model a tenth of the size or smaller.",
        _speculation,
        _speculation_found,
        "At this size a step costs calls rather than weights, so that a draft is not much cheaper than a step of its "
        "target; drafts that are right at a set rate show where it pays.",
    ),
    Headline(
        "quantization",
        "Weights in fewer bits",
        "INT4 takes 71 % less memory and gives 44 % more tokens per second, with a 7B model.",
        _quantization,
        _quantization_found,
        "Size and quality only: speed needs a GPU kernel that unpacks on the way, and a model whose weights do not "
        "fit into a cache. The embedding stays as it is, here as there.",
    ),
)
