"""Weights in fewer bits: 4-bit AWQ checkpoints, 8-bit weights made while loading, and the command that makes AWQ."""
