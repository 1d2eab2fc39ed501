"""Parts: the pieces of the engine that can be replaced one at a time, and what each must be able to do.

An engine built with `Parts(block_pool=MyPool)` uses MyPool, and the reference for everything else. The checks of the
laws stand around a part, never inside it (`core/step_checks.py`), so they hold for anybody's part.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from minivllm.core.block import BlockHash, KVCacheBlock
    from minivllm.core.block_table import BlockTable
    from minivllm.core.scheduler import Scheduler
    from minivllm.sampling.logits_processors import Penalties

PartFiles = list[tuple[str, str]]  # (file, name in it), mostly one


class Allocator(Protocol):
    """What `BlockPool` promises: who holds which block. Its constructor takes (num_blocks, enable_caching).

    `num_blocks` counts block 0, the null block, which is never handed out. `num_free_blocks` is always the number of
    other blocks without a reference; `blocks[i].ref_cnt` is always the number of references taken and not given back.
    """

    num_blocks: int
    blocks: list[KVCacheBlock]
    null_block: KVCacheBlock

    @property
    def num_free_blocks(self) -> int: ...

    @property
    def usage(self) -> float: ...

    def get_new_blocks(self, num_blocks: int) -> list[KVCacheBlock]: ...

    def touch(self, blocks: Iterable[KVCacheBlock]) -> None: ...

    def free_blocks(self, ordered_blocks: Iterable[KVCacheBlock]) -> None: ...

    def cache_full_block(self, block: KVCacheBlock, block_hash: BlockHash) -> None: ...

    def get_cached_block(self, block_hash: BlockHash) -> KVCacheBlock | None: ...

    def reset_prefix_cache(self) -> bool: ...


@dataclass(frozen=True)
class Parts:
    """One field for each part; None = the reference, which `REFERENCE_NAMES` names. A class is called as that class is.

    Up to `scheduler` they belong to the control plane, the others to the worker.
    """

    block_pool: Callable[[int, bool], Allocator] | None = None  # (num_blocks, enable_caching)
    block_table: Callable[[int], BlockTable] | None = None  # (block_size)
    hash_block_tokens: Callable[[BlockHash, Sequence[int], Sequence[str]], BlockHash] | None = None
    find_longest_cache_hit: (  # block_hashes, num_tokens, block_size, get_cached_block -> the blocks of the hit
        Callable[
            [Sequence[BlockHash], int, int, Callable[[BlockHash], KVCacheBlock | None]], list[KVCacheBlock]
        ]
        | None
    ) = None
    fork_table: Callable[[Allocator, BlockTable, int], BlockTable] | None = None
    shared_blocks: Callable[[BlockTable, int, int], list[int]] | None = None
    copy_on_write: Callable[[Allocator, BlockTable, int, KVCacheBlock], tuple[int, int]] | None = None
    trim_table: Callable[[Allocator, BlockTable, int], BlockTable] | None = None  # pool, table, num_tokens
    scheduler: Callable[..., Scheduler] | None = None  # (SchedulerConfig, KVCacheManager)

    # block_tables [R, max_blocks], rows [T], positions [T], block_size -> slots [T]
    slot_mapping: Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray] | None = None
    # query [T, H, D], key_cache and value_cache [N, B, K, D], block_tables [R, max_blocks], seq_lens [R],
    # query_start_loc [R + 1], scale -> [T, H, D]. None: the backend that ops.py chooses, which is faster.
    paged_attention: Callable[..., torch.Tensor] | None = None
    # token_ids [L], shortest, longest, num_drafts -> drafts
    look_up: Callable[[np.ndarray, int, int, int], list[int]] | None = None
    # target_probs [n, V], draft_probs [n, V], draft_token_ids [n], accept_random [n] -> is_accepted [n], weights [n, V]
    rejection_sample: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None
    greedy_pick: Callable[[torch.Tensor], torch.Tensor] | None = None  # logits [R, V] -> [R]
    apply_penalties: Callable[[torch.Tensor, Penalties], torch.Tensor] | None = None  # [R, V] -> [R, V]
    apply_min_p: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None  # [R, V] -> [R, V]
    apply_top_k_top_p: (  # [R, V] -> [R, V]
        Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor | None], torch.Tensor] | None
    ) = None
    draw: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = (
        None  # probs [R, V], random [R] -> [R]
    )

    @property
    def replaced(self) -> tuple[str, ...]:
        """Names of the parts that are not the reference."""
        return tuple(name for name in PART_NAMES if getattr(self, name) is not None)

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker in another process loads the worker's parts again from their files; the others it has no use for."""
        ours = [name for name in self.replaced if name not in CORE_PARTS]
        return parts_from_files, ({name: files_of(getattr(self, name)) for name in ours},)


