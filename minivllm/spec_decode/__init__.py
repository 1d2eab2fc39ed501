"""Speculative decoding: guess several tokens cheaply, check them all in one step, keep what the model would have said."""
