"""What single ranks hold, say and know, in groups of workers that the pool lends."""

from __future__ import annotations

import pytest

from minivllm import SamplingParams
from minivllm.core.swap import PreemptionCosts
from minivllm.worker.worker import Capacity

NUM_LAYERS, HIDDEN, VOCAB = 3, 64, 101


@pytest.mark.parametrize("size", [2, 4])
def test_two_sums_per_layer_and_the_same_tokens_on_every_rank(size, models, make_llm, ask):
    llm = make_llm(models["qwen3"], tensor_parallel_size=size)
    llm.llm_engine.executor.report(clear=True)
    said = ask(llm)
    for report in llm.llm_engine.executor.report():
        steps = report.num_steps
        assert report.comm_count == {"all_reduce": steps * (2 * NUM_LAYERS + 1), "all_gather": steps}
        num_tokens = report.comm_bytes["all_reduce"] // ((2 * NUM_LAYERS + 1) * HIDDEN * 4)
        assert num_tokens >= sum(len(one.token_ids) - 1 for one in said)  # computed, some of them twice
        assert 0 < report.comm_seconds["all_reduce"] < report.step_seconds
    llm.llm_engine.executor.report(clear=True)
    for report in llm.llm_engine.executor.report():
        assert (report.num_steps, report.step_seconds, report.comm_count, report.comm_bytes) == (0, 0, {}, {})


def test_every_rank_draws_the_same_tokens(models, make_llm):
    engine = make_llm(models["llama"], tensor_parallel_size=2, pipeline_parallel_size=2).llm_engine
    for seed in range(4):
        engine.add_request(str(seed), [1, 2, 3], SamplingParams(seed=seed, max_tokens=12))
    for _ in range(16):
        engine.step()
    early, _, late, twin = (report.known_token_ids for report in engine.executor.report())
    assert late == twin and len(late) == 4
    assert len({tuple(tokens) for tokens in late.values()}) == 4  # four seeds, four answers
    for request_id, tokens in late.items():  # a stage that does not sample is told with the next step
        assert len(tokens) > 5
        assert (
            early[request_id] == tokens[: len(early[request_id])]
            and len(early[request_id]) >= len(tokens) - 2
        )
    engine.abort_request(list(late))


def test_all_can_hold_what_the_smallest_can():
    """Every block has a part on every rank; and the slowest rank sets the costs."""
    first = Capacity(5, 9, PreemptionCosts(recompute_per_token=1, swap_per_block=4))
    second = Capacity(7, 3, PreemptionCosts(recompute_per_token=2, swap_per_block=3))
    together = Capacity(5, 3, PreemptionCosts(recompute_per_token=2, swap_per_block=4))
    assert Capacity.of_all([first, second]) == Capacity.of_all([second, first]) == together


@pytest.mark.parametrize("family", ["llama", "qwen3"])  # with an own head, and with the embedding as head
def test_every_rank_holds_its_share_of_the_weights(family, models, make_llm):
    (whole,) = make_llm(models[family]).llm_engine.executor.report()
    reports = make_llm(models[family], tensor_parallel_size=4).llm_engine.executor.report()
    everywhere = 2 * NUM_LAYERS * HIDDEN + HIDDEN  # norms
    if family == "llama":
        everywhere += 2 * NUM_LAYERS * HIDDEN  # biases of the row parallel layers
        # 2 kv heads for 4 ranks: each is held twice
        everywhere += NUM_LAYERS * 2 * 16 * (HIDDEN + 1)
    for report in reports:
        assert report.num_parameters <= (whole.num_parameters - everywhere) / 4 + everywhere + 2 * 3 * HIDDEN
        assert report.parameter_bytes == 4 * report.num_parameters
        assert report.kv_cache_bytes * (2 if family == "llama" else 4) == whole.kv_cache_bytes


def test_stages_hold_their_layers_and_no_other(models, make_llm):
    executor = make_llm(models["llama"], pipeline_parallel_size=3).llm_engine.executor
    first, middle, last = executor.report()
    (whole,) = make_llm(models["llama"]).llm_engine.executor.report()
    assert first.num_parameters - middle.num_parameters == VOCAB * HIDDEN  # the embedding
    assert (
        last.num_parameters - middle.num_parameters == VOCAB * HIDDEN + HIDDEN
    )  # the head and the final norm
    assert sum(report.num_parameters for report in (first, middle, last)) == whole.num_parameters
    assert {report.kv_cache_bytes * 3 for report in (first, middle, last)} == {whole.kv_cache_bytes}


def test_several_micro_batches_are_in_flight(models, make_llm, ask, monkeypatch):
    llm = make_llm(models["mistral"], pipeline_parallel_size=2, num_gpu_blocks_override=80)
    engine = llm.llm_engine
    seen = []
    send = engine.executor.execute_model

    def watch(scheduler_output):
        busy = {name for step, _ in engine._in_flight for name in step.num_scheduled_tokens}
        seen.append((len(engine._in_flight), len(scheduler_output.num_scheduled_tokens)))
        is_decode = all(count == 1 for count in scheduler_output.num_scheduled_tokens.values())
        assert not (is_decode and busy & scheduler_output.num_scheduled_tokens.keys()), (
            "its token is not known yet"
        )
        return send(scheduler_output)

    monkeypatch.setattr(engine.executor, "execute_model", watch)
    ask(llm)
    assert max(in_flight for in_flight, _ in seen) == 1  # beside the one being sent
    assert max(size for _, size in seen) <= 4  # half of the eight requests
    assert sum(in_flight for in_flight, _ in seen) > len(seen) / 2


def test_a_trace_tells_who_said_what_when(models, make_llm, ask):
    llm = make_llm(models["qwen2"], tensor_parallel_size=2, pipeline_parallel_size=2)
    llm.llm_engine.executor.report(clear=True, tracing=True)
    ask(llm)
    reports = llm.llm_engine.executor.report(tracing=False)
    for report in reports:
        counted = {kind: sum(event.kind == kind for event in report.events) for kind in report.comm_count}
        assert counted == report.comm_count
        assert all(
            before.end <= after.start for before, after in zip(report.events, report.events[1:], strict=False)
        )
    sent = [[e for e in r.events if e.kind == "send"] for r in reports[:2]]
    received = [[e for e in r.events if e.kind == "receive"] for r in reports[2:]]
    for sends, receives in zip(sent, received, strict=True):
        assert [event.num_bytes for event in sends] == [event.num_bytes for event in receives]
        assert all(send.start <= receive.end for send, receive in zip(sends, receives, strict=True))
    assert reports[0].comm_count.keys() == {"all_reduce", "send"}
    assert reports[2].comm_count.keys() == {"all_reduce", "receive", "all_gather"}
