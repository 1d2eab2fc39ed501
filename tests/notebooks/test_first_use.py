"""Terms of the glossary and their links: which use is the first, and what is no use at all."""

import pytest

from minivllm.course.first_use import unlinked

SLOT = "[slot](../book/glossary.md#slot)"


def found(*texts):
    """What is not linked in cells with these texts, as (cell, word, anchor); each is cut out of its text again."""
    cells = {str(i): text for i, text in enumerate(texts)}
    uses = list(unlinked(cells.items()))
    for use in uses:
        assert cells[use.cell][use.start :].startswith(use.word)
    return [(int(use.cell), use.word, use.term.anchor) for use in uses]


def test_the_first_use_in_the_chapter_is_the_one_that_counts():
    assert found("nothing", "One slot, two slots.", "A slot.") == [(1, "slot", "slot")]
    assert found(f"A {SLOT}.", "One slot, two slots.") == []
    assert found("One slot.", f"A {SLOT}.") == [(0, "slot", "slot")]


def test_a_link_in_the_same_paragraph_is_early_enough_and_in_the_next_it_is_not():
    assert found(f"Slots: a {SLOT} is a place.") == []
    assert found(f"Slots.\n\nA {SLOT} is a place.") == [(0, "Slots", "slot")]
    assert found(f"| slots | 1 |\n| {SLOT} | 2 |") == [(0, "slots", "slot")]


@pytest.mark.parametrize(
    ("text", "word", "anchor"),
    [
        ("Two prompts.", "prompts", "prompt"),
        ("Latencies differ.", "Latencies", "latency"),
        ("A list of **blocks**, say", "blocks", "block"),
        ("hits in the prefix cache", "prefix cache", "prefix-caching"),  # another name
        ("the KV cache, of course", "KV cache", "kv-cache"),
        ("behind the block table", "block table", "block-table"),  # and not "block"
        ("by paged attention", "paged attention", "pagedattention"),
        ("with RoPE", "RoPE", "rope"),
        ("their keys and values", "keys and values", "key"),  # each alone is a word of every day
        ("4 kv heads", "kv heads", "attention-head"),
    ],
)
def test_every_form_is_a_use(text, word, anchor):
    assert found(text) == [(0, word, anchor)]


@pytest.mark.parametrize(
    "text",
    [
        "`slot` and `block_size`",
        "    slot = block * size",
        "```\nslot\n\nblock\n```",
        "## A slot",
        "<details><summary>1. Which slot?</summary>",
        '<a title="slot">here</a>',
        "[the slot that was lost](../README.md)",
        "![a slot, drawn](slot.png)",
        "slotted, unblock, a copy-block",
        "on a rope, with a cow",  # RoPE and CoW are written so
        "to swap two things",
        "step by step, with the arrow keys, to the value of a dictionary's key and the rank of a matrix",
        "the paper on LLM.int8()",
        "max_num_seqs, cache_salt",
    ],
)
def test_what_is_no_prose_or_another_word_is_no_use(text):
    assert found(text) == []


def test_places_are_right_behind_fenced_code():
    assert found("```\nslot\n```\nthen a slot") == [(0, "slot", "slot")]


def test_several_terms_are_reported_once_each_in_the_order_of_the_text():
    text = "A request holds blocks; each block has slots.\n\nA slot of the request."
    assert [word for _, word, _ in found(text)] == ["request", "blocks", "slots"]
