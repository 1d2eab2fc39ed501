// A few rows of queries look at one tile of keys and values: scores, online softmax, weighted sums. All in float32.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "product.h"
#include "vector.h"

namespace {

constexpr long SPAN = 2 * PANEL;  // positions of a tile
constexpr long FEW_ROWS = 8;      // so few are scored one by one, LANES positions at a time; more, LANES rows at a time
constexpr float NEVER = -INFINITY;

long round_up(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }

// The keys and values that come next, `bytes` at each position. They are asked for a few at a time, in the order in which
// they lie: the memory answers while others are computed.
struct Ahead {
    const char *const *keys, *const *values;
    long count, bytes;
    long position = 0, offset = 0;
    void ask(long lines) {
        for (; lines > 0 && position < count; lines--) {
            __builtin_prefetch(keys[position] + offset, 0, 2);
            __builtin_prefetch(values[position] + offset, 0, 2);
            if ((offset += 64) >= bytes) position++, offset = 0;
        }
    }
    long lines() const { return count * ((bytes + 63) / 64); }
};

// What one thread works with, kept from call to call. Head sizes are padded with zeros to `width`, whole panels.
struct Scratch {
    long size = 0, width, rows;  // of the item; rows are padded to whole vectors
    std::vector<float> query, turned;  // [rows, width], and the same as [D, rows]
    std::vector<float> scores;         // of a tile: [rows, SPAN] for few rows, [SPAN, rows] for more
    std::vector<float> sums;           // [rows, width]
    std::vector<float> highest, total;
    std::vector<int32_t> from, until;  // positions that a row sees: [from, until)
    std::vector<float> keys, values;   // [SPAN, width] where the cache's own cannot be read as they are
    const float *key_rows[SPAN], *value_rows[SPAN];

    bool are_few() const { return rows <= FEW_ROWS; }

    void fit(long head_size, long num_rows) {
        if (head_size != size) query.clear(), keys.clear(), values.clear();  // what they are padded with has to be 0
        size = head_size, width = round_up(size, PANEL);
        rows = num_rows <= FEW_ROWS ? num_rows : round_up(num_rows, LANES);
        query.resize(rows * width), turned.resize(size * rows), scores.resize(rows * SPAN);
        keys.resize(SPAN * width), values.resize(SPAN * width);
        sums.assign(rows * width, 0), highest.assign(rows, NEVER), total.assign(rows, 0);
        from.assign(rows, 0), until.assign(rows, 0);
    }
};

// e^(x - now), for x <= now.
Floats weight_of(Floats x, Floats now) { return x == all(NEVER) ? Floats{} : exponential_below_one(x - now); }

// What was summed so far shrinks from its largest score `before` to the new one.
float shrunk(float before, float now) { return before == NEVER ? 0.0f : std::exp(before - now); }

void shrink_sums(Scratch& s, long row, float shrink) {
    if (shrink == 1.0f) return;
    for (long d = 0; d < s.width; d += LANES) {
        float* sums = &s.sums[row * s.width + d];
        store(sums, load(sums) * shrink);
    }
}

// One row's scores, LANES positions at a time, turned into weights. Each time, `share` lines of what comes next are asked for.
void score_row(Scratch& s, long row, float* scores, long start, long count, Ahead& ahead, long share) {
    const float* query = &s.query[row * s.width];
    for (long first = 0; first < count; first += LANES) {
        ahead.ask(share);
        Floats products[LANES] = {};
        const float* const* keys = s.key_rows + first;
        for (long d = 0; d < s.width; d += LANES) {
            const Floats part = load(query + d);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) products[i] += part * load(keys[i] + d);
        }
        store(scores + first, sum_each(products));
    }
    for (long i = 0; i < s.from[row] - start && i < SPAN; i++) scores[i] = NEVER;
    const long end = round_up(count, LANES);
    for (long i = std::max(0L, std::min(count, s.until[row] - start)); i < end; i++) scores[i] = NEVER;
    Floats top = load(scores);
    for (long i = LANES; i < end; i += LANES) top = larger(load(scores + i), top);
    const float before = s.highest[row], here = largest(top);
    const float now = before > here ? before : here;  // NaN, if there is one: it must not vanish
    const float shrink = shrunk(before, now);
    Floats total{};
    for (long i = 0; i < end; i += LANES) {
        const Floats x = load(scores + i);
        const Floats weight = weight_of(x, all(now));
        store(scores + i, weight);
        total += weight;
    }
    s.highest[row] = now;
    s.total[row] = s.total[row] * shrink + sum(total);
    shrink_sums(s, row, shrink);
}

