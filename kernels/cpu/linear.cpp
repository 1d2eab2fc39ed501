// y = x W^T + b, with W laid out once in the order in which the inner loop reads it:
//
//     W [out, in]   ->   packed [out / PANEL, in, PANEL]: PANEL outputs side by side, one input after the other
//
// W is float32 or bfloat16, everything else is float32. A bfloat16 is widened on its way into the multiplication: few
// rows wait for W to come from memory, and half the bytes are half the wait.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels.h"
#include "product.h"
#include "vector.h"

namespace {

constexpr long ROWS = 96;                // of x that pass while a piece of a panel lies in the cache
constexpr long DEPTH = 256;              // inputs of such a piece
constexpr long WORTH_THREADS = 1 << 18;  // multiplications
constexpr long WORTH_THREADS_TO_READ = 1 << 12;  // elements that lie apart
constexpr long AHEAD = 4096;             // bytes that are asked for in advance

long num_panels(long out) { return (out + PANEL - 1) / PANEL; }

// `depth` rows of a panel as float32: where they lie, or widened into `copy`.
const float* readable(const float* panel, float*, long) { return panel; }

const float* readable(const BFloat16* panel, float* copy, long depth) {
    for (long i = 0; i < depth * PANEL; i += LANES) {
        __builtin_prefetch((const char*)(panel + i) + AHEAD);
        store(copy + i, load(panel + i));
    }
    return copy;
}

// Up to ROWS rows of x [T, in], and how far they are apart: where they lie, or in a copy. Rows that lie a multiple of
// 2 KiB apart drive one another out of the fastest cache.
struct Piece {
    const float* rows;
    long count, stride;
    Piece(const float* x, long in, long count, std::vector<float>& copy) : rows(x), count(count), stride(in) {
        if (in % 512 != 0 || count <= 4) return;
        stride = in + LANES;
        if (long(copy.size()) < count * stride) copy.resize(count * stride);
        for (long i = 0; i < count; i++) std::copy_n(x + i * in, in, &copy[i * stride]);
        rows = copy.data();
    }
};

// y [count, PANEL] = start [PANEL] + x [count, in] panel [in, PANEL].
template <typename T>
void multiply_panel(float* y, long stride, const float* start, const Piece& x, const T* panel, long in) {
    if (x.count <= MAX_ROWS) {  // W passes by once, and is asked for in time
        const Streamed<T, PANEL * sizeof(T)> rows{panel, (const char*)panel + AHEAD};
        multiply(y, stride, start, 0, Plain{x.rows, x.stride}, rows, in, x.count);
        return;
    }
    float copy[std::is_same_v<T, float> ? 1 : DEPTH * PANEL];
    for (long k = 0; k < in; k += DEPTH) {
        const long depth = std::min(DEPTH, in - k);
        const char* next = (const char*)(panel + (k + depth) * PANEL);  // the piece that comes then
        const long bytes = std::is_same_v<T, float> ? depth * PANEL * sizeof(T) : 0;  // widening asks for its own
        const AskingAhead piece{readable(panel + k * PANEL, copy, depth), next, next + bytes};
        multiply(y, stride, k ? y : start, k ? stride : 0, Plain{x.rows + k, x.stride}, piece, depth, x.count);
    }
}

template <typename T>
void linear(float* y, const float* x, const T* packed, const float* bias, const long* sizes) {
    const long tokens = sizes[0], out = sizes[1], in = sizes[2], threads = sizes[3];
    const long panels = num_panels(out);
#pragma omp parallel num_threads(threads) if (threads > 1 && tokens * out * in > WORTH_THREADS)
    {
        static thread_local std::vector<float> copy;  // kept from call to call
        for (long first = 0; first < tokens; first += ROWS) {
            const Piece piece(x + first * in, in, std::min(ROWS, tokens - first), copy);
#pragma omp for schedule(static) nowait
            for (long panel = 0; panel < panels; panel++) {
                const long column = panel * PANEL, columns = std::min<long>(PANEL, out - column);
                float start[PANEL] = {}, narrow[ROWS * PANEL];
                if (bias) std::copy_n(bias + column, columns, start);
                float* target = y + first * out + column;
                if (columns == PANEL) {
                    multiply_panel(target, out, start, piece, packed + column * in, in);
                    continue;
                }
                multiply_panel(narrow, PANEL, start, piece, packed + column * in, in);
                for (long i = 0; i < piece.count; i++) std::copy_n(narrow + i * PANEL, columns, target + i * out);
            }
        }
    }
}

template <typename T>
void read_rows(float* out, const int64_t* ids, const T* packed, const long* sizes) {
    const long count = sizes[0], in = sizes[1], threads = sizes[2];
#pragma omp parallel for num_threads(threads) if (threads > 1 && count * in > WORTH_THREADS_TO_READ)
    for (long i = 0; i < count; i++) {
        const T* from = packed + ids[i] / PANEL * in * PANEL + ids[i] % PANEL;
        for (long k = 0; k < in; k++) out[i * in + k] = widen(from[k * PANEL]);
    }
}

}  // namespace

extern "C" long panel_size() { return PANEL; }

// x [T, in] -> y [T, out], both contiguous. bias [out] or null. sizes: T, out, in, threads.
extern "C" void packed_linear_float32(
    float* y, const float* x, const void* packed, const float* bias, const long* sizes) {
    linear(y, x, static_cast<const float*>(packed), bias, sizes);
}

extern "C" void packed_linear_bfloat16(
    float* y, const float* x, const void* packed, const float* bias, const long* sizes) {
    linear(y, x, static_cast<const BFloat16*>(packed), bias, sizes);
}

// Rows `ids` [n] of W -> out [n, in]. sizes: n, in, threads.
extern "C" void packed_rows_float32(float* out, const int64_t* ids, const void* packed, const long* sizes) {
    read_rows(out, ids, static_cast<const float*>(packed), sizes);
}

extern "C" void packed_rows_bfloat16(float* out, const int64_t* ids, const void* packed, const long* sizes) {
    read_rows(out, ids, static_cast<const BFloat16*>(packed), sizes);
}
