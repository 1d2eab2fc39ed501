"""Our engine beside others on the same requests, each in a process (and if need be in a Python) of its own."""
