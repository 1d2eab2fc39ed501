// Paged attention: walks the block tables, gathers nothing, and never holds more scores than one tile's.
//
// One item of work is a few queries of one request for one kv head. Its G = H / K query heads times so many queries are
// the rows of a small matrix; the context passes by in tiles of SPAN positions:
//
//     scores [rows, SPAN] = q [rows, D] keys^T       masked: a query sees neither the future nor what slid out of its window
//     online softmax      (Milakov and Gimelshein 2018): when a tile has a larger maximum, what was summed so far shrinks
//     sums [rows, D]     += weights [rows, SPAN] values [SPAN, D]
//
// Threads take items one after the other, so that a long context does not keep the others waiting. An item's result
// depends on nothing but itself: neither the number of threads nor the rest of the batch can change it.
// Sources: PagedAttention (Kwon et al. 2023), section 4.1; FlashAttention (Dao et al. 2022).

#include <algorithm>
#include <atomic>
#include <cmath>
#include <type_traits>
#include <vector>

#include "kernels.h"
#include "vector.h"

namespace {

constexpr long SPAN = 2 * PANEL;    // positions of a tile: two panels
constexpr long TARGET_ROWS = 64;    // rows of an item, where a request has so many
constexpr long FEW_ROWS = 4;        // for so few it does not pay to turn the keys around
constexpr float NEVER = -INFINITY;

template <typename T>
struct Batch {
    T* out;               // [T, H, D]
    const T* query;       // [T, H, D]
    long query_stride;    // elements from one token to the next
    const T* keys;        // [N, B, K, D]
    const T* values;      // [N, B, K, D]
    const int32_t* block_tables;     // [R, max_blocks]
    long table_stride;
    const int32_t* query_start_loc;  // [R + 1]
    const int32_t* seq_lens;         // [R]
    long num_requests, num_heads, num_kv_heads, head_size, block_size, window;
    float scale;
};

struct Item {
    int32_t request, first, count;  // queries [first, first + count) of the request
    int32_t kv_head;
};

long round_up(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }

// What one thread works with; sized once for its largest item. Head sizes are padded with zeros to whole panels.
struct Scratch {
    long width;  // of a padded head
    std::vector<float> query, keys, turned, values, scores, sums, highest, total;
    const float *key_rows[SPAN], *value_rows[SPAN];  // of a tile: in the cache, or copied into keys and values
    Scratch(long head_size, long rows)
        : width(round_up(head_size, PANEL)),
          query(rows * width),
          keys(SPAN * width),
          turned(width * SPAN),
          values(SPAN * width),
          scores(rows * SPAN),
          sums(rows * width),
          highest(rows),
          total(rows) {}
};

// Where a row of the tile can be read as float32 in whole panels: where it lies, or in a copy of it.
template <typename T>
const float* readable(const T* row, float* copy, long size, long width) {
    if constexpr (std::is_same_v<T, float>)
        if (size == width) {
            for (long d = 0; d < size; d += 16) __builtin_prefetch(row + d);  // all of a tile is on its way before the first
            return row;
        }
    for (long d = 0; d < size; d++) copy[d] = widen(row[d]);
    return copy;
}

// Find the keys and values of positions [start, start + count) through the block table.
template <typename T>
void read_tile(const Batch<T>& batch, const Item& item, long start, long count, Scratch& s) {
    const int32_t* table = batch.block_tables + item.request * batch.table_stride;
    const long size = batch.head_size, step = batch.num_kv_heads * size;
    long block = start / batch.block_size, offset = start % batch.block_size;
    for (long i = 0; i < count; i++) {
        const long place = (table[block] * batch.block_size + offset) * step + item.kv_head * size;
        s.key_rows[i] = readable(batch.keys + place, &s.keys[i * s.width], size, s.width);
        s.value_rows[i] = readable(batch.values + place, &s.values[i * s.width], size, s.width);
        if (++offset == batch.block_size) offset = 0, block++;
    }
    std::fill(s.key_rows + count, s.key_rows + SPAN, s.key_rows[0]);  // read, but never looked at
}

// scores [rows, SPAN] of the tile. What stands behind `count` is masked later.
void multiply_keys(Scratch& s, long rows, long head_size, long count) {
    if (rows > FEW_ROWS) {
        for (long i = 0; i < count; i++)
            for (long d = 0; d < head_size; d++) s.turned[d * SPAN + i] = s.key_rows[i][d];
        std::fill_n(s.scores.begin(), rows * SPAN, 0.0f);
        for (long i = 0; i < count; i += PANEL)
            multiply(&s.scores[i], SPAN, s.query.data(), s.width, Strided<float>{&s.turned[i], SPAN}, head_size, rows);
        return;
    }
    for (long row = 0; row < rows; row++) {
        const float* query = &s.query[row * s.width];
        for (long first = 0; first < count; first += LANES) {
            Floats products[LANES] = {};
            for (int i = 0; i < LANES; i++)
                for (long d = 0; d < s.width; d += LANES)
                    products[i] += load(query + d) * load(s.key_rows[first + i] + d);
            store(&s.scores[row * SPAN + first], sum_each(products));
        }
    }
}

// Turn a row's scores into weights, of which those outside [low, high) are 0, and let what was summed so far shrink.
void weigh(Scratch& s, long row, long low, long high) {
    float* scores = &s.scores[row * SPAN];
    for (long i = 0; i < low && i < SPAN; i++) scores[i] = NEVER;
    for (long i = std::max(0L, high); i < SPAN; i++) scores[i] = NEVER;
    Floats top = load(scores);
    for (long i = LANES; i < SPAN; i += LANES) top = larger(load(scores + i), top);
    const float before = s.highest[row], here = largest(top);
    const float now = before > here ? before : here;  // NaN, if there is one: it must not vanish
    if (now == NEVER) {  // it has seen nothing yet
        std::fill_n(scores, SPAN, 0.0f);
        return;
    }
    const float shrink = before == NEVER ? 0.0f : std::exp(before - now);
    Floats total{};
    for (long i = 0; i < SPAN; i += LANES) {
        const Floats x = load(scores + i);
        const Floats weight = x == all(NEVER) ? Floats{} : exponential(x - now);
        store(scores + i, weight);
        total += weight;
    }
    s.highest[row] = now;
    s.total[row] = s.total[row] * shrink + sum(total);
    if (shrink != 1.0f)
        for (long d = 0; d < s.width; d++) s.sums[row * s.width + d] *= shrink;
}

template <typename T>
void attend(const Batch<T>& batch, const Item& item, Scratch& s) {
    const long group = batch.num_heads / batch.num_kv_heads, rows = group * item.count, size = batch.head_size;
    const long begin = batch.query_start_loc[item.request], seq_len = batch.seq_lens[item.request];
    const long query_len = batch.query_start_loc[item.request + 1] - begin;
    const long first_position = seq_len - query_len + item.first, last_position = first_position + item.count - 1;
    for (long row = 0; row < rows; row++) {  // rows of one query lie together: row = query * group + head
        const T* query = batch.query + (begin + item.first + row / group) * batch.query_stride;
        query += (item.kv_head * group + row % group) * size;
        for (long d = 0; d < size; d++) s.query[row * s.width + d] = widen(query[d]) * batch.scale;
        s.highest[row] = NEVER, s.total[row] = 0;
    }
    std::fill_n(s.sums.begin(), rows * s.width, 0.0f);
    const long oldest = batch.window > 0 ? std::max(0L, first_position - batch.window + 1) : 0;
    for (long start = oldest; start <= last_position; start += SPAN) {
        const long count = std::min(SPAN, last_position + 1 - start);
        read_tile(batch, item, start, count, s);
        multiply_keys(s, rows, size, count);
        for (long row = 0; row < rows; row++) {
            const long position = first_position + row / group;
            const long low = batch.window > 0 ? position - batch.window + 1 - start : 0;
            weigh(s, row, low, position + 1 - start);
        }
        for (long d = 0; d < s.width; d += PANEL)
            multiply(&s.sums[d], s.width, s.scores.data(), SPAN, Scattered{s.value_rows, d}, count, rows);
    }
    for (long row = 0; row < rows; row++) {
        T* out = batch.out + ((begin + item.first + row / group) * batch.num_heads) * size;
        out += (item.kv_head * group + row % group) * size;
        const float scale = s.total[row] != 0 ? 1 / s.total[row] : 0;
        for (long d = 0; d < size; d++) narrow(s.sums[row * s.width + d] * scale, out + d);
    }
}

template <typename T>
void run(const Batch<T>& batch, int num_threads) {
    const long group = batch.num_heads / batch.num_kv_heads;
    const long queries = std::max(1L, TARGET_ROWS / group);  // of an item, at most
    std::vector<Item> items;
    long longest = 1;
    for (long r = 0; r < batch.num_requests; r++) {
        const long query_len = batch.query_start_loc[r + 1] - batch.query_start_loc[r];
        for (long first = 0; first < query_len; first += queries)
            for (long k = 0; k < batch.num_kv_heads; k++) {
                const long count = std::min(queries, query_len - first);
                items.push_back({int32_t(r), int32_t(first), int32_t(count), int32_t(k)});
                longest = std::max(longest, count);
            }
    }
    std::atomic<size_t> next{0};
    const auto work = [&] {
        Scratch scratch(batch.head_size, longest * group);
        for (size_t i = next++; i < items.size(); i = next++) attend(batch, items[i], scratch);
    };
#ifdef _OPENMP
    const long work_size = items.size() * group;  // waking a thread takes as long as a few short contexts
    if (num_threads > 1 && work_size > 4) {
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
    run(Batch<T>{static_cast<T*>(out), static_cast<const T*>(query), sizes[0], static_cast<const T*>(keys),
                 static_cast<const T*>(values), block_tables, sizes[1], query_start_loc, seq_lens, sizes[2], sizes[3],
                 sizes[4], sizes[5], sizes[6], sizes[7], scale},
        int(sizes[8]));
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