constexpr int UNROLL = 4;  // sums under way at a time: one that waits for the one before it wastes time

// Call f(i, which sum) for i in [0, count).
template <typename F>
void for_each(long count, F f) {
    long i = 0;
    for (; i + UNROLL <= count; i += UNROLL)
        for (int j = 0; j < UNROLL; j++) f(i + j, j);
    for (; i < count; i++) f(i, 0);
}

// The same for LANES rows at once, from `lane` on; their scores of one position lie together. Only rows [first, end)
// are meant: what the others see of this tile is nothing.
void weigh_lanes(Scratch& s, long lane, long first, long end, long start, long count) {
    int32_t from[LANES], until[LANES], latest_from = 0, least_until = INT32_MAX;
    for (long i = 0; i < LANES; i++) {
        const bool is_meant = first <= lane + i && lane + i < end;
        from[i] = s.from[lane + i], until[i] = is_meant ? s.until[lane + i] : 0;
        latest_from = std::max(latest_from, from[i]), least_until = std::min(least_until, until[i]);
    }
    float* scores = &s.scores[lane];
    if (latest_from > start || least_until < start + count)
        for (long i = 0; i < count; i++) {
            const Ints is_seen = (load(from) <= all(int32_t(start + i))) & (load(until) > all(int32_t(start + i)));
            store(scores + i * s.rows, is_seen ? load(scores + i * s.rows) : all(NEVER));
        }
    const Floats before = load(&s.highest[lane]);
    Floats tops[UNROLL], totals[UNROLL] = {};
    std::fill_n(tops, UNROLL, before);
    for_each(count, [&](long i, int j) { tops[j] = larger(tops[j], load(scores + i * s.rows)); });
    const Floats now = larger(larger(tops[0], tops[1]), larger(tops[2], tops[3]));
    for_each(count, [&](long i, int j) {
        const Floats x = load(scores + i * s.rows), weight = weight_of(x, now);
        store(scores + i * s.rows, weight);
        totals[j] += weight;
    });
    const Floats shrink = weight_of(before, now);
    store(&s.highest[lane], now);
    store(&s.total[lane], load(&s.total[lane]) * shrink + ((totals[0] + totals[1]) + (totals[2] + totals[3])));
    for (long i = std::max(0L, first - lane); i < LANES && lane + i < end; i++) shrink_sums(s, lane + i, shrink[i]);
}

// Rows [first, end) look at the tile that s.key_rows and s.value_rows hold.
void look(Scratch& s, long first, long end, long start, long count, Ahead& ahead, long share) {
    const long rows = end - first;
    const auto add = [&](float* sums, auto weights, auto values) {
        multiply(sums, s.width, sums, s.width, weights, values, count, rows);
    };
    if (rows <= FEW_ROWS) {
        for (long row = 0; row < rows; row++)
            score_row(s, first + row, &s.scores[row * SPAN], start, count, ahead, share);
        for (long d = 0; d < s.width; d += PANEL)
            add(&s.sums[first * s.width + d], Plain{s.scores.data(), SPAN}, Scattered{s.value_rows, d});
        return;
    }
    const Gathered keys{s.key_rows};
    static const float zeros[PANEL] = {};
    long lane = first / LANES * LANES;
    for (; lane + LANES < end; lane += PANEL)
        multiply<2>(&s.scores[lane], s.rows, zeros, 0, keys, Strided{&s.turned[lane], s.rows}, s.size, count);
    if (lane < end)
        multiply<1>(&s.scores[lane], s.rows, zeros, 0, keys, Strided{&s.turned[lane], s.rows}, s.size, count);
    for (lane = first / LANES * LANES; lane < end; lane += LANES) weigh_lanes(s, lane, first, end, start, count);
    for (long d = 0; d < s.width; d += PANEL)
        add(&s.sums[first * s.width + d], Turned{&s.scores[first], s.rows}, Scattered{s.value_rows, d});
}

}  // namespace
