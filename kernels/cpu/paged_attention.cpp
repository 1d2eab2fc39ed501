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
#include <memory>
#include <type_traits>
#include <vector>

#include "attention_items.h"
#include "attention_tile.h"
#include "kernels.h"
#include "vector.h"

namespace {

constexpr long WORTH_THREADS = 1 << 17;  // multiplications
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

// Where the keys and values of a few positions lie in the cache.
template <typename T>
struct Tile {
    long start, count;
    const T *keys[SPAN], *values[SPAN];
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
