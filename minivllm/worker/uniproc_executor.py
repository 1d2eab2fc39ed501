"""The executor of one process: the model stands where the scheduler does."""

from __future__ import annotations

from concurrent.futures import Future

from minivllm.config import EngineConfig, ModelConfig
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.parts import REFERENCE, Parts
from minivllm.worker.model_runner import ModelRunner, ModelRunnerOutput
from minivllm.worker.worker import RankReport, Worker


class UniprocExecutor:
    """The model in this process, on one device."""

    max_concurrent_batches = 1

    def __init__(
        self,
        config: EngineConfig,
        model_config: ModelConfig,
        max_model_len: int,
        parts: Parts = REFERENCE,
    ) -> None:
        self.worker = Worker(config, model_config, max_model_len, parts)
        self.num_blocks = self.worker.capacity.num_blocks
        self.num_swap_blocks = self.worker.capacity.num_swap_blocks
        self.preemption_costs = self.worker.capacity.preemption_costs

    @property
    def runner(self) -> ModelRunner:
        return self.worker.runner

    def initialize_kv_cache(self, max_model_len: int) -> None:
        """Allocate the memory behind the blocks."""
        self.worker.initialize_kv_cache(self.num_blocks, self.num_swap_blocks, max_model_len)

    def execute_model(self, scheduler_output: SchedulerOutput) -> Future[ModelRunnerOutput]:
        """Run the step now; the future is done when this returns."""
        future: Future[ModelRunnerOutput] = Future()
        future.set_result(self.worker.execute_model(scheduler_output))
        return future

    def report(self, clear: bool = False, tracing: bool = False) -> list[RankReport]:
        """One entry: this process."""
        return [self.worker.report(clear, tracing)]

    def check_health(self) -> None:
        """Nothing to look after: there is no other process."""

    def shutdown(self) -> None:
        """Nothing to end: there is no other process."""
