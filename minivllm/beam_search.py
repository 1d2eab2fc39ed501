"""Beam searches in the engine: they begin as one request, fork on shared blocks, and end as ranked choices."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from minivllm.core.scheduler import Scheduler
from minivllm.detokenizer import IncrementalDetokenizer
from minivllm.outputs import CompletionOutput, RequestMetrics, RequestOutput
from minivllm.request import Request, RequestStatus
from minivllm.sampling.beam_search import BeamSearchGroup, Hypothesis
from minivllm.sampling_params import BeamSearchParams, SamplingParams
from minivllm.worker.model_runner import ModelRunnerOutput


@dataclass
class _Search:
    request_id: str
    prompt: str | None
    root: Request
    group: BeamSearchGroup
    metrics: RequestMetrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = RequestMetrics(arrival_time=self.root.arrival_time)


class BeamSearcher:
    """All beam searches under way."""

    def __init__(
        self, scheduler: Scheduler, tokenizer: Any | None, eos_token_ids: Iterable[int], max_model_len: int
    ) -> None:
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.eos_token_ids = frozenset(eos_token_ids)
        self.max_model_len = max_model_len
        self._searches: dict[str, _Search] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._searches

    def add(
        self,
        request_id: str,
        prompt: str | None,
        token_ids: list[int],
        params: BeamSearchParams,
        vocab_size: int,
    ) -> None:
        """Queue a search.

        Raises:
            ValueError: its beams could not all be held at once.
            QueueFullError: too many requests are waiting.
        """
        max_tokens = min(params.max_tokens, self.max_model_len - len(token_ids))
        self._check_room(params, len(token_ids) + max_tokens)
        num_candidates = min(2 * params.beam_width, vocab_size)
        root = Request(
            request_id=f"0_{request_id}",
            prompt_token_ids=token_ids,
            sampling_params=SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=num_candidates),
            max_tokens=max_tokens,
            is_beam=True,
            parent_id=request_id,
        )
        self.scheduler.add_request(root)
        eos = frozenset() if params.ignore_eos else self.eos_token_ids
        group = BeamSearchGroup(params, eos, max_tokens, len(token_ids))
        group.add(root, Hypothesis((), 0.0))
        self._searches[request_id] = _Search(request_id, prompt, root, group)

    def abort(self, request_id: str) -> None:
        """End a search; unknown ids are ignored."""
        search = self._searches.pop(request_id, None)
        if search is not None:
            self.scheduler.finish_requests(list(search.group.beams), RequestStatus.FINISHED_ABORTED)

    def take_in(self, output: ModelRunnerOutput) -> list[RequestOutput]:
        """Expand every group whose beams all have their candidates. Returns the outputs of searches that are over."""
        over = []
        for search in list(self._searches.values()):
            search.group.take_in(output.logprobs)
            if search.group.is_ready:
                self._expand(search)
            if search.group.is_finished:
                over.append(self._finish(search))
                del self._searches[search.request_id]
        return over

    def _check_room(self, params: BeamSearchParams, num_tokens: int) -> None:
        most = self.scheduler.config.max_num_seqs
        if params.beam_width > most:
            raise ValueError(f"beam_width ({params.beam_width}) must be at most max_num_seqs ({most})")
        room = self.scheduler.kv_cache_manager.max_tokens_per_request
        block_size = self.scheduler.kv_cache_manager.block_size
        needed = params.beam_width * -(-num_tokens // block_size) * block_size
        if needed > room:
            raise ValueError(
                f"{params.beam_width} beams of {num_tokens} tokens may take {needed} tokens of the KV cache, "
                f"which holds {room}: lower beam_width or max_tokens, or give the engine more blocks"
            )

    def _expand(self, search: _Search) -> None:
        if search.metrics.first_token_time is None:
            search.metrics.first_scheduled_time = search.root.first_scheduled_time
            search.metrics.first_token_time = time.monotonic()
        expansion = search.group.expand()
        ended = [request.request_id for request in expansion.stop]
        self.scheduler.finish_requests(ended, RequestStatus.FINISHED_STOPPED)
        for extension in expansion.fork:  # before the parents get tokens of their own
            child = self._child(search, extension.parent, extension.token_id)
            self.scheduler.fork_request(extension.parent, child)
            search.group.add(child, extension.hypothesis)
        for extension in expansion.proceed:
            extension.parent.append_output_token(extension.token_id)

    def _child(self, search: _Search, parent: Request, token_id: int) -> Request:
        search.group.num_forks += 1
        while (name := f"{search.group.num_forks}_{search.request_id}") in self.scheduler.requests:
            search.group.num_forks += 1  # somebody else's request is called so
        return Request(
            request_id=name,
            prompt_token_ids=parent.prompt_token_ids,
            sampling_params=parent.sampling_params,
            max_tokens=parent.max_tokens,
            is_beam=True,
            parent_id=search.request_id,
            output_token_ids=[*parent.output_token_ids, token_id],
            first_scheduled_time=parent.first_scheduled_time,
        )

    def _finish(self, search: _Search) -> RequestOutput:
        search.metrics.finished_time = time.monotonic()
        choices = [self._choice(search, i, hypothesis) for i, hypothesis in enumerate(search.group.best())]
        return RequestOutput(
            request_id=search.request_id,
            prompt=search.prompt,
            prompt_token_ids=list(search.root.prompt_token_ids),
            outputs=choices,
            finished=True,
            metrics=search.metrics,
            num_cached_tokens=search.root.num_cached_tokens,
        )

    def _choice(self, search: _Search, index: int, hypothesis: Hypothesis) -> CompletionOutput:
        text = ""
        if self.tokenizer is not None:
            detokenizer = IncrementalDetokenizer(self.tokenizer, search.root.prompt_token_ids)
            detokenizer.append(hypothesis.token_ids)
            text = detokenizer.text
        return CompletionOutput(
            index=index,
            text=text,
            token_ids=list(hypothesis.token_ids),
            cumulative_logprob=hypothesis.cumulative_logprob,
            finish_reason="stop" if hypothesis.is_eos else "length",
        )
