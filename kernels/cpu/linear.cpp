// y = x W^T + b, with W laid out once in the order in which the inner loop reads it:
//
//     W [out, in]   ->   packed [out / PANEL, in, PANEL]: PANEL outputs side by side, one input after the other
//
// W is float32 or bfloat16, everything else is float32. A bfloat16 is widened on its way into the multiplication: few
// rows wait for W to come from memory, and half the bytes are half the wait.

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "vector.h"

namespace {

constexpr long ROWS = 128;               // of x that pass while a panel of W lies in the cache
constexpr long DEPTH = 64;              // inputs of a panel that stay in the fastest cache meanwhile
constexpr long WORTH_THREADS = 1 << 18;  // multiplications

long num_panels(long out) { return (out + PANEL - 1) / PANEL; }

// `depth` rows of a panel as float32: where they lie, or widened into `copy`.
const float* readable(const float* panel, float*, long) { return panel; }

const float* readable(const BFloat16* panel, float* copy, long depth) {
    for (long i = 0; i < depth * PANEL; i += LANES) store(copy + i, load(panel + i));
    return copy;
}

// Rows that lie a multiple of 4 KiB apart drive one another out of the cache: with so many more elements they do not.
constexpr long APART = 16;

// Up to ROWS rows of x [T, in], and how far they are apart: where they lie or, if they are many, in a copy.
struct Piece {
    const float* rows;
    long count, stride;
    Piece(const float* x, long in, long count, std::vector<float>& copy) : rows(x), count(count), stride(in) {
        if (count <= MAX_ROWS) return;
        stride = in + APART;
        if (long(copy.size()) < count * stride) copy.resize(count * stride);
        for (long i = 0; i < count; i++) std::copy_n(x + i * in, in, &copy[i * stride]);
        rows = copy.data();
    }
};

constexpr long AHEAD = 4096;  // bytes that few rows ask for in advance; many ask for the next piece

// out [count, PANEL] += x [count, in] panel [in, PANEL]. Many rows take the panel in pieces, too. What is needed next is
// asked for in time; behind the end of a panel that is the beginning of the next.
template <typename T>
void multiply_panel(float* out, const Piece& x, const T* panel, long in) {
    constexpr int BYTES = PANEL * sizeof(T);
    if (x.count <= MAX_ROWS) {
        const Streamed<T, BYTES> rows{panel, (const char*)panel + AHEAD};
        multiply(out, PANEL, Plain{x.rows, x.stride}, rows, in, x.count);
        return;
    }
    float copy[DEPTH * PANEL];
    for (long k = 0; k < in; k += DEPTH) {
        const long depth = std::min(DEPTH, in - k);
        const char* next = (const char*)(panel + (k + depth) * PANEL);
        const Streamed<float, BYTES> piece{readable(panel + k * PANEL, copy, depth), next};
        multiply(out, PANEL, Plain{x.rows + k, x.stride}, piece, depth, x.count);
    }
}

template <typename T>
void linear(float* y, const float* x, const T* packed, const float* bias, const long* sizes) {
    const long tokens = sizes[0], out = sizes[1], in = sizes[2], threads = sizes[3];
    const long panels = num_panels(out);
#pragma omp parallel num_threads(threads) if (threads > 1 && tokens * out * in > WORTH_THREADS)
    {
        static thread_local std::vector<float> copy;  // kept from call to call
        float tile[ROWS * PANEL];
        for (long first = 0; first < tokens; first += ROWS) {
            const Piece piece(x + first * in, in, std::min(ROWS, tokens - first), copy);
#pragma omp for schedule(static) nowait
            for (long panel = 0; panel < panels; panel++) {
                const long column = panel * PANEL, columns = std::min<long>(PANEL, out - column);
                float start[PANEL] = {};
                if (bias) std::copy_n(bias + column, columns, start);
                for (long i = 0; i < piece.count; i++) std::copy_n(start, PANEL, tile + i * PANEL);
                multiply_panel(tile, piece, packed + column * in, in);
                for (long i = 0; i < piece.count; i++)
                    std::copy_n(tile + i * PANEL, columns, y + (first + i) * out + column);
            }
        }
    }
}

template <typename T>
void read_rows(float* out, const int64_t* ids, const T* packed, const long* sizes) {
    const long count = sizes[0], in = sizes[1];
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

// Rows `ids` [n] of W -> out [n, in]. sizes: n, in.
extern "C" void packed_rows_float32(float* out, const int64_t* ids, const void* packed, const long* sizes) {
    read_rows(out, ids, static_cast<const float*>(packed), sizes);
}

extern "C" void packed_rows_bfloat16(float* out, const int64_t* ids, const void* packed, const long* sizes) {
    read_rows(out, ids, static_cast<const BFloat16*>(packed), sizes);
}
