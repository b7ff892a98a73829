/* Greedy search: encodes the sources in groups, then writes as many outputs at a time as a product has rows. When one ends,
 * the next source takes its row, so nothing is computed for padding or for finished outputs. */
#include "greedy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "step.h"

#define ROWS FREERUN_ROWS
#ifndef MAX_FLOATS
#define MAX_FLOATS (1 << 24) /* for the input projections of a group of sources, and for the memory of a part of a call */
#endif

enum { PAD, BOS, EOS, UNK };

static const freerun_functions *chosen(void) {
#ifdef FREERUN_X86
    __builtin_cpu_init();
#ifndef FREERUN_NO_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
        return &freerun_step_avx512;
#endif
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &freerun_step_avx2;
#endif
    return &freerun_step_base;
}

int freerun_version(void) { return FREERUN_VERSION; }

const char *freerun_instructions(void) { return chosen()->name; }

/* -- room ------------------------------------------------------------------------------------------------------------- */

/* For tests under AddressSanitizer: after the 64 bytes that may be read past each piece, more that must not be. */
#ifdef FREERUN_GAPS
#include <sanitizer/asan_interface.h>
#define GAP 256
#define CLOSE(from) ASAN_POISON_MEMORY_REGION(from, GAP - 64)
#else
#define GAP 0
#define CLOSE(from) (void)(from)
#endif

#define MAX_ROOM (PTRDIFF_MAX / 64 * 64) /* bytes */

/* One allocation for all arrays of a call, in pieces aligned to 64 bytes. */
typedef struct {
    char *start;
    int64_t used; /* MAX_ROOM: too much */
} room;

static void *taken(room *r, int64_t rows, int64_t width, int64_t size) {
    char *piece = r->start ? r->start + r->used : NULL;
    int64_t bytes = freerun_times(freerun_times(rows, width), size);
    if (bytes >= MAX_ROOM - GAP - r->used) {
        r->used = MAX_ROOM;
        return NULL;
    }
    bytes = (bytes + 63) / 64 * 64 + GAP;
    r->used += bytes;
    if (piece) CLOSE(piece + bytes - GAP + 64);
    return piece;
}

/* 1 if a room whose size is known now has got its memory, so that its pieces have to be taken again. */
static int is_found(room *r) {
    if (r->start || r->used >= MAX_ROOM) return 0;
    *r = (room){.start = aligned_alloc(64, (size_t)r->used)};
    return r->start != NULL;
}

static float *floats(room *r, int64_t rows, int64_t width) { return taken(r, rows, width, sizeof(float)); }

/* -- the encoder ------------------------------------------------------------------------------------------------------ */

/* One of the sources, which are sorted longest first. */
typedef struct {
    const int64_t *ids, *feature_ids;
    int64_t length, num_features, bound;
    int64_t number; /* its position in the call */
    int64_t start;  /* of its output in `tokens` and `scores` */
    int64_t entries, first_entry; /* of its memory, and their place among those of all sources */
} source;

typedef struct {
    const freerun_model *m;
    const freerun_functions *step;
    const source *sources;
    int64_t gates, hidden, memory, embedding, output, vocabulary, read, before; /* widths, rounded up */
    int64_t count;
    float *first_h, *first_c;               /* [layers][count][hidden]: the decoder's first state */
    float *source_gates, *context_output;   /* [count][gates], [count][output]: what every decoder step adds */
    float *features;                        /* of a group: [ROWS][embedding] */
    float *feature_gates, *sum;             /* of a group: [ROWS][gates]; of a row: [gates] */
    float *given, *inputs, *outputs;        /* of a group: [positions][gates], twice [positions][memory] */
    float *entries;                         /* of a group with entries of features: [entries][memory] */
    float *keys, *values;                   /* [entries of all sources][hidden] and [read] */
    float *recurrent, *h, *c, *final_h, *final_c; /* [ROWS][gates]; [ROWS][hidden]; [ROWS][memory] */
    uint8_t *bytes;
    const int32_t *stop;
} reading;

/* 1 if every decoder step adds something to the gates that depends on the source alone. */
static int has_source_gates(const freerun_model *m) { return m->context_gates || m->feature_table; }

/* 1 if features are entries of the memory. */
static int has_entries(const freerun_model *m) { return m->attention && m->attention->entries; }

/* 1 if another thread has requested a stop. */
static int stopped(const reading *r) { return r->stop && __atomic_load_n(r->stop, __ATOMIC_RELAXED); }

/* Sources that are encoded together, longest first. `start` is the index of the first one; `first` has the index of each
 * one's first position in the group's arrays. */
typedef struct {
    int64_t start, rows, positions, first[ROWS];
    int64_t entries; /* of all its sources, which follow one another */
    const source *sources;
} group;

static void multiply(const reading *r, const freerun_linear *l, int64_t rows, const float *x, int64_t x_stride, float *y,
                     int64_t y_stride) {
    r->step->product(l, rows, x, x_stride, y, y_stride, r->bytes);
}

/* Compute the input projections at every position, unless a table has them. */
static void give(const reading *r, const group *g, const freerun_layer *layer, int64_t index) {
    if (layer->table) return;
    int64_t width = index ? r->memory : r->embedding;
    if (!index)
        for (int64_t row = 0; row < g->rows; row++)
            for (int64_t t = 0; t < g->sources[row].length; t++)
                memcpy(r->inputs + (g->first[row] + t) * width, r->m->source_embedding + g->sources[row].ids[t] * width,
                       (size_t)width * sizeof(float));
    multiply(r, &layer->input, g->positions, r->inputs, width, r->given, r->gates);
}

/* Compute the summary of each source's features: tanh of the bias and the sum of their rows. */
static void summarize_features(const reading *r, const group *g) {
    for (int64_t row = 0; row < g->rows; row++) {
        const source *of = &g->sources[row];
        float *sum = r->features + row * r->embedding;
        memcpy(sum, r->m->feature_bias, (size_t)r->embedding * sizeof(float));
        for (int64_t n = 0; n < of->num_features; n++)
            r->step->add(r->embedding, sum, r->m->feature_table + of->feature_ids[n] * r->embedding, sum);
    }
    r->step->tangents(g->rows * r->embedding, r->features);
}

/* Compute the recurrent projections of the first `rows`; before the first position the state is 0. */
static void recur(const reading *r, const freerun_layer *layer, int64_t rows, int64_t step) {
    if (step) {
        multiply(r, &layer->recurrent, rows, r->h, r->hidden, r->recurrent, r->gates);
        return;
    }
    for (int64_t row = 0; row < rows; row++)
        if (layer->recurrent.bias) memcpy(r->recurrent + row * r->gates, layer->recurrent.bias, (size_t)r->gates * 4);
        else memset(r->recurrent + row * r->gates, 0, (size_t)r->gates * 4);
}

