"""The router: least-loaded without shared prefixes, prefix-aware with them, and never more memory than a cache has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minivllm.core.router import Router

B = 4
prompts = st.lists(st.integers(0, 2), min_size=1, max_size=20)


def test_without_a_shared_prefix_the_shorter_queue_wins():
    router = Router(3, B, 100)
    assert router.choose([1] * 8, [10, 3, 7]) == 1
    assert router.choose([2] * 8, [3, 3, 3]) == 0


def test_a_burst_over_one_prefix_stays_together_until_waiting_costs_more_than_it_saves():
    router = Router(2, B, 100)
    prefix = list(range(64))
    owed = [0, 0]
    homes = []
    for request in range(40):
        home = router.choose([*prefix, 1000 + request], owed)
        owed[home] += 3
        homes.append(home)
    assert homes[:20] == [0] * 20  # 20 x 3 tokens of waiting are less than the 64 of the prefix
    assert 1 in homes  # and then the other replica learns it as well
    assert abs(owed[0] - owed[1]) <= 64 + 3


def test_salts_do_not_share():
    router = Router(2, B, 100)
    router.choose([7] * 20, [0, 0], "a")
    assert router.choose([7] * 20, [1, 0], "a") == 0
    assert router.choose([7] * 20, [1, 0], "b") == 1
    assert router.choose([7] * 20, [1, 0]) == 1


def test_what_the_cache_has_forgotten_counts_no_more():
    router = Router(2, B, num_blocks=4)
    router.choose([7] * 9, [0, 0])
    router.choose([8] * 17, [0, 1000])  # four blocks: the two before are gone
    assert router.choose([7] * 9, [1, 0]) == 1


def test_prefixes_outlive_what_follows_them():
    """As in the cache: the last block of a prompt is given up before the first, without which it is worth nothing."""
    router = Router(2, B, num_blocks=4)
    router.choose([7] * 17, [0, 1000])  # four blocks
    router.choose([8] * 5, [0, 1000])  # one more: one of the four has to go
    assert router.choose([7] * 17, [11, 0]) == 0  # 12 tokens are still there


def test_the_last_token_of_a_prompt_is_never_seen():
    """It is always computed: a prompt of two full blocks that has been here before finds one of them."""
    router = Router(2, B, 100)
    router.choose([7] * 8, [0, 0])
    assert router.choose([7] * 8, [3, 0]) == 0
    assert router.choose([7] * 8, [5, 0]) == 1


class Reference:
    """The same rule over whole prompts, without hashes or a limit."""

    def __init__(self, num_replicas):
        self.seen = [[] for _ in range(num_replicas)]

    def choose(self, prompt, owed):
        def shared(old):
            same = next(
                (i for i, (a, b) in enumerate(zip(old, prompt, strict=False)) if a != b),
                min(len(old), len(prompt)),
            )
            return min(same // B, (len(old) - 1) // B, (len(prompt) - 1) // B) * B

        costs = [
            load + len(prompt) - max(map(shared, seen), default=0)
            for load, seen in zip(owed, self.seen, strict=True)
        ]
        home = min(range(len(owed)), key=lambda i: costs[i])
        self.seen[home].append(prompt)
        return home


@given(st.lists(st.tuples(prompts, st.lists(st.integers(0, 15), min_size=3, max_size=3)), max_size=25))
def test_it_chooses_like_the_rule_over_whole_prompts(requests):
    router, reference = Router(3, B, 10_000), Reference(3)
    for prompt, owed in requests:
        assert router.choose(prompt, owed) == reference.choose(prompt, owed)
