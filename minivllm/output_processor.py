"""From sampled tokens to RequestOutputs: text, stop strings, log-probabilities, and what each caller sees of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from minivllm.core.scheduler_output import RequestUpdate
from minivllm.detokenizer import IncrementalDetokenizer, StopStrings
from minivllm.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from minivllm.request import Request, RequestStatus
from minivllm.sampling_params import RequestOutputKind

if TYPE_CHECKING:
    from minivllm.sampling.logprobs import TokenLogprobs
    from minivllm.worker.model_runner import ModelRunnerOutput


class ChoiceState:
    """What was said so far in one choice, and how much of it the caller has seen."""

    def __init__(self, request: Request, tokenizer: Any | None) -> None:
        params = request.sampling_params
        self.request = request
        self.stop_strings = StopStrings(params.stop or (), params.include_stop_str_in_output)
        self.detokenizer = None
        if params.detokenize and tokenizer is not None:
            self.detokenizer = IncrementalDetokenizer(
                tokenizer, request.prompt_token_ids, params.skip_special_tokens
            )
        self.logprobs: list[dict[int, Logprob]] | None = None if params.logprobs is None else []
        self.cumulative_logprob = 0.0
        self.stop_at: int | None = None  # a stop string cut the text here
        self.is_done = False  # its last output has been made
        self._num_chars_sent = 0
        self._num_tokens_sent = 0

    def append(self, token_ids: Sequence[int]) -> tuple[int, str | None]:
        """Take in new tokens, one after the other. Returns how many were said, and the stop string that ended it.

        What follows a stop string was never said: those tokens are taken off the request again.
        """
        if self.detokenizer is None:
            return len(token_ids), None
        num_before = self.request.num_output_tokens - len(token_ids)
        for count, token_id in enumerate(token_ids, start=1):
            is_last = count == len(token_ids)
            stop = self._append_one(token_id, num_before + count, is_last and self.request.status.is_finished)
            if stop is not None:
                del self.request.output_token_ids[num_before + count :]
                return count, stop
        return len(token_ids), None

    def _append_one(self, token_id: int, num_output_tokens: int, is_final: bool) -> str | None:
        """Take in the output token number `num_output_tokens`. Returns the stop string that it completes."""
        assert self.detokenizer is not None
        params = self.request.sampling_params
        is_stop_token = is_final and token_id in self.request.stop_token_ids
        keep = params.include_stop_str_in_output or not is_stop_token
        new_text = self.detokenizer.append([token_id] if keep else [])
        if num_output_tokens <= params.min_tokens:
            return None
        match = self.stop_strings.find(self.detokenizer.text, len(new_text))
        if match is None:
            return None
        self.stop_at = match.length
        return match.stop

    def make_output(self, kind: RequestOutputKind) -> CompletionOutput:
        """The choice as it stands, or with DELTA what is new of it."""
        request = self.request
        is_delta = kind is RequestOutputKind.DELTA
        text_end = self._visible_text_end(request.status.is_finished)
        text_start, token_start = (self._num_chars_sent, self._num_tokens_sent) if is_delta else (0, 0)
        self._num_chars_sent, self._num_tokens_sent = (
            max(text_end, self._num_chars_sent),
            request.num_output_tokens,
        )
        self.is_done = request.status.is_finished
        return CompletionOutput(
            index=request.index,
            text=self.detokenizer.text[text_start:text_end] if self.detokenizer else "",
            token_ids=request.output_token_ids[token_start:],
            cumulative_logprob=None if self.logprobs is None else self.cumulative_logprob,
            logprobs=None if self.logprobs is None else self.logprobs[token_start:],
            finish_reason=request.status.finish_reason,
            stop_reason=request.stop_reason,
        )

    def _visible_text_end(self, finished: bool) -> int:
        if self.detokenizer is None:
            return 0
        if self.stop_at is not None:
            return self.stop_at
        text = self.detokenizer.text
        return len(text) if finished else self.stop_strings.num_visible_chars(text)


@dataclass
class CallState:
    """One call of `add_request`: a prompt and its n choices."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]  # one list for all its outputs
    choices: list[ChoiceState]
    first_token_time: float | None = None
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    pending: list[ChoiceState] = field(
        default_factory=list
    )  # choices with something new since the last output

    is_silent: bool = field(init=False)  # nothing is shown before its end

    def __post_init__(self) -> None:
        self.is_silent = self.first.sampling_params.output_kind is RequestOutputKind.FINAL_ONLY

    @property
    def first(self) -> Request:
        return self.choices[0].request

    @property
    def is_finished(self) -> bool:
        return all(choice.request.status.is_finished for choice in self.choices)

    def make_output(self) -> RequestOutput | None:
        """The RequestOutput that the caller is to get now, or None when there is nothing to show yet."""
        kind, finished = self.first.sampling_params.output_kind, self.is_finished
        if kind is RequestOutputKind.FINAL_ONLY:
            shown = self.choices if finished else []
        else:
            shown = [choice for choice in self.pending if not choice.is_done]
        self.pending = []
        if not shown:
            return None
        return RequestOutput(
            request_id=self.request_id,
            prompt=self.prompt,
            prompt_token_ids=self.prompt_token_ids,
            outputs=[choice.make_output(kind) for choice in shown],
            finished=finished,
            prompt_logprobs=self.prompt_logprobs,
            metrics=RequestMetrics(
                arrival_time=self.first.arrival_time,
                first_scheduled_time=self.first.first_scheduled_time,
                first_token_time=self.first_token_time,
                finished_time=time.monotonic() if finished else None,
            ),
            num_cached_tokens=self.first.num_cached_tokens,
        )


