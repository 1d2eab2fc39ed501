"""Dividing a model over several processes."""
