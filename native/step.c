/* Products, cells and the choice of a token, written with vector types and compiled once for each instruction set:
 * FREERUN_STEP names the result. A row's sums are always taken in the same order, so they do not depend on how many rows
 * are computed together. */
#include "step.h"

#include <math.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 6 /* x 4 vectors are sums: 24 of 32 registers */
#elif defined(__AVX__)
#define LANES 8
#define ROWS 3 /* 12 of 16 registers */
#elif defined(__aarch64__)
#define LANES 4
#define ROWS 6
#else
#define LANES 4
#define ROWS 3
#endif
#define COLUMNS 4 /* neighbouring vectors in a product */
#define PANEL FREERUN_PANEL

_Static_assert(FREERUN_BYTE_ROWS % ROWS == 0, "many rows are a whole number of products");
_Static_assert(PANEL % (COLUMNS * LANES) == 0, "a panel is a whole number of products");

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* sums that wrap around */

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE void store(float *to, vec value) { *(vec *)to = value; }
INLINE vec all(float value) { return value - (vec){0}; }

/* a * b + c, rounded once if the CPU can. Build flags forbid compilers to contract sums of products themselves, because
 * they would do it for some numbers of rows only. */
INLINE vec fused(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

INLINE vec picked(ivec which, vec one, vec other) { return (vec)(((ivec)one & which) | ((ivec)other & ~which)); }

/* -- products -------------------------------------------------------------------------------------------------------- */

INLINE void float_block(int rows, int64_t inputs, const float *weight, const float *bias, const float *x, int64_t x_stride,
                        float *y, int64_t y_stride) {
    vec sums[ROWS][COLUMNS];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int c = 0; c < COLUMNS; c++) sums[r][c] = bias ? load(bias + c * LANES) : all(0);
    for (int64_t k = 0; k < inputs; k++) {
        vec columns[COLUMNS];
        UNROLL for (int c = 0; c < COLUMNS; c++) columns[c] = load(weight + k * PANEL + c * LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            vec factor = all(x[r * x_stride + k]);
            UNROLL for (int c = 0; c < COLUMNS; c++) sums[r][c] = fused(factor, columns[c], sums[r][c]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int c = 0; c < COLUMNS; c++) store(y + r * y_stride + c * LANES, sums[r][c]);
}

/* Add four products of bytes to each number of a vector. */
INLINE ivec byte_products(ivec sums, ivec x, const int8_t *weight) {
#if defined(__AVX512VNNI__)
    return (ivec)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)x, _mm512_loadu_si512(weight));
#elif defined(__AVX2__)
    /* two products fit into 16 bits because weights have 7: 2 x 255 x 64 */
    __m256i pairs = _mm256_maddubs_epi16((__m256i)x, _mm256_loadu_si256((const __m256i *)weight));
    return (ivec)((uvec)sums + (uvec)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
    const uint8_t *bytes = (const uint8_t *)&x;
    for (int lane = 0; lane < LANES; lane++)
        for (int j = 0; j < 4; j++)
            sums[lane] = (int32_t)((uint32_t)sums[lane] + (uint32_t)(bytes[4 * lane + j] * weight[4 * lane + j]));
    return sums;
#endif
}

INLINE void byte_block(int rows, int64_t fours, const int8_t *weight, const int32_t *correction, const float *scale,
                       const float *bias, const uint8_t *x, float *y, int64_t y_stride) {
    ivec sums[ROWS][COLUMNS];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int c = 0; c < COLUMNS; c++) sums[r][c] = *(const ivec *)(correction + c * LANES);
    for (int64_t k = 0; k < fours; k++) {
        UNROLL for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, x + 4 * (r * fours + k), 4);
            ivec factor = four - (ivec){0};
            UNROLL for (int c = 0; c < COLUMNS; c++)
                sums[r][c] = byte_products(sums[r][c], factor, weight + 4 * (k * PANEL + c * LANES));
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int c = 0; c < COLUMNS; c++) {
            vec start = bias ? load(bias + c * LANES) : all(0);
            vec sum = __builtin_convertvector(sums[r][c], vec);
            store(y + r * y_stride + c * LANES, fused(sum, load(scale + c * LANES), start));
        }
}

/* Round x / step to the nearest level (ties to even), as bytes with 128 for 0, and pad with 128. NaN is the lowest level:
 * its own bits depend on the order in which a compiler takes the terms of a sum. */
INLINE void to_bytes(int64_t size, float step, const float *x, uint8_t *bytes) {
    const float magic = 12582912.0f; /* 1.5 x 2^23: adding it rounds to a whole number */
    for (int64_t k = 0; k < size; k++) {
        float level = x[k] / step;
        level = level > -128.0f ? level : -128.0f;
        level = level < 127.0f ? level : 127.0f;
        float rounded = level + magic;
        uint32_t bits;
        memcpy(&bits, &rounded, 4);
        bytes[k] = (uint8_t)(bits + 128);
    }
    for (int64_t k = size; k % 4; k++) bytes[k] = 128;
}

