"""ModelRunner: SchedulerOutput -> one flat batch -> logits -> tokens.

All requests of a step lie one behind the other in one array of T tokens; `query_start_loc` says where each begins.
Nothing is padded to the longest request, and nothing here loops over tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch

from minivllm.attention.metadata import AttentionMetadata
from minivllm.config import EngineConfig, ModelConfig
from minivllm.core.scheduler_output import BlockOperations, SchedulerOutput
from minivllm.model_config import KVCacheSpec
from minivllm.models.loader import load_model
from minivllm.ops import attention_backend, with_paged_attention
from minivllm.parallel.group import ONE_STAGE, SINGLE, PipelineParallel, TensorParallel
from minivllm.parts import REFERENCE, Parts
from minivllm.sampling.bitmask import unpack_bitmasks
from minivllm.sampling.logprobs import TokenLogprobs, gather_logprobs
from minivllm.sampling.metadata import GreedyRows, SamplingMetadata, SamplingRows, sampling_rows
from minivllm.sampling.sampler import Sampler
from minivllm.spec_decode.make_proposer import make_proposer
from minivllm.spec_decode.rejection_sampler import rejection_sample
from minivllm.worker.device import resolve_kv_cache_dtype
from minivllm.worker.input_batch import InputBatch
from minivllm.worker.kv_cache import allocate_kv_caches, move_blocks
from minivllm.worker.padded_decode import PaddedDecode
from minivllm.worker.slot_mapping import slot_mapping
from minivllm.worker.speculation import Speculation
from minivllm.worker.step_buffers import StepBuffers
from minivllm.worker.step_layout import SampledPositions, StepLayout, StepLayouts

Value = TypeVar("Value")


@dataclass(frozen=True)
class ModelRunnerOutput:
    """What a step sampled. Requests whose prompt is not done yet are absent."""

    sampled_token_ids: dict[str, list[int]] = field(default_factory=dict)  # request id -> new tokens
    logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)  # of those tokens, where asked for
    prompt_logprobs: dict[str, PromptLogprobs] = field(
        default_factory=dict
    )  # of the prompt tokens in this step
    pooled: dict[str, list[float]] = field(
        default_factory=dict
    )  # request id -> hidden state of its last token
    draft_token_ids: dict[str, list[int]] = field(default_factory=dict)  # to be verified in the next step


@dataclass(frozen=True)
class PromptLogprobs:
    """Of prompt tokens first, first + 1, ...: what the model, having read all before it, thought of each."""

    first: int
    tokens: list[TokenLogprobs]


class ModelRunner:
    """Owns the model, the KV caches and the step's tensors."""

    def __init__(
        self,
        config: EngineConfig,
        model_config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        parts: Parts = REFERENCE,
        tp: TensorParallel = SINGLE,
        pp: PipelineParallel = ONE_STAGE,
    ) -> None:
        self.config = config
        self.device = device
        self.kv_cache_dtype = str(resolve_kv_cache_dtype(config.kv_cache_dtype, dtype)).removeprefix("torch.")
        self.backend = attention_backend(config.attention_backend, device)
        if parts.paged_attention is not None:
            self.backend = with_paged_attention(self.backend, parts.paged_attention)
        self.model = load_model(
            model_config,
            dtype,
            device,
            backend=self.backend,
            tp=tp,
            pp=pp,
            quantization=config.quantization,
            load_format=config.load_format,
            seed=config.seed,
            pack=True,
        )
        self.model_config, self.dtype, self.pp = model_config, dtype, pp
        self.vocab_size = model_config.vocab_size
        self.sampler = Sampler(parts)
        self._slot_mapping = parts.slot_mapping or slot_mapping
        self.proposer = make_proposer(
            config, self.model, model_config, dtype, device, self.backend, self.sampler, parts
        )
        self._rejection_sample = parts.rejection_sample or rejection_sample

    def kv_cache_specs(self) -> list[KVCacheSpec]:
        """The model's layers, then those of a draft model."""
        specs = [*self.model.kv_cache_specs(), *(self.proposer.kv_cache_specs() if self.proposer else ())]
        if self.config.kv_cache_dtype == "auto":
            return specs
        return [replace(spec, dtype=self.kv_cache_dtype) for spec in specs]

    def initialize_kv_cache(self, num_blocks: int, num_swap_blocks: int, max_model_len: int) -> None:
        """Allocate the KV caches, the swap space and the tensors of a step. Called once, before the first step."""
        config, specs = self.config, self.kv_cache_specs()
        num_layers = len(self.model.kv_cache_specs())
        self.kv_caches = allocate_kv_caches(specs, num_blocks, config.block_size, self.device)
        self._model_caches = self.kv_caches[:num_layers]
        with_null = num_swap_blocks + 1  # block ids begin at 1, here too
        self.swap_caches = allocate_kv_caches(specs, with_null, config.block_size, torch.device("cpu"))
        self.batch = InputBatch(config.max_num_seqs, max_model_len, config.block_size)
        self.layouts = StepLayouts(self.batch)
        self.buffers = StepBuffers(
            config.max_num_batched_tokens, config.max_num_seqs, max_model_len, config.block_size, self.device
        )
        self.speculation: Speculation | None = None
        if self.proposer is not None and config.speculation is not None:
            self.proposer.bind_kv_caches(self.kv_caches[num_layers:], max_model_len)
            self.speculation = Speculation(
                config.speculation, self.proposer, self.batch, self.sampler, self._rejection_sample
            )
        self._sampling_rows: tuple[int, SamplingRows | GreedyRows] | None = None
        self.padded_decode = self._make_padded_decode(max_model_len)

    @torch.inference_mode()
    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        """Run one step."""
        self._update_batch(scheduler_output)
        if not scheduler_output.num_scheduled_tokens:
            return ModelRunnerOutput()
        self._move_blocks(scheduler_output.block_operations)
        layout = self.layouts.of(scheduler_output)
        metadata = self._prepare_inputs(layout, bool(scheduler_output.block_updates))
        num_tokens = layout.num_tokens
        positions = self.layouts.sampled(layout)
        if self.padded_decode is not None and num_tokens == len(layout.rows):  # one token each
            hidden = self.padded_decode.run(num_tokens)
        else:
            hidden = self.model.forward(
                self._stage_input(num_tokens),
                self.buffers.view("positions", num_tokens),
                self._model_caches,
                metadata,
                self._wanted(positions, num_tokens),
            )
        if not self.pp.is_last:
            self.pp.send(hidden)
            return ModelRunnerOutput()
        output = self._sample(hidden, layout, positions, scheduler_output.grammar_bitmasks)
        output.prompt_logprobs.update(self._prompt_logprobs(hidden, layout))
        return output

    def _make_padded_decode(self, max_model_len: int) -> PaddedDecode | None:
        """Decode steps in buckets, unless enforce_eager says no; pipeline stages wait for one another, which no
        recording can, and ranks that share layers are not recorded either.

        Raises:
            ValueError: CUDA graphs were asked for with a backend that reads numbers back to the host.
        """
        if self.config.enforce_eager or not (self.pp.is_first and self.pp.is_last):
            return None
        decode = PaddedDecode(
            self.model,
            self.buffers,
            self._model_caches,
            max_num_seqs=self.config.max_num_seqs,
            max_model_len=max_model_len,
            block_size=self.config.block_size,
        )
        if self.device.type == "cuda" and self.config.tensor_parallel_size == 1:
            if self.backend.name != "triton":
                raise ValueError(
                    f"enforce_eager must be True with attention_backend {self.backend.name!r} on a GPU: it reads "
                    "numbers back to the host, which a CUDA graph cannot; or use attention_backend 'triton'"
                )
            decode.capture()
        return decode

    def take_sampled(self, sampled: Mapping[str, Sequence[int]]) -> None:
        """Append the last stage's tokens to the rows of a stage that does not sample. Requests may be gone by now."""
        if self.pp.is_last:
            return
        for request_id, token_ids in sampled.items():
            if request_id in self.batch.rows:
                for token_id in token_ids:
                    self.batch.append_tokens(np.array([self.batch.rows[request_id]]), np.array([token_id]))

    def _stage_input(self, num_tokens: int) -> torch.Tensor:
        """x [T, hidden]: the embedded tokens in the first stage, what the stage before computed in the others."""
        if self.pp.is_first:
            return self.model.embed(self.buffers.view("input_ids", num_tokens))
        return self.pp.receive(
            torch.empty(num_tokens, self.model_config.hidden_size, dtype=self.dtype, device=self.device)
        )

    def _update_batch(self, scheduler_output: SchedulerOutput) -> None:
        for request_id in (*scheduler_output.finished_request_ids, *scheduler_output.preempted_request_ids):
            self.batch.remove(request_id)
        for new in scheduler_output.new_requests:
            self.batch.add(new.request, new.token_ids, new.block_ids)
        for request_id, updates in scheduler_output.block_updates.items():
            self.batch.update_blocks(request_id, updates)
        for request_id, token_id in scheduler_output.chosen_token_ids.items():
            self.batch.replace_last_token(request_id, token_id)
        for request_id, drafts in scheduler_output.spec_token_ids.items():
            self.batch.write_drafts(request_id, drafts)

    def _move_blocks(self, operations: BlockOperations) -> None:
        """The order matters: what is swapped out may be overwritten by what is swapped in or copied."""
        if operations.swap_out:
            move_blocks(self.kv_caches, self.swap_caches, operations.swap_out)
        if operations.swap_in:
            move_blocks(self.swap_caches, self.kv_caches, operations.swap_in)
        if operations.copy:
            pairs = torch.tensor(operations.copy, device=self.device)  # [P, 2]
            self.backend.copy_blocks(self.kv_caches, pairs)

    def _prepare_inputs(self, layout: StepLayout, has_new_blocks: bool) -> AttentionMetadata:
        """Fill the step's tensors: token ids, positions and slots [T], and the rows' block tables [R, max_blocks]."""
        batch, block_size = self.batch, self.config.block_size
        num_tokens, num_requests = layout.num_tokens, len(layout.rows)
        row_of_token, positions = layout.rows, layout.num_computed  # [T] where each request has one token
        if num_tokens > num_requests:
            row_of_token = np.repeat(layout.rows, layout.num_scheduled)
            first_of_token = np.repeat(
                layout.query_start_loc[:-1] - layout.num_computed, layout.num_scheduled
            )
            positions = np.arange(num_tokens) - first_of_token
        slots = self._slot_mapping(batch.block_tables, row_of_token, positions, block_size)  # [T]
        seq_lens = layout.num_computed + layout.num_scheduled  # [R]
        max_seq_len = int(seq_lens.max())
        num_blocks = -(-max_seq_len // block_size)
        buffers = self.buffers
        buffers.fill("input_ids", batch.token_ids[row_of_token, positions])
        buffers.fill("positions", positions)
        buffers.fill("slot_mapping", slots)
        buffers.fill("seq_lens", seq_lens)
        if not layout.repeats:
            buffers.fill("query_start_loc", layout.query_start_loc)
        if has_new_blocks or not layout.repeats:
            buffers.fill("block_tables", batch.block_tables[layout.rows, :num_blocks])
        return AttentionMetadata(
            slot_mapping=buffers.view("slot_mapping", num_tokens),
            query_start_loc=buffers.view("query_start_loc", num_requests + 1),
            seq_lens=buffers.view("seq_lens", num_requests),
            block_tables=buffers.view("block_tables", num_requests, num_blocks),
            max_query_len=1 if num_tokens == num_requests else int(layout.num_scheduled.max()),
            max_seq_len=max_seq_len,
            block_size=block_size,
        )

    def _wanted(self, positions: SampledPositions, num_tokens: int) -> torch.Tensor | None:
        """Which tokens' hidden states the last stage needs; None: all T, as for the log-probabilities of a prompt."""
        if len(positions.token) == num_tokens or self._rows_parameters().wants.prompt_logprobs:
            return None
        return torch.from_numpy(positions.token).to(self.device)

    def _sample(
        self,
        hidden: torch.Tensor,
        layout: StepLayout,
        positions: SampledPositions,
        bitmasks: Mapping[str, bytes],
    ) -> ModelRunnerOutput:
        """Logits and a token for the last known token of each request, and for each draft behind it.

        hidden: [T, hidden], or those of the positions only.
        """
        batch = self.batch
        rows = positions.rows
        output = ModelRunnerOutput()
        hidden = self._rows_wanted(hidden, positions.token)
        if len(rows):
            logits = self.model.compute_logits(hidden)  # [n, V]
            parameters = self._rows_parameters()
            metadata = parameters.select(rows, batch.num_tokens, positions.offset, batch.token_ids)
            if bitmasks:
                metadata = replace(metadata, grammar=self._grammar(positions, bitmasks))
            token_ids, kept = self._choose(logits, metadata, positions)
            offset = None  # one token for each row
            if kept is not None:
                index = torch.from_numpy(kept).to(self.device)
                rows, logits, token_ids, hidden = rows[kept], logits[index], token_ids[index], hidden[index]
                offset = positions.offset[kept]
            sampled = token_ids.cpu().numpy()
            batch.append_tokens(rows, sampled, offset)
            output.sampled_token_ids.update(self._by_request(rows, sampled.tolist()))
            output.logprobs.update(self._logprobs(logits, token_ids, rows))
            output.pooled.update(self._pooled(hidden, rows))
        if self.speculation is not None:
            drafts = self.speculation.propose(layout, rows, hidden, self._rows_parameters())
            output.draft_token_ids.update(drafts)
        return output

    def _rows_wanted(self, hidden: torch.Tensor, wanted: np.ndarray) -> torch.Tensor:
        """hidden [T, hidden] -> [n, hidden]; as they are, where there are no others."""
        if len(wanted) == hidden.shape[0]:
            return hidden
        return hidden.index_select(0, torch.from_numpy(wanted).to(self.device))

    def _choose(
        self, logits: torch.Tensor, metadata: SamplingMetadata, positions: SampledPositions
    ) -> tuple[torch.Tensor, np.ndarray | None]:
        """A token for each of n positions, and which of them count [n]: all (None) but those behind a wrong draft."""
        if self.speculation is not None and len(positions.rows) > len(positions.counts):
            return self.speculation.verify(logits, metadata, positions)
        return self.sampler(logits, metadata), None

    def _by_request(self, rows: np.ndarray, values: Sequence[Value]) -> dict[str, list[Value]]:
        """Request id -> its values, in order."""
        found: dict[str, list[Value]] = {}
        requests = self.batch.requests
        for row, value in zip(rows.tolist(), values, strict=True):
            found.setdefault(requests[row].request_id, []).append(value)
        return found

    def _pooled(self, hidden: torch.Tensor, rows: np.ndarray) -> dict[str, list[float]]:
        """Hidden states [n, hidden] of last tokens, for the rows that ask for them."""
        if not self._rows_parameters().wants.pooling:
            return {}
        requests = [self.batch.requests[row] for row in rows]
        return {
            r.request_id: h.float().tolist() for r, h in zip(requests, hidden, strict=True) if r.is_pooling
        }

    def _grammar(
        self, positions: SampledPositions, bitmasks: Mapping[str, bytes]
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Which of the positions are bound by a grammar, and what each of those may draw."""
        ids = [self.batch.requests[row].request_id for row in positions.rows]
        bound = [index for index, request_id in enumerate(ids) if request_id in bitmasks]
        if not bound:
            return None
        packed = [bitmasks[request_id] for request_id in dict.fromkeys(ids) if request_id in bitmasks]
        allowed = unpack_bitmasks(b"".join(packed), len(bound), self.vocab_size)
        return torch.tensor(bound, device=self.device), allowed.to(self.device)

    def _logprobs(
        self, logits: torch.Tensor, token_ids: torch.Tensor, rows: np.ndarray
    ) -> dict[str, list[TokenLogprobs]]:
        """Request id -> an entry for each of its tokens, where asked for. logits [n, V], token_ids [n], rows [n]."""
        if not self._rows_parameters().wants.logprobs:
            return {}
        asked = [self.batch.requests[row].sampling_params.logprobs for row in rows]
        asking = [i for i, count in enumerate(asked) if count is not None]
        if not asking:
            return {}
        index = torch.tensor(asking, device=self.device)
        counts = np.array([asked[i] for i in asking])
        return self._by_request(rows[asking], gather_logprobs(logits[index], token_ids[index], counts))

    def _prompt_logprobs(self, hidden: torch.Tensor, layout: StepLayout) -> dict[str, PromptLogprobs]:
        """The token at position p of a prompt is judged by the hidden state of position p - 1."""
        result: dict[str, PromptLogprobs] = {}
        if not self._rows_parameters().wants.prompt_logprobs:
            return result
        for i, row in enumerate(layout.rows):
            request = self.batch.requests[row]
            count = request.sampling_params.prompt_logprobs
            first = int(layout.num_computed[i])
            last = min(first + int(layout.num_scheduled[i]), request.num_prompt_tokens - 1)
            if count is None or first >= last:
                continue
            start = int(layout.query_start_loc[i])
            logits = self.model.compute_logits(hidden[start : start + last - first])
            token_ids = torch.tensor(request.prompt_token_ids[first + 1 : last + 1], device=self.device)
            tokens = gather_logprobs(logits, token_ids, np.full(last - first, count))
            result[request.request_id] = PromptLogprobs(first + 1, tokens)
        return result

    def _rows_parameters(self) -> SamplingRows | GreedyRows:
        """Derived again only when a request came or went."""
        if self._sampling_rows is None or self._sampling_rows[0] != self.batch.composition:
            rows = sampling_rows(self.batch.requests, self.vocab_size, self.device)
            self._sampling_rows = (self.batch.composition, rows)
        return self._sampling_rows[1]