static void read_layer(const reading *r, const group *g, int64_t index, int64_t direction) {
    const freerun_layer *layer = &r->m->encoder[index * r->m->directions + direction];
    int64_t hidden = r->m->hidden, is_last = index + 1 == r->m->layers, rows = g->rows;
    int has_features = !index && r->m->feature_table;
    give(r, g, layer, index);
    if (has_features)
        multiply(r, &r->m->feature_encoder[direction], rows, r->features, r->embedding, r->feature_gates, r->gates);
    memset(r->h, 0, (size_t)(ROWS * r->hidden) * sizeof(float));
    memset(r->c, 0, (size_t)(ROWS * r->hidden) * sizeof(float));
    for (int64_t step = 0; step < g->sources[0].length && !stopped(r); step++) {
        while (g->sources[rows - 1].length <= step) rows--;
        recur(r, layer, rows, step);
        for (int64_t row = 0; row < rows; row++) {
            int64_t t = direction ? g->sources[row].length - 1 - step : step;
            const float *given = layer->table ? layer->table + g->sources[row].ids[t] * r->gates
                                              : r->given + (g->first[row] + t) * r->gates;
            if (has_features) {
                r->step->add(r->gates, given, r->feature_gates + row * r->gates, r->sum);
                given = r->sum;
            }
            float *h = r->h + row * r->hidden;
            r->step->cell(r->m->cell, hidden, given, r->recurrent + row * r->gates, h, r->c + row * r->hidden);
            if (!is_last || r->m->attention)
                memcpy(r->outputs + (g->first[row] + t) * r->memory + direction * hidden, h, (size_t)hidden * 4);
        }
    }
    for (int64_t row = 0; row < g->rows; row++) {
        memcpy(r->final_h + row * r->memory + direction * hidden, r->h + row * r->hidden, (size_t)hidden * 4);
        memcpy(r->final_c + row * r->memory + direction * hidden, r->c + row * r->hidden, (size_t)hidden * 4);
    }
}

/* Project or copy a layer's final states to the decoder's first states. */
static void bridge(const reading *r, const group *g, const freerun_linear *linear, const float *final, float *first) {
    float *projected = r->recurrent; /* [ROWS][gates], gates being at least as wide as H */
    if (linear) multiply(r, linear, g->rows, final, r->memory, projected, r->gates);
    for (int64_t row = 0; row < g->rows; row++)
        memcpy(first + (g->start + row) * r->hidden, linear ? projected + row * r->gates : final + row * r->memory,
               (size_t)r->m->hidden * sizeof(float));
}

/* Compute what every decoder step adds: the projections of the features, and of the context (the top layer's state). */
static void project(const reading *r, const group *g) {
    const freerun_model *m = r->m;
    if (!has_source_gates(m)) return;
    float *gates = r->source_gates + g->start * r->gates, *projected = m->feature_table ? r->feature_gates : gates;
    if (m->feature_table) multiply(r, m->feature_decoder, g->rows, r->features, r->embedding, gates, r->gates);
    if (!m->context_gates) return;
    const float *context = r->first_h + ((m->layers - 1) * r->count + g->start) * r->hidden;
    float *output = r->context_output + g->start * r->output;
    multiply(r, m->context_output, g->rows, context, r->hidden, output, r->output);
    multiply(r, m->context_gates, g->rows, context, r->hidden, projected, r->gates);
    if (m->feature_table) r->step->add(g->rows * r->gates, gates, projected, gates);
}

/* Put each source's outputs and the entries of its features next to each other; the outputs are in `inputs`. */
static const float *entries_of(const reading *r, const group *g) {
    if (!has_entries(r->m)) return r->inputs;
    size_t bytes = (size_t)r->memory * sizeof(float);
    float *to = r->entries;
    for (int64_t row = 0; row < g->rows; row++) {
        const source *of = &g->sources[row];
        memcpy(to, r->inputs + g->first[row] * r->memory, (size_t)of->length * bytes);
        to += of->length * r->memory;
        for (int64_t n = 0; n < of->num_features; n++, to += r->memory)
            memcpy(to, r->m->attention->entries + of->feature_ids[n] * r->memory, bytes);
    }
    return r->entries;
}

/* Compute the keys and values of the memory. */
static void remember(const reading *r, const group *g) {
    const freerun_attention *a = r->m->attention;
    const float *memory = entries_of(r, g);
    float *keys = r->keys + g->sources[0].first_entry * r->hidden;
    if (a->keys) multiply(r, a->keys, g->entries, memory, r->memory, keys, r->hidden);
    else memcpy(keys, memory, (size_t)(g->entries * r->memory) * sizeof(float));
    multiply(r, &a->values, g->entries, memory, r->memory, r->values + g->sources[0].first_entry * r->read, r->read);
}

static void read_group(reading *r, const group *g) {
    const freerun_model *m = r->m;
    if (m->feature_table) summarize_features(r, g);
    for (int64_t index = 0; index < m->layers; index++) {
        for (int64_t direction = 0; direction < m->directions; direction++) read_layer(r, g, index, direction);
        int64_t begin = index * r->count * r->hidden;
        bridge(r, g, m->bridge_h ? &m->bridge_h[index] : NULL, r->final_h, r->first_h + begin);
        if (m->cell == FREERUN_LSTM)
            bridge(r, g, m->bridge_c ? &m->bridge_c[index] : NULL, r->final_c, r->first_c + begin);
        float *outputs = r->outputs;
        r->outputs = r->inputs;
        r->inputs = outputs;
    }
    if (m->attention) remember(r, g);
    project(r, g);
}

/* -- the decoder ------------------------------------------------------------------------------------------------------ */

/* Active rows: the source of each, the number of tokens written so far, and the last of them. */
typedef struct {
    int64_t rows, capacity;
    int64_t *source, *step, *token;
    float *h, *c;                                /* [layers][capacity][hidden] */
    float *given, *recurrent, *output, *logits;  /* [capacity][...] */
    float *query, *read, *before, *features;     /* likewise, with attention */
    float *fed, *weights;                        /* [capacity][gates] with input feeding; [entries of the largest source] */
} writing;

static void copy_state(const reading *r, const float *from, int64_t from_stride, float *to, int64_t to_stride) {
    for (int64_t index = 0; index < r->m->layers; index++)
        memcpy(to + index * to_stride * r->hidden, from + index * from_stride * r->hidden, (size_t)r->hidden * sizeof(float));
}

