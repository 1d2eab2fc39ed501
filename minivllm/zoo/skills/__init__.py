"""One module per skill. Each makes scenes: short lists of exchanges that belong together."""
