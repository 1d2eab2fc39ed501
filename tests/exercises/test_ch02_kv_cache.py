"""Grader of chapter 02: the KV cache.

The oracles: tensors that are made and weighed, lists of numbers that grow, the engine's oracle of attention, which
looks at one query at a time, and a model that writes down what it is asked.
"""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.attention.naive import dense_causal_attention
from minivllm.course.extra.ch02_chunk import attend_chunk
from minivllm.course.extra.plain_model import PlainModel
from minivllm.course.extra.toy_forward import VOCABULARY, ToyForward

TORCH = "import torch"
TOY = "from minivllm.course.extra.toy_forward import ToyForward"
CACHE = "from minivllm.course.extra.ch02_cache import AppendCache"
CHUNK = "from minivllm.course.extra.ch02_chunk import attend_chunk"
PLAIN = "from minivllm.course.extra.plain_model import PlainModel"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: more threads only wait for one another
    yield
    torch.set_num_threads(before)


# -- 2.1 ---------------------------------------------------------------------------------------------------------------

MODELS = {
    "tutor": (6, 4, 32),
    "llama_2": (32, 32, 128),
    "llama_3": (32, 8, 128),
}  # layers, kv heads, head size


def weighed(num_layers, num_kv_heads, head_dim, num_tokens=1, dtype=torch.bfloat16):
    """The bytes of a key and a value tensor for each layer. Tensors on "meta" have a size and no memory."""
    total = 0
    for _ in range(num_layers):
        for _ in ("key", "value"):
            total += torch.empty(num_tokens, num_kv_heads, head_dim, dtype=dtype, device="meta").nbytes
    return total


@pytest.mark.exercise("2.1", "smoke")
def test_every_prediction_is_a_whole_number(impl):
    for name in impl.exercise.names[:-1]:
        assert isinstance(getattr(impl, name)(), int), f"{name}() should return a whole number"


@pytest.mark.exercise("2.1", "examples")
@pytest.mark.parametrize("model", MODELS)
def test_the_bytes_of_a_token(impl, model):
    layers, kv_heads, head_dim = MODELS[model]
    history = impl.history(f"{model}_bytes")
    number = weighed(*MODELS[model])
    picture = f"{layers} layers, each a key and a value of {kv_heads} x {head_dim} numbers of 2 bytes"
    history.check(f"{model}_bytes() == {number}", "token", picture)
    print(f"{model}: {number:,} bytes\n{picture}\n")