INLINE void rows_of_panel(int rows, const freerun_linear *l, int64_t column, const float *x, int64_t x_stride,
                          const uint8_t *bytes, float *y, int64_t y_stride) {
    const float *bias = l->bias ? l->bias + column : 0;
    if (l->scale) {
        int64_t fours = (l->inputs + 3) / 4;
        const int8_t *weight = (const int8_t *)l->weight + 4 * (column / PANEL * fours * PANEL + column % PANEL);
        byte_block(rows, fours, weight, l->correction + column, l->scale + column, bias, bytes, y + column, y_stride);
    } else {
        const float *weight = (const float *)l->weight + column / PANEL * l->inputs * PANEL + column % PANEL;
        float_block(rows, l->inputs, weight, bias, x, x_stride, y + column, y_stride);
    }
}

/* Rows that are multiplied with a panel of the weight while it is in the cache. */
#define MANY FREERUN_BYTE_ROWS

static void product(const freerun_linear *l, int64_t rows, const float *x, int64_t x_stride, float *y, int64_t y_stride,
                    uint8_t *bytes) {
    int64_t padded = (l->inputs + 3) / 4 * 4;
    for (; rows > 0; rows -= MANY, x += MANY * x_stride, y += MANY * y_stride) {
        int64_t many = rows < MANY ? rows : MANY;
        for (int64_t r = 0; l->scale && r < many; r++) to_bytes(l->inputs, l->step, x + r * x_stride, bytes + r * padded);
        for (int64_t column = 0; column < l->outputs; column += COLUMNS * LANES)
            for (int64_t r = 0; r < many; r += ROWS) {
                const float *x_r = x + r * x_stride;
                const uint8_t *bytes_r = bytes + r * padded;
                float *y_r = y + r * y_stride;
                switch (many - r < ROWS ? many - r : ROWS) {
#define CASE(rows) \
    case rows: \
        rows_of_panel(rows, l, column, x_r, x_stride, bytes_r, y_r, y_stride); \
        break;
                    CASE(1)
                    CASE(2)
                    CASE(3)
#if ROWS > 3
                    CASE(4)
                    CASE(5)
                    CASE(6)
#endif
                }
            }
    }
}

/* -- functions of one number ------------------------------------------------------------------------------------------ */

/* e^x to 2 units in the last place: 2^n e^r with |r| <= ln(2) / 2, a polynomial (Cephes). NaN stays NaN. */
INLINE vec exponential(vec x) {
    const float magic = 12582912.0f;
    x = picked(x > all(88.0f), all(88.0f), x);
    x = picked(x < all(-87.0f), all(-87.0f), x);
    vec shifted = fused(x, all(1.44269504088896341f), all(magic));
    vec n = shifted - magic;
    vec r = fused(n, all(-0.693359375f), x);
    r = fused(n, all(2.12194440e-4f), r);
    vec p = all(1.9875691500e-4f);
    p = fused(p, r, all(1.3981999507e-3f));
    p = fused(p, r, all(8.3334519073e-3f));
    p = fused(p, r, all(4.1665795894e-2f));
    p = fused(p, r, all(1.6666665459e-1f));
    p = fused(p, r, all(5.0000001201e-1f));
    p = fused(p * r, r, r) + 1.0f;
    return p * (vec)(((uvec)shifted + 127u) << 23);
}

INLINE vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-x)); }
INLINE vec tangent(vec x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }

/* -- cells ------------------------------------------------------------------------------------------------------------ */

/* Vectors reach past H, and past the last gates: what they read there is unused, and what they write is never
 * multiplied. */

static void lstm(int64_t size, const float *given, const float *recurrent, float *h, float *c) {
    for (int64_t j = 0; j < size; j += LANES) {
        vec gates[4];
        UNROLL for (int g = 0; g < 4; g++) gates[g] = load(given + g * size + j) + load(recurrent + g * size + j);
        vec cell = fused(sigmoid(gates[1]), load(c + j), sigmoid(gates[0]) * tangent(gates[2]));
        store(c + j, cell);
        store(h + j, sigmoid(gates[3]) * tangent(cell));
    }
}

static void gru(int64_t size, const float *given, const float *recurrent, float *h) {
    for (int64_t j = 0; j < size; j += LANES) {
        vec r = sigmoid(load(given + j) + load(recurrent + j));
        vec z = sigmoid(load(given + size + j) + load(recurrent + size + j));
        vec n = tangent(fused(r, load(recurrent + 2 * size + j), load(given + 2 * size + j)));
        store(h + j, fused(z, load(h + j) - n, n));
    }
}

static void rnn(int64_t size, const float *given, const float *recurrent, float *h) {
    for (int64_t j = 0; j < size; j += LANES) store(h + j, tangent(load(given + j) + load(recurrent + j)));
}

