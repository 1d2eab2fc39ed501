"""From sampled tokens to RequestOutputs: text, stop strings, and what each caller wants to see of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from minivllm.core.scheduler import RequestUpdate
from minivllm.detokenizer import IncrementalDetokenizer, StopStrings
from minivllm.outputs import CompletionOutput, RequestMetrics, RequestOutput
from minivllm.request import Request, RequestStatus
from minivllm.sampling_params import RequestOutputKind


class OutputState:
    """What was said so far of one request, and how much of it the caller has seen."""

    def __init__(self, request: Request, prompt: str | None, tokenizer: Any | None) -> None:
        params = request.sampling_params
        self.request = request
        self.prompt = prompt
        self.stop_strings = StopStrings(params.stop or (), params.include_stop_str_in_output)
        self.detokenizer = None
        if params.detokenize and tokenizer is not None:
            self.detokenizer = IncrementalDetokenizer(
                tokenizer, request.prompt_token_ids, params.skip_special_tokens
            )
        self.first_token_time: float | None = None
        self.stop_at: int | None = None  # a stop string cut the text here
        self._num_chars_sent = 0
        self._num_tokens_sent = 0

    def append(self, token_ids: Sequence[int]) -> str | None:
        """Take in new tokens. Returns the stop string that they complete, if one does."""
        if self.first_token_time is None:
            self.first_token_time = time.monotonic()
        if self.detokenizer is None:
            return None
        is_stop_token = token_ids[-1] in self.request.stop_token_ids and self.request.status.is_finished
        keep = self.request.sampling_params.include_stop_str_in_output or not is_stop_token
        new_text = self.detokenizer.append(token_ids if keep else token_ids[:-1])
        if self.request.num_output_tokens <= self.request.sampling_params.min_tokens:
            return None
        match = self.stop_strings.find(self.detokenizer.text, len(new_text))
        if match is None:
            return None
        self.stop_at = match.length
        return match.stop

    def make_output(self) -> RequestOutput | None:
        """The RequestOutput that the caller is to get now, or None when there is nothing new to show."""
        request, kind = self.request, self.request.sampling_params.output_kind
        finished = request.status.is_finished
        if kind is RequestOutputKind.FINAL_ONLY and not finished:
            return None
        text_end = self._visible_text_end(finished)
        text_start = self._num_chars_sent if kind is RequestOutputKind.DELTA else 0
        token_start = self._num_tokens_sent if kind is RequestOutputKind.DELTA else 0
        completion = CompletionOutput(
            index=0,
            text=self.detokenizer.text[text_start:text_end] if self.detokenizer else "",
            token_ids=request.output_token_ids[token_start:],
            finish_reason=request.status.finish_reason,
            stop_reason=request.stop_reason,
        )
        self._num_chars_sent, self._num_tokens_sent = max(text_end, self._num_chars_sent), request.num_output_tokens
        return RequestOutput(
            request_id=request.request_id,
            prompt=self.prompt,
            prompt_token_ids=list(request.prompt_token_ids),
            outputs=[completion],
            finished=finished,
            metrics=self._metrics(finished),
            num_cached_tokens=request.num_cached_tokens,
        )

    def _visible_text_end(self, finished: bool) -> int:
        if self.detokenizer is None:
            return 0
        if self.stop_at is not None:
            return self.stop_at
        text = self.detokenizer.text
        return len(text) if finished else self.stop_strings.num_visible_chars(text)

    def _metrics(self, finished: bool) -> RequestMetrics:
        return RequestMetrics(
            arrival_time=self.request.arrival_time,
            first_scheduled_time=self.request.first_scheduled_time,
            first_token_time=self.first_token_time,
            finished_time=time.monotonic() if finished else None,
        )


class OutputProcessor:
    """The OutputStates of all live requests."""

    def __init__(self, tokenizer: Any | None) -> None:
        self._tokenizer = tokenizer
        self._states: dict[str, OutputState] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._states

    def add(self, request: Request, prompt: str | None) -> None:
        self._states[request.request_id] = OutputState(request, prompt, self._tokenizer)

    def take_in(self, updates: Sequence[RequestUpdate]) -> dict[str, str]:
        """Take in what a step sampled. Returns request id -> stop string of requests that one has ended."""
        stopped = {}
        for update in updates:
            stop = self._states[update.request.request_id].append(update.new_token_ids)
            if stop is not None and not update.request.status.is_finished:
                stopped[update.request.request_id] = stop
            elif stop is not None:  # the same token also met the length limit: that the text ended says more
                update.request.status, update.request.stop_reason = RequestStatus.FINISHED_STOPPED, stop
        return stopped

    def make_outputs(self, requests: Sequence[Request]) -> list[RequestOutput]:
        """What the callers of `requests` are to see; states of finished requests are dropped."""
        outputs = []
        for request in requests:
            state = self._states.get(request.request_id)
            if state is None:
                continue
            output = state.make_output()
            if output is not None:
                outputs.append(output)
            if request.status.is_finished:
                del self._states[request.request_id]
        return outputs
