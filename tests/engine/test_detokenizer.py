"""Streaming detokenization against the text itself and the bytes of its tokens, for tokenizers of two makes."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from minivllm.detokenizer import MAX_PENDING, MAX_WINDOW, IncrementalDetokenizer

CORPUS = [
    "the cat sat on the mat, the end. " * 3,
    "什么是分页注意力？你好，世界！" * 3,
    "naïve café 🙂🙂👩‍👩‍👧‍👦 über ñandú" * 3,
]
SPECIAL = ["<|start|>", "<|end|>"]


def byte_level(vocab_size):
    """GPT-2's kind: merges over bytes, so that a token may begin or end inside a character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=vocab_size != 400)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_fallback():
    """Llama-2's kind: a word owns the space before it, the text's first is dropped, rare characters are bytes."""
    words = ["▁the", "▁cat", "▁", "▁s", "at", "a", "b", "c", "t", "e", "h", "s", "."]
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocab |= {word: 256 + index for index, word in enumerate(["<unk>", *words])}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>", ignore_merges=True)
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


BYTE_LEVEL = {size: byte_level(size) for size in (258, 330, 400)}  # no merges; within words; across words
FALLBACK = byte_fallback()
every_tokenizer = pytest.mark.parametrize(
    "tokenizer", [*BYTE_LEVEL.values(), FALLBACK], ids=["258", "330", "400", "fallback"]
)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=30)
texts |= st.text(st.sampled_from("the cat.你好🙂é\u200d👩 "), max_size=40)


@st.composite
def split(draw, ids):
    """Cut a list into consecutive pieces, some of them empty."""
    cuts = sorted(draw(st.lists(st.integers(0, len(ids)), max_size=8)))
    return [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]


def stream(tokenizer, pieces, prompt=(), **kwargs):
    """All that is given out, one string per append."""
    detokenizer = IncrementalDetokenizer(tokenizer, list(prompt), **kwargs)
    given_out = [detokenizer.append(piece) for piece in pieces]
    assert detokenizer.text == "".join(given_out)
    return given_out