@pytest.mark.exercise("2.1", "examples")
def test_who_has_room(impl):
    history = impl.history("tokens_in_12_gib", "requests_of_2048")
    memory, token = 12 * 1024**3, weighed(*MODELS["llama_2"])
    tokens = next(n for n in range(memory // token - 2, memory) if (n + 1) * token > memory)
    history.check(f"tokens_in_12_gib() == {tokens}", "room", f"{memory:,} bytes, {token:,} for each token")
    requests = len(range(2048, tokens + 1, 2048))
    history.check(f"requests_of_2048() == {requests}", "room", f"{tokens:,} tokens have room")


@pytest.mark.exercise("2.1", "examples")
@pytest.mark.parametrize(
    "num_tokens, dtype", [(1, torch.float32), (100, torch.float16), (7, torch.float8_e5m2)]
)
@pytest.mark.parametrize("shape", [*MODELS.values(), (1, 1, 2), (3, 5, 7)])
def test_the_formula_weighs_the_tensors(impl, shape, num_tokens, dtype):
    history = impl.history("kv_bytes")
    call = (
        f"kv_bytes({', '.join(map(str, shape))}, num_tokens={num_tokens}, bytes_per_number={dtype.itemsize})"
    )
    history.check(f"{call} == {weighed(*shape, num_tokens, dtype)}", "formula")


@pytest.mark.exercise("2.1", "examples")
@pytest.mark.parametrize("shape", MODELS.values())
def test_a_number_takes_2_bytes_if_nothing_is_said(impl, shape):
    history = impl.history("kv_bytes")
    history.check(f"kv_bytes({', '.join(map(str, shape))}, 3) == {weighed(*shape, 3)}", "formula")


# -- 2.2 ---------------------------------------------------------------------------------------------------------------


class CacheModel:
    """What a cache should hold: a list of rows for keys and one for values, and what is drawn of them."""

    def __init__(self, impl, max_tokens, num_kv_heads=1, head_dim=2, dtype="float32"):
        self.shape, self.max_tokens, self.itemsize = (
            (num_kv_heads, head_dim),
            max_tokens,
            getattr(torch, dtype).itemsize,
        )
        self.keys, self.next = [], 1
        self.history = impl.history("AppendCache", imports=[TORCH])
        self.history.run(f"cache = AppendCache({max_tokens}, {num_kv_heads}, {head_dim}, torch.{dtype})")
        self.history.run("place = (cache.key.data_ptr(), cache.value.data_ptr())")

    def append(self, num_tokens):
        """Append tokens whose numbers occur nowhere else; a value is its key with a minus."""
        count = num_tokens * self.shape[0] * self.shape[1]
        sizes = ", ".join(map(str, (num_tokens, *self.shape)))
        self.history.run(f"key = torch.arange({self.next}, {self.next + count}).reshape({sizes})")
        if len(self.keys) + num_tokens > self.max_tokens:
            self.history.refuses("cache.append(key, -key)", "full", self.picture)
            self.check("full", "full")
        else:
            self.history.run("keys, values = cache.append(key, -key)")
            self.keys += torch.arange(self.next, self.next + count).reshape(num_tokens, *self.shape).tolist()
            self.history.check(f"keys.tolist() == {self.keys}", "order", self.picture)
            self.history.check("values.tolist() == (-keys).tolist()", "order", self.picture)
            self.history.check("(keys.data_ptr(), values.data_ptr()) == place", "place")
            self.history.check("(cache.key.data_ptr(), cache.value.data_ptr()) == place", "place")
            self.check("own", "count")
        self.next += count

    def check(self, content, count):
        """The cache is what the list is; `content` and `count` are the laws if not."""
        history, size = self.history, len(self.keys)
        history.check(f"cache.num_tokens == {size}", count, self.picture)
        history.check(f"cache.key[:{size}].tolist() == {self.keys}", content, self.picture)
        history.check(
            f"cache.value[:{size}].tolist() == (-cache.key[:{size}]).tolist()", content, self.picture
        )
        if content == "full":
            history.check(
                f"not cache.key[{size}:].any() and not cache.value[{size}:].any()", "full", self.picture
            )
        row = 2 * self.shape[0] * self.shape[1] * self.itemsize
        history.check(f"cache.num_bytes() == {self.max_tokens * row}", "bytes")
        history.check(f"cache.num_bytes_written() == {size * row}", "bytes")

    def picture(self):
        """The first number of each row, expected and found."""
        empty = ["-"] * (self.max_tokens - len(self.keys))
        expected = [f"{row[0][0]:g}" for row in self.keys] + empty
        found = [f"{x:g}" if x else "-" for x in self.history.value("cache").key[:, 0, 0].tolist()]
        widths = [max(len(a), len(b)) for a, b in zip(expected, found, strict=True)]
        lines = [
            f"{name:<16}|" + "|".join(f" {x:>{w}} " for x, w in zip(row, widths, strict=True)) + "|"
            for name, row in (("keys, expected", expected), ("keys, yours", found))
        ]
        return "\n".join(lines)


@pytest.mark.exercise("2.2", "smoke")
def test_one_token(impl):
    CacheModel(impl, 2).append(1)


@pytest.mark.exercise("2.2", "examples")
@pytest.mark.parametrize("pieces", [(3, 1, 1), (1, 4), (5,), (4, 2), (5, 1), (6, 1)])
def test_worked_pieces(impl, pieces):
    model = CacheModel(impl, 5)
    for num_tokens in pieces:
        model.append(num_tokens)
    print(f"pieces of {pieces}, room for 5\n{model.picture()}\n")


@pytest.mark.exercise("2.2", "properties")
@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.integers(1, 9),
    st.integers(1, 2),
    st.integers(1, 3),
    st.sampled_from(["float32", "float64", "float16"]),
)
def test_any_pieces(impl, pieces, max_tokens, num_kv_heads, head_dim, dtype):
    model = CacheModel(impl, max_tokens, num_kv_heads, head_dim, dtype)
    for num_tokens in pieces:
        model.append(num_tokens)


@pytest.mark.exercise("2.2", "properties")
def test_the_real_model_remembers(impl):
    history = impl.history("AppendCache", imports=[PLAIN, CHUNK])
    history.program.append("model = PlainModel(attend_chunk)")
    history.namespace["model"] = real_model()
    history.run("caches = [AppendCache(16, 4, 32) for layer in range(6)]")
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        history.run(f"next_tokens = model.logits({TEXT[start:stop]}, caches).argmax(-1).tolist()")
        history.check(f"next_tokens == {says()[start:stop]}", "order")


# -- the real model ----------------------------------------------------------------------------------------------------

TEXT = [5, 900, 17, 42, 1001, 3, 88, 256, 12]


@cache
def real_model():
    return PlainModel(attend_chunk)


def oracle(query, key, value, scale):
    """Attention that looks at one query and one head at a time."""
    return dense_causal_attention(query, key, value, scale=scale)


@cache
def says():
    """The token that the real model picks after each token of TEXT, all of them read at once, without a cache."""
    return PlainModel(oracle).logits(TEXT).argmax(-1).tolist()


# -- 2.3 ---------------------------------------------------------------------------------------------------------------


def hidden_by_hand(num_new, num_tokens):
    """True where a key stands behind its query: both are walked through by their positions in the text."""
    positions = list(range(num_tokens))
    return [[key > query for key in positions] for query in positions[num_tokens - num_new :]]


def draw_triangle(rows):
    return "\n".join("  " + " ".join("." if hidden else "x" for hidden in row) for row in rows)


def check_hidden(impl, num_new, num_tokens):
    history = impl.history("hidden_keys")
    history.run(f"hidden = hidden_keys({num_new}, {num_tokens})")
    history.check(f"hidden.shape == ({num_new}, {num_tokens})", "shape")
    expected = hidden_by_hand(num_new, num_tokens)

    def picture():
        found = draw_triangle(history.value("hidden").bool().tolist())
        return f"expected (x is seen, . hidden)\n{draw_triangle(expected)}\nyours\n{found}"

    history.check(f"hidden.bool().tolist() == {expected}", "corner", picture)
    return draw_triangle(expected)


def draw(history, names, shape, seed):
    sizes = ", ".join(map(str, shape if len(names) == 1 else (len(names), *shape)))
    history.run(f"{', '.join(names)} = torch.randn({sizes}, generator=torch.Generator().manual_seed({seed}))")


def check_chunk(history, call, expected, law):
    """`out` is the result of `call`, and equals the oracle's."""
    history.run(f"out = {call}")
    history.check(f"out.shape == {tuple(expected.shape)}", "shape")
    found = history.value("out")
    if not torch.allclose(found, expected, atol=1e-4, rtol=1e-3):
        rows = [
            i
            for i, (a, b) in enumerate(zip(found, expected, strict=True))
            if not torch.allclose(a, b, atol=1e-4)
        ]
        history.fail(
            law,
            f"Rows {rows} of {len(found)} are not what they should be.",
            ["print(out)"],
            f"expected\n{expected}",
        )


@pytest.mark.exercise("2.3", "smoke")
def test_a_text_of_one_token(impl):
    check_hidden(impl, 1, 1)
    history = impl.history("attend_chunk", imports=[TORCH])
    history.run("query = key = value = torch.tensor([[[2.0, 3.0]]])  # one token, one head")
    check_chunk(history, "attend_chunk(query, key, value, 1.0)", torch.tensor([[[2.0, 3.0]]]), "attention")


@pytest.mark.exercise("2.3", "examples")
@pytest.mark.parametrize("num_new, num_tokens", [(2, 5), (1, 4), (3, 3), (4, 5)])
def test_worked_masks(impl, num_new, num_tokens):
    print(f"{num_new} of {num_tokens} tokens are new\n{check_hidden(impl, num_new, num_tokens)}\n")


@pytest.mark.exercise("2.3", "examples")
@pytest.mark.parametrize(
    "num_new, num_tokens, num_heads, num_kv_heads", [(1, 3, 1, 1), (2, 5, 4, 2), (3, 3, 6, 3)]
)
def test_worked_chunks(impl, num_new, num_tokens, num_heads, num_kv_heads):
    history = impl.history("attend_chunk", imports=[TORCH])
    draw(history, ("query",), (num_new, num_heads, 4), 1)
    draw(history, ("key", "value"), (num_tokens, num_kv_heads, 4), 2)
    expected = oracle(*(history.value(name) for name in ("query", "key", "value")), 0.5)
    check_chunk(history, "attend_chunk(query, key, value, 0.5)", expected, "attention")


@pytest.mark.exercise("2.3", "properties")
@settings(max_examples=40)
@given(st.integers(1, 6), st.data(), st.integers(1, 3), st.integers(1, 2), st.integers(0, 999))
def test_any_chunk(impl, num_tokens, data, group, num_kv_heads, seed):
    num_new = data.draw(st.integers(1, num_tokens))
    check_hidden(impl, num_new, num_tokens)
    history = impl.history("attend_chunk", imports=[TORCH])
    draw(history, ("query",), (num_new, group * num_kv_heads, 3), seed)
    draw(history, ("key", "value"), (num_tokens, num_kv_heads, 3), seed + 1000)
    expected = oracle(*(history.value(name) for name in ("query", "key", "value")), 0.7)
    check_chunk(history, "attend_chunk(query, key, value, 0.7)", expected, "attention")


@pytest.mark.exercise("2.3", "properties")
@settings(max_examples=30)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 999))
def test_any_cut_of_a_text(impl, sizes, seed):
    history = impl.history("attend_chunk", imports=[TORCH])
    draw(history, ("query",), (sum(sizes), 2, 3), seed)
    draw(history, ("key", "value"), (sum(sizes), 1, 3), seed + 1000)
    whole = oracle(*(history.value(name) for name in ("query", "key", "value")), 1.0)
    start = 0
    for size in sizes:
        stop = start + size
        call = f"attend_chunk(query[{start}:{stop}], key[:{stop}], value[:{stop}], 1.0)"
        check_chunk(history, call, whole[start:stop], "split")
        start = stop


