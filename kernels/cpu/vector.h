// Vectors of floats as the compiler offers them (GCC and Clang).
//
// Nothing is written for one processor: a vector is as wide as the target's registers, and the compiler picks the
// instructions. Built with -march=native, but without -ffast-math: infinities and NaN keep their meaning.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
constexpr int LANES = 16, MAX_ROWS = 12;  // 12 x 2 sums and what they need fit into 32 registers
#elif defined(__AVX__)
constexpr int LANES = 8, MAX_ROWS = 6;  // 6 x 2 sums into 16
#else
constexpr int LANES = 4, MAX_ROWS = 6;  // NEON, SSE
#endif
constexpr int PANEL = 2 * LANES;  // columns that the inner loop computes at a time

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

// bfloat16 is the upper half of a float32.
struct BFloat16 {
    uint16_t bits;
};

static inline Floats load(const float* p) {
    Floats x;
    memcpy(&x, p, sizeof x);  // p may lie anywhere
    return x;
}

static inline Floats load(const BFloat16* p) {
    Halves halves;
    memcpy(&halves, p, sizeof halves);
    const Words words = __builtin_convertvector(halves, Words) << 16;
    Floats x;
    memcpy(&x, &words, sizeof x);
    return x;
}

static inline void store(float* p, Floats x) { memcpy(p, &x, sizeof x); }

static inline Floats all(float x) { return x - Floats{}; }

static inline Ints all(int32_t x) { return x - Ints{}; }

static inline Ints load(const int32_t* p) {
    Ints x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// Lane i of the result is lane pick(i) of a and b, one behind the other.
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, pick) __builtin_shufflevector(a, b, pick(Lane)...)
#else
#define SHUFFLE(a, b, pick) __builtin_shuffle(a, b, Ints{pick(Lane)...})
#endif

// One step of adding up within vectors. Lanes whose number has the bit W add lanes i and i ^ W of b, the others of a.
template <int W, int... Lane>
static inline Floats fold(Floats a, Floats b, std::integer_sequence<int, Lane...>) {
#define STAY(i) (i & W ? i + LANES : i)
#define SWAP(i) (i & W ? (i ^ W) + LANES : i ^ W)
    return SHUFFLE(a, b, STAY) + SHUFFLE(a, b, SWAP);
#undef STAY
#undef SWAP
}

// Lane i of the result is the sum of all lanes of x[i]. x is used up.
template <int W = LANES / 2>
static inline Floats sum_each(Floats* x) {
    for (int i = 0; i < W; i++) x[i] = fold<W>(x[i], x[i + W], std::make_integer_sequence<int, LANES>());
    if constexpr (W > 1) return sum_each<W / 2>(x);
    return x[0];
}

template <int W, int... Lane>
static inline Floats swap(Floats x, std::integer_sequence<int, Lane...>) {
#define SWAP(i) (i ^ W)
    return SHUFFLE(x, x, SWAP);
#undef SWAP
}

template <int W = LANES / 2>
static inline float sum(Floats x) {
    x += swap<W>(x, std::make_integer_sequence<int, LANES>());
    if constexpr (W > 1) return sum<W / 2>(x);
    return x[0];
}

template <int W = LANES / 2>
static inline float largest(Floats x) {
    x = larger(x, swap<W>(x, std::make_integer_sequence<int, LANES>()));
    if constexpr (W > 1) return largest<W / 2>(x);
    return x[0];
}

// e^x for -87 <= x <= 88, to about one part in 10^7. x = n ln 2 + r with |r| <= ln 2 / 2: 2^n is made of exponent bits,
// e^r of its Taylor series.
static inline Floats exponential_in_range(Floats x) {
    const float round = 12582912.0f + 127;                         // 1.5 * 2^23: adding it leaves no room for fractions
    const Floats biased = x * 1.44269504f + round, n = biased - round;  // n + 127 stands in the lowest bits of `biased`
    const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two pieces, the first exact
    Floats e = all(1.0f / 5040);
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    Words bits;
    memcpy(&bits, &biased, sizeof bits);
    bits <<= 23;
    Floats power;
    memcpy(&power, &bits, sizeof power);
    return e * power;
}

// e^x for any x; what is too small stays at the smallest normal number's size, what is too large at the largest's.
static inline Floats exponential(Floats x) {
    x = x < all(-87.0f) ? all(-87.0f) : x;
    return exponential_in_range(x > all(88.0f) ? all(88.0f) : x);
}

// The same for x <= 0.
static inline Floats exponential_below_one(Floats x) { return exponential_in_range(x < all(-87.0f) ? all(-87.0f) : x); }

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
