"""Speculative decoding: guess several tokens cheaply, check all in one step, keep what the model would have said."""