class OutputProcessor:
    """The states of all live calls."""

    def __init__(self, tokenizer: Any | None) -> None:
        self._tokenizer = tokenizer
        self._calls: dict[str, CallState] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._calls

    def add(self, request_id: str, prompt: str | None, choices: Sequence[Request]) -> None:
        """Begin a call whose choices are the given requests."""
        states = [ChoiceState(request, self._tokenizer) for request in choices]
        call = CallState(request_id, prompt, list(choices[0].prompt_token_ids), states)
        if choices[0].sampling_params.prompt_logprobs is not None:
            call.prompt_logprobs = [None]
        self._calls[request_id] = call

    def choice_ids(self, request_id: str) -> list[str]:
        """The ids under which the scheduler knows a call's choices; empty for an unknown call."""
        call = self._calls.get(request_id)
        return [choice.request.request_id for choice in call.choices] if call else []

    def take_in(
        self, updates: Sequence[RequestUpdate], output: ModelRunnerOutput
    ) -> tuple[dict[str, str], int]:
        """Take in what a step sampled.

        Returns:
            request id -> stop string of requests that one has ended, and how many tokens behind stop strings are void.
        """
        for call in self._calls.values() if output.prompt_logprobs else ():
            self._take_in_prompt_logprobs(call, output)
        stopped, num_surplus = {}, 0
        for request, new_token_ids in updates:
            choice = self._choice(request)
            if choice.detokenizer is None and not output.logprobs:
                continue  # nobody looks before its end
            num_said, stop = choice.append(new_token_ids)
            num_surplus += len(new_token_ids) - num_said
            self._take_in_logprobs(choice, output.logprobs.get(request.request_id, ()), num_said)
            if stop is not None and not request.status.is_finished:
                stopped[request.request_id] = stop
            elif stop is not None:  # the same token also met the length limit: that the text ended says more
                request.status, request.stop_reason = RequestStatus.FINISHED_STOPPED, stop
        return stopped, num_surplus

    def make_outputs(self, requests: Sequence[Request]) -> list[RequestOutput]:
        """What the callers of `requests` are to see; a call's state is dropped when all its choices are finished."""
        calls: dict[str, CallState] = {}
        for request in requests:
            call = self._calls.get(request.parent_id or request.request_id)
            if call is not None and (not call.is_silent or request.status.is_finished):
                calls[call.request_id] = call
                call.pending.append(call.choices[request.index])
        outputs = []
        for request_id, call in calls.items():
            output = call.make_output()
            if output is not None:
                outputs.append(output)
            if call.is_finished:
                del self._calls[request_id]
        return outputs

    def _choice(self, request: Request) -> ChoiceState:
        call = self._calls[request.parent_id or request.request_id]
        if call.first_token_time is None:
            call.first_token_time = time.monotonic()
        return call.choices[request.index]

    def _take_in_logprobs(
        self, choice: ChoiceState, entries: Sequence[TokenLogprobs], num_tokens: int
    ) -> None:
        for entry in entries[:num_tokens]:
            assert choice.logprobs is not None
            choice.logprobs.append(self._logprobs_by_token(entry))
            choice.cumulative_logprob += entry.logprobs[0]

    def _take_in_prompt_logprobs(self, call: CallState, output: ModelRunnerOutput) -> None:
        """A prompt that is computed again after a preemption says again what is known already."""
        part = output.prompt_logprobs.get(call.first.request_id)
        if part is None or call.prompt_logprobs is None:
            return
        for position, entry in enumerate(part.tokens, start=part.first):
            if position == len(call.prompt_logprobs):
                call.prompt_logprobs.append(self._logprobs_by_token(entry))

    def _logprobs_by_token(self, entry: TokenLogprobs) -> dict[int, Logprob]:
        """The most likely tokens in order; the chosen one, if it is none of them, comes first."""
        ranks = [entry.rank, *range(1, len(entry.token_ids))]
        rows = zip(entry.token_ids, entry.logprobs, ranks, strict=True)
        return {token_id: Logprob(logprob, rank, self._decode(token_id)) for token_id, logprob, rank in rows}

    def _decode(self, token_id: int) -> str | None:
        return None if self._tokenizer is None else self._tokenizer.decode([token_id])
