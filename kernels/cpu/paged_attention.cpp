// Paged attention: walks the block tables, gathers nothing, and never holds more scores than one tile's.
//
// One item of work is a few queries. For each kv head its G = H / K query heads times so many queries are the rows of a
// small matrix; the context passes by in tiles of up to SPAN positions:
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
#include <type_traits>
#include <vector>

#include "attention_items.h"
#include "attention_tile.h"
#include "attention_visits.h"
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
    const T *keys[SPAN], *values[SPAN];
};

template <typename T>
void locate(const Batch<T>& batch, const Visit& visit, Tile<T>& tile) {
    const long size = batch.head_size, step = batch.num_kv_heads * size, block_size = batch.tables.block_size;
    const int32_t* table = batch.tables.of(visit.request);
    long block = visit.start / block_size, offset = visit.start % block_size;
    for (long i = 0; i < visit.count; i++) {
        const long place = (table[block] * block_size + offset) * step + visit.kv_head * size;
        tile.keys[i] = batch.keys + place, tile.values[i] = batch.values + place;
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

// Kv head number `head` of those that the visit is for.
template <typename T>
void read(const Tile<T>& tile, long count, long head, Scratch& s) {
    for (long i = 0; i < count; i++) {
        s.key_rows[i] = readable(tile.keys[i] + head * s.size, &s.keys[i * s.width], s.size, s.width);
        s.value_rows[i] = readable(tile.values[i] + head * s.size, &s.values[i * s.width], s.size, s.width);
    }
    std::fill(s.key_rows + count, s.key_rows + SPAN, s.key_rows[0]);  // read, but never looked at
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
            s.from[row] = oldest_seen(position, batch.window);
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

// The rows of an item, for one kv head, before they have looked at anything.
template <typename T>
void begin(const Batch<T>& batch, const Plan& plan, const Item& item, long kv_head, Scratch& s) {
    s.fit(batch.head_size, item.num_queries * plan.group);
    for (int32_t i = 0; i < item.num_parts; i++) take_queries(batch, kv_head, plan.parts[item.first_part + i], s);
    if (!s.are_few()) turn_queries(s);
}

template <typename T>
void end(const Batch<T>& batch, const Plan& plan, const Item& item, long kv_head, const Scratch& s) {
    for (int32_t i = 0; i < item.num_parts; i++) give_results(batch, kv_head, plan.parts[item.first_part + i], s);
}

// While rows look at a tile, the next one is on its way: of the same item, or of the next.
template <typename T>
void attend(const Batch<T>& batch, const Plan& plan, Visits visits, std::vector<Scratch>& scratch) {
    Visit visit, next;
    Tile<T> tiles[2];
    bool is_more = visits.take(visit);
    if (is_more) locate(batch, visit, tiles[0]);
    for (long i = 0; is_more; i++, visit = next) {
        is_more = visits.take(next);
        const Tile<T>& tile = tiles[i % 2];
        Tile<T>& coming = tiles[(i + 1) % 2];
        if (is_more) locate(batch, next, coming);
        Ahead ahead{(const char* const*)coming.keys, (const char* const*)coming.values, is_more ? next.count : 0,
                    next.num_heads * batch.head_size * long(sizeof(T))};
        const long rows = visit.end - visit.first, turns = visit.num_heads * rows * (visit.count + LANES - 1) / LANES;
        const long share = 1 + ahead.lines() / (turns + 1);
        if (rows > FEW_ROWS) ahead.ask(ahead.lines());
        for (long head = 0; head < visit.num_heads; head++) {
            Scratch& s = scratch[head];
            if (visit.begins) begin(batch, plan, *visit.item, visit.kv_head + head, s);
            if (visit.count) {
                read(tile, visit.count, head, s);
                look(s, visit.first, visit.end, visit.start, visit.count, ahead, share);
            }
            if (visit.ends) end(batch, plan, *visit.item, visit.kv_head + head, s);
        }
        ahead.ask(ahead.lines());
    }
}

template <typename T>
void run(const Batch<T>& batch, long num_threads) {
    const Plan plan = make_plan(batch.tables, batch.num_heads / batch.num_kv_heads, SPAN);
    // The heads of a position lie side by side: one thread takes them all, where there is enough for every thread.
    const long heads = batch.num_kv_heads, is_enough = plan.items.size() >= 4 * size_t(num_threads);
    const long step = is_enough ? heads : std::max(1L, heads / num_threads);
    std::atomic<long> next{0};
    const auto work = [&] {
        static thread_local std::vector<Scratch> scratch;  // kept from call to call
        if (long(scratch.size()) < step) scratch.resize(step);
        const long bytes = 2 * batch.head_size * sizeof(T);
        attend(batch, plan, Visits{batch.tables, plan, next, heads, step, batch.window, bytes}, scratch);
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
