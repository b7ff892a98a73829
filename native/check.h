/* Validation of models, and sizes that cannot overflow. */
#ifndef FREERUN_CHECK_H
#define FREERUN_CHECK_H

#include <stddef.h>

#include "greedy.h"

/* 1 if freerun_greedy may use the model: its sizes are in range and consistent, and every pointer that is followed is set
 * and aligned. Arrays are assumed to be as long as the sizes imply, and their numbers are not read. */
int freerun_valid(const freerun_model *model);

/* 1 if the pointer is not NULL and a multiple of `alignment`. */
static inline int freerun_placed(const void *pointer, size_t alignment) {
    return pointer && (uintptr_t)pointer % alignment == 0;
}

/* a * b for non-negative numbers; INT64_MAX if it overflows. */
static inline int64_t freerun_times(int64_t a, int64_t b) {
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

static inline int64_t freerun_rounded(int64_t width) {
    return (width + FREERUN_PANEL - 1) / FREERUN_PANEL * FREERUN_PANEL;
}

/* G and M of a model whose sizes are in range. */
static inline int64_t freerun_gates(const freerun_model *m) {
    static const int64_t gates[] = {[FREERUN_LSTM] = 4, [FREERUN_GRU] = 3, [FREERUN_RNN] = 1};
    return gates[m->cell] * m->hidden;
}

static inline int64_t freerun_memory(const freerun_model *m) { return m->directions * m->hidden; }

/* W and P of a model with attention. */
static inline int64_t freerun_read(const freerun_model *m) {
    return m->attention->is_within ? freerun_gates(m) + 2 * m->hidden : m->hidden;
}

static inline int64_t freerun_before_output(const freerun_model *m) {
    return (m->attention->is_within ? 2 : 1) * m->hidden;
}

#endif