@pytest.fixture(scope="module")
def byte_of_token():
    """Token -> its bytes, by GPT-2's published rule: printable bytes are themselves, the others begin at 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}

    def bytes_of(tokenizer, token_id):
        name = tokenizer.convert_ids_to_tokens(token_id)
        return b"" if name in SPECIAL else bytes(letters[letter] for letter in name)

    return bytes_of


@every_tokenizer
@given(data=st.data())
def test_any_text_in_any_pieces_comes_out_as_it_went_in(tokenizer, data):
    text = data.draw(texts)
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = data.draw(split(ids))
    given_out = stream(tokenizer, pieces)
    assert "".join(given_out) == tokenizer.decode(ids)
    if tokenizer is not FALLBACK:
        assert "".join(given_out) == text
    assert not any("\ufffd" in piece for piece in given_out)


@every_tokenizer
@given(data=st.data())
def test_the_prompt_is_context_and_never_output(tokenizer, data):
    """Also where the few prompt tokens that are looked at would begin in the middle of a character."""
    ids = tokenizer.encode(data.draw(texts), add_special_tokens=False)
    whole = [cut for cut in range(len(ids) + 1) if not tokenizer.decode(ids[:cut]).endswith("\ufffd")]
    cut = data.draw(st.sampled_from(whole))
    given_out = stream(tokenizer, data.draw(split(ids[cut:])), ids[:cut])
    assert tokenizer.decode(ids[:cut]) + "".join(given_out) == tokenizer.decode(ids)


@pytest.mark.parametrize("tokenizer", BYTE_LEVEL.values(), ids=BYTE_LEVEL)
@given(data=st.data())
def test_any_tokens_at_all_give_the_text_of_their_bytes(tokenizer, data, byte_of_token):
    """Broken bytes are shown as U+FFFD like everywhere; only what may still become a character is kept back."""
    token = st.integers(0, len(tokenizer) - 1) | st.sampled_from(
        tokenizer.encode("你🙂é", add_special_tokens=False)
    )
    ids = data.draw(st.lists(token, max_size=60))
    expected = b"".join(byte_of_token(tokenizer, i) for i in ids).decode(errors="replace")
    text = "".join(stream(tokenizer, data.draw(split(ids))))
    assert expected.startswith(text)
    assert text == expected or expected.endswith("\ufffd")
    tail = tokenizer.encode("ok", add_special_tokens=False)
    assert "".join(stream(tokenizer, [ids, tail])) == expected + "ok"  # what comes next brings it out


@given(st.lists(st.integers(0, len(FALLBACK) - 1), max_size=60), st.lists(st.integers(0, 255), max_size=10))
def test_byte_tokens_that_are_no_text_neither_hang_nor_swallow_what_follows(ids, prompt):
    word = FALLBACK.encode("the cat", add_special_tokens=False)
    pieces = stream(FALLBACK, [[i] for i in (*ids, *word)], prompt)
    assert "".join(pieces).endswith(" cat")
    assert sum(map(len, pieces)) <= 9 * (
        len(ids) + len(word)
    )  # the longest tokens are <|start|> and its like


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL[258], FALLBACK], ids=["byte level", "fallback"])
@pytest.mark.parametrize("byte", [0xFF, 0x80, 0xF0, 0xE4])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_a_row_of_broken_bytes_of_any_length_is_followed_by_good_text(tokenizer, byte, count, byte_of_token):
    broken = byte
    if tokenizer is not FALLBACK:
        broken = next(i for i in range(len(tokenizer)) if byte_of_token(tokenizer, i) == bytes([byte]))
    good = tokenizer.encode("a", add_special_tokens=False)
    given_out = stream(tokenizer, [[broken]] * count + [good])
    text = "".join(given_out)
    assert text.rstrip("a ") == "\ufffd" * count and text.endswith("a")
    assert all(len("".join(given_out[:i])) >= i - 8 for i in range(count))  # they do not all wait for the end


def test_a_character_is_shown_with_its_last_byte_and_not_later():
    ids = BYTE_LEVEL[258].encode("a🙂b", add_special_tokens=False)
    assert stream(BYTE_LEVEL[258], [[i] for i in ids]) == ["a", "", "", "", "🙂", "b"]


@pytest.mark.parametrize("token", [0xC3, 0x80], ids=["a character begins", "one goes on"])
def test_broken_bytes_are_shown_when_as_many_wait_as_no_character_has(token):
    detokenizer = IncrementalDetokenizer(FALLBACK, ())
    waiting = [detokenizer.append([token]) for _ in range(MAX_PENDING)]
    assert waiting[:-1] == [""] * (MAX_PENDING - 1) and set(waiting[-1]) == {"\ufffd"}


def test_a_character_after_broken_bytes_is_not_lost():
    tokenizer = BYTE_LEVEL[258]
    smile = tokenizer.encode("🙂", add_special_tokens=False)
    for count in range(20):
        assert (
            "".join(stream(tokenizer, [[i] for i in [smile[0]] * count + smile])) == "\ufffd" * count + "🙂"
        )


def test_a_real_replacement_character_is_text():
    tokenizer = BYTE_LEVEL[258]
    for text in ("a\ufffdb", "\ufffd" * 9 + "b", "\ufffd" * 30 + "b"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert "".join(stream(tokenizer, [[i] for i in ids])) == text


def test_a_character_whose_bytes_begin_in_the_prompt_does_not_disturb_what_follows():
    for tokenizer in (BYTE_LEVEL[258], FALLBACK):
        ids = tokenizer.encode("好", add_special_tokens=False)
        rest = tokenizer.encode("at", add_special_tokens=False)
        for cut in (1, 2):
            assert "".join(stream(tokenizer, [[i] for i in ids[-3:][cut:] + rest], ids[-3:][:cut])).endswith(
                "at"
            )


@every_tokenizer
def test_special_tokens_are_skipped_or_shown(tokenizer):
    start, end = tokenizer.convert_tokens_to_ids(SPECIAL)
    words = [tokenizer.encode(word, add_special_tokens=False) for word in ("the", " cat")]
    ids = [start, *words[0], end, *words[1], end]
    assert "".join(stream(tokenizer, [[i] for i in ids])) == tokenizer.decode(ids, skip_special_tokens=True)
    shown = "".join(stream(tokenizer, [[i] for i in ids], skip_special_tokens=False))
    assert shown == tokenizer.decode(ids, skip_special_tokens=False)
    assert shown.startswith("<|start|>") and shown.endswith("<|end|>")


@every_tokenizer
def test_a_long_row_of_special_tokens_neither_costs_nor_takes_the_next_words_space(tokenizer):
    start, end = tokenizer.convert_tokens_to_ids(SPECIAL)
    words = [tokenizer.encode(word, add_special_tokens=False) for word in ("the", " cat")]
    ids = [*words[0], *[start, end] * 50, *words[1]]
    assert "".join(stream(tokenizer, [[i] for i in ids])) == tokenizer.decode(ids, skip_special_tokens=True)


class Counting:
    """A tokenizer that notes how much it is asked to decode."""

    def __init__(self, tokenizer):
        self.tokenizer, self.lengths = tokenizer, []

    def decode(self, token_ids, skip_special_tokens):
        self.lengths.append(len(token_ids))
        return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)


@every_tokenizer
@settings(max_examples=20)
@given(data=st.data())
def test_the_cost_of_a_token_does_not_grow_with_the_text(tokenizer, data):
    period = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), min_size=1, max_size=12))
    counting = Counting(tokenizer)
    ids = (period * 400)[:400]
    stream(counting, [[i] for i in ids], prompt=period * 40)
    assert max(counting.lengths) <= 2 * MAX_WINDOW
    assert len(counting.lengths) <= 2 * len(ids) + 24  # the prompt is looked at a few times, once


def test_a_long_answer_takes_time_in_proportion():
    tokenizer = BYTE_LEVEL[330]
    ids = tokenizer.encode("the cat sat on the mat 你好🙂 " * 100, add_special_tokens=False)

    def seconds(ids):
        start = time.process_time()
        stream(tokenizer, [[i] for i in ids])
        return time.process_time() - start

    seconds(ids)
    short, long = min(seconds(ids[:500]) for _ in range(3)), min(seconds((ids * 4)[:4000]) for _ in range(3))
    assert long < 3 * 8 * short
