"""A real model over ranks that are threads, as the course draws it: the logits of one process, and counted messages."""

from __future__ import annotations

import pytest
import torch

from minivllm.course.extra.divided_model import DividedModel
from minivllm.parallel.plan import Plan

TEXTS = [[1, 2, 3, 4, 5], [100], [7] * 20]
PLANS = (Plan(2), Plan(4), Plan(1, 2), Plan(1, 3), Plan(2, 2))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_every_plan_gives_the_logits_of_one_process_on_every_rank(family, models):
    (expected,) = DividedModel(str(models[family]), 1).logits(TEXTS)
    for plan in PLANS:
        divided = DividedModel(str(models[family]), plan)
        found = divided.logits(TEXTS)
        assert len(found) == plan.tensor
        for logits in found:
            assert all(map(torch.equal, logits, found[0])), (
                "ranks that draw for themselves must agree to the last bit"
            )
            for mine, other in zip(logits, expected, strict=True):
                torch.testing.assert_close(mine, other, atol=1e-3, rtol=0)


def test_two_sums_for_each_layer_and_one_hop_for_each_text(models):
    divided = DividedModel(str(models["llama"]), Plan(2, 2))
    divided.logits(TEXTS)
    counts = [log.count for log in divided.ranks.logs]
    assert (
        counts[0] == counts[1] == {"all_reduce": 3 * (2 * 2 + 1), "send": 3}
    )  # two layers and the embedding
    assert counts[2] == counts[3] == {"receive": 3, "all_reduce": 3 * 2, "all_gather": 3}
    hidden = 64 * 4 * sum(map(len, TEXTS))
    assert divided.ranks.logs[0].num_bytes == {"all_reduce": 5 * hidden, "send": hidden}
