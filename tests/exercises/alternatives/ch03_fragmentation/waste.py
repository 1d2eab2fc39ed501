"""Slot by slot: each is asked what it is."""

from collections import Counter
from dataclasses import dataclass

from minivllm.sim.usage import Usage


@dataclass
class Account:
    need: int
    used: int = 0
    allocated: int = 0
    rounding: int = 0

    def kinds(self):
        for slot in range(self.allocated):
            yield "used" if slot < self.used else "reserved" if slot < self.need else "internal"

    @property
    def reserved(self):
        return sum(kind == "reserved" for kind in self.kinds())

    @property
    def internal(self):
        return sum(kind == "internal" for kind in self.kinds())


def count_usage(accounts, holes, wanted=0, size=0):
    accounts = list(accounts)
    count = Counter(kind for account in accounts for kind in account.kinds())
    somebody_fits = any(hole >= size for hole in holes)
    kind = "external" if wanted and wanted <= sum(holes) and not somebody_fits else "free"
    count[kind] += sum(holes)
    classes = [count[name] for name in ("used", "reserved", "internal", "external", "free")]
    return Usage(*classes, sum(account.rounding for account in accounts))
