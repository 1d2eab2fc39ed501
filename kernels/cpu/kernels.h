// What each file offers, to the others and to Python. The files say what the arguments mean.
#pragma once

#include <cstdint>

extern "C" {

void paged_attention_float32(
    void* out, const void* query, const void* keys, const void* values, const int32_t* block_tables,
    const int32_t* query_start_loc, const int32_t* seq_lens, const long* sizes, float scale);
void paged_attention_bfloat16(
    void* out, const void* query, const void* keys, const void* values, const int32_t* block_tables,
    const int32_t* query_start_loc, const int32_t* seq_lens, const long* sizes, float scale);

void rms_norm(
    float* out, float* stream, const float* x, const float* residual, const float* weight, const long* sizes, float eps);
void rotary(float* x, const float* cos, const float* sin, const int64_t* positions, const long* sizes);
void silu_and_mul(float* out, const float* x, const long* sizes);
void reshape_and_cache(
    const char* keys, const char* values, char* key_cache, char* value_cache, const int64_t* slots, const long* sizes);

long packed_size(long out, long in);
void pack_weight(float* packed, const float* weight, long out, long in);
void packed_linear(float* y, const float* x, const float* packed, const float* bias, const long* sizes);
}
