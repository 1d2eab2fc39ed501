"""Static batching, the baseline that continuous batching replaced: a batch is filled, closed, and run to its end."""

from __future__ import annotations


class StaticBatch:
    """The seats of the batch that runs now.

    It is filled until no seat is left, nobody waits or the blocks are used up; a budget that is used up only makes it
    take more steps. Once it is closed nobody joins until all of it have left: a seat stays empty when its request is
    done, and a request that is preempted waits for the next batch.
    """

    def __init__(self, num_seats: int) -> None:
        self.num_seats = num_seats
        self.num_seats_left = 0

    def open(self) -> None:
        """The last batch has left: all seats are free."""
        self.num_seats_left = self.num_seats

    def take_seat(self) -> None:
        """A request joins."""
        self.num_seats_left -= 1

    def close(self) -> None:
        """Nobody joins any more."""
        self.num_seats_left = 0
