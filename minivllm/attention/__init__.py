"""Attention over a paged KV cache: the metadata of a step, the naive oracle, and the fast path in torch."""