static void begin(const reading *r, writing *w, int64_t row, int64_t number) {
    if (r->m->attention) memset(w->features + row * r->hidden, 0, (size_t)r->hidden * sizeof(float));
    w->source[row] = number;
    w->step[row] = 0;
    w->token[row] = BOS;
    copy_state(r, r->first_h + number * r->hidden, r->count, w->h + row * r->hidden, w->capacity);
    if (r->m->cell == FREERUN_LSTM)
        copy_state(r, r->first_c + number * r->hidden, r->count, w->c + row * r->hidden, w->capacity);
}

/* Let a row of `to` go on where a row of `from`, which may be the same, is. */
static void follow(const reading *r, writing *to, int64_t row, const writing *from, int64_t origin) {
    to->source[row] = from->source[origin];
    to->step[row] = from->step[origin];
    to->token[row] = from->token[origin];
    if (r->m->attention)
        memcpy(to->features + row * r->hidden, from->features + origin * r->hidden, (size_t)r->hidden * sizeof(float));
    copy_state(r, from->h + origin * r->hidden, from->capacity, to->h + row * r->hidden, to->capacity);
    if (r->m->cell == FREERUN_LSTM)
        copy_state(r, from->c + origin * r->hidden, from->capacity, to->c + row * r->hidden, to->capacity);
}

/* Return the queries [rows][hidden] of a step. They last until the next one: within the recurrence h changes, so they are
 * never h itself there. */
static const float *queries(const reading *r, const writing *w) {
    const freerun_attention *a = r->m->attention;
    return a->query || a->is_within ? w->query : w->h + (r->m->layers - 1) * w->capacity * r->hidden;
}

/* Compute a row's attention weights in `weights`; return its source. */
static const source *weigh(const reading *r, const writing *w, int64_t row) {
    const source *of = &r->sources[w->source[row]];
    const float *query = queries(r, w) + row * r->hidden, *keys = r->keys + of->first_entry * r->hidden;
    r->step->attend(r->m->hidden, of->entries, query, keys, r->hidden, r->m->attention->vector, w->weights);
    return of;
}

/* Read the memory of each row's source, given the top layer's h. */
static void read_memory(const reading *r, const writing *w, const float *h) {
    const freerun_attention *a = r->m->attention;
    if (a->query) multiply(r, a->query, w->rows, h, r->hidden, w->query, r->hidden);
    else if (a->is_within) memcpy(w->query, h, (size_t)(w->rows * r->hidden) * sizeof(float));
    for (int64_t row = 0; row < w->rows; row++) {
        const source *of = weigh(r, w, row);
        const float *values = r->values + of->first_entry * r->read;
        r->step->average(of->entries, w->weights, values, r->read, w->read + row * r->read);
    }
}

/* Return a row's input projection of the first layer's gates: that of its token, and what is added to it. */
static const float *given_to(const reading *r, const writing *w, int64_t row) {
    const freerun_model *m = r->m;
    const float *given = m->decoder[0].table + w->token[row] * r->gates;
    const float *added[] = {has_source_gates(m) ? r->source_gates + w->source[row] * r->gates : NULL,
                            m->attention && m->attention->is_within ? w->read + row * r->read : NULL,
                            m->attention && m->attention->fed ? w->fed + row * r->gates : NULL};
    float *sum = w->given + row * r->gates;
    for (int n = 0; n < 3; n++)
        if (added[n]) {
            r->step->add(r->gates, given, added[n], sum);
            given = sum;
        }
    return given;
}

/* Compute the features for the output layer, from the top layer's h and what was read. */
static void attend_to(const reading *r, const writing *w, const float *h) {
    const freerun_model *m = r->m;
    const freerun_attention *a = m->attention;
    int64_t size = freerun_before_output(m), first = a->is_within ? freerun_gates(m) : 0;
    multiply(r, &a->state, w->rows, h, r->hidden, w->before, r->before);
    for (int64_t row = 0; row < w->rows; row++) {
        float *before = w->before + row * r->before, *features = w->features + row * r->hidden;
        r->step->add(size, before, w->read + row * r->read + first, before);
        if (a->is_within) {
            r->step->add(size, before, a->tokens + w->token[row] * r->before, before);
            r->step->larger(m->hidden, before, features);
        } else {
            r->step->tangents(m->hidden, before);
            memcpy(features, before, (size_t)m->hidden * sizeof(float));
        }
    }
}

/* Feed each row its token and compute the logits of the next one. */
static void step_all(const reading *r, const writing *w) {
    const freerun_model *m = r->m;
    const freerun_attention *a = m->attention;
    int64_t layer = w->capacity * r->hidden;
    float *top = w->h + (m->layers - 1) * layer;
    if (a && a->is_within) read_memory(r, w, top);
    if (a && a->fed) multiply(r, a->fed, w->rows, w->features, r->hidden, w->fed, r->gates);
    for (int64_t index = 0; index < m->layers; index++) {
        float *h = w->h + index * layer, *c = w->c + index * layer;
        multiply(r, &m->decoder[index].recurrent, w->rows, h, r->hidden, w->recurrent, r->gates);
        if (index) multiply(r, &m->decoder[index].input, w->rows, h - layer, r->hidden, w->given, r->gates);
        for (int64_t row = 0; row < w->rows; row++) {
            const float *given = index ? w->given + row * r->gates : given_to(r, w, row);
            r->step->cell(m->cell, m->hidden, given, w->recurrent + row * r->gates, h + row * r->hidden, c + row * r->hidden);
        }
    }
    if (a && !a->is_within) read_memory(r, w, top);
    if (a) attend_to(r, w, top);
    float *output = m->tied ? w->output : w->logits;
    multiply(r, &m->output, w->rows, a ? w->features : top, r->hidden, output, r->output);
    for (int64_t row = 0; m->context_output && row < w->rows; row++) {
        float *sum = output + row * r->output;
        r->step->add(r->output, sum, r->context_output + w->source[row] * r->output, sum);
    }
    if (m->tied) multiply(r, m->tied, w->rows, output, r->output, w->logits, r->vocabulary);
}

static void write_all(const reading *r, writing *w, int32_t *tokens, float *scores, int64_t *written) {
    int64_t next = 0;
    while (next < r->count && w->rows < w->capacity) begin(r, w, w->rows++, next++);
    while (w->rows && !stopped(r)) {
        step_all(r, w);
        for (int64_t row = w->rows - 1; row >= 0; row--) { /* backwards: a row that moves here is already done */
            float score;
            int32_t token = r->step->best(r->m->target_vocabulary, w->logits + row * r->vocabulary, &score);
            const source *of = &r->sources[w->source[row]];
            int full = w->step[row] >= of->bound; /* EOS may follow the last token that fits */
            if (token == EOS || !full) {
                w->token[row] = tokens[of->start + w->step[row]] = token;
                scores[of->start + w->step[row]++] = score;
            }
            if (token != EOS && !full) continue;
            written[of->number] = w->step[row];
            if (next < r->count) begin(r, w, row, next++);
            else if (row < --w->rows) follow(r, w, row, w, w->rows);
        }
    }
}