static void cell(int64_t kind, int64_t size, const float *given, const float *recurrent, float *h, float *c) {
    if (kind == FREERUN_LSTM) lstm(size, given, recurrent, h, c);
    else if (kind == FREERUN_GRU) gru(size, given, recurrent, h);
    else rnn(size, given, recurrent, h);
}

static void tangents(int64_t size, float *values) {
    for (int64_t j = 0; j < size; j += LANES) store(values + j, tangent(load(values + j)));
}

static void add(int64_t size, const float *one, const float *other, float *sum) {
    for (int64_t j = 0; j < size; j++) sum[j] = one[j] + other[j];
}

/* -- attention -------------------------------------------------------------------------------------------------------- */

/* Up to LANES numbers, then 0. */
INLINE vec first_of(const float *from, int64_t count) {
    if (count >= LANES) return load(from);
    float rest[LANES] = {0};
    memcpy(rest, from, (size_t)count * sizeof(float));
    return load(rest);
}

INLINE float total(vec sums) {
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
    return sum;
}

static float score(int64_t size, const float *query, const float *key, const float *vector) {
    vec sums = all(0);
    for (int64_t j = 0; j < size; j += LANES) {
        vec q = first_of(query + j, size - j), k = first_of(key + j, size - j);
        sums = vector ? fused(first_of(vector + j, size - j), tangent(q + k), sums) : fused(q, k, sums);
    }
    return total(sums);
}

static void attend(int64_t size, int64_t entries, const float *query, const float *keys, int64_t stride, const float *vector,
                   float *weights) {
    float most = -INFINITY, sum = 0;
    for (int64_t n = 0; n < entries; n++) {
        weights[n] = score(size, query, keys + n * stride, vector);
        most = weights[n] > most ? weights[n] : most;
    }
    for (int64_t n = 0; n < entries; n += LANES) {
        vec factors = exponential(first_of(weights + n, entries - n) - most);
        store(weights + n, factors);
        for (int lane = 0; lane < LANES && n + lane < entries; lane++) sum += factors[lane];
    }
    for (int64_t n = 0; n < entries; n++) weights[n] /= sum;
}

static void average(int64_t entries, const float *weights, const float *values, int64_t stride, float *sum) {
    for (int64_t j = 0; j < stride; j += COLUMNS * LANES) {
        vec sums[COLUMNS];
        UNROLL for (int c = 0; c < COLUMNS; c++) sums[c] = all(0);
        for (int64_t n = 0; n < entries; n++)
            UNROLL for (int c = 0; c < COLUMNS; c++)
                sums[c] = fused(all(weights[n]), load(values + n * stride + j + c * LANES), sums[c]);
        UNROLL for (int c = 0; c < COLUMNS; c++) store(sum + j + c * LANES, sums[c]);
    }
}

/* Of a number and NaN, NaN. */
static void larger(int64_t size, const float *pairs, float *larger) {
    for (int64_t j = 0; j < size; j++) {
        float one = pairs[j], other = pairs[size + j];
        larger[j] = other > one || other != other ? other : one;
    }
}

/* -- a token ---------------------------------------------------------------------------------------------------------- */

INLINE float sum_of_exponentials(int64_t size, const float *values, float most) {
    vec sums = all(0);
    int64_t j = 0;
    for (; j + LANES <= size; j += LANES) sums += exponential(load(values + j) - most);
    float total = 0, rest[LANES];
    for (int lane = 0; lane < LANES; lane++) rest[lane] = j + lane < size ? values[j + lane] - most : 0;
    vec last = exponential(load(rest));
    for (int lane = 0; lane < LANES; lane++) total += sums[lane] + (j + lane < size ? last[lane] : 0);
    return total;
}

static int32_t best(int64_t vocabulary, const float *logits, float *score) {
    int32_t found = 2;
    float most = logits[0];
    for (int64_t id = 1; id < vocabulary; id++) most = logits[id] > most ? logits[id] : most;
    for (int32_t id = 4; id < vocabulary; id++) found = logits[id] > logits[found] ? id : found;
    *score = logits[found] - most - logf(sum_of_exponentials(vocabulary, logits, most));
    return found;
}

static void log_probs(int64_t vocabulary, const float *logits, float *log_probs) {
    float most = logits[0];
    for (int64_t id = 1; id < vocabulary; id++) most = logits[id] > most ? logits[id] : most;
    float log_sum = logf(sum_of_exponentials(vocabulary, logits, most));
    for (int64_t id = 0; id < vocabulary; id++) log_probs[id] = logits[id] - most - log_sum;
}

#define NAME_OF(isa) #isa
#define STEP_OF(isa) freerun_step_##isa
#define NAME(isa) NAME_OF(isa)
#define STEP(isa) STEP_OF(isa)
const freerun_functions STEP(FREERUN_STEP) = {NAME(FREERUN_STEP), product, cell, tangents, attend, average, larger, add, best, log_probs};
