// The one inner loop of all matrix products here, for matrices that lie in memory in different ways.
#pragma once

#include "vector.h"

// The right matrix: b(k) is where row k begins. Rows one behind the other, or anywhere.
struct Strided {
    const float* first;
    long stride;
    const float* operator()(long k) const { return first + k * stride; }
    void fetch(long) const {}
};

struct Scattered {
    const float* const* rows;
    long column;
    const float* operator()(long k) const { return rows[k] + column; }
    void fetch(long) const {}
};

// Rows of a panel. With row k, what stands at `ahead + k * BYTES` is asked for: it is needed soon, and would be waited for.
template <typename T, int BYTES>
struct Streamed {
    const T* first;
    const char* ahead;
    const T* operator()(long k) const { return first + k * PANEL; }
    void fetch(long k) const {
        for (int i = 0; i < BYTES; i += 64) __builtin_prefetch(ahead + k * BYTES + i);
    }
};

// Rows of a panel that are read again and again. Each time, one more line of [next, end) is asked for, for later: the
// memory is busy while the multipliers are.
struct AskingAhead {
    const float* first;
    const char*& next;
    const char* end;
    const float* operator()(long k) const { return first + k * PANEL; }
    void fetch(long) const {
        if (next < end) __builtin_prefetch(next, 0, 2), next += 64;
    }
};

// The left matrix: a(i, k) is its element. Rows one behind the other; the same turned around; rows that lie anywhere.
struct Plain {
    const float* first;
    long stride;
    float operator()(long i, long k) const { return first[i * stride + k]; }
    Plain skip(long rows) const { return {first + rows * stride, stride}; }
};

struct Turned {
    const float* first;
    long stride;
    float operator()(long i, long k) const { return first[k * stride + i]; }
    Turned skip(long rows) const { return {first + rows, stride}; }
};

struct Gathered {
    const float* const* rows;
    float operator()(long i, long k) const { return rows[i][k]; }
    Gathered skip(long count) const { return {rows + count}; }
};

// out[ROWS, WIDTH vectors] = start + a[ROWS, depth] b[depth, WIDTH vectors]. `start` may be `out`, and with a stride of 0
// it is one row for all. The sums stay in registers: for each row of b, WIDTH loads and ROWS broadcasts serve
// WIDTH * ROWS multiplications.
template <int ROWS, int WIDTH, typename Left, typename Rows>
static inline void multiply_rows(
    float* out, long out_stride, const float* start, long start_stride, Left a, Rows b, long depth) {
    Floats sums[ROWS][WIDTH];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < WIDTH; j++) sums[i][j] = load(start + i * start_stride + j * LANES);
    for (long k = 0; k < depth; k++) {
        b.fetch(k);
        Floats row[WIDTH];
        for (int j = 0; j < WIDTH; j++) row[j] = load(b(k) + j * LANES);
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < WIDTH; j++) sums[i][j] += a(i, k) * row[j];
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < WIDTH; j++) store(out + i * out_stride + j * LANES, sums[i][j]);
}

// The same for one row. A sum that waits for the one before it wastes the multipliers: four are under way.
template <int WIDTH, typename Left, typename Rows>
static inline void multiply_one(float* out, const float* start, Left a, Rows b, long depth) {
    Floats sums[4][WIDTH] = {};
    for (int j = 0; j < WIDTH; j++) sums[0][j] = load(start + j * LANES);
    long k = 0;
    for (; k + 4 <= depth; k += 4)
        for (int i = 0; i < 4; i++) {
            b.fetch(k + i);
            for (int j = 0; j < WIDTH; j++) sums[i][j] += a(0, k + i) * load(b(k + i) + j * LANES);
        }
    for (; k < depth; k++)
        for (int j = 0; j < WIDTH; j++) sums[0][j] += a(0, k) * load(b(k) + j * LANES);
    for (int j = 0; j < WIDTH; j++)
        store(out + j * LANES, (sums[0][j] + sums[1][j]) + (sums[2][j] + sums[3][j]));
}

// The same for `rows` rows, at most ROWS.
template <int WIDTH, int ROWS = MAX_ROWS, typename Left, typename Rows>
static inline void multiply_group(
    float* out, long out_stride, const float* start, long start_stride, Left a, Rows b, long depth, long rows) {
    if constexpr (ROWS == 1)
        multiply_one<WIDTH>(out, start, a, b, depth);
    else if (rows == ROWS)
        multiply_rows<ROWS, WIDTH>(out, out_stride, start, start_stride, a, b, depth);
    else
        multiply_group<WIDTH, ROWS - 1>(out, out_stride, start, start_stride, a, b, depth, rows);
}

// The same for any number of rows, in groups as large as one another: a small one at the end would waste registers.
template <int WIDTH = 2, typename Left, typename Rows>
static inline void multiply(
    float* out, long out_stride, const float* start, long start_stride, Left a, Rows b, long depth, long rows) {
    for (long groups = (rows + MAX_ROWS - 1) / MAX_ROWS; groups > 0; groups--) {
        const long count = (rows + groups - 1) / groups;
        multiply_group<WIDTH>(out, out_stride, start, start_stride, a, b, depth, count);
        out += count * out_stride, start += count * start_stride, a = a.skip(count), rows -= count;
    }
}
