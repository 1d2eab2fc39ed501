"""Simulators: what memory policies waste, and what schedulers make requests wait for. Without a model, without torch.

    from minivllm.sim.trace import dataset_trace
    from minivllm.sim.memory import run_memory
    from minivllm.sim.policies import make_policy

    trace = dataset_trace("sharegpt", num_requests=200, seed=0)
    run_memory(trace, make_policy("paged", capacity=15728)).summary

The memory simulator (`memory.py`) plays a trace against one policy of `policies/`. The step simulator (`schedule.py`)
drives the engine's own `Scheduler` with a cost model in the model's place. Both stand on the standard library alone;
only `plots.py` asks for matplotlib, and only when it draws. From the shell: ``python -m minivllm.sim --help``.
"""