/* -- the call --------------------------------------------------------------------------------------------------------- */

static int64_t larger(int64_t one, int64_t other) { return one > other ? one : other; }

/* What the arrays of a call depend on: the positions and the entries of the largest groups, the entries of the largest
 * source and of all. */
typedef struct {
    int64_t positions, group_entries, entries, all_entries;
} extent;

/* Set the pointers into the room; if it has no memory yet, only compute its size. */
static void lay_out_reading(room *space, reading *r, const extent *e) {
    const freerun_model *m = r->m;
    int has_inputs = m->layers > 1 || m->source_embedding, attends = m->attention != NULL;
    int64_t states = freerun_times(m->layers, r->count), inner = has_inputs || attends ? e->positions : 0;
    int64_t inputs = larger(r->memory, m->source_embedding ? r->embedding : 0);
    int64_t features = m->feature_table ? ROWS : 0;
    r->first_h = floats(space, states, r->hidden);
    r->first_c = floats(space, m->cell == FREERUN_LSTM ? states : 0, r->hidden);
    r->source_gates = floats(space, has_source_gates(m) ? r->count : 0, r->gates);
    r->context_output = floats(space, m->context_output ? r->count : 0, r->output);
    r->features = floats(space, features, r->embedding);
    r->feature_gates = floats(space, features, r->gates);
    r->sum = floats(space, features ? 1 : 0, r->gates);
    r->given = floats(space, has_inputs ? inner : 0, r->gates);
    r->inputs = floats(space, inner, inputs);
    r->outputs = floats(space, inner, inputs);
    r->entries = floats(space, has_entries(m) ? e->group_entries : 0, r->memory);
    r->keys = floats(space, attends ? e->all_entries : 0, r->hidden);
    r->values = floats(space, attends ? e->all_entries : 0, r->read);
    r->recurrent = floats(space, ROWS, r->gates);
    r->h = floats(space, ROWS, r->hidden);
    r->c = floats(space, ROWS, r->hidden);
    r->final_h = floats(space, ROWS, r->memory);
    r->final_c = floats(space, ROWS, r->memory);
    inputs = larger(inputs, features ? r->embedding : 0);
    r->bytes = taken(space, FREERUN_BYTE_ROWS, larger(inputs, r->output), 1); /* the widest input of a product */
}

/* The same for `capacity` rows, whose sources have `entries` at most. */
static void lay_out_writing(room *space, const reading *r, writing *w, int64_t capacity, int64_t entries) {
    const freerun_model *m = r->m;
    int64_t attending = m->attention ? capacity : 0, states = freerun_times(m->layers, capacity);
    w->capacity = capacity;
    w->source = taken(space, capacity, 1, sizeof *w->source);
    w->step = taken(space, capacity, 1, sizeof *w->step);
    w->token = taken(space, capacity, 1, sizeof *w->token);
    w->h = floats(space, states, r->hidden);
    w->c = floats(space, m->cell == FREERUN_LSTM ? states : 0, r->hidden);
    w->given = floats(space, capacity, r->gates);
    w->recurrent = floats(space, capacity, r->gates);
    w->output = floats(space, capacity, r->output);
    w->logits = floats(space, capacity, r->vocabulary);
    w->query = floats(space, attending, r->hidden);
    w->read = floats(space, attending, r->read);
    w->before = floats(space, attending, r->before);
    w->features = floats(space, attending, r->hidden);
    w->fed = floats(space, m->attention && m->attention->fed ? capacity : 0, r->gates);
    w->weights = floats(space, 1, m->attention ? freerun_rounded(entries) : 0);
}

static int longest_first(const void *one, const void *other) {
    const source *a = one, *b = other;
    if (a->length != b->length) return a->length < b->length ? 1 : -1;
    return a->number < b->number ? -1 : 1;
}

/* Return the group of sources that begins at `start`. */
static group group_from(const reading *r, int64_t start) {
    group g = {.start = start, .sources = r->sources + start};
    int64_t limit = larger(1, MAX_FLOATS / freerun_times(g.sources[0].length, r->gates));
    for (; g.rows < ROWS && g.rows < limit && start + g.rows < r->count; g.rows++) {
        g.first[g.rows] = g.positions;
        g.positions += g.sources[g.rows].length;
        g.entries += g.sources[g.rows].entries;
    }
    return g;
}

static void read_all(reading *r) {
    group g;
    for (int64_t start = 0; start < r->count; start += g.rows) {
        g = group_from(r, start);
        read_group(r, &g);
    }
}

static reading reading_of(const freerun_model *m, int64_t count, const source *sources) {
    return (reading){
        .m = m,
        .step = chosen(),
        .sources = sources,
        .gates = freerun_rounded(freerun_gates(m)),
        .hidden = freerun_rounded(m->hidden),
        .memory = freerun_rounded(freerun_memory(m)),
        .embedding = freerun_rounded(m->embedding),
        .output = freerun_rounded(m->output.outputs),
        .vocabulary = freerun_rounded(m->target_vocabulary),
        .read = m->attention ? freerun_rounded(freerun_read(m)) : 0,
        .before = m->attention ? freerun_rounded(freerun_before_output(m)) : 0,
        .count = count,
    };
}

/* The arrays of a call that are read, see freerun_greedy. */
typedef struct {
    int64_t count;
    const int64_t *ids, *lengths, *feature_ids, *feature_counts, *bounds;
} request;

static int is_placed(const int64_t *numbers) { return freerun_placed(numbers, sizeof *numbers); }

static int has_arrays(const freerun_model *m, const request *q) {
    int has_features = m->feature_vocabulary ? is_placed(q->feature_ids) && is_placed(q->feature_counts)
                                             : !q->feature_ids && !q->feature_counts;
    return has_features && is_placed(q->ids) && is_placed(q->lengths);
}

static int are_ids(const int64_t *ids, int64_t count, int64_t least, int64_t vocabulary) {
    for (int64_t n = 0; n < count; n++)
        if (ids[n] < least || ids[n] >= vocabulary) return 0;
    return 1;
}

