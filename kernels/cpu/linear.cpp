// y = x W^T + b for few rows of x, with W laid out once in the order in which the inner loop reads it:
//
//     W [out, in]   ->   packed [out / PANEL, in, PANEL]: PANEL outputs side by side, one input after the other

#include <algorithm>

#include "kernels.h"
#include "vector.h"

namespace {

constexpr long ROWS = 64;                // of x that pass while a panel of W lies in the cache
constexpr long WORTH_THREADS = 1 << 18;  // multiplications

long num_panels(long out) { return (out + PANEL - 1) / PANEL; }

}  // namespace

// Floats that the packed form of W [out, in] takes.
extern "C" long packed_size(long out, long in) { return num_panels(out) * in * PANEL; }

extern "C" void pack_weight(float* packed, const float* weight, long out, long in) {
    for (long panel = 0; panel < num_panels(out); panel++)
        for (long k = 0; k < in; k++)
            for (long j = 0; j < PANEL; j++) {
                const long row = panel * PANEL + j;
                *packed++ = row < out ? weight[row * in + k] : 0;
            }
}

// x [T, in] -> y [T, out], both contiguous. bias [out] or null. sizes: T, out, in, threads.
extern "C" void packed_linear(float* y, const float* x, const float* packed, const float* bias, const long* sizes) {
    const long tokens = sizes[0], out = sizes[1], in = sizes[2], threads = sizes[3];
    const long panels = num_panels(out), pieces = (tokens + ROWS - 1) / ROWS;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && tokens * out * in > WORTH_THREADS)
    for (long item = 0; item < panels * pieces; item++) {
        const long panel = item % panels, first = item / panels * ROWS;
        const long rows = std::min(ROWS, tokens - first), columns = std::min<long>(PANEL, out - panel * PANEL);
        float start[PANEL] = {}, tile[ROWS * PANEL];
        if (bias) std::copy_n(bias + panel * PANEL, columns, start);
        float* target = columns == PANEL ? y + first * out + panel * PANEL : tile;
        const long target_stride = columns == PANEL ? out : PANEL;
        for (long i = 0; i < rows; i++) memcpy(target + i * target_stride, start, sizeof start);
        const Strided weight{packed + panel * in * PANEL, PANEL};
        multiply(target, target_stride, x + first * in, in, weight, in, rows);
        if (target == tile)
            for (long i = 0; i < rows; i++)
                std::copy_n(tile + i * PANEL, columns, y + (first + i) * out + panel * PANEL);
    }
}
