// The small operations of a layer, each in one pass: in torch they are several, and for a few tokens a call costs more
// than its work. All in float32. Sizes are counted in elements.

#include <cmath>

#include "kernels.h"
#include "vector.h"

constexpr long WORTH_THREADS = 1 << 15;  // elements; waking threads for less takes longer than the work

// x [T, M, n] -> out [T, M, n], which may be x: out = stream / rms(stream) * weight [M, n], where stream = x + residual.
// residual and stream [T, M, n] are contiguous and may be the same; without a residual (null) the stream is x.
// sizes: T, M, n, stride of x and of out from token to token, threads.
extern "C" void rms_norm(
    float* out, float* stream, const float* x, const float* residual, const float* weight, const long* sizes, float eps) {
    const long tokens = sizes[0], groups = sizes[1], n = sizes[2], stride = sizes[3], out_stride = sizes[4];
    const long threads = sizes[5];
#pragma omp parallel for num_threads(threads) if (threads > 1 && tokens * groups * n > WORTH_THREADS)
    for (long t = 0; t < tokens; t++)
        for (long m = 0; m < groups; m++) {
            const float* from = x + t * stride + m * n;
            float* to = out + t * out_stride + m * n;
            if (residual) {
                const long place = (t * groups + m) * n;
                long i = 0;
                for (; i + LANES <= n; i += LANES) store(stream + place + i, load(from + i) + load(residual + place + i));
                for (; i < n; i++) stream[place + i] = from[i] + residual[place + i];
                from = stream + place;
            }
            Floats squares{};
            long i = 0;
            for (; i + LANES <= n; i += LANES) squares += load(from + i) * load(from + i);
            float total = sum(squares);
            for (; i < n; i++) total += from[i] * from[i];
            const float scale = 1 / std::sqrt(total / n + eps);
            for (i = 0; i + LANES <= n; i += LANES) store(to + i, load(from + i) * scale * load(weight + m * n + i));
            for (; i < n; i++) to[i] = from[i] * scale * weight[m * n + i];
        }
}

// Rotate x [T, heads, D] in place. cos and sin [.., D] with the first half of sin negated, see ops.rotary; token t takes
// row positions[t], or row t where there are no positions (null).
// sizes: T, heads, D, stride of x, stride of cos and sin, threads.
extern "C" void rotary(float* x, const float* cos, const float* sin, const int64_t* positions, const long* sizes) {
    const long tokens = sizes[0], heads = sizes[1], half = sizes[2] / 2, stride = sizes[3], turn = sizes[4];
    const long threads = sizes[5];
#pragma omp parallel for num_threads(threads) if (threads > 1 && tokens * heads * half > WORTH_THREADS)
    for (long t = 0; t < tokens; t++) {
        const long row = positions ? positions[t] : t;
        const float *c = cos + row * turn, *s = sin + row * turn;
        for (long h = 0; h < heads; h++) {
            float* __restrict a = x + t * stride + h * 2 * half;
            float* __restrict b = a + half;
            for (long i = 0; i < half; i++) {
                const float first = a[i] * c[i] + b[i] * s[i];
                b[i] = b[i] * c[half + i] + a[i] * s[half + i];
                a[i] = first;
            }
        }
    }
}

// silu(gate) * up: x [T, 2 n] -> out [T, n]. sizes: T, n, threads.
extern "C" void silu_and_mul(float* out, const float* x, const long* sizes) {
    const long tokens = sizes[0], n = sizes[1], threads = sizes[2];
#pragma omp parallel for num_threads(threads) if (threads > 1 && tokens * n > WORTH_THREADS)
    for (long t = 0; t < tokens; t++) {
        const float *gate = x + t * 2 * n, *up = gate + n;
        long i = 0;
        for (; i + LANES <= n; i += LANES) {
            const Floats g = load(gate + i);
            store(out + t * n + i, g / (exponential(-g) + 1.0f) * load(up + i));
        }
        for (; i < n; i++) out[t * n + i] = gate[i] / (std::exp(-gate[i]) + 1) * up[i];
    }
}

// Write keys and values [T, K D] into their slots of a layer's cache [N B, K D]. Any type: sizes count bytes.
// sizes: T, bytes of a token's keys, stride of keys, stride of values.
extern "C" void reshape_and_cache(
    const char* keys, const char* values, char* key_cache, char* value_cache, const int64_t* slots, const long* sizes) {
    const long tokens = sizes[0], size = sizes[1];
    for (long t = 0; t < tokens; t++) {
        memcpy(key_cache + slots[t] * size, keys + t * sizes[2], size);
        memcpy(value_cache + slots[t] * size, values + t * sizes[3], size);
    }
}