/* List the sources of a call, longest first; 0 if one is invalid. Sums stay below `limit`: a larger array cannot exist. */
static int listed(const freerun_model *m, const request *q, source *sources) {
    const int64_t limit = PTRDIFF_MAX / (int64_t)sizeof *q->ids;
    for (int64_t n = 0, first = 0, first_feature = 0, start = 0; n < q->count; n++) {
        int64_t length = q->lengths[n], bound = q->bounds ? q->bounds[n] : 0, features = q->feature_counts ? q->feature_counts[n] : 0;
        if (length < 1 || length > limit - first || bound < 0 || bound >= limit - start) return 0;
        if (features < 0 || features > limit - first_feature) return 0;
        source of = {.length = length, .num_features = features, .bound = bound, .number = n, .start = start};
        of.entries = length + (has_entries(m) ? features : 0);
        of.ids = q->ids + first;
        if (features) of.feature_ids = q->feature_ids + first_feature;
        if (!are_ids(of.ids, length, 0, m->source_vocabulary)) return 0;
        if (!are_ids(of.feature_ids, features, PAD + 1, m->feature_vocabulary)) return 0;
        sources[n] = of;
        first += length;
        first_feature += features;
        start += bound + 1;
    }
    qsort(sources, (size_t)q->count, sizeof *sources, longest_first);
    return 1;
}

static extent extent_of(const reading *r, source *sources) {
    extent e = {0};
    for (int64_t n = 0; n < r->count; n++) {
        sources[n].first_entry = e.all_entries;
        e.all_entries += sources[n].entries;
        e.entries = larger(e.entries, sources[n].entries);
    }
    for (int64_t start = 0, rows; start < r->count; start += rows) {
        group g = group_from(r, start);
        e.positions = larger(e.positions, g.positions);
        e.group_entries = larger(e.group_entries, g.entries);
        rows = g.rows;
    }
    return e;
}

static int decode(const freerun_model *model, int64_t count, source *sources, int32_t *tokens, float *scores,
                  int64_t *written, const int32_t *stop) {
    reading r = reading_of(model, count, sources);
    r.stop = stop;
    writing w = {0};
    room space = {0};
    extent e = extent_of(&r, sources);
    do { /* first the size, then the pointers */
        lay_out_reading(&space, &r, &e);
        lay_out_writing(&space, &r, &w, ROWS, e.entries);
    } while (is_found(&space));
    if (!space.start) return FREERUN_NO_MEMORY;
    read_all(&r);
    write_all(&r, &w, tokens, scores, written);
    free(space.start);
    return stopped(&r) ? FREERUN_STOPPED : FREERUN_OK;
}

/* Return how many sources are decoded together: all, unless their memory takes too much room. */
static int64_t part_of(const freerun_model *m, int64_t count, const source *sources) {
    if (!m->attention) return count;
    int64_t width = freerun_rounded(m->hidden) + freerun_rounded(freerun_read(m)), most = 4 * (int64_t)MAX_FLOATS / width, n = 0;
    for (int64_t entries = 0; n < count && (n < ROWS || entries + sources[n].entries <= most); n++)
        entries += sources[n].entries;
    return n;
}

int freerun_greedy(const freerun_model *model, int64_t count, const int64_t *ids, const int64_t *lengths,
                   const int64_t *feature_ids, const int64_t *feature_counts, const int64_t *bounds, int32_t *tokens,
                   float *scores, int64_t *written, const int32_t *stop) {
    const request q = {count, ids, lengths, feature_ids, feature_counts, bounds};
    if (!freerun_valid(model)) return FREERUN_BAD_MODEL;
    if (!count) return FREERUN_OK;
    if (count < 0 || !has_arrays(model, &q) || !is_placed(bounds) || !freerun_placed(tokens, sizeof *tokens) ||
        !freerun_placed(scores, sizeof *scores) || !freerun_placed(written, sizeof *written) ||
        (stop && !freerun_placed(stop, sizeof *stop)))
        return FREERUN_BAD_SOURCE;
    if (count > PTRDIFF_MAX / (int64_t)sizeof(source)) return FREERUN_NO_MEMORY;
    source *sources = malloc((size_t)count * sizeof *sources);
    if (!sources) return FREERUN_NO_MEMORY;
    int result = listed(model, &q, sources) ? FREERUN_OK : FREERUN_BAD_SOURCE;
    for (int64_t n = 0, part; n < count && result == FREERUN_OK; n += part) {
        part = part_of(model, count - n, sources + n);
        result = decode(model, part, sources + n, tokens, scores, written, stop);
    }
    free(sources);
    return result;
}

/* -- single steps ----------------------------------------------------------------------------------------------------- */

/* The rows of the last step, and room for those of the next. */
struct freerun_steps {
    reading r;
    source *sources;
    int64_t entries; /* of the largest source */
    char *memory;
    struct {
        writing w;
        char *memory;
    } rows[2];
    int now; /* which of them is the last step's */
    int is_stepped; /* 1 after the first step */
};

/* Make room for `rows`, unless there is enough. */
static int has_room(freerun_steps *s, int which, int64_t rows) {
    if (s->rows[which].w.capacity >= rows) return 1;
    free(s->rows[which].memory);
    s->rows[which].memory = NULL;
    s->rows[which].w = (writing){0};
    writing w = {0};
    room space = {0};
    do lay_out_writing(&space, &s->r, &w, rows, s->entries);
    while (is_found(&space));
    if (!space.start) return 0;
    s->rows[which].memory = space.start;
    s->rows[which].w = w;
    return 1;
}

/* Read the sources, and begin a row for each: in their order, or in that of the call. */
static int read_sources(freerun_steps *s, int in_order) {
    extent e = extent_of(&s->r, s->sources);
    room space = {0};
    s->entries = e.entries;
    do lay_out_reading(&space, &s->r, &e);
    while (is_found(&space));
    s->memory = space.start;
    if (!space.start || !has_room(s, 0, s->r.count)) return FREERUN_NO_MEMORY;
    read_all(&s->r);
    writing *w = &s->rows[0].w;
    w->rows = s->r.count;
    for (int64_t n = 0; n < s->r.count; n++) begin(&s->r, w, in_order ? n : s->sources[n].number, n);
    return stopped(&s->r) ? FREERUN_STOPPED : FREERUN_OK;
}