@pytest.mark.exercise("2.3", "properties")
@pytest.mark.parametrize("sizes", [(9,), (4, 1, 4), (1,) * 9])
def test_it_runs_in_the_real_model(impl, sizes):
    history = impl.history("attend_chunk", imports=[PLAIN, CACHE])
    history.program.append("model = PlainModel(attend_chunk)")
    history.namespace["model"] = model = real_model()
    history.run("caches = [AppendCache(16, 4, 32) for layer in range(6)]")
    start = 0
    model.attention = history.value("attend_chunk")
    try:
        for size in sizes:
            stop = start + size
            history.run(f"next_tokens = model.logits({TEXT[start:stop]}, caches).argmax(-1).tolist()")
            history.check(f"next_tokens == {says()[start:stop]}", "model")
            start = stop
    finally:
        model.attention = attend_chunk


# -- 2.4 ---------------------------------------------------------------------------------------------------------------


def pieces_by_hand(prompt, chunk_size):
    """The prompt in pieces, taken off its front one token at a time."""
    pieces = []
    for token in prompt:
        if not pieces or len(pieces[-1]) == chunk_size:
            pieces.append([])
        pieces[-1].append(token)
    return pieces


def toy_says(prompt, num_tokens):
    """What the toy model says: it is asked again with the whole text each time, as in chapter 01."""
    text = list(prompt)
    for _ in range(num_tokens):
        text.append(int(ToyForward()(text)[-1].argmax()))
    return text[len(prompt) :]


