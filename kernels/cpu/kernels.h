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

long panel_size();
void packed_linear_float32(float* y, const float* x, const void* packed, const float* bias, const long* sizes);
void packed_linear_bfloat16(float* y, const float* x, const void* packed, const float* bias, const long* sizes);
void packed_rows_float32(float* out, const int64_t* ids, const void* packed, const long* sizes);
void packed_rows_bfloat16(float* out, const int64_t* ids, const void* packed, const long* sizes);
}