int freerun_start(const freerun_model *model, int64_t count, const int64_t *ids, const int64_t *lengths,
                  const int64_t *feature_ids, const int64_t *feature_counts, freerun_steps **steps, const int32_t *stop) {
    const request q = {count, ids, lengths, feature_ids, feature_counts, NULL};
    if (!freerun_valid(model)) return FREERUN_BAD_MODEL;
    if (count < 1 || !has_arrays(model, &q) || !freerun_placed(steps, sizeof *steps) ||
        (stop && !freerun_placed(stop, sizeof *stop)))
        return FREERUN_BAD_SOURCE;
    if (count > PTRDIFF_MAX / (int64_t)sizeof(source)) return FREERUN_NO_MEMORY;
    freerun_steps *s = malloc(sizeof *s);
    source *sources = malloc((size_t)count * sizeof *sources);
    int result = FREERUN_NO_MEMORY;
    if (s && sources) {
        *s = (freerun_steps){.sources = sources};
        result = FREERUN_BAD_SOURCE;
        if (listed(model, &q, sources)) {
            s->r = reading_of(model, count, sources);
            s->r.stop = stop;
            result = read_sources(s, 0);
            s->r.stop = NULL;
        }
        if (result == FREERUN_OK) *steps = s;
        else freerun_end(s);
        return result;
    }
    free(s);
    free(sources);
    return result;
}

/* Feed tokens to rows that continue others, and compute the logits; 0 without memory. */
static int made_step(freerun_steps *s, int64_t rows, const int64_t *tokens, const int64_t *origins) {
    if (!has_room(s, !s->now, rows)) return 0;
    const writing *before = &s->rows[s->now].w;
    s->now = !s->now;
    writing *w = &s->rows[s->now].w;
    w->rows = rows;
    for (int64_t row = 0; row < rows; row++) {
        follow(&s->r, w, row, before, origins[row]);
        w->token[row] = tokens[row];
    }
    step_all(&s->r, w);
    s->is_stepped = 1;
    return 1;
}

int freerun_step(freerun_steps *s, int64_t rows, const int64_t *tokens, const int64_t *origins, float *log_probs) {
    if (!s || rows < 1 || !is_placed(tokens) || !is_placed(origins) || !freerun_placed(log_probs, sizeof *log_probs))
        return FREERUN_BAD_SOURCE;
    const writing *before = &s->rows[s->now].w;
    int64_t vocabulary = s->r.m->target_vocabulary;
    if (!are_ids(origins, rows, 0, before->rows) || !are_ids(tokens, rows, 0, vocabulary)) return FREERUN_BAD_SOURCE;
    if (!made_step(s, rows, tokens, origins)) return FREERUN_NO_MEMORY;
    for (int64_t row = 0; row < rows; row++)
        s->r.step->log_probs(vocabulary, s->rows[s->now].w.logits + row * s->r.vocabulary, log_probs + row * vocabulary);
    return FREERUN_OK;
}

int freerun_attended(freerun_steps *s, int64_t rows, int64_t positions, float *weights) {
    if (!s || !s->is_stepped || !s->r.m->attention || !freerun_placed(weights, sizeof *weights)) return FREERUN_BAD_SOURCE;
    const writing *w = &s->rows[s->now].w;
    if (rows != w->rows) return FREERUN_BAD_SOURCE;
    for (int64_t row = 0; row < rows; row++)
        if (positions < s->sources[w->source[row]].entries) return FREERUN_BAD_SOURCE;
    if (freerun_times(rows, positions) > PTRDIFF_MAX / (int64_t)sizeof *weights) return FREERUN_BAD_SOURCE;
    memset(weights, 0, (size_t)(rows * positions) * sizeof *weights);
    for (int64_t row = 0; row < rows; row++) {
        const source *of = weigh(&s->r, w, row);
        memcpy(weights + row * positions, w->weights, (size_t)of->entries * sizeof *weights);
    }
    return FREERUN_OK;
}

/* The k best of one row, see freerun_best. */
static void best_of_row(int64_t vocabulary, const float *log_probs, int64_t k, int64_t *ids, float *best) {
    int64_t found = 0;
    for (int64_t id = EOS; id < vocabulary; id += id == EOS ? 2 : 1) { /* not UNK */
        if (found == k && !(log_probs[id] > best[k - 1])) continue;
        int64_t place = found < k ? found++ : k - 1;
        for (; place && log_probs[id] > best[place - 1]; place--) {
            ids[place] = ids[place - 1];
            best[place] = best[place - 1];
        }
        ids[place] = id;
        best[place] = log_probs[id];
    }
}

int freerun_best(int64_t rows, int64_t vocabulary, const float *log_probs, int64_t k, int64_t *ids, float *best) {
    if (rows < 0 || vocabulary <= UNK || k < 1 || k > vocabulary - UNK || !freerun_placed(log_probs, sizeof *log_probs) ||
        !is_placed(ids) || !freerun_placed(best, sizeof *best))
        return FREERUN_BAD_SOURCE;
    for (int64_t row = 0; row < rows; row++)
        best_of_row(vocabulary, log_probs + row * vocabulary, k, ids + row * k, best + row * k);
    return FREERUN_OK;
}

/* Free what an object has but its sources. */
static void give_back(freerun_steps *s) {
    for (int n = 0; n < 2; n++) free(s->rows[n].memory);
    free(s->memory);
}

void freerun_end(freerun_steps *s) {
    if (!s) return;
    give_back(s);
    free(s->sources);
    free(s);
}

/* -- beam search ------------------------------------------------------------------------------------------------------ */

/* Sources that are searched together: their rows fill whole products. */
#define BEAM_SOURCES 8

/* A token that was chosen, and the one before it: -1 for the first. */
typedef struct {
    int64_t parent;
    int32_t token;
    float log_prob;
} node;

/* A continuation of a row. */
typedef struct {
    double score;
    int64_t token, row, order;
    float log_prob;
} candidate;

/* A hypothesis that has left the search: its last token but EOS, the tokens that it has, EOS counted. */
typedef struct {
    int64_t last, length, order;
    double score, rank;
    float eos; /* its log-probability */
    int truncated;
} hypothesis;

/* A growing array. */
typedef struct {
    char *items;
    int64_t used, room;
} list;

/* Return the place of a new item; NULL without memory. */
static void *added(list *l, int64_t size) {
    if (l->used == l->room) {
        int64_t room = l->room ? 2 * l->room : 64;
        char *items = room < MAX_ROOM / size ? malloc((size_t)(room * size)) : NULL;
        if (!items) return NULL;
        if (l->used) memcpy(items, l->items, (size_t)(l->used * size));
        free(l->items);
        l->items = items;
        l->room = room;
    }
    return l->items + size * l->used++;
}

typedef struct {
    list finished; /* of hypothesis */
    double *costs; /* negated ranks of the best finished ones, ascending; `num_costs` of them exist */
    int64_t num_costs, bound, rows;
} beam_source;

/* Sources of a beam search that are searched together. */
typedef struct {
    const freerun_beam *how;
    freerun_steps *steps;
    beam_source sources[BEAM_SOURCES];
    int64_t width, num_sources, max_costs;
    list nodes;
    int64_t rows; /* active, those of a source next to each other, best first */
    double *scores, *new_scores, *costs;
    int64_t *last, *new_last, *tokens, *origins, *ids; /* last: the node of a row */
    float *log_probs, *best;
    candidate *candidates;
} beam;

