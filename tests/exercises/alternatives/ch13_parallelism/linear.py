"""Every rank's shards are listed, and this rank takes its own. The bias is added after the sum."""

from dataclasses import replace

from minivllm.layers.linear import Linear
from minivllm.layers.linear_method import Shard


class MergedColumnParallelLinear(Linear):
    def __init__(self, in_size, out_sizes, *, bias, context):
        mine, offset = [], 0
        for name, total in out_sizes.items():
            size = context.tp.divide(total, name)
            pieces = [
                Shard(
                    name=name, out_total=total, in_total=in_size, out_start=start, out_size=size,
                    in_start=0, in_size=in_size, offset=0,
                )
                for start in range(0, total, size)
            ]  # fmt: skip
            mine.append(replace(pieces[context.tp.rank], offset=offset))
            offset += size
        Linear.__init__(self, mine, bias, context)


class RowParallelLinear(Linear):
    def __init__(self, in_size, out_size, *, bias, context):
        size = context.tp.divide(in_size, "inputs")
        starts = list(range(0, in_size, size))
        shard = Shard("", out_size, in_size, 0, out_size, starts[context.tp.rank], size, 0)
        Linear.__init__(self, [shard], bias, context)

    def forward(self, x):
        partial = self.method.apply(self, x, None)
        total = self.tp.all_reduce(partial)
        return total if self.bias is None else total + self.bias
