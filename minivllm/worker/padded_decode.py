"""Steps in which every request brings one token, padded to a few batch sizes, and on a GPU replayed as CUDA graphs.

A decode step of a small model is hundreds of tiny kernels, and launching each from Python takes longer than running it.
A CUDA graph records the launches once and replays all of them with one call. The price: a recording knows addresses and
sizes, not names. So everything a step reads lies in buffers that never move (`StepBuffers`), and the number of requests
is padded up to a bucket, for which there is a recording:

    3 requests, bucket 4     input_ids      17  402    9 |  0     the padding request is a token 0 that looks at
                             slot_mapping   83   12  150 |  0     itself: it is written to slot 0, its context is
                             seq_lens        6   21    3 |  1     slot 0, in the null block, which no other reads

Nothing that a recording uses may be read back to decide something: no `.item()`, no shape from data. On a CPU the
same padded path runs without the recording, which is how it is tested everywhere. vLLM: `enforce_eager=False`, its
default.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.models.decoder import DecoderModel
from minivllm.worker.step_buffers import StepBuffers


class Recording(NamedTuple):
    """A captured step."""

    graph: torch.cuda.CUDAGraph
    hidden: Tensor  # [bucket, hidden] where its result lies after each replay


def bucket_sizes(max_num_seqs: int) -> list[int]:
    """1, 2, 4, 8 and then every 8 (padding stays small), every 16 from 256 on, and max_num_seqs itself."""
    sizes = {1, 2, 4, *range(8, 256, 8), *range(256, max_num_seqs, 16), max_num_seqs}
    return sorted(size for size in sizes if size <= max_num_seqs)


class PaddedDecode:
    """Runs decode steps in buckets."""

    def __init__(
        self,
        model: DecoderModel,
        buffers: StepBuffers,
        kv_caches: Sequence[LayerKVCache],
        *,
        max_num_seqs: int,
        max_model_len: int,
        block_size: int,
    ) -> None:
        self.model, self.buffers, self.kv_caches = model, buffers, kv_caches
        self.max_model_len, self.block_size = max_model_len, block_size
        self.buckets = bucket_sizes(max_num_seqs)
        self.recordings: dict[int, Recording] = {}

    def run(self, num_requests: int) -> Tensor:
        """Run the step that lies in the buffers -> hidden states [R, hidden]."""
        bucket = self.buckets[bisect.bisect_left(self.buckets, num_requests)]
        self._pad(num_requests, bucket)
        if bucket not in self.recordings:
            return self._forward(bucket)[:num_requests]
        recording = self.recordings[bucket]
        recording.graph.replay()
        return recording.hidden[:num_requests]

    @torch.inference_mode()
    def capture(self) -> None:
        """Record every bucket, the largest first, so that the smaller ones can use its memory. Needs a GPU."""
        pool = torch.cuda.graph_pool_handle()
        for bucket in reversed(self.buckets):
            self._pad(0, bucket)
            self._forward(bucket)  # compiles kernels, which a recording may not
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                hidden = self._forward(bucket)
            self.recordings[bucket] = Recording(graph, hidden)

    def _pad(self, num_requests: int, bucket: int) -> None:
        """Fill the rows behind the last request."""
        padding = slice(num_requests, bucket)
        for tensor in (self.buffers.input_ids, self.buffers.positions, self.buffers.slot_mapping):
            tensor[padding] = 0
        self.buffers.block_tables[padding] = 0
        # An old length would change no answer, only read the null block as often as that context was long.
        self.buffers.seq_lens[padding] = 1
        starts = self.buffers.query_start_loc
        torch.arange(num_requests, bucket + 1, out=starts[num_requests : bucket + 1])

    def _forward(self, bucket: int) -> Tensor:
        buffers = self.buffers
        metadata = AttentionMetadata(
            slot_mapping=buffers.slot_mapping[:bucket],
            query_start_loc=buffers.query_start_loc[: bucket + 1],
            seq_lens=buffers.seq_lens[:bucket],
            block_tables=buffers.block_tables[:bucket],
            max_query_len=1,
            max_seq_len=self.max_model_len,  # of any step that may come
            block_size=self.block_size,
        )
        x = self.model.embed(buffers.input_ids[:bucket])  # [bucket, hidden]
        return self.model.forward(x, buffers.positions[:bucket], self.kv_caches, metadata)