static double rank_of(double score, double length, double penalty) { return score / pow((5 + length) / 6, penalty); }

/* See freerun/search/hypothesis.py. */
static double divisor_bound(double length, double penalty) {
    return penalty == 0 ? 1 : pow((5 + length + 1) / 6, penalty) * (1 + 1e-12);
}

static int better_first(const void *one, const void *other) {
    const candidate *a = one, *b = other;
    if (a->score != b->score && !(a->score != a->score && b->score != b->score)) /* NaN last */
        return b->score != b->score || a->score > b->score ? -1 : 1;
    if (a->token != b->token) return a->token < b->token ? -1 : 1;
    return a->order < b->order ? -1 : 1;
}

static int higher_rank_first(const void *one, const void *other) {
    const hypothesis *a = one, *b = other;
    if (a->truncated != b->truncated) return a->truncated ? 1 : -1;
    if (a->rank != b->rank && !(a->rank != a->rank && b->rank != b->rank))
        return b->rank != b->rank || a->rank > b->rank ? -1 : 1;
    return a->order < b->order ? -1 : 1;
}

static void note_cost(beam *b, beam_source *of, double cost) {
    if (cost != cost) return;
    int64_t place = of->num_costs < b->max_costs ? of->num_costs++ : b->max_costs;
    for (; place && cost < of->costs[place - 1]; place--)
        if (place < b->max_costs) of->costs[place] = of->costs[place - 1];
    if (place < b->max_costs) of->costs[place] = cost;
}

static int has_finished(beam *b, beam_source *of, int64_t row, int64_t step, double score, const float *eos) {
    hypothesis *h = added(&of->finished, sizeof *h);
    if (!h) return 0;
    double rank = rank_of(score, (double)(step + (eos != NULL)), b->how->length_penalty);
    *h = (hypothesis){b->last[row], step + (eos != NULL), of->finished.used, score, rank, eos ? *eos : 0, !eos};
    return 1;
}

/* 1 if no active hypothesis, of which the best has `score`, can still reach the result; `written` tokens, EOS counted. */
static int is_done(const beam *b, const beam_source *of, double score, int64_t written) {
    double penalty = b->how->length_penalty, least = -score;
    double longest = penalty > 0 ? (double)of->bound : penalty < 0 ? (double)written : 0;
    int64_t last = b->how->num_hypotheses - 1;
    int done = of->num_costs > last && least / divisor_bound(longest, penalty) >= of->costs[last];
    if (b->how->early_stop && of->num_costs == b->max_costs)
        done |= rank_of(least, (double)written, penalty) >= of->costs[b->max_costs - 1];
    return done;
}

/* Choose among the continuations of a source's rows, which begin at `first`; those that stay are added to the new rows. */
static int choose(beam *b, beam_source *of, int64_t first, int64_t step, int64_t *rows) {
    int64_t count = 0, beam_size = b->how->beam_size, num_active = 0;
    for (int64_t row = first; row < first + of->rows; row++)
        for (int64_t k = 0; k < b->width; k++, count++) {
            float log_prob = b->best[row * b->width + k];
            b->candidates[count] = (candidate){b->scores[row] + log_prob, b->ids[row * b->width + k], row, count, log_prob};
        }
    qsort(b->candidates, (size_t)count, sizeof *b->candidates, better_first);
    double most = -INFINITY;
    int is_full = of->bound <= step;
    for (int64_t n = 0, active = 0; n < count && active < beam_size; n++)
        if (b->candidates[n].token != EOS) {
            active++;
            most = b->candidates[n].score > most ? b->candidates[n].score : most;
        }
    for (int64_t n = 0; n < count && n < beam_size; n++) {
        const candidate *c = &b->candidates[n];
        if (c->token != EOS) continue;
        note_cost(b, of, -rank_of(c->score, (double)(step + 1), b->how->length_penalty));
        if (!has_finished(b, of, c->row, step, c->score, &c->log_prob)) return 0;
    }
    for (int64_t row = first; is_full && row < first + of->rows; row++) {
        int is_finishing = 0;
        for (int64_t n = 0; n < count && n < beam_size; n++)
            is_finishing |= b->candidates[n].token == EOS && b->candidates[n].row == row;
        if (!is_finishing && !has_finished(b, of, row, step, b->scores[row], NULL)) return 0;
    }
    of->rows = 0;
    if (is_full || is_done(b, of, most, step + 1)) return 1;
    for (int64_t n = 0; n < count && num_active < beam_size; n++) {
        const candidate *c = &b->candidates[n];
        if (c->token == EOS) continue;
        node *made = added(&b->nodes, sizeof *made);
        if (!made) return 0;
        *made = (node){b->last[c->row], (int32_t)c->token, c->log_prob};
        b->new_scores[*rows] = c->score;
        b->new_last[*rows] = b->nodes.used - 1;
        b->tokens[*rows] = c->token;
        b->origins[(*rows)++] = c->row;
        num_active++;
    }
    of->rows = num_active;
    return 1;
}

/* Search until no row is active. */
static int search(beam *b) {
    const freerun_model *m = b->steps->r.m;
    for (int64_t n = 0; n < b->num_sources; n++) {
        b->sources[n].rows = 1;
        b->tokens[n] = BOS;
        b->origins[n] = n;
        b->scores[n] = 0;
        b->last[n] = -1;
    }
    b->rows = b->num_sources;
    for (int64_t step = 0; b->rows && !stopped(&b->steps->r); step++) {
        if (!made_step(b->steps, b->rows, b->tokens, b->origins)) return 0;
        const writing *w = &b->steps->rows[b->steps->now].w;
        for (int64_t row = 0; row < b->rows; row++) {
            b->steps->r.step->log_probs(m->target_vocabulary, w->logits + row * b->steps->r.vocabulary, b->log_probs);
            best_of_row(m->target_vocabulary, b->log_probs, b->width, b->ids + row * b->width, b->best + row * b->width);
        }
        int64_t rows = 0, first = 0;
        for (int64_t n = 0, size; n < b->num_sources; n++, first += size) {
            size = b->sources[n].rows;
            if (size && !choose(b, &b->sources[n], first, step, &rows)) return 0;
        }
        double *scores = b->scores;
        int64_t *last = b->last;
        b->scores = b->new_scores;
        b->new_scores = scores;
        b->last = b->new_last;
        b->new_last = last;
        b->rows = rows;
    }
    return 1;
}

