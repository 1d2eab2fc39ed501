"""Ranks and layers are dealt out one at a time."""


class Plan:
    def __init__(self, tensor=1, pipeline=1):
        self.tensor, self.pipeline = tensor, pipeline
        self.world_size = tensor * pipeline
        self.where = {}
        for stage in range(pipeline):
            for place in range(tensor):
                self.where[len(self.where)] = (stage, place)

    @property
    def output_rank(self):
        return min(rank for rank, (stage, _) in self.where.items() if stage == self.pipeline - 1)

    def place(self, rank):
        return self.where[rank]

    def tensor_groups(self):
        groups = [[] for _ in range(self.pipeline)]
        for rank, (stage, _) in self.where.items():
            groups[stage].append(rank)
        return groups


def layer_ranges(num_layers, num_stages):
    if num_stages > num_layers:
        raise ValueError("a stage would be empty")
    order = [*range(num_stages - 2, -1, -1), num_stages - 1]  # who gets one more, if there is one
    sizes = [0] * num_stages
    for layer in range(num_layers):
        sizes[order[layer % num_stages]] += 1
    ranges, start = [], 0
    for size in sizes:
        ranges.append(range(start, start + size))
        start += size
    return ranges
