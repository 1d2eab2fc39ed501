"""The point where a layer meets the KV cache: write this step's keys and values, then attend."""

from collections.abc import Sequence

from torch import Tensor, nn

from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.ops import AttentionBackend


class Attention(nn.Module):
    """Attention of one layer over its paged cache. Stateless: cache and metadata come with each call."""

    def __init__(
        self, backend: AttentionBackend, *, scale: float, window: int | None, layer_index: int
    ) -> None:
        super().__init__()
        self.backend, self.scale, self.window, self.layer_index = backend, scale, window, layer_index

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_caches: Sequence[LayerKVCache],
        attn_metadata: AttentionMetadata,
    ) -> Tensor:
        """query [T, H, D], key and value [T, K, D] -> [T, H, D]."""
        cache = kv_caches[self.layer_index]
        self.backend.write(key, value, cache, attn_metadata.slot_mapping)
        return self.backend.attend(query, cache, attn_metadata, scale=self.scale, window=self.window)