REFERENCE = Parts()  # nothing replaced
PART_NAMES = tuple(field.name for field in fields(Parts))
CORE_PARTS = PART_NAMES[: PART_NAMES.index("slot_mapping")]  # they decide; the others compute
GROUPS = {  # one name for parts that belong together
    "allocator": ("block_pool", "fork_table", "shared_blocks", "copy_on_write"),
    "sampler": PART_NAMES[PART_NAMES.index("greedy_pick") :],
    "speculation": ("trim_table", "look_up", "rejection_sample"),
}

# part -> module and name of the reference
REFERENCE_NAMES = {
    "block_pool": ("minivllm.core.block_pool", "BlockPool"),
    "block_table": ("minivllm.core.block_table", "BlockTable"),
    "hash_block_tokens": ("minivllm.core.prefix_cache", "hash_block_tokens"),
    "find_longest_cache_hit": ("minivllm.core.prefix_cache", "find_longest_cache_hit"),
    "fork_table": ("minivllm.core.sharing", "fork_table"),
    "shared_blocks": ("minivllm.core.sharing", "shared_blocks"),
    "copy_on_write": ("minivllm.core.sharing", "copy_on_write"),
    "trim_table": ("minivllm.core.rollback", "trim_table"),
    "scheduler": ("minivllm.core.scheduler", "Scheduler"),
    "slot_mapping": ("minivllm.worker.slot_mapping", "slot_mapping"),
    "paged_attention": ("minivllm.attention.blockwise", "paged_attention"),
    "look_up": ("minivllm.spec_decode.ngram_proposer", "look_up"),
    "rejection_sample": ("minivllm.spec_decode.rejection_sampler", "rejection_sample"),
    "greedy_pick": ("minivllm.sampling.sampler", "greedy_pick"),
    "apply_penalties": ("minivllm.sampling.logits_processors", "apply_penalties"),
    "apply_min_p": ("minivllm.sampling.sampler", "apply_min_p"),
    "apply_top_k_top_p": ("minivllm.sampling.sampler", "apply_top_k_top_p"),
    "draw": ("minivllm.sampling.sampler", "draw"),
}


def reference_of(name: str) -> Any:
    """The reference class or function of a part. Those of the sampler load torch."""
    check_part_names([name])
    module, attribute = REFERENCE_NAMES[name]
    return getattr(importlib.import_module(module), attribute)


def check_part_names(names: Iterable[str]) -> None:
    """Raise ValueError for a name that is no part."""
    for name in names:
        if name not in PART_NAMES:
            raise ValueError(f"there is no part {name!r}; the parts are {', '.join(PART_NAMES)}")


def files_of(part: Any) -> PartFiles:
    """Where a part comes from, which is how it travels between processes."""
    if hasattr(part, "_part_files"):
        return list(part._part_files)
    module = sys.modules.get(part.__module__)
    if module is None or module.__file__ is None:
        raise ValueError(f"part {part.__name__} comes from no file, so no other process can load it")
    return [(module.__file__, part.__qualname__)]


def load_from_file(file: str | Path, name: str) -> Any:
    """A class or function from a file, which is run once a process as long as its text stays the same.

    Raises:
        ValueError: there is no such file, or nothing by that name in it.
    """
    path = Path(file).resolve()
    if not path.is_file():
        raise ValueError(f"{file} is no file")
    key = sha256(f"{path}\n{path.read_text(encoding='utf-8')}".encode()).hexdigest()[:12]
    module_name = f"minivllm_part_{key}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses and pickle look their module up there
        with ExitStack() as undo:  # a file that fails half-way is not kept as if it had been read
            undo.callback(sys.modules.pop, module_name)
            spec.loader.exec_module(module)
            undo.pop_all()
    if not hasattr(sys.modules[module_name], name):
        raise ValueError(f"{file} defines no {name}")
    return getattr(sys.modules[module_name], name)


def load_part(part: str, files: PartFiles) -> Any:
    """A part from where it comes from: one file, or several that each change some methods of the same class."""
    loaded = [load_from_file(file, name) for file, name in files]
    return loaded[0] if len(loaded) == 1 else combine(part, loaded)


def parts_from_files(files: Mapping[str, PartFiles]) -> Parts:
    """Parts from part name -> where it comes from."""
    check_part_names(files)
    return Parts(**{part: load_part(part, where) for part, where in files.items()})


def combine(part: str, classes: Sequence[type]) -> type:
    """The reference class with whatever `classes`, each a changed copy of it, have changed or added."""
    reference: type = reference_of(part)
    members: dict[str, Any] = {"_part_files": [file for cls in classes for file in files_of(cls)]}
    for cls in classes:
        for name, member in vars(cls).items():
            if inspect.isfunction(member) and _source(member) != _source(vars(reference).get(name)):
                members[name] = member
    return type(reference.__name__, (reference,), members)


def _source(member: Any) -> str | None:
    return inspect.getsource(member) if inspect.isfunction(member) else None
