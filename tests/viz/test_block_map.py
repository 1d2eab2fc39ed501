"""The block map's two renderings tell what the snapshot holds, and nothing else."""

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from minivllm.outputs import BlockMap
from minivllm.viz.block_map import describe, letters, to_svg, to_text

SVG = "{http://www.w3.org/2000/svg}"

EXAMPLE = BlockMap(
    num_blocks=8,
    block_size=4,
    holders={"first": (1, 2), "second": (1, 3), "third": (5,)},
    num_computed_tokens={"first": 6, "second": 5, "third": 4},
    cached=frozenset({1, 5, 6}),
)


def test_the_text_map_of_an_example():
    lines = to_text(EXAMPLE, columns=4).splitlines()
    assert lines[:2] == ["0 * A B", ". C + ."]
    assert lines[2] == "A = first: 6 tokens in [1, 2]"
    assert describe(EXAMPLE) == (
        "KV cache of 8 blocks of 4 tokens: 4 held by 3 requests (1 of them shared), 1 free but kept for the prefix "
        "cache, 2 free, and the null block"
    )


def test_a_block_is_filled_as_far_as_its_tokens_reach():
    assert EXAMPLE.filled() == {1: 4, 2: 2, 3: 1, 5: 4}


@given(st.data())
def test_both_renderings_name_every_block_once_and_its_holder(data):
    num_blocks, block_size = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 8))
    ids = st.lists(st.integers(1, num_blocks - 1), unique=True, max_size=6) if num_blocks > 1 else st.just([])
    holders = {f"<{i}&": tuple(data.draw(ids)) for i in range(data.draw(st.integers(0, 5)))}
    tokens = {i: data.draw(st.integers(0, len(b) * block_size)) for i, b in holders.items()}
    block_map = BlockMap(num_blocks, block_size, holders, tokens, frozenset(data.draw(ids)))
    columns = data.draw(st.integers(1, 20))

    characters = " ".join(to_text(block_map, columns).splitlines()[: -(-num_blocks // columns)]).split()
    assert len(characters) == num_blocks and characters[0] == "0"
    for block_id, character in enumerate(characters[1:], start=1):
        held_by = [letters(holders)[i] for i, blocks in holders.items() if block_id in blocks]
        expected = (
            "*"
            if len(held_by) > 1
            else held_by[0]
            if held_by
            else "+"
            if block_id in block_map.cached
            else "."
        )
        assert character == expected

    svg = to_svg(block_map, columns=columns)
    assert svg == to_svg(block_map, columns=columns)  # the same bytes each time
    root = ElementTree.fromstring(svg)
    assert root.find(f"{SVG}title").text == describe(block_map)
    numbers = [t.text for t in root.iter(f"{SVG}text") if t.get("font-size") == "10"]
    assert numbers == [str(i) for i in range(num_blocks)]