def check_chunks(impl, num_tokens, chunk_size):
    history = impl.history("chunks")
    history.run(f"pieces = [(start, stop) for start, stop in chunks({num_tokens}, {chunk_size})]")
    expected = [(piece[0], piece[-1] + 1) for piece in pieces_by_hand(range(num_tokens), chunk_size)]
    history.check(f"pieces == {expected}", "pieces")
    return expected


def check_prefill(impl, prompt, chunk_size):
    history = impl.history("prefill", imports=[TOY])
    history.run("forward = ToyForward()")
    history.run(f"logits = prefill(forward, {prompt}, {chunk_size})")
    history.check(f"forward.calls == {pieces_by_hand(prompt, chunk_size)}", "calls")
    history.check(f"tuple(logits.shape) == ({VOCABULARY},)", "last")
    history.check(f"int(logits.argmax()) == {toy_says(prompt, 1)[0]}", "last")


def check_decode(impl, prompt, num_tokens, chunk_size):
    history = impl.history("decode", imports=[TOY])
    history.run("forward = ToyForward()")
    history.run(f"output = decode(forward, {prompt}, {num_tokens}, {chunk_size})")
    said = toy_says(prompt, num_tokens)
    read = [*prompt, *said[:-1]]
    history.run("read = [token for call in forward.calls for token in call]")

    def picture():
        return f"expected to be read: {read}\nread by yours:       {history.value('read')}"

    history.check(f"len(output) == {num_tokens}", "greedy", picture)
    history.check(f"len(read) == {len(read)}", "once", picture)
    history.check(f"output == {said}", "greedy", picture)
    history.check(f"read == {read}", "once", picture)
    history.check(
        f"forward.calls[{-num_tokens + 1 or len(read)}:] == {[[token] for token in said[:-1]]}", "once"
    )
    return picture