/* Append a hypothesis to the outputs, EOS included; 0 without memory. */
static int put(const beam *b, const hypothesis *h, list *tokens, list *scores) {
    int64_t place = tokens->used;
    for (int64_t n = 0; n < h->length; n++)
        if (!added(tokens, sizeof(int32_t)) || !added(scores, sizeof(float))) return 0;
    int32_t *to = (int32_t *)tokens->items + place;
    float *log_probs = (float *)scores->items + place;
    int64_t length = h->length, last = h->last;
    if (!h->truncated) {
        to[--length] = EOS;
        log_probs[length] = h->eos;
    }
    for (const node *nodes = (const node *)b->nodes.items; length--; last = nodes[last].parent) {
        to[length] = nodes[last].token;
        log_probs[length] = nodes[last].log_prob;
    }
    return 1;
}

/* Append the best hypotheses of each source; `starts` and `written` are for the whole call. */
static int put_all(beam *b, list *tokens, list *scores, int64_t *starts, int64_t *written) {
    int64_t most = b->how->num_hypotheses;
    for (int64_t n = 0; n < b->num_sources; n++) {
        list *finished = &b->sources[n].finished;
        hypothesis *each = (hypothesis *)finished->items;
        int64_t place = b->steps->sources[n].number * most;
        if (finished->used) qsort(each, (size_t)finished->used, sizeof *each, higher_rank_first);
        for (int64_t k = 0; k < most && k < finished->used; k++) {
            starts[place + k] = tokens->used;
            written[place + k] = each[k].length;
            if (!put(b, &each[k], tokens, scores)) return 0;
        }
    }
    return 1;
}

/* Set the pointers into the room, see lay_out_reading. */
static void lay_out_beam(room *space, beam *b, int64_t vocabulary) {
    int64_t rows = freerun_times(BEAM_SOURCES, b->how->beam_size), each = freerun_times(b->how->beam_size, b->width);
    b->scores = taken(space, rows, 1, sizeof *b->scores);
    b->new_scores = taken(space, rows, 1, sizeof *b->new_scores);
    b->last = taken(space, rows, 1, sizeof *b->last);
    b->new_last = taken(space, rows, 1, sizeof *b->new_last);
    b->tokens = taken(space, rows, 1, sizeof *b->tokens);
    b->origins = taken(space, rows, 1, sizeof *b->origins);
    b->ids = taken(space, rows, b->width, sizeof *b->ids);
    b->best = taken(space, rows, b->width, sizeof *b->best);
    b->candidates = taken(space, each, 1, sizeof *b->candidates);
    b->log_probs = taken(space, vocabulary, 1, sizeof *b->log_probs);
    b->costs = taken(space, BEAM_SOURCES, b->max_costs, sizeof *b->costs);
    for (int64_t n = 0; b->costs && n < BEAM_SOURCES; n++) b->sources[n].costs = b->costs + n * b->max_costs;
}

/* Search a few sources, and append their outputs. */
static int search_part(const freerun_model *m, int64_t count, source *sources, const freerun_beam *how, list *tokens,
                       list *scores, int64_t *starts, int64_t *written, const int32_t *stop) {
    freerun_steps steps = {.sources = sources, .r = reading_of(m, count, sources)};
    int64_t width = how->beam_size < m->target_vocabulary - UNK ? how->beam_size + 1 : m->target_vocabulary - UNK;
    int64_t max_costs = how->early_stop ? how->beam_size : how->num_hypotheses;
    beam b = {.how = how, .steps = &steps, .width = width, .num_sources = count, .max_costs = max_costs};
    for (int64_t n = 0; n < count; n++) b.sources[n].bound = sources[n].bound;
    room space = {0};
    do lay_out_beam(&space, &b, m->target_vocabulary);
    while (is_found(&space));
    steps.r.stop = stop;
    int result = space.start ? read_sources(&steps, 1) : FREERUN_NO_MEMORY;
    if (result == FREERUN_OK && (!search(&b) || !put_all(&b, tokens, scores, starts, written)))
        result = FREERUN_NO_MEMORY;
    if (result == FREERUN_OK && stopped(&steps.r)) result = FREERUN_STOPPED;
    for (int64_t n = 0; n < count; n++) free(b.sources[n].finished.items);
    free(b.nodes.items);
    free(space.start);
    give_back(&steps);
    return result;
}

static int is_beam(const freerun_beam *how) {
    return freerun_placed(how, _Alignof(freerun_beam)) && how->beam_size >= 1 && how->beam_size <= FREERUN_MAX_BEAM &&
           how->num_hypotheses >= 1 && how->num_hypotheses <= how->beam_size && how->length_penalty == how->length_penalty;
}

int freerun_beam_search(const freerun_model *model, int64_t count, const int64_t *ids, const int64_t *lengths,
                        const int64_t *feature_ids, const int64_t *feature_counts, const int64_t *bounds,
                        const freerun_beam *how, int64_t *starts, int64_t *written, freerun_outputs *outputs,
                        const int32_t *stop) {
    const request q = {count, ids, lengths, feature_ids, feature_counts, bounds};
    if (!freerun_valid(model)) return FREERUN_BAD_MODEL;
    if (!freerun_placed(outputs, _Alignof(freerun_outputs)) || !is_beam(how)) return FREERUN_BAD_SOURCE;
    *outputs = (freerun_outputs){0};
    if (!count) return FREERUN_OK;
    if (count < 0 || !has_arrays(model, &q) || !is_placed(bounds) || !is_placed(starts) || !is_placed(written) ||
        (stop && !freerun_placed(stop, sizeof *stop)))
        return FREERUN_BAD_SOURCE;
    if (count > PTRDIFF_MAX / (int64_t)sizeof(source)) return FREERUN_NO_MEMORY;
    source *sources = malloc((size_t)count * sizeof *sources);
    if (!sources) return FREERUN_NO_MEMORY;
    int result = listed(model, &q, sources) ? FREERUN_OK : FREERUN_BAD_SOURCE;
    for (int64_t n = 0; result == FREERUN_OK && n < count * how->num_hypotheses; n++) written[n] = -1;
    list tokens = {0}, scores = {0};
    for (int64_t n = 0, part; n < count && result == FREERUN_OK; n += part) {
        part = count - n < BEAM_SOURCES ? count - n : BEAM_SOURCES;
        result = search_part(model, part, sources + n, how, &tokens, &scores, starts, written, stop);
    }
    free(sources);
    *outputs = (freerun_outputs){(int32_t *)tokens.items, (float *)scores.items};
    if (result != FREERUN_OK) freerun_release(outputs);
    return result;
}

void freerun_release(freerun_outputs *outputs) {
    if (!outputs) return;
    free(outputs->tokens);
    free(outputs->scores);
    *outputs = (freerun_outputs){0};
}
