"""A model's folder may come from anybody: whatever is wrong in it, the server says one sentence and does not start.

Each case changes one thing in a small folder that serves. What is looked at is the command line's own answer: its exit
status, one line on stderr that names the culprit, and how much memory the attempt took.
"""

import json
import math
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from minivllm import zoo
from minivllm.serve import cli, server
from minivllm.serve.cli import main

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 3072,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "torch_dtype": "float32",
    "tie_word_embeddings": True,
}
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
LAYER = {
    (8,): ("input_layernorm", "post_attention_layernorm"),
    (8, 8): ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    (4, 8): ("self_attn.k_proj", "self_attn.v_proj"),
}
SHAPES = {EMBEDDING: (3072, 8), NORM: (8,)} | {
    f"model.layers.0.{name}.weight": shape for shape, names in LAYER.items() for name in names
}
Damage = Callable[[Path], object]
DEEP = "[" * 100_000
DIGITS = "9" * 5000  # more than Python reads


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder that serves."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(zoo.path("tutor") / name, folder / name)
    save_file(tensors(), folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture
def start(monkeypatch, capsys):
    """Start the server on a folder, up to where it would listen -> (exit status, stderr)."""
    monkeypatch.setattr(server, "run_server", lambda *_: None)
    monkeypatch.setattr(cli, "dictConfig", lambda _: None)  # the log of the process stays as it is

    def start(folder, *flags) -> tuple[int, str]:
        status = main([str(folder), "--port", "0", "--num-gpu-blocks-override", "8", *flags])
        return status, capsys.readouterr().err

    return start


def tensors(**changes: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(shape, generator=generator) for n, shape in SHAPES.items()} | changes


def writes(name: str, content: str | bytes) -> Damage:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def config(**changes: object) -> Damage:
    return writes("config.json", json.dumps(CONFIG | changes))


def weights(change: Callable[[dict[str, Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        made = tensors()
        change(made)
        save_file(made, folder / "model.safetensors")

    return damage


def norm(tensor: Tensor) -> Damage:
    return weights(lambda made: made.update({NORM: tensor}))


def header(content: object, data: bytes = b"", length: int | None = None) -> Damage:
    """A safetensors file of that header; `length` is what it claims the header's length to be."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    return writes("model.safetensors", size + text + data)


def one(dtype: str = "F32", shape: tuple[int, ...] = (8,), offsets: tuple[int, int] = (0, 32)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def index(content: object) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        writes("model.safetensors.index.json", content if isinstance(content, str) else json.dumps(content))(
            folder
        )

    return damage


def replaced_by(name: str, make: Callable[[Path], object]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def loop(path: Path) -> None:
    path.symlink_to(path.name)


SAFETENSORS = {
    "empty": (writes("model.safetensors", b""), "model.safetensors is not a complete"),
    "zeros": (writes("model.safetensors", bytes(8)), "model.safetensors is not a complete"),
    "header of 2**60 bytes": (header({}, length=2**60), "header too large"),
    "header of 2**64 - 1 bytes": (header({}, length=2**64 - 1), "header too large"),
    "header longer than the file": (header({}, length=1000), "is not a complete"),
    "header is no JSON": (header(b"hello"), "is not a complete"),
    "header is a list": (header([]), "is not a complete"),
    "header is nested": (header(DEEP.encode()), "is not a complete"),
    "header is not UTF-8": (header(b'{"\xff":1}'), "is not a complete"),
    "negative offset": (header({NORM: one(offsets=(-32, 0))}), "is not a complete"),
    "offset beyond the end": (header({NORM: one(offsets=(0, 2**60))}), "is not a complete"),
    "shape of 2**80": (header({NORM: one(shape=(2**40, 2**40))}, bytes(32)), "is not a complete"),
    "overlap": (header({NORM: one(), EMBEDDING: one(offsets=(16, 48))}, bytes(48)), "is not a complete"),
    "unknown dtype": (header({NORM: one("F99")}, bytes(32)), "is not a complete"),
    "name that comes twice": (
        header(json.dumps({NORM: one(), "x": one()}).replace('"x"', f'"{NORM}"').encode(), bytes(32)),
        "lacks 10 tensors",
    ),
    "no tensors": (header({}), "lacks 11 tensors; the first is model.embed_tokens.weight"),
    "pickle": (lambda f: torch.save(tensors(), f / "model.safetensors"), "is not a complete"),
    "folder": (replaced_by("model.safetensors", Path.mkdir), "lacks any *.safetensors file"),
    "link to itself": (replaced_by("model.safetensors", loop), "lacks any *.safetensors file"),
    "pipe": (replaced_by("model.safetensors", os.mkfifo), "lacks any *.safetensors file"),
    "missing tensor": (weights(lambda t: t.pop(NORM)), f"the first is {NORM}"),
    "tensor too many": (weights(lambda t: t.update(extra=torch.ones(1))), "tensor extra has no place"),
    "wrong shape": (norm(torch.ones(9)), f"{NORM} has shape [9], config.json asks for [8]"),
    "scalar": (norm(torch.tensor(1.0)), f"{NORM} has shape []"),
    "whole numbers": (norm(torch.ones(8, dtype=torch.int64)), f"{NORM} holds I64 numbers"),
    "truth values": (norm(torch.ones(8, dtype=torch.bool)), f"{NORM} holds BOOL numbers"),
    "complex numbers": (norm(torch.ones(8, dtype=torch.complex64)), f"{NORM} holds C64 numbers"),
    "NaN": (norm(torch.full((8,), math.nan)), f"{NORM} holds NaN or infinite numbers"),
    "one infinity": (norm(torch.tensor([1.0] * 7 + [math.inf])), f"{NORM} holds NaN or infinite numbers"),
}
IN_ITS_FOLDER = "must name *.safetensors files of its own folder"
INDEX = {
    "no JSON": (index("{"), "index.json is not valid JSON"),
    "a list": (index([]), "index.json must hold one JSON object"),
    "nested": (index(DEEP), "nested too deeply"),
    "digits": (index(f'{{"weight_map": {DIGITS}}}'), "not valid JSON"),
    "no map": (index({}), "no weight_map"),
    "map is a list": (index({"weight_map": ["a.safetensors"]}), "weight_map must be an object"),
    "number": (index({"weight_map": {NORM: 5}}), IN_ITS_FOLDER),
    "null": (index({"weight_map": {NORM: None}}), IN_ITS_FOLDER),
    "list": (index({"weight_map": {NORM: ["a.safetensors"]}}), IN_ITS_FOLDER),
    "parent folder": (index({"weight_map": {NORM: "../a.safetensors"}}), IN_ITS_FOLDER),
    "way round": (index({"weight_map": {NORM: "x/../a.safetensors"}}), IN_ITS_FOLDER),
    "absolute": (index({"weight_map": {NORM: "/etc/a.safetensors"}}), IN_ITS_FOLDER),
    "backslashes": (index({"weight_map": {NORM: "..\\a.safetensors"}}), IN_ITS_FOLDER),
    "NUL": (index({"weight_map": {NORM: "a\0.safetensors"}}), IN_ITS_FOLDER),
    "long name": (index({"weight_map": {NORM: "a" * 5000 + ".safetensors"}}), IN_ITS_FOLDER),
    "half a character": (index('{"weight_map": {"a": "\\ud800.safetensors"}}'), IN_ITS_FOLDER),
    "pickle": (index({"weight_map": {NORM: "pytorch_model.bin"}}), IN_ITS_FOLDER),
    "missing file": (index({"weight_map": {NORM: "b.safetensors"}}), "lacks b.safetensors"),
}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "use_sliding_window": True, "sliding_window": 4}
WHOLE = "must be a positive whole number"
CONFIG_VALUES = [
    *((name, "3", WHOLE) for name in ("vocab_size", "hidden_size", "num_key_value_heads", "head_dim")),
    *((name, True, WHOLE) for name in ("num_hidden_layers", "num_attention_heads", "intermediate_size")),
    *((name, 2**60, "must be at most") for name in ("vocab_size", "hidden_size", "max_position_embeddings")),
    *((name, "x", "must be a number") for name in ("rms_norm_eps", "rope_theta")),
    *((name, math.nan, "must be a number") for name in ("rms_norm_eps", "rope_theta")),
    *(
        (name, "no", "must be true or false")
        for name in ("tie_word_embeddings", "attention_bias", "mlp_bias")
    ),
    *(("architectures", value, "must be a list of strings") for value in ("LlamaForCausalLM", 5, [[]], [{}])),
    ("num_hidden_layers", 10**12, "must be at most 10000"),
    ("vocab_size", 2**31 - 1, "do not fit into the memory"),
    ("max_position_embeddings", 2**31 - 1, "do not fit into the memory"),
    ("rms_norm_eps", None, "must be a number"),
    ("rope_theta", 0, "must be a number of at least"),
    ("rope_scaling", [1], "must be an object"),
    ("rope_scaling", {"rope_type": []}, "rope_type [] is not one of"),
    ("rope_scaling", {"rope_type": "linear", "factor": 0}, "factor of the rope settings"),
    ("rope_scaling", {"rope_type": "yarn", "factor": math.nan}, "factor of the rope settings"),
    (
        "rope_scaling",
        {"rope_type": "yarn", "factor": 2.0, "beta_fast": "x"},
        "beta_fast of the rope settings",
    ),
    ("quantization_config", "awq", "must be an object"),
    ("quantization_config", {"quant_method": ["awq"]}, "quantized with"),
    ("bos_token_id", "a", "must be token ids"),
]
OTHER_CONFIGS = {
    "empty": (writes("config.json", ""), "config.json is not valid JSON"),
    "not UTF-8": (writes("config.json", b"\xff"), "config.json is not valid JSON"),
    "a list": (writes("config.json", "[]"), "must hold one JSON object, not a list"),
    "nested": (writes("config.json", DEEP), "config.json is not valid JSON: it is nested too deeply"),
    "digits": (writes("config.json", f'{{"vocab_size": {DIGITS}}}'), "config.json is not valid JSON"),
    "link to itself": (replaced_by("config.json", loop), "has no config.json"),
    "layer_types": (config(**QWEN3, layer_types=5), "layer_types must be a list of strings"),
    "max_window_layers": (config(**QWEN3, max_window_layers="a"), "max_window_layers must be a number"),
    "code": (config(architectures=["Mine"], auto_map={"AutoModel": "mine.Mine"}), "(auto_map) is never run"),
    "heads": (config(num_attention_heads=3, num_key_value_heads=3), "config.json asks for [6, 8]"),
}
GENERATION = {
    "": "generation_config.json is not valid JSON",
    "[]": "generation_config.json must hold one JSON object",
    '{"eos_token_id": "a"}': "generation_config.json: eos_token_id must be token ids in [0, 3071]",
    '{"eos_token_id": [3072]}': "generation_config.json: eos_token_id must be token ids in [0, 3071]",
    '{"temperature": "hot"}': "generation_config.json: temperature must be",
    '{"temperature": NaN}': "generation_config.json: temperature must be",
    '{"top_k": 1.5}': "generation_config.json: top_k must be",
    '{"repetition_penalty": 0}': "generation_config.json: repetition_penalty must be",
    '{"max_new_tokens": -1}': "generation_config.json: max_new_tokens must be",
}
TOKENIZER_FILES = ["", "[]", "{}", "null", DEEP, '{"model": {"type": "Evil"}}', "\x00\x01"]


def with_template(template: object) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))

    return damage


TEMPLATES = {
    "syntax": (with_template("{% for %}"), "the chat template is no valid Jinja, in line 1"),
    "syntax of the one by name": (
        with_template([{"name": "default", "template": "\n{{"}]),
        "the chat template is no valid Jinja, in line 2",
    ),
    "number": (with_template(5), "the model's chat template is no text"),
    "list of numbers": (with_template([5]), "the tokenizer of"),
    "file": (writes("chat_template.jinja", "{% for %}"), "the chat template is no valid Jinja"),
    "file that is no text": (writes("chat_template.jinja", b"\xff"), "the tokenizer of"),
}
CASES = {
    **{f"safetensors, {name}": case for name, case in SAFETENSORS.items()},
    **{f"index, {name}": case for name, case in INDEX.items()},
    **{f"{n}={str(v)[:40]}": (config(**{n: v}), f"{n}|{sentence}") for n, v, sentence in CONFIG_VALUES},
    **{f"config, {name}": case for name, case in OTHER_CONFIGS.items()},
    **{f"generation, {t}": (writes("generation_config.json", t), s) for t, s in GENERATION.items()},
    **{
        f"{name}, {text[:9]!r}": (writes(name, text), "the tokenizer of")
        for name in ("tokenizer.json", "tokenizer_config.json")
        for text in TOKENIZER_FILES
        if name == "tokenizer.json"
        or text[:1] != "{"  # an object of settings that says nothing is no mistake
    },
    **{f"template, {name}": case for name, case in TEMPLATES.items()},
}


def test_the_folder_that_nothing_is_wrong_with_serves(folder, start):
    assert start(folder) == (0, "")


@pytest.mark.parametrize("case", CASES)
def test_it_is_one_sentence(case, folder, start):
    damage, expected = CASES[case]
    damage(folder)
    before = resident_bytes()
    status, error = start(folder)
    assert status == 1 and error.startswith("minivllm.serve: ") and error.count("\n") == 1, error
    assert "Traceback" not in error and len(error) < 700 + len(str(folder))
    sentence = expected.rpartition("|")[2]
    assert sentence in error, error
    assert resident_bytes() - before < 64 * 2**20


def resident_bytes() -> int:
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_numbers_are_looked_at_before_they_are_quantized(folder, start):
    """8-bit weights have no NaN: it must be seen in the file."""
    damage = weights(lambda t: t["model.layers.0.mlp.up_proj.weight"].__setitem__((3, 3), math.nan))
    damage(folder)
    status, error = start(folder, "--quantization", "int8_per_channel_weight_only")
    assert status == 1 and "up_proj.weight holds NaN or infinite numbers" in error


def test_large_numbers_are_fine(folder, start):
    """Their sum is no float any more, and each of them is one."""
    norm(torch.full((8,), 3e38))(folder)
    assert start(folder)[0] == 0


def test_a_template_of_the_users_is_checked_likewise(folder, start, tmp_path, capsys):
    status, error = start(folder, "--chat-template", "{{ messages")
    assert status == 1 and "the chat template is no valid Jinja, in line 1" in error
    (tmp_path / "t.jinja").write_bytes(b"\xff")
    with pytest.raises(SystemExit):
        main([str(folder), "--chat-template", str(tmp_path / "t.jinja")])
    assert "t.jinja is not UTF-8 text" in capsys.readouterr().err


def test_a_template_that_wants_another_conversation_is_no_mistake(folder, start):
    with_template("{{ raise_exception('begin with a system message') }}")(folder)
    assert start(folder) == (0, "")


def test_an_index_that_names_files_of_its_folder_serves(folder, start):
    index({"weight_map": dict.fromkeys(SHAPES, "a.safetensors")})(folder)
    assert start(folder) == (0, "")