@pytest.mark.exercise("2.4", "smoke")
def test_one_token_in_one_token_out(impl):
    check_chunks(impl, 1, 1)
    check_chunks(impl, 1, 4)
    check_prefill(impl, [7], 4)
    check_decode(impl, [7], 1, 4)


@pytest.mark.exercise("2.4", "examples")
@pytest.mark.parametrize("num_tokens, chunk_size", [(5, 2), (6, 2), (6, 6), (3, 8), (4, 1)])
def test_worked_chunk_sizes(impl, num_tokens, chunk_size):
    expected = check_chunks(impl, num_tokens, chunk_size)
    check_prefill(impl, list(range(20, 20 + num_tokens)), chunk_size)
    print(f"{num_tokens} tokens by {chunk_size}: {expected}")


@pytest.mark.exercise("2.4", "examples")
@pytest.mark.parametrize(
    "prompt, num_tokens, chunk_size", [([4, 5, 6, 7, 8], 3, 2), ([9], 4, 1), ([1, 2], 1, 2)]
)
def test_worked_answers(impl, prompt, num_tokens, chunk_size):
    print(check_decode(impl, prompt, num_tokens, chunk_size)() + "\n")


prompts = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9)


@pytest.mark.exercise("2.4", "properties")
@settings(max_examples=60)
@given(prompts, st.integers(1, 10))
def test_any_prefill(impl, prompt, chunk_size):
    check_chunks(impl, len(prompt), chunk_size)
    check_prefill(impl, prompt, chunk_size)


@pytest.mark.exercise("2.4", "properties")
@settings(max_examples=60)
@given(prompts, st.integers(1, 6), st.integers(1, 10))
def test_any_answer(impl, prompt, num_tokens, chunk_size):
    check_decode(impl, prompt, num_tokens, chunk_size)


@pytest.mark.exercise("2.4", "properties")
@settings(max_examples=30)
@given(prompts, st.integers(1, 5), st.integers(1, 10), st.integers(1, 10))
def test_any_two_cuts_say_the_same(impl, prompt, num_tokens, one, other):
    history = impl.history("decode", imports=[TOY])
    for name, size in (("here", one), ("there", other)):
        history.run(f"{name} = decode(ToyForward(), {prompt}, {num_tokens}, {size})")
    history.check("here == there", "split")


@pytest.mark.exercise("2.4", "properties")
@pytest.mark.parametrize("chunk_size", [1, 2, 6])
def test_the_real_model_with_a_real_cache(impl, chunk_size):
    history = impl.history("decode", imports=["from functools import partial", PLAIN, CACHE, CHUNK])
    history.program.append("model = PlainModel(attend_chunk)")
    history.namespace["model"] = real_model()
    history.run("caches = [AppendCache(32, 4, 32) for layer in range(6)]")
    history.run("forward = partial(model.logits, caches=caches)")
    history.run(f"output = decode(forward, {TEXT[:6]}, 5, {chunk_size})")
    history.check(f"output == {naive_says()}", "model")
    history.check("caches[0].num_tokens == 6 + 4", "once")


@cache
def naive_says():
    """Naive decoding with the real model and the oracle of attention."""
    model, text = PlainModel(oracle), TEXT[:6]
    for _ in range(5):
        text = [*text, int(model.logits(text)[-1].argmax())]
    return text[6:]
