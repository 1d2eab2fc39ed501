"""The point where a layer meets the KV cache: write this step's keys and values, then attend."""

import math
import re
from collections.abc import Sequence

from torch import Tensor, nn

from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.layers.weights import CheckpointTensor
from minivllm.ops import AttentionBackend


class Attention(nn.Module):
    """Attention of one layer over its paged cache. Stateless: cache and metadata come with each call.

    An 8-bit cache holds key / k_scale and value / v_scale. Nothing below this class knows of the scales, because one
    number for a whole layer can be pulled out: q (k_scale k)^T scale = q k^T (k_scale scale), and a weighted mean of
    v_scale v is v_scale times that of v. Both are 1 unless a checkpoint was calibrated; then keys and values that would
    saturate, or that are all tiny, use the whole range of the 8 bits.
    """

    def __init__(
        self, backend: AttentionBackend, *, scale: float, window: int | None, layer_index: int
    ) -> None:
        super().__init__()
        self.backend, self.scale, self.window, self.layer_index = backend, scale, window, layer_index
        self.k_scale = self.v_scale = 1.0

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_caches: Sequence[LayerKVCache],
        attn_metadata: AttentionMetadata,
    ) -> Tensor:
        """query [T, H, D], key and value [T, K, D] -> [T, H, D]."""
        cache, scale, v_scale = kv_caches[self.layer_index], self.scale, 1.0
        if cache.key.dtype.itemsize == 1 and (self.k_scale, self.v_scale) != (1.0, 1.0):
            key, value = key.float() / self.k_scale, value.float() / self.v_scale
            scale, v_scale = scale * self.k_scale, self.v_scale
        self.backend.write(key, value, cache, attn_metadata.slot_mapping)
        out = self.backend.attend(query, cache, attn_metadata, scale=scale, window=self.window)
        return out if v_scale == 1.0 else out * v_scale

    def load_kv_scale(self, kind: str, name: str, tensor: CheckpointTensor) -> None:
        """Take a calibrated scale from a checkpoint. kind: "k", "v" or "kv", which is both.

        Raises:
            ValueError: it is not one positive number.
        """
        numbers = tensor[:] if tensor.shape else tensor[()]
        scale = float(numbers.float()) if numbers.numel() == 1 else math.nan
        if not 0 < scale < math.inf:
            raise ValueError(
                f"checkpoint tensor {name} must be one positive number, the scale of a layer's 8-bit keys or values."
            )
        if "k" in kind:
            self.k_scale = scale
        if "v" in kind:
            self.v_scale = scale


_KV_SCALE = re.compile(r"model\.layers\.(\d+)\.self_attn\.(?:attn\.|[kv]_proj\.)?(kv|k|v)_scale")


def parse_kv_scale(name: str) -> tuple[int, str] | None:
    """(layer, kind) if a checkpoint tensor is the scale of an 8-bit cache, as the usual quantizers name it; else None.

    self_attn.k_scale (compressed-tensors), self_attn.k_proj.k_scale (ModelOpt), self_attn.attn.k_scale (vLLM's own
    name), self_attn.kv_scale (older: one for both). vLLM: maybe_remap_kv_scale_name.
    """
    match = _KV_SCALE.fullmatch(name)
    return (int(match[1]), match[2]) if match else None
