// Paged attention: walks the block tables, gathers nothing, and never holds more scores than one tile's.
//
// One item of work is a few queries for one kv head. Its G = H / K query heads times so many queries are the rows of a
// small matrix; the context passes by in tiles of SPAN positions:
//
//     scores [rows, SPAN] = q [rows, D] keys^T       masked: a query sees neither the future nor what slid out of its window
//     online softmax      (Milakov and Gimelshein 2018): when a tile has a larger maximum, what was summed so far shrinks
//     sums [rows, D]     += weights [rows, SPAN] values [SPAN, D]
//
// Requests whose tables begin with the same blocks share an item: those blocks pass by once for all of them, then each
// request's own. That is vLLM's cascade attention; here the rows keep one softmax all the way, so there is nothing to merge.
//
// Threads take items one after the other, so that a long context does not keep the others waiting. A result depends
// neither on the number of threads nor on requests that share no blocks.
// Sources: PagedAttention (Kwon et al. 2023), section 4.1; FlashAttention (Dao et al. 2022).

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <type_traits>
#include <vector>

#include "attention_items.h"
#include "kernels.h"
#include "vector.h"

namespace {

constexpr long SPAN = 2 * PANEL;         // positions of a tile
constexpr long FEW_ROWS = 8;             // so few have their scores lie row by row, more have them side by side
constexpr long WORTH_THREADS = 1 << 17;  // multiplications
constexpr float NEVER = -INFINITY;
template <typename T>
constexpr long LINE = 64 / sizeof(T);  // elements of a cache line

template <typename T>
struct Batch {
    T* out;               // [T, H, D]
    const T* query;       // [T, H, D]
    long query_stride;    // elements from one token to the next
    const T* keys;        // [N, B, K, D]
    const T* values;      // [N, B, K, D]
    Tables tables;
    long num_heads, num_kv_heads, head_size, window;
    float scale;
};

long round_up(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }

// Where the keys and values of a few positions lie in the cache.
template <typename T>
struct Tile {
    long start, count;
    const T *keys[SPAN], *values[SPAN];
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

