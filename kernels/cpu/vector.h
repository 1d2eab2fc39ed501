// Vectors of floats as the compiler offers them (GCC and Clang), and the one inner loop of all matrix products here.
//
// Nothing is written for one processor: a vector is as wide as the target's registers, and the compiler picks the
// instructions. Built with -march=native, but without -ffast-math: infinities and NaN keep their meaning.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int LANES = 16, MAX_ROWS = 8;  // 8 x 2 sums fit into 32 registers
#elif defined(__AVX__)
constexpr int LANES = 8, MAX_ROWS = 4;  // 4 x 2 sums and what they need into 16
#else
constexpr int LANES = 4, MAX_ROWS = 4;  // NEON, SSE
#endif
constexpr int PANEL = 2 * LANES;  // columns that the inner loop computes at a time

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));

static inline Floats load(const float* p) {
    Floats x;
    memcpy(&x, p, sizeof x);  // p may lie anywhere
    return x;
}

static inline void store(float* p, Floats x) { memcpy(p, &x, sizeof x); }

static inline Floats all(float x) { return x - Floats{}; }

static inline float sum(Floats x) {  // halves added to halves
    float part[LANES];
    store(part, x);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) part[i] += part[i + width];
    return part[0];
}

static inline float largest(Floats x) {
    float best = x[0];
    for (int i = 1; i < LANES; i++) best = x[i] > best ? x[i] : best;
    return best;
}

// e^x for x <= 0 or moderate x, to about one part in 10^7; below -87 it stays at the smallest normal number's size.
// x = n ln 2 + r with |r| <= ln 2 / 2: 2^n is made of exponent bits, e^r of its Taylor series.
static inline Floats exponential(Floats x) {
    x = x < all(-87.0f) ? all(-87.0f) : x;
    x = x > all(88.0f) ? all(88.0f) : x;
    const Floats n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // adding 1.5 * 2^23 rounds
    const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;    // ln 2 in two pieces, the first exact
    Floats e = all(1.0f / 5040);
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    const Ints bits = (__builtin_convertvector(n, Ints) + 127) << 23;
    Floats power;
    memcpy(&power, &bits, sizeof power);
    return e * power;
}

// out[ROWS, PANEL] += a[ROWS, depth] b[depth, PANEL]. The sums stay in registers: for each row of b, two loads and ROWS
// broadcasts serve 2 * ROWS multiplications.
template <int ROWS>
static inline void multiply_rows(
    float* out, long out_stride, const float* a, long a_stride, const float* b, long b_stride, long depth) {
    Floats left[ROWS], right[ROWS];
    for (int i = 0; i < ROWS; i++) {
        left[i] = load(out + i * out_stride);
        right[i] = load(out + i * out_stride + LANES);
    }
    for (long k = 0; k < depth; k++) {
        const Floats b_left = load(b + k * b_stride), b_right = load(b + k * b_stride + LANES);
        for (int i = 0; i < ROWS; i++) {
            left[i] += a[i * a_stride + k] * b_left;
            right[i] += a[i * a_stride + k] * b_right;
        }
    }
    for (int i = 0; i < ROWS; i++) {
        store(out + i * out_stride, left[i]);
        store(out + i * out_stride + LANES, right[i]);
    }
}

// The same for one row. A sum that waits for the one before it wastes the multipliers: four are under way.
static inline void multiply_one(float* out, const float* a, const float* b, long b_stride, long depth) {
    Floats left[4] = {load(out)}, right[4] = {load(out + LANES)};
    long k = 0;
    for (; k + 4 <= depth; k += 4)
        for (int i = 0; i < 4; i++) {
            left[i] += a[k + i] * load(b + (k + i) * b_stride);
            right[i] += a[k + i] * load(b + (k + i) * b_stride + LANES);
        }
    for (; k < depth; k++) {
        left[0] += a[k] * load(b + k * b_stride);
        right[0] += a[k] * load(b + k * b_stride + LANES);
    }
    store(out, (left[0] + left[1]) + (left[2] + left[3]));
    store(out + LANES, (right[0] + right[1]) + (right[2] + right[3]));
}

// The same for any number of rows.
static inline void multiply(
    float* out, long out_stride, const float* a, long a_stride, const float* b, long b_stride, long depth, long rows) {
    for (; rows >= MAX_ROWS; rows -= MAX_ROWS, out += MAX_ROWS * out_stride, a += MAX_ROWS * a_stride)
        multiply_rows<MAX_ROWS>(out, out_stride, a, a_stride, b, b_stride, depth);
    if (rows >= 4) {
        multiply_rows<4>(out, out_stride, a, a_stride, b, b_stride, depth);
        rows -= 4, out += 4 * out_stride, a += 4 * a_stride;
    }
    if (rows == 3) multiply_rows<3>(out, out_stride, a, a_stride, b, b_stride, depth);
    if (rows == 2) multiply_rows<2>(out, out_stride, a, a_stride, b, b_stride, depth);
    if (rows == 1) multiply_one(out, a, b, b_stride, depth);
}

// bfloat16 is the upper half of a float32.
struct BFloat16 {
    uint16_t bits;
};

static inline float widen(float x) { return x; }

static inline float widen(BFloat16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline void narrow(float x, float* target) { *target = x; }

static inline void narrow(float x, BFloat16* target) {  // to the nearest, ties to even, as torch does
    uint32_t bits;
    memcpy(&bits, &x, 4);
    target->bits = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
