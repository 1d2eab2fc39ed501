// All layers of a decoder in one call: minivllm/models/decoder.py once more. Few tokens save the calls, which would cost
// more than their arithmetic; many save the way through memory from one kernel to the next. Each line is one of the
// kernels beside this file, in the order of DecoderLayer.forward.

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels.h"

namespace {

struct Layer {  // pointers as they come from Python, one row of a table each; null where the model has none
    const float* input_norm;
    const void* qkv;  // the matrices are packed, see linear.cpp
    const float *qkv_bias, *qk_norm;
    const void* o;
    const float *o_bias, *post_norm;
    const void* gate_up;
    const float* gate_up_bias;
    const void* down;
    const float* down_bias;
    float *key_cache, *value_cache;
    long window;  // 0: none
};
static_assert(sizeof(Layer) == 14 * 8, "Python hands over 14 numbers of 64 bits");

struct Sizes {
    long layers, hidden, heads, kv_heads, head_size, inner, is_bfloat16, block_size, threads;  // of the model
    long tokens, wanted, requests, table_stride;  // of the step; wanted: tokens whose hidden states are, -1: all
};

struct Step {
    const float* x;   // [T, hidden] the embedded tokens
    float* stream;    // [T, hidden] the residual stream
    float* branch;    // [T, hidden] what the last branch adds to it
    float* normed;    // [T, hidden]
    float* qkv;       // [T, (H + 2 K) D]
    float* attended;  // [T, H D]
    float* out;       // [T or wanted, hidden]
    const int64_t *positions, *slots, *wanted;
    const float* angles;  // [max_position, 2 D]: cos and sin, see RotaryEmbedding
    const int32_t *block_tables, *query_start_loc, *seq_lens;
    float eps, scale;
};

void norm(const Sizes& n, const Step& s, float* out, const float* weight, bool is_first) {
    const long sizes[] = {n.tokens, 1, n.hidden, n.hidden, n.hidden, n.threads};
    if (is_first)
        rms_norm(out, nullptr, s.stream, nullptr, weight, sizes, s.eps);
    else
        rms_norm(out, s.stream, s.branch, s.stream, weight, sizes, s.eps);
}

void linear(const Sizes& n, float* y, const float* x, const void* weight, const float* bias, long out, long in) {
    const long sizes[] = {n.tokens, out, in, n.threads};
    (n.is_bfloat16 ? packed_linear_bfloat16 : packed_linear_float32)(y, x, weight, bias, sizes);
}

long qkv_size(const Sizes& n) { return (n.heads + 2 * n.kv_heads) * n.head_size; }

void before_attention(const Sizes& n, const Step& s, const Layer& layer, bool is_first) {
    norm(n, s, s.normed, layer.input_norm, is_first);
    const long size = n.head_size, all = qkv_size(n), turned = n.heads + n.kv_heads;
    float *q = s.qkv, *k = q + n.heads * size, *v = k + n.kv_heads * size;
    linear(n, s.qkv, s.normed, layer.qkv, layer.qkv_bias, all, n.hidden);
    if (layer.qk_norm) {
        const long sizes[] = {n.tokens, turned, size, all, all, n.threads};
        rms_norm(q, nullptr, q, nullptr, layer.qk_norm, sizes, s.eps);
    }
    const long turn[] = {n.tokens, turned, size, all, 2 * size, n.threads};
    rotary(q, s.angles, s.angles + size, s.positions, turn);
    const long bytes[] = {n.tokens, n.kv_heads * size * 4, all * 4, all * 4};
    reshape_and_cache(
        (const char*)k, (const char*)v, (char*)layer.key_cache, (char*)layer.value_cache, s.slots, bytes);
}

void attention(const Sizes& n, const Step& s, const Layer& layer) {
    const long sizes[] = {qkv_size(n), n.table_stride, n.requests, n.heads, n.kv_heads, n.head_size, n.block_size,
                          layer.window, n.threads};
    paged_attention_float32(s.attended, s.qkv, layer.key_cache, layer.value_cache, s.block_tables, s.query_start_loc,
                            s.seq_lens, sizes, s.scale);
    const long owned = s.query_start_loc[n.requests];  // tokens behind the last request are padding
    const long size = n.heads * n.head_size;
    std::fill(s.attended + owned * size, s.attended + n.tokens * size, 0.0f);
}

void after_attention(const Sizes& n, const Step& s, const Layer& layer) {
    linear(n, s.branch, s.attended, layer.o, layer.o_bias, n.hidden, n.heads * n.head_size);
    norm(n, s, s.normed, layer.post_norm, false);
    static thread_local std::vector<float> wide, narrow;  // kept from call to call
    if (long(narrow.size()) < n.tokens * n.inner) wide.resize(n.tokens * 2 * n.inner), narrow.resize(n.tokens * n.inner);
    linear(n, wide.data(), s.normed, layer.gate_up, layer.gate_up_bias, 2 * n.inner, n.hidden);
    const long sizes[] = {n.tokens, n.inner, n.threads};
    silu_and_mul(narrow.data(), wide.data(), sizes);
    linear(n, s.branch, narrow.data(), layer.down, layer.down_bias, n.hidden, n.inner);
}

// Behind the last layer's keys and values nobody looks at the other tokens: what they would become is not computed.
void keep_wanted(Sizes& n, Step& s, std::vector<int32_t>& starts) {
    starts.assign(n.requests + 1, 0);
    for (long i = 0, request = 0; i < n.wanted; i++) {
        const long token = s.wanted[i], all = qkv_size(n);
        std::copy_n(s.stream + token * n.hidden, n.hidden, s.stream + i * n.hidden);
        std::copy_n(s.qkv + token * all, all, s.qkv + i * all);
        while (token >= s.query_start_loc[request + 1]) request++;
        starts[request + 1]++;
    }
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    n.tokens = n.wanted, s.query_start_loc = starts.data();
}

constexpr long MOST_ROWS = 72;  // whose intermediate results a core's own cache holds, for a model as small as ours

// Few tokens: every kernel takes all of them, and its threads share the weights. Many: each thread takes some of the
// tokens through all kernels, alone, and what lies between the kernels stays in its cache.
template <typename Kernels>
void for_tokens(const Sizes& n, const Step& s, Kernels kernels) {
    long parts = (n.tokens + MOST_ROWS - 1) / MOST_ROWS;
    if (n.threads == 1 ? parts < 2 : n.tokens < n.threads * (MOST_ROWS - 8)) return kernels(n, s);
    parts = (parts + n.threads - 1) / n.threads * n.threads;
#pragma omp parallel for schedule(dynamic) num_threads(n.threads)
    for (long part = 0; part < parts; part++) {
        const long first = n.tokens * part / parts;
        Sizes mine = n;
        mine.tokens = n.tokens * (part + 1) / parts - first, mine.threads = 1;
        Step at = s;
        at.stream += first * n.hidden, at.branch += first * n.hidden, at.normed += first * n.hidden;
        at.qkv += first * qkv_size(n), at.attended += first * n.heads * n.head_size;
        at.positions += first, at.slots += first;
        kernels(mine, at);
    }
}

}  // namespace

// Run the layers on step.x; step.out then holds the hidden states.
extern "C" void decoder_forward(const Sizes* sizes, const Step* step, const Layer* layers, const float* final_norm) {
    Sizes n = *sizes;
    Step s = *step;
    std::vector<int32_t> starts;
    std::copy_n(s.x, n.tokens * n.hidden, s.stream);
    for (long i = 0; i < n.layers; i++) {
        const Layer& layer = layers[i];
        for_tokens(n, s, [&](const Sizes& n, const Step& s) { before_attention(n, s, layer, i == 0); });
        if (i == n.layers - 1 && n.wanted >= 0) keep_wanted(n, s, starts);
        attention(n, s, layer);
        for_tokens(n, s, [&](const Sizes& n, const Step& s) { after_attention(n, s, layer); });
    }
    norm(n, s, s.out, final_norm, false);
}