    void fit(long head_size, long num_rows) {
        if (head_size != size) query.clear(), keys.clear(), values.clear();  // what they are padded with has to be 0
        size = head_size, width = round_up(size, PANEL), rows = round_up(num_rows, LANES);
        query.resize(rows * width), turned.resize(size * rows), scores.resize(rows * SPAN);
        keys.resize(SPAN * width), values.resize(SPAN * width);
        sums.assign(rows * width, 0), highest.assign(rows, NEVER), total.assign(rows, 0);
        from.assign(rows, 0), until.assign(rows, 0);
    }
};

// Find positions [start, start + count) through a request's table, and have them brought nearer.
template <typename T>
void locate(const Batch<T>& batch, long kv_head, const int32_t* table, long start, long count, Tile<T>& tile) {
    const long size = batch.head_size, step = batch.num_kv_heads * size, block_size = batch.tables.block_size;
    tile.start = start, tile.count = count;
    long block = start / block_size, offset = start % block_size;
    for (long i = 0; i < count; i++) {
        const long place = (table[block] * block_size + offset) * step + kv_head * size;
        tile.keys[i] = batch.keys + place, tile.values[i] = batch.values + place;
        for (long d = 0; d < size; d += LINE<T>) {
            __builtin_prefetch(tile.keys[i] + d);
            __builtin_prefetch(tile.values[i] + d);
        }
        if (++offset == block_size) offset = 0, block++;
    }
}

// Where a row can be read as float32 in whole panels: where it lies, or in a copy of it.
template <typename T>
const float* readable(const T* row, float* copy, long size, long width) {
    if constexpr (std::is_same_v<T, float>)
        if (size == width) return row;
    for (long d = 0; d < size; d++) copy[d] = widen(row[d]);
    return copy;
}

template <typename T>
void read(const Tile<T>& tile, Scratch& s) {
    for (long i = 0; i < tile.count; i++) {
        s.key_rows[i] = readable(tile.keys[i], &s.keys[i * s.width], s.size, s.width);
        s.value_rows[i] = readable(tile.values[i], &s.values[i * s.width], s.size, s.width);
    }
    std::fill(s.key_rows + tile.count, s.key_rows + SPAN, s.key_rows[0]);  // read, but never looked at
}

// What was summed so far shrinks from its largest score `before` to the new one.
float shrunk(float before, float now) { return before == NEVER ? 0.0f : std::exp(before - now); }

void shrink_sums(Scratch& s, long row, float shrink) {
    if (shrink == 1.0f) return;
    for (long d = 0; d < s.width; d += LANES) {
        float* sums = &s.sums[row * s.width + d];
        store(sums, load(sums) * shrink);
    }
}

// One row's scores, LANES positions at a time, turned into weights.
void score_row(Scratch& s, long row, float* scores, long start, long count) {
    const float* query = &s.query[row * s.width];
    for (long first = 0; first < count; first += LANES) {
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
        const Floats weight = x == all(NEVER) ? Floats{} : exponential(x - now);
        store(scores + i, weight);
        total += weight;
    }
    s.highest[row] = now;
    s.total[row] = s.total[row] * shrink + sum(total);
    shrink_sums(s, row, shrink);
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
    Floats tops[4] = {before, before, before, before}, totals[4] = {};
    for (long i = 0; i < count; i++) tops[i % 4] = larger(tops[i % 4], load(scores + i * s.rows));
    const Floats now = larger(larger(tops[0], tops[1]), larger(tops[2], tops[3]));
    for (long i = 0; i < count; i++) {
        const Floats x = load(scores + i * s.rows);
        const Floats weight = x == all(NEVER) ? Floats{} : exponential(x - now);
        store(scores + i * s.rows, weight);
        totals[i % 4] += weight;
    }
    const Floats shrink = before == all(NEVER) ? Floats{} : exponential(before - now);
    store(&s.highest[lane], now);
    store(&s.total[lane], load(&s.total[lane]) * shrink + ((totals[0] + totals[1]) + (totals[2] + totals[3])));
    for (long i = std::max(0L, first - lane); i < LANES && lane + i < end; i++) shrink_sums(s, lane + i, shrink[i]);
}

// Rows [first, end) look at the tile that s.key_rows and s.value_rows hold.
void look(Scratch& s, long first, long end, long start, long count) {
    const long rows = end - first;
    if (rows <= FEW_ROWS) {
        for (long row = 0; row < rows; row++) score_row(s, first + row, &s.scores[row * SPAN], start, count);
        for (long d = 0; d < s.width; d += PANEL)
            multiply(&s.sums[first * s.width + d], s.width, Plain{s.scores.data(), SPAN}, Scattered{s.value_rows, d}, count, rows);
        return;
    }
    const Gathered keys{s.key_rows};
    std::fill_n(s.scores.begin(), count * s.rows, 0.0f);
    long lane = first / LANES * LANES;
    for (; lane + LANES < end; lane += PANEL)
        multiply<2>(&s.scores[lane], s.rows, keys, Strided<float>{&s.turned[lane], s.rows}, s.size, count);
    if (lane < end) multiply<1>(&s.scores[lane], s.rows, keys, Strided<float>{&s.turned[lane], s.rows}, s.size, count);
    for (lane = first / LANES * LANES; lane < end; lane += LANES) weigh_lanes(s, lane, first, end, start, count);
    for (long d = 0; d < s.width; d += PANEL)
        multiply(&s.sums[first * s.width + d], s.width, Turned{&s.scores[first], s.rows}, Scattered{s.value_rows, d}, count, rows);
}

// Rows [first, end) look at positions [start, stop) of a table; while they look at a tile, the next is on its way.
template <typename T>
void pass(const Batch<T>& batch, long kv_head, long request, long first, long end, long start, long stop, Scratch& s) {
    if (start >= stop) return;
    const int32_t* table = batch.tables.of(request);
    Tile<T> tiles[2];
    locate(batch, kv_head, table, start, std::min(SPAN, stop - start), tiles[0]);
    for (long i = 0; start < stop; i++, start += SPAN) {
        const Tile<T>& tile = tiles[i % 2];
        const long next = start + SPAN;
        if (next < stop) locate(batch, kv_head, table, next, std::min(SPAN, stop - next), tiles[(i + 1) % 2]);
        read(tile, s);
        look(s, first, end, start, tile.count);
    }
}

// Rows of one query lie together: row = query * group + head.
template <typename T>
void take_queries(const Batch<T>& batch, long kv_head, const Part& part, Scratch& s) {
    const long group = batch.num_heads / batch.num_kv_heads, size = batch.head_size, length = group * size;
    const T* first = batch.query + (batch.tables.begin(part.request) + part.first) * batch.query_stride;
    first += kv_head * length;
    for (long i = 0; i < part.count; i++)
        for (long d = 0; d < length; d += LINE<T>) __builtin_prefetch(first + i * batch.query_stride + d);
    long position = batch.tables.context(part.request) + part.first, row = part.row;
    for (long i = 0; i < part.count; i++, position++)
        for (long h = 0; h < group; h++, row++) {
            const T* from = first + i * batch.query_stride + h * size;
            float* to = &s.query[row * s.width];
            for (long d = 0; d < size; d++) to[d] = widen(from[d]) * batch.scale;
            s.from[row] = batch.window > 0 ? std::max(0L, position - batch.window + 1) : 0;
            s.until[row] = position + 1;
        }
}

void turn_queries(Scratch& s) {
    for (long row = 0; row < s.rows; row++)
        for (long d = 0; d < s.size; d++) s.turned[d * s.rows + row] = s.query[row * s.width + d];
}

template <typename T>
void give_results(const Batch<T>& batch, long kv_head, const Part& part, const Scratch& s) {
    const long group = batch.num_heads / batch.num_kv_heads, size = batch.head_size;
    T* out = batch.out + (batch.tables.begin(part.request) + part.first) * batch.num_heads * size;
    out += kv_head * group * size;
    long row = part.row;
    for (long i = 0; i < part.count; i++)
        for (long h = 0; h < group; h++, row++) {
            T* to = out + (i * batch.num_heads + h) * size;
            const float* sums = &s.sums[row * s.width];
            const float scale = s.total[row] != 0 ? 1 / s.total[row] : 0;
            for (long d = 0; d < size; d++) narrow(sums[d] * scale, to + d);
        }
}

template <typename T>
void attend(const Batch<T>& batch, const Plan& plan, const Item& item, long kv_head, Scratch& s) {
    const Part *parts = &plan.parts[item.first_part], *behind = parts + item.num_parts;
    const long rows = item.num_queries * plan.group;
    s.fit(batch.head_size, rows);
    for (const Part* part = parts; part < behind; part++) take_queries(batch, kv_head, *part, s);
    if (rows > FEW_ROWS) turn_queries(s);
    const long oldest = *std::min_element(s.from.begin(), s.from.begin() + rows);
    pass(batch, kv_head, parts->request, 0, rows, oldest, item.shared, s);
    for (const Part* part = parts; part < behind; part++) {
        const long first = part->row, end = first + part->count * plan.group;
        const long start = std::max<long>(item.shared, s.from[first]);
        pass(batch, kv_head, part->request, first, end, start, s.until[end - 1], s);
        give_results(batch, kv_head, *part, s);
    }
}

template <typename T>
void run(const Batch<T>& batch, long num_threads) {
    const Plan plan = make_plan(batch.tables, batch.num_heads / batch.num_kv_heads, SPAN);
    const long num_items = plan.items.size() * batch.num_kv_heads;
    // The heads of a position lie side by side: one thread takes them all, where there is enough for every thread.
    const long step = plan.items.size() >= 4 * size_t(num_threads) ? batch.num_kv_heads : 1;
    std::atomic<long> next{0};
    const auto work = [&] {
        static thread_local std::unique_ptr<Scratch> scratch;  // behind a pointer: its address is looked up once
        if (!scratch) scratch = std::make_unique<Scratch>();
        for (long first = next.fetch_add(step); first < num_items; first = next.fetch_add(step))
            for (long i = first; i < first + step; i++)
                attend(batch, plan, plan.items[i / batch.num_kv_heads], i % batch.num_kv_heads, *scratch);
    };
#ifdef _OPENMP
    if (num_threads > 1 && plan.num_pairs * batch.num_heads * batch.head_size > WORTH_THREADS) {
#pragma omp parallel num_threads(num_threads)
        work();
        return;
    }
#endif
    work();
}

}  // namespace

