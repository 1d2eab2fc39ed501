// In which order the tiles of the contexts pass by the rows that look at them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "attention_items.h"
#include "attention_tile.h"

namespace {

constexpr long TILE_BYTES = 1 << 17;  // of a tile that few rows look at: the next one lies beside it in the second cache

// What a query sees begins there: at 0, or where its window does.
long oldest_seen(long position, long window) { return window > 0 ? std::max(0L, position - window + 1) : 0; }

// Rows [first, end) of an item look at positions [start, start + count) of a request, for some kv heads.
struct Visit {
    const Item* item;
    int32_t kv_head, num_heads;
    int32_t request, first, end;
    long start, count;
    bool begins = false, ends = false;  // the item, for these heads
};

// All visits of an item: the shared tiles, at most `span` positions each, pass by for all its parts, then each part's own.
void add_visits(
    const Tables& tables, const Plan& plan, const Item& item, int32_t kv_head, int32_t num_heads, long window,
    long span, std::vector<Visit>& visits) {
    const auto add = [&](const Part& part, long first, long end, long start, long stop) {
        for (; start < stop; start += span)
            visits.push_back({&item, kv_head, num_heads, part.request, int32_t(first), int32_t(end), start,
                              std::min(span, stop - start)});
    };
    const auto position = [&](const Part& part) { return tables.context(part.request) + part.first; };
    const Part *parts = &plan.parts[item.first_part], *behind = parts + item.num_parts;
    const size_t begin = visits.size();
    long oldest = item.shared;
    for (const Part* part = parts; part < behind; part++)
        oldest = std::min(oldest, oldest_seen(position(*part), window));
    add(*parts, 0, item.num_queries * plan.group, oldest, item.shared);
    for (const Part* part = parts; part < behind; part++) {
        const long start = std::max(item.shared, oldest_seen(position(*part), window));
        add(*part, part->row, part->row + part->count * plan.group, start, position(*part) + part->count);
    }
    if (visits.size() == begin)  // nothing to look at: its results are zeros
        visits.push_back({&item, kv_head, num_heads, parts->request, 0, item.num_queries * int32_t(plan.group), 0, 0});
    visits[begin].begins = visits.back().ends = true;
}

// The visits of one thread, one behind the other. Threads claim `step` kv heads of an item at a time. Few rows wait for
// the memory, and take all these heads with them from tile to tile, as they lie side by side; many rows wait for the
// multipliers, and take one head after the other.
struct Visits {
    const Tables& tables;
    const Plan& plan;
    std::atomic<long>& next_claim;
    const long num_kv_heads, step, window, bytes;  // of a position: a head's keys and values
    std::vector<Visit> claimed = {};
    size_t next = 0;

    // False: there are no more.
    bool take(Visit& visit) {
        if (next == claimed.size()) {
            claimed.clear(), next = 0;
            const long claims = (num_kv_heads + step - 1) / step, claim = next_claim.fetch_add(1);
            if (claim >= long(plan.items.size()) * claims) return false;
            add(plan.items[claim / claims], claim % claims * step);
        }
        visit = claimed[next++];
        return true;
    }

    void add(const Item& item, long head) {
        const long end = std::min(num_kv_heads, head + step), heads = end - head;
        if (item.num_queries * plan.group <= FEW_ROWS) {
            const long span = std::max<long>(LANES, TILE_BYTES / (num_kv_heads * bytes) / LANES * LANES);
            return add_visits(tables, plan, item, head, heads, window, std::min(SPAN, span), claimed);
        }
        for (; head < end; head++) add_visits(tables, plan, item, head, 1, window, SPAN, claimed);
    }
};

}  // namespace
