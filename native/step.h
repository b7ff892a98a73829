/* Products, cells and the choice of a token, compiled once for each instruction set. */
#ifndef FREERUN_STEP_H
#define FREERUN_STEP_H

#include "greedy.h"

typedef struct {
    const char *name;
    /* Compute y [rows][y_stride] from x [rows][x_stride]; a row's result is bit-identical whatever `rows` is. `bytes` has
     * room for FREERUN_BYTE_ROWS rows of 8 bit inputs. */
    void (*product)(const freerun_linear *linear, int64_t rows, const float *x, int64_t x_stride, float *y,
                    int64_t y_stride, uint8_t *bytes);
    /* Do one step of one row: update h and c [H, rounded up] from the input and recurrent projections of the gates. */
    void (*cell)(int64_t cell, int64_t hidden, const float *given, const float *recurrent, float *h, float *c);
    /* Replace values [size, rounded up] by their tanh. */
    void (*tangents)(int64_t size, float *values);
    /* Write the attention weights [entries, rounded up] of a query [size] for keys [entries][stride]; `vector` as in
     * freerun_attention. */
    void (*attend)(int64_t size, int64_t entries, const float *query, const float *keys, int64_t stride, const float *vector,
                   float *weights);
    /* Write the sum [stride] of values [entries][stride], each times its weight. */
    void (*average)(int64_t entries, const float *weights, const float *values, int64_t stride, float *sum);
    /* larger[j] = max(pairs[j], pairs[size + j]) */
    void (*larger)(int64_t size, const float *pairs, float *larger);
    /* sum = one + other, [size] */
    void (*add)(int64_t size, const float *one, const float *other, float *sum);
    /* Return the most likely token that may be written (the lowest of equals); `score` is its log-probability over all. */
    int32_t (*best)(int64_t vocabulary, const float *logits, float *score);
    /* Write the log-probabilities [vocabulary] of all tokens. */
    void (*log_probs)(int64_t vocabulary, const float *logits, float *log_probs);
} freerun_functions;

/* Rows per product, and rows for which a part of a weight is read once. */
#define FREERUN_ROWS 6
#define FREERUN_BYTE_ROWS 48

extern const freerun_functions freerun_step_base;
#ifdef FREERUN_X86
extern const freerun_functions freerun_step_avx2, freerun_step_avx512;
#endif

#endif
