"""Comparing two control planes that were told the same: do they decide alike?

Physical block numbers are names: an allocator may hand out any free block. So two sets of block tables are alike if
renaming the blocks of one gives the other, with the same sharing, the same reference counts and as many free blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from minivllm.core.block import KVCacheBlock
from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler_output import SchedulerOutput

Tables = Mapping[str, Sequence[KVCacheBlock]]


@dataclass(frozen=True)
class Difference:
    """The first decision in which two control planes differ."""

    kind: str  # one word, to tell whether a smaller history shows the same
    says: str  # a sentence about yours and the reference


def compare_blocks(mine: KVCacheManager, reference: KVCacheManager) -> Difference | None:
    """Compare block tables, reference counts and free blocks."""
    names, difference = match_tables(mine.tables(), reference.tables())
    if difference is not None:
        return difference
    for mine_id, reference_id in names.items():
        counts = mine.pool.blocks[mine_id].ref_cnt, reference.pool.blocks[reference_id].ref_cnt
        if counts[0] != counts[1]:
            return Difference(
                "references",
                f"block {mine_id} has {_times(counts[0], 'reference')} in yours; in the reference the same block "
                f"(number {reference_id} there) has {counts[1]}",
            )
    free = mine.pool.num_free_blocks, reference.pool.num_free_blocks
    if free[0] != free[1]:
        return Difference("free", f"yours has {_times(free[0], 'free block')}, the reference has {free[1]}")
    return None


def match_tables(mine: Tables, reference: Tables) -> tuple[dict[int, int], Difference | None]:
    """The renaming of your blocks that gives the reference's tables, or the first place where there is none."""
    names: dict[int, int] = {}
    back: dict[int, int] = {}
    if mine.keys() != reference.keys():
        return names, Difference(
            "holders",
            f"in yours these requests hold blocks: {_listed(mine)}; in the reference: {_listed(reference)}",
        )
    for request_id, table in mine.items():
        other = reference[request_id]
        if len(table) != len(other):
            return names, Difference(
                "length",
                f"request {request_id} holds {_times(len(table), 'block')} in yours and {len(other)} in the reference",
            )
        for index, (block, twin) in enumerate(zip(table, other, strict=True)):
            if (
                names.setdefault(block.block_id, twin.block_id) != twin.block_id
                or back.setdefault(twin.block_id, block.block_id) != block.block_id
            ):
                return names, Difference("sharing", _sharing(request_id, index, mine, reference))
    return names, None


def compare_steps(
    mine: SchedulerOutput,
    reference: SchedulerOutput,
    names_before: Mapping[int, int],
    names: Mapping[int, int],
) -> Difference | None:
    """Compare what a step is to do. `names_before` and `names` rename blocks as they were before it, and are now."""
    for kind, what in (
        ("preempted_request_ids", "preempts {}"),
        ("finished_request_ids", "tells the worker to forget {}"),
    ):
        pair = sorted(getattr(mine, kind)), sorted(getattr(reference, kind))
        if pair[0] != pair[1]:
            return Difference(kind, f"yours {what}, the reference {{}}".format(*map(_listed, pair)))
    for request_id in mine.num_computed_tokens.keys() & reference.num_computed_tokens.keys():
        starts = mine.num_computed_tokens[request_id], reference.num_computed_tokens[request_id]
        if starts[0] != starts[1]:
            return Difference(
                "start",
                f"request {request_id} has {starts[0]} tokens in the cache in yours and {starts[1]} in the reference",
            )
    if mine.num_scheduled_tokens != reference.num_scheduled_tokens:
        return Difference(
            "scheduled",
            f"yours computes {_counts(mine.num_scheduled_tokens)}, "
            f"the reference {_counts(reference.num_scheduled_tokens)}",
        )
    return _compare_operations(mine, reference, names_before, names)


def _compare_operations(
    mine: SchedulerOutput, reference: SchedulerOutput, before: Mapping[int, int], names: Mapping[int, int]
) -> Difference | None:
    renamed = sorted((before.get(s, s), names.get(t, t)) for s, t in mine.block_operations.copy)
    wanted = sorted(reference.block_operations.copy)
    if renamed != wanted:
        return Difference(
            "copy",
            f"yours copies {_copies(mine.block_operations.copy)} before it writes; the reference copies "
            f"{_copies(wanted)}",
        )
    for request_id, updates in reference.block_updates.items():
        told = sorted((i, names.get(b, b)) for i, b in mine.block_updates.get(request_id, ()))
        if told != sorted(updates):
            return Difference(
                "updates",
                f"yours tells the worker of {_times(len(told), 'change')} in the block table of {request_id}, "
                f"the reference of {len(updates)}",
            )
    return None


def _sharing(request_id: str, index: int, mine: Tables, reference: Tables) -> str:
    """Say whom a block is shared with, in both."""
    yours, theirs = (_holders(t, t[request_id][index].block_id) for t in (mine, reference))
    return (
        f"block {index} of request {request_id} is number {mine[request_id][index].block_id} in yours, held by "
        f"{_listed(yours)}; in the reference it is number {reference[request_id][index].block_id}, held by "
        f"{_listed(theirs)}"
    )


def _holders(tables: Tables, block_id: int) -> list[str]:
    return [name for name, table in tables.items() if any(block.block_id == block_id for block in table)]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nobody"


def _counts(scheduled: Mapping[str, int]) -> str:
    return ", ".join(f"{count} of {name}" for name, count in scheduled.items()) or "nothing"


def _copies(pairs: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"block {source} to block {target}" for source, target in pairs) or "nothing"


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
