"""What a model is, read from a Hugging Face folder. No torch in here.

A folder holds config.json (the shapes), generation_config.json (how its authors like to sample), tokenizer files
and safetensors. `ModelConfig.from_pretrained` turns the first two into one frozen value. Families differ in small
things (who has a bias, who normalizes q and k, which layers slide a window): those differences are data in
`FAMILIES`, so that one decoder serves them all.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minivllm.model_files import (
    mapping,
    number,
    read_json_object,
    short,
    switch,
    texts,
    token_ids,
    whole_number,
)

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
KV_CACHE_DTYPE_BYTES = DTYPE_BYTES | {"float8_e4m3fn": 1, "float8_e5m2": 1}
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
ROPE_LIMITS = {  # the least that each number of the rope settings may be
    1.0: ("factor", "original_max_position_embeddings"),
    0.0: (
        *("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"),
        *("attention_factor", "mscale", "mscale_all_dim"),
    ),
}
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
MAX_LAYERS = 10_000
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class Family:
    """How an architecture differs from the plain Llama decoder, and what it assumes where config.json is silent."""

    defaults: Mapping[str, Any]
    qkv_bias: bool | None = False  # None: as `attention_bias` says, and the output projection likewise
    mlp_bias: bool | None = False  # None: as `mlp_bias` says
    qk_norm: bool = False
    windows: str = "none"  # "none", "all" layers, or "layer_types"


_QWEN = {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096}
_MISTRAL = {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096}
FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family({"max_position_embeddings": 2048}, qkv_bias=None, mlp_bias=None),
    "MistralForCausalLM": Family(_MISTRAL, windows="all"),
    "Qwen2ForCausalLM": Family(_QWEN, qkv_bias=True, windows="layer_types"),
    "Qwen3ForCausalLM": Family(_QWEN | {"head_dim": 128}, qkv_bias=None, qk_norm=True, windows="layer_types"),
}


@dataclass(frozen=True)
class KVCacheSpec:
    """What one layer keeps per token: the unit from which the number of KV blocks is computed."""

    num_kv_heads: int
    head_size: int
    dtype: str
    window: int | None = None

    @property
    def bytes_per_token(self) -> int:
        """Key and value together."""
        return 2 * self.num_kv_heads * self.head_size * KV_CACHE_DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model. `from_pretrained` makes one; tests may build it by hand."""

    path: Path
    architecture: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    hidden_act: str
    rope_theta: float
    rope_scaling: Mapping[str, Any] | None  # None: plain rotary embedding
    tie_word_embeddings: bool
    attention_bias: bool  # on q, k and v
    attention_output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_window: int | None  # None: no layer has one
    layer_windows: tuple[int | None, ...]  # one per layer; None: the layer sees the whole context
    dtype: str  # the checkpoint's
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    generation_defaults: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)  # config.json with the overrides applied

    def __post_init__(self) -> None:
        for name in (*REQUIRED, "num_key_value_heads", "head_dim", "max_position_embeddings"):
            whole_number(f"config.json: {name}", getattr(self, name))
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"config.json: num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"config.json: head_dim must be even for rotary embeddings, got {self.head_dim}."
            )
        if self.hidden_act not in ("silu", "swish"):
            raise ValueError(
                f"config.json: hidden_act {short(self.hidden_act)} is not supported, only 'silu' is."
            )
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(
                f"config.json: dtype {short(self.dtype)} is not one of {', '.join(DTYPE_BYTES)}."
            )

    @property
    def num_params(self) -> int:
        """Number of weights in the matrices (norms and biases, far below 1 %, are left out)."""
        heads = 2 * self.num_attention_heads + 2 * self.num_key_value_heads
        layer = self.hidden_size * (heads * self.head_dim + 3 * self.intermediate_size)
        embeddings = 1 if self.tie_word_embeddings else 2
        return self.num_hidden_layers * layer + embeddings * self.vocab_size * self.hidden_size

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        download_dir: str | None = None,
        trust_remote_code: bool = False,
        hf_overrides: Mapping[str, Any] | None = None,
    ) -> "ModelConfig":
        """Read a local folder, or fetch a hub id once into the Hugging Face cache and read that.

        Args:
            model: folder in Hugging Face format, or a hub id such as "Qwen/Qwen3-0.6B".
            revision: branch, tag or commit on the hub.
            download_dir: where the hub's files are put; None = the Hugging Face cache.
            trust_remote_code: accepted because vLLM has it; Python files that come with a model (`auto_map`)
                are never imported, whatever it says.
            hf_overrides: entries that replace those of config.json (nested ones are merged one level deep).

        Raises:
            ValueError: no such model, no config.json, an unsupported architecture, or a value out of range.
        """
        path = resolve_model_path(model, revision=revision, download_dir=download_dir)
        raw = _with_rope_parameters(read_json_object(path / "config.json"))
        for key, value in _with_rope_parameters(hf_overrides or {}).items():
            merge = isinstance(value, Mapping) and isinstance(raw.get(key), Mapping)
            raw[key] = {**raw[key], **value} if merge else value
        generation_file = path / "generation_config.json"
        generation = read_json_object(generation_file) if generation_file.is_file() else {}
        return cls(path=path, generation_defaults=generation, raw=raw, **_fields(raw, generation))

    def kv_cache_specs(self, dtype: str, tensor_parallel_size: int = 1) -> list[KVCacheSpec]:
        """One spec per layer, for a cache of that dtype. A kv head is never split: too few are repeated."""
        heads = max(1, self.num_key_value_heads // tensor_parallel_size)
        return [KVCacheSpec(heads, self.head_dim, dtype, window) for window in self.layer_windows]


def resolve_model_path(
    model: str | Path, *, revision: str | None = None, download_dir: str | None = None
) -> Path:
    """The folder of a model: itself if it is one, else a snapshot of the hub id of that name.

    Raises:
        ValueError: neither exists, or it has no config.json.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"model: the folder {path} has no config.json; give one in Hugging Face format.")
        return path
    name = str(model)
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise ValueError(f"model: {name!r} is neither a folder nor a hub id such as 'Qwen/Qwen3-0.6B'.")
    return _download(name, revision, download_dir)


def _download(name: str, revision: str | None, download_dir: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, revision=revision, cache_dir=download_dir, allow_patterns=HUB_FILES)
    except (
        OSError,
        ValueError,
    ) as error:  # what the hub client raises for a bad name, no network, no such model
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise ValueError(
            f"model: there is no folder {name!r} here, and the Hugging Face hub did not deliver it: {reason}. "
            "Check the spelling and the network, or give the path of a local folder."
        ) from error
    return resolve_model_path(folder)


def _with_rope_parameters(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Spell rope settings as transformers 5 does; older files say rope_theta, rope_scaling and "type"."""
    rope: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        rope |= mapping(f"config.json: {name}", raw.get(name))
    if "type" in rope:
        rope.setdefault("rope_type", rope.pop("type"))
    if raw.get("rope_theta") is not None:
        rope.setdefault("rope_theta", raw["rope_theta"])
    rest = {k: v for k, v in raw.items() if k not in ("rope_scaling", "rope_parameters", "rope_theta")}
    return rest | ({"rope_parameters": rope} if rope else {})


def _architecture(raw: Mapping[str, Any]) -> str:
    names = texts("config.json: architectures", raw.get("architectures"))
    for name in names:
        if name in FAMILIES:
            return name
    asked = ", ".join(names)[:200] or "config.json names none"
    own_code = " Python code that comes with a model (auto_map) is never run." if "auto_map" in raw else ""
    supported = ", ".join(sorted(FAMILIES))
    raise ValueError(f"model: architecture not supported: {asked}.{own_code} Supported: {supported}.")


def _fields(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of ModelConfig that the two files say, with the family's defaults for what they leave out."""
    architecture = _architecture(raw)
    family = FAMILIES[architecture]
    cfg = {**family.defaults, **raw}
    for name in REQUIRED:
        limit = {"limit": MAX_LAYERS} if name == "num_hidden_layers" else {}
        whole_number(f"config.json: {name}", cfg.get(name), **limit)
    if generation.get("max_new_tokens") is not None:
        whole_number("generation_config.json: max_new_tokens", generation["max_new_tokens"])
    mapping("config.json: quantization_config", cfg.get("quantization_config"))
    rope = dict(cfg.get("rope_parameters") or {})
    windows = _layer_windows(family, cfg)
    own_bias = _switch(cfg, "attention_bias")
    return {
        **{name: cfg[name] for name in (*REQUIRED, "max_position_embeddings")},
        "architecture": architecture,
        "num_key_value_heads": cfg.get("num_key_value_heads") or cfg["num_attention_heads"],
        "head_dim": cfg.get("head_dim") or cfg["hidden_size"] // cfg["num_attention_heads"],
        "rms_norm_eps": number("config.json: rms_norm_eps", cfg.get("rms_norm_eps", 1e-6)),
        "hidden_act": cfg.get("hidden_act", "silu"),
        "rope_theta": number("config.json: rope_theta", rope.pop("rope_theta", 10000.0), low=2),
        "rope_scaling": _rope_scaling(rope, cfg),
        "tie_word_embeddings": _switch(cfg, "tie_word_embeddings"),
        "attention_bias": own_bias if family.qkv_bias is None else family.qkv_bias,
        "attention_output_bias": own_bias and family.qkv_bias is None,
        "mlp_bias": _switch(cfg, "mlp_bias") if family.mlp_bias is None else family.mlp_bias,
        "qk_norm": family.qk_norm,
        "sliding_window": next((window for window in windows if window is not None), None),
        "layer_windows": windows,
        "dtype": str(cfg.get("dtype") or cfg.get("torch_dtype") or "float32"),
        "eos_token_ids": _special_tokens("eos_token_id", cfg, generation),
        "bos_token_id": next(iter(_special_tokens("bos_token_id", cfg, generation)), None),
    }


def _switch(cfg: Mapping[str, Any], name: str) -> bool:
    return switch(f"config.json: {name}", cfg.get(name))


def _special_tokens(name: str, cfg: Mapping[str, Any], generation: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids by that name; what generation_config.json says comes first."""
    file, said = ("generation_config.json", generation) if name in generation else ("config.json", cfg)
    return token_ids(f"{file}: {name}", said.get(name), cfg["vocab_size"])


def _rope_scaling(rope: Mapping[str, Any], cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = rope.get("rope_type", "default")
    if kind not in ROPE_TYPES:
        raise ValueError(f"config.json: rope_type {short(kind)} is not one of {', '.join(ROPE_TYPES)}.")
    if rope.get("partial_rotary_factor", cfg.get("partial_rotary_factor") or 1.0) != 1.0:
        raise ValueError("config.json: partial_rotary_factor is not supported, all of head_dim is rotated.")
    if kind == "default":
        return None
    needed = ["factor", "low_freq_factor", "high_freq_factor"] if kind == "llama3" else ["factor"]
    missing = [name for name in needed if not isinstance(rope.get(name), int | float)]
    if missing:
        raise ValueError(f"config.json: rope_type {kind!r} needs a number for {', '.join(missing)}.")
    settings = {"original_max_position_embeddings": cfg["max_position_embeddings"], **rope}
    for low, names in ROPE_LIMITS.items():
        for name in names:
            if settings.get(name) is not None:
                number(f"config.json: {name} of the rope settings", settings[name], low)
    if kind == "llama3" and not settings["low_freq_factor"] < settings["high_freq_factor"]:
        raise ValueError("config.json: high_freq_factor of the rope settings must be above low_freq_factor.")
    return settings


def _layer_windows(family: Family, cfg: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Mistral slides in every layer; Qwen, if at all, where layer_types says so or from max_window_layers on."""
    layers = range(cfg["num_hidden_layers"])
    window = cfg.get("sliding_window")
    slides = family.windows == "all" or (
        family.windows == "layer_types" and _switch(cfg, "use_sliding_window")
    )
    if not slides or window is None:
        return (None,) * len(layers)
    whole_number("config.json: sliding_window", window)
    if family.windows == "all":
        return (window,) * len(layers)
    first = number("config.json: max_window_layers", cfg.get("max_window_layers", 28))
    types = texts("config.json: layer_types", cfg.get("layer_types")) or [
        "sliding_attention" if i >= first else "full_attention" for i in layers
    ]
    if len(types) != len(layers) or not set(types) <= {"sliding_attention", "full_attention"}:
        what = "one 'sliding_attention' or 'full_attention' per layer"
        raise ValueError(f"config.json: layer_types must have {what} ({len(layers)}), got {short(types)}.")
    return tuple(window if kind == "sliding_attention" else None for kind in types)