template <typename T>
static void paged_attention(
    void* out, const void* query, const void* keys, const void* values, const int32_t* block_tables,
    const int32_t* query_start_loc, const int32_t* seq_lens, const long* sizes, float scale) {
    const Tables tables{block_tables, sizes[1], query_start_loc, seq_lens, sizes[2], sizes[6]};
    run(Batch<T>{static_cast<T*>(out), static_cast<const T*>(query), sizes[0], static_cast<const T*>(keys),
                 static_cast<const T*>(values), tables, sizes[3], sizes[4], sizes[5], sizes[7], scale},
        sizes[8]);
}

// sizes: query_stride, table_stride, R, H, K, D, B, window (0: none), threads.
extern "C" void paged_attention_float32(
    void* out, const void* query, const void* keys, const void* values, const int32_t* block_tables,
    const int32_t* query_start_loc, const int32_t* seq_lens, const long* sizes, float scale) {
    paged_attention<float>(out, query, keys, values, block_tables, query_start_loc, seq_lens, sizes, scale);
}

extern "C" void paged_attention_bfloat16(
    void* out, const void* query, const void* keys, const void* values, const int32_t* block_tables,
    const int32_t* query_start_loc, const int32_t* seq_lens, const long* sizes, float scale) {
    paged_attention<BFloat16>(out, query, keys, values, block_tables, query_start_loc, seq_lens, sizes, scale);
}
