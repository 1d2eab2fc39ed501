"""The control plane: which request runs next, and where its keys and values lie. Pure Python, never imports torch."""
