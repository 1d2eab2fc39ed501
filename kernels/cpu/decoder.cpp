// All layers of a decoder in one call: minivllm/models/decoder.py once more, for steps whose calls would cost more than
// their arithmetic. Each line is one of the kernels beside this file, in the order of DecoderLayer.forward.

#include <algorithm>

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
    long tokens, requests, table_stride;                                          // of the step
};

struct Step {
    float* stream;  // [T, hidden] the residual stream
    float* branch;  // [T, hidden] what the last branch adds to it
    float* normed;  // [T, hidden]
    float* wide;    // [T, max((H + 2 K) D, 2 inner)]
    float* narrow;  // [T, max(H D, inner)]
    const int64_t *positions, *slots;
    const float* angles;  // [max_position, 2 D]: cos and sin, see RotaryEmbedding
    const int32_t *block_tables, *query_start_loc, *seq_lens;
    float eps, scale;
};

void norm(const Sizes& n, const Step& s, const float* weight, bool is_first) {
    const long sizes[] = {n.tokens, 1, n.hidden, n.hidden, n.hidden, n.threads};
    if (is_first)
        rms_norm(s.normed, nullptr, s.stream, nullptr, weight, sizes, s.eps);
    else
        rms_norm(s.normed, s.stream, s.branch, s.stream, weight, sizes, s.eps);
}

void linear(const Sizes& n, float* y, const float* x, const void* weight, const float* bias, long out, long in) {
    const long sizes[] = {n.tokens, out, in, n.threads};
    (n.is_bfloat16 ? packed_linear_bfloat16 : packed_linear_float32)(y, x, weight, bias, sizes);
}

void attention(const Sizes& n, const Step& s, const Layer& layer) {
    const long size = n.head_size, all = (n.heads + 2 * n.kv_heads) * size, turned = n.heads + n.kv_heads;
    float *q = s.wide, *k = q + n.heads * size, *v = k + n.kv_heads * size;
    linear(n, s.wide, s.normed, layer.qkv, layer.qkv_bias, all, n.hidden);
    if (layer.qk_norm) {
        const long sizes[] = {n.tokens, turned, size, all, all, n.threads};
        rms_norm(q, nullptr, q, nullptr, layer.qk_norm, sizes, s.eps);
    }
    const long turn[] = {n.tokens, turned, size, all, 2 * size, n.threads};
    rotary(q, s.angles, s.angles + size, s.positions, turn);
    const long bytes[] = {n.tokens, n.kv_heads * size * 4, all * 4, all * 4};
    reshape_and_cache(
        (const char*)k, (const char*)v, (char*)layer.key_cache, (char*)layer.value_cache, s.slots, bytes);
    const long sizes[] = {all, n.table_stride, n.requests, n.heads, n.kv_heads, size, n.block_size, layer.window, n.threads};
    paged_attention_float32(
        s.narrow, q, layer.key_cache, layer.value_cache, s.block_tables, s.query_start_loc, s.seq_lens, sizes, s.scale);
    const long owned = s.query_start_loc[n.requests];  // tokens behind the last request are padding
    std::fill(s.narrow + owned * n.heads * size, s.narrow + n.tokens * n.heads * size, 0.0f);
    linear(n, s.branch, s.narrow, layer.o, layer.o_bias, n.hidden, n.heads * size);
}

void feed_forward(const Sizes& n, const Step& s, const Layer& layer) {
    linear(n, s.wide, s.normed, layer.gate_up, layer.gate_up_bias, 2 * n.inner, n.hidden);
    const long sizes[] = {n.tokens, n.inner, n.threads};
    silu_and_mul(s.narrow, s.wide, sizes);
    linear(n, s.branch, s.narrow, layer.down, layer.down_bias, n.hidden, n.inner);
}

}  // namespace

// Run the layers on step.stream, which holds the embedded tokens; step.normed then holds the hidden states.
extern "C" void decoder_forward(const Sizes* sizes, const Step* step, const Layer* layers, const float* final_norm) {
    for (long i = 0; i < sizes->layers; i++) {
        norm(*sizes, *step, layers[i].input_norm, i == 0);
        attention(*sizes, *step, layers[i]);
        norm(*sizes, *step, layers[i].post_norm, false);
        feed_forward(*sizes, *step, layers[i]);
    }
    norm(*sizes, *step, final_norm, false);
}
