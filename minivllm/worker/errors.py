"""What an executor raises when the fault is not the user's."""


class WorkerError(RuntimeError):
    """A rank failed or was killed: the model is gone, and with it every request under way."""
