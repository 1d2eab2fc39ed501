"""AsyncLLMEngine over a fake engine whose answers are known: hand-over, errors, aborts, death, shutdown."""

import asyncio
import importlib.util
import threading
import time
from pathlib import Path

import pytest

from minivllm.async_engine import AsyncLLMEngine, EngineDeadError
from minivllm.sampling_params import RequestOutputKind, SamplingParams


def _fake_engine_module():
    spec = importlib.util.spec_from_file_location(
        "fake_engine", Path(__file__).parent / "serve" / "fake_engine.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake = _fake_engine_module()
DELTA, FINAL = RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY
PARAMS = SamplingParams(max_tokens=400, output_kind=DELTA)
ENDLESS = SamplingParams(max_tokens=500, ignore_eos=True, output_kind=DELTA)


@pytest.fixture
def engine():
    return fake.FakeEngine()


@pytest.fixture
def async_engine(engine):
    async_engine = AsyncLLMEngine(engine)
    yield async_engine
    assert async_engine.shutdown()


async def collect(async_engine, prompt, params, request_id):
    return [output async for output in async_engine.generate(prompt, params, request_id)]


async def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


def is_empty(async_engine) -> bool:
    return (
        async_engine.stats.num_running_reqs == 0 and async_engine.stats.num_free_blocks == fake.NUM_BLOCKS - 1
    )


def test_many_requests_at_once_each_get_their_own_answer(async_engine):
    prompts = [f"question {i}" for i in range(50)]

    async def main():
        return await asyncio.gather(*(collect(async_engine, p, PARAMS, p) for p in prompts))

    for prompt, outputs in zip(prompts, asyncio.run(main()), strict=True):
        assert "".join(o.outputs[0].text for o in outputs) == fake.answer_to(prompt)
        assert [o.finished for o in outputs] == [False] * (len(outputs) - 1) + [True]


def test_final_only_hands_over_one_output(async_engine):
    (output,) = asyncio.run(
        collect(async_engine, "hello", SamplingParams(max_tokens=400, output_kind=FINAL), "r")
    )
    assert output.outputs[0].text == fake.answer_to("hello")


def test_engine_is_touched_by_its_own_thread_only(engine, async_engine):
    asyncio.run(collect(async_engine, "hello", PARAMS, "r"))
    assert len(engine.threads) == 1 and threading.get_ident() not in engine.threads


def test_one_call_into_the_loop_per_step_however_many_requests(engine, async_engine):
    async def main():
        calls = 0
        loop = asyncio.get_running_loop()
        original = loop.call_soon_threadsafe

        def counting(*args, **kwargs):
            nonlocal calls
            calls += threading.get_ident() in engine.threads
            return original(*args, **kwargs)

        loop.call_soon_threadsafe = counting
        params = SamplingParams(max_tokens=10, ignore_eos=True, output_kind=DELTA)
        await asyncio.gather(*(collect(async_engine, "hello", params, str(i)) for i in range(20)))
        return calls

    assert asyncio.run(main()) <= 20  # 200 outputs; a few more calls when they arrive in several batches


def test_requests_of_two_event_loops_are_kept_apart(async_engine):
    answers = {}

    def client(name):
        outputs = asyncio.run(collect(async_engine, name, PARAMS, name))
        answers[name] = "".join(o.outputs[0].text for o in outputs)

    threads = [threading.Thread(target=client, args=(name,)) for name in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert answers == {name: fake.answer_to(name) for name in ("left", "right")}


def test_refusal_reaches_the_caller_and_harms_nobody(async_engine):
    async def main():
        with pytest.raises(ValueError, match="prompt must not be empty"):
            await collect(async_engine, "", PARAMS, "a")
        return await collect(async_engine, "hello", PARAMS, "b")

    assert asyncio.run(main())[-1].finished


def test_request_id_in_use_is_refused_and_the_first_request_goes_on(engine, async_engine):
    engine.step_seconds = 0.002

    async def main():
        first = async_engine.generate("one", PARAMS, "same")
        text = (await anext(first)).outputs[0].text
        with pytest.raises(ValueError, match="in use"):
            await collect(async_engine, "two", PARAMS, "same")
        return text + "".join([o.outputs[0].text async for o in first])

    assert asyncio.run(main()) == fake.answer_to("one")


@pytest.mark.parametrize("how", ["close", "break", "cancel", "cancel_before_admission"])
def test_abandoned_request_frees_its_blocks(engine, async_engine, how):
    engine.step_seconds = 0.005

    async def main():
        if how == "close":
            iterator = async_engine.generate("hello", ENDLESS, "r")
            await anext(iterator)
            assert async_engine.stats.num_free_blocks < fake.NUM_BLOCKS - 1
            await iterator.aclose()
        elif how == "break":
            async for _ in async_engine.generate("hello", ENDLESS, "r"):
                break
        else:
            task = asyncio.create_task(collect(async_engine, "hello", ENDLESS, "r"))
            await asyncio.sleep(0.1 if how == "cancel" else 0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: is_empty(async_engine))

    asyncio.run(main())
    assert engine.aborted == ["r"] or (how == "cancel_before_admission" and engine.aborted in ([], ["r"]))


def test_abandoned_event_loop_frees_its_blocks(engine, async_engine):
    engine.step_seconds = 0.002
    loop = asyncio.new_event_loop()

    async def start():
        await async_engine.add_request("hello", ENDLESS, "r")

    loop.run_until_complete(start())
    loop.close()
    asyncio.run(until(lambda: is_empty(async_engine)))
    assert asyncio.run(collect(async_engine, "hello", PARAMS, "r"))[-1].finished


def test_abort_of_a_finished_request_spares_a_new_one_of_the_same_name(async_engine):
    async def main():
        old = await async_engine.add_request("old", PARAMS, "name")
        await until(lambda: is_empty(async_engine))
        new = await async_engine.add_request("new", PARAMS, "name")
        old.abort()
        return "".join([o.outputs[0].text async for o in new])

    assert asyncio.run(main()) == fake.answer_to("new")


def test_failing_step_tells_everyone_and_everyone_after(engine, async_engine):
    engine.step_seconds = 0.002

    async def main():
        waiting = [asyncio.create_task(collect(async_engine, "hello", ENDLESS, str(i))) for i in range(3)]
        await until(lambda: async_engine.stats.num_running_reqs == 3)
        engine.steps_before_death = 2
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(r) for r in results] == [EngineDeadError] * 3
        assert isinstance(results[0].__cause__, RuntimeError)
        for _ in range(2):
            with pytest.raises(EngineDeadError):
                await collect(async_engine, "later", PARAMS, "later")
        with pytest.raises(EngineDeadError):
            await async_engine.call(lambda engine: engine.stats())

    asyncio.run(main())
    assert async_engine.dead_error is not None


def test_shutdown_ends_the_thread_and_tells_those_who_wait(engine):
    engine.step_seconds = 0.005
    before = set(threading.enumerate())
    async_engine = AsyncLLMEngine(engine)
    assert async_engine.dead_error is None and len(set(threading.enumerate()) - before) == 1

    async def main():
        task = asyncio.create_task(collect(async_engine, "hello", ENDLESS, "r"))
        await until(lambda: async_engine.stats.num_running_reqs == 1)
        assert await asyncio.to_thread(async_engine.shutdown)
        with pytest.raises(EngineDeadError, match="shut down"):
            await task

    asyncio.run(main())
    assert async_engine.shutdown() and engine.aborted == ["r"] and is_empty(async_engine)
    assert engine.is_shut_down and not [
        t for t in set(threading.enumerate()) - before if t.name.startswith("minivllm")
    ]


def test_idle_engine_sleeps(engine, async_engine):
    asyncio.run(collect(async_engine, "hello", PARAMS, "r"))
    turns = []
    original = engine.has_unfinished_requests
    engine.has_unfinished_requests = lambda: turns.append(1) or original()
    time.sleep(0.2)  # it may just have been on its last turn
    num_turns = len(turns)
    time.sleep(0.2)
    assert len(turns) == num_turns


def test_the_blocks_are_checked_once_after_each_busy_time(engine, monkeypatch):
    monkeypatch.setattr("minivllm.async_engine.HEALTH_SECONDS", 0.01)
    checks = []
    engine.check_integrity = lambda: checks.append(engine.has_unfinished_requests())
    async_engine = AsyncLLMEngine(engine)
    time.sleep(0.1)
    assert not checks  # nothing has happened yet
    for name in ("first", "second"):
        num_before = len(checks)
        asyncio.run(collect(async_engine, "hello", PARAMS, name))
        asyncio.run(until(lambda n=num_before: len(checks) > n))
        time.sleep(0.1)  # the end of a stream may have made one more turn
        num_checks = len(checks)
        time.sleep(0.1)
        assert len(checks) == num_checks and not any(checks)
    assert async_engine.shutdown()


def test_a_lost_block_ends_the_engine_and_the_log_says_which(engine, monkeypatch, caplog):
    monkeypatch.setattr("minivllm.async_engine.HEALTH_SECONDS", 0.01)

    def complain():
        raise AssertionError("block 3 counts 1 references but occurs 0 times")

    engine.check_integrity = complain
    async_engine = AsyncLLMEngine(engine)
    assert asyncio.run(collect(async_engine, "hello", PARAMS, "r"))[-1].finished
    asyncio.run(until(lambda: async_engine.dead_error is not None))
    assert async_engine.shutdown() and "block 3 counts 1 references" in caplog.text


def test_call_runs_on_the_engine_thread_and_its_error_is_the_callers(engine, async_engine):
    async def main():
        thread = await async_engine.call(lambda engine: threading.get_ident())
        assert thread in engine.threads or engine.threads == set()
        assert thread != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await async_engine.call(lambda engine: 1 / 0)
        return await collect(async_engine, "hello", PARAMS, "r")

    assert asyncio.run(main())[-1].finished


def test_observer_sees_every_output_and_every_abort(engine):
    class Observer:
        outputs, aborted = [], []

        def on_step(self, outputs, stats, now):
            self.outputs += outputs

        def on_abort(self, request_id):
            self.aborted.append(request_id)

    engine.step_seconds = 0.002
    observer = Observer()
    async_engine = AsyncLLMEngine(engine, observer)

    async def main():
        await collect(async_engine, "hello", PARAMS, "whole")
        stream = await async_engine.add_request("hello", ENDLESS, "part")
        await anext(stream)
        stream.abort()
        await until(lambda: is_empty(async_engine))

    asyncio.run(main())
    assert async_engine.shutdown()
    whole = [o for o in observer.outputs if o.request_id == "whole"]
    assert len(whole) == len(fake.answer_to("hello")) + 1 and observer.aborted == ["part"]
