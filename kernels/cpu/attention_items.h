// What attention works on, item by item: which queries, and with whom they share the beginning of their context.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

constexpr long TARGET_ROWS = 64;  // of an item, where there are so many

// The requests of a step.
struct Tables {
    const int32_t* block_tables;  // [R, max_blocks]
    long stride;
    const int32_t* query_start_loc;  // [R + 1]
    const int32_t* seq_lens;         // [R]
    long num_requests, block_size;

    const int32_t* of(long request) const { return block_tables + request * stride; }
    long begin(long request) const { return query_start_loc[request]; }
    long query_len(long request) const { return query_start_loc[request + 1] - query_start_loc[request]; }
    long context(long request) const { return seq_lens[request] - query_len(request); }  // before its queries

    // How many positions two requests have in common: those of the blocks with which both tables begin.
    long shared(long a, long b) const {
        const long end = std::min(seq_lens[a], seq_lens[b]), blocks = (end + block_size - 1) / block_size;
        const int32_t *table = of(a), *other = of(b);
        return std::min(end, long(std::mismatch(table, table + blocks, other).first - table) * block_size);
    }
};

// Queries [first, first + count) of a request; `row` is the first of their rows in the item.
struct Part {
    int32_t request, first, count, row;
};

// The same for each kv head.
struct Item {
    int32_t first_part, num_parts, num_queries;
    long shared;  // positions that pass by once for all parts; 0 where there is one part
};

struct Plan {
    long group, least;
    std::vector<Part> parts;
    std::vector<Item> items;
    long num_pairs = 0;  // of a query and a position

    // Queries go into the last item if it has room, and if what all would share is at least `least` positions and not
    // much less than without the newcomer.
    void add(const Tables& tables, int32_t request, int32_t first, int32_t count) {
        num_pairs += count * long(tables.seq_lens[request]);
        if (!items.empty() && (items.back().num_queries + count) * group <= TARGET_ROWS) {
            Item& last = items.back();
            const long common = tables.shared(parts[last.first_part].request, request);
            if (common >= least && 2 * common >= last.shared) {
                parts.push_back({request, first, count, int32_t(last.num_queries * group)});
                last.shared = last.num_parts == 1 ? common : std::min(last.shared, common);
                last.num_parts++, last.num_queries += count;
                return;
            }
        }
        items.push_back({int32_t(parts.size()), 1, count, 0});
        parts.push_back({request, first, count, 0});
    }
};

// `group`: query heads of a kv head.
inline Plan make_plan(const Tables& tables, long group, long least) {
    Plan plan{group, least, {}, {}};
    std::vector<int32_t> order(tables.num_requests);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return *tables.of(a) < *tables.of(b); });
    const long most = std::max(1L, TARGET_ROWS / group);
    for (const int32_t request : order)
        for (long first = 0, end = tables.query_len(request); first < end; first += most)
            plan.add(tables, request, int32_t(first), int32_t(std::min(most, end - first)));
    return plan;
}
