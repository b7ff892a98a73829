/* Compares a model's structures with its sizes: once per call, without reading any array of numbers. */
#include "check.h"

#include <float.h>

#define ALIGNMENT 64 /* of arrays, in bytes */
#define SPECIALS 4   /* PAD, BOS, EOS and UNK, which every target vocabulary begins with */

static int in_range(int64_t size, int64_t least) { return size >= least && size <= FREERUN_MAX_SIZE; }

/* An array [rows, width] of numbers of up to 4 bytes, which no memory could hold if its bytes overflow. */
static int is_array(const void *numbers, int64_t rows, int64_t width) {
    int64_t bytes = freerun_times(freerun_times(rows, freerun_rounded(width)), 4);
    return freerun_placed(numbers, ALIGNMENT) && bytes < PTRDIFF_MAX;
}

static int is_linear(const freerun_linear *l, int64_t inputs, int64_t outputs) {
    if (l->inputs != inputs || l->outputs != outputs || !is_array(l->weight, inputs, outputs)) return 0;
    if (l->bias && !freerun_placed(l->bias, ALIGNMENT)) return 0;
    if (!l->scale) return !l->correction && l->step == 0;
    return freerun_placed(l->scale, ALIGNMENT) && freerun_placed(l->correction, ALIGNMENT) && l->step > 0 &&
           l->step <= FLT_MAX && inputs <= FREERUN_MAX_BYTE_INPUTS;
}

static int are_linears(const freerun_linear *l, int64_t count, int64_t inputs, int64_t outputs) {
    if (!freerun_placed(l, _Alignof(freerun_linear))) return 0;
    for (int64_t n = 0; n < count; n++)
        if (!is_linear(&l[n], inputs, outputs)) return 0;
    return 1;
}

/* `tokens`: rows of the table, or 0 if there must be none; `inputs`: I, or 0 if there must be a table. */
static int is_layer(const freerun_model *m, const freerun_layer *layer, int64_t tokens, int64_t inputs) {
    if (!is_linear(&layer->recurrent, m->hidden, freerun_gates(m))) return 0;
    if (layer->table) return tokens && is_array(layer->table, tokens, freerun_gates(m));
    return inputs && is_linear(&layer->input, inputs, freerun_gates(m));
}

static int has_sizes(const freerun_model *m) {
    return m->cell >= FREERUN_LSTM && m->cell <= FREERUN_RNN && in_range(m->layers, 1) &&
           (m->directions == 1 || m->directions == 2) && in_range(m->hidden, 1) && in_range(m->embedding, 1) &&
           in_range(m->source_vocabulary, 1) && in_range(m->target_vocabulary, SPECIALS) &&
           in_range(m->feature_vocabulary, 0);
}

static int has_encoder(const freerun_model *m) {
    if (!freerun_placed(m->encoder, _Alignof(freerun_layer))) return 0;
    if (m->source_embedding && !is_array(m->source_embedding, m->source_vocabulary, m->embedding)) return 0;
    for (int64_t n = 0; n < m->layers * m->directions; n++) {
        int first = n < m->directions;
        int64_t inputs = !first ? freerun_memory(m) : m->source_embedding ? m->embedding : 0;
        if (!is_layer(m, &m->encoder[n], first ? m->source_vocabulary : 0, inputs)) return 0;
    }
    return 1;
}

/* Without a bridge states are copied, which needs a unidirectional encoder. */
static int is_bridge(const freerun_model *m, const freerun_linear *bridge) {
    return bridge ? are_linears(bridge, m->layers, freerun_memory(m), m->hidden) : m->directions == 1;
}

static int has_bridges(const freerun_model *m) {
    return is_bridge(m, m->bridge_h) && (m->cell == FREERUN_LSTM ? is_bridge(m, m->bridge_c) : !m->bridge_c);
}

static int has_decoder(const freerun_model *m) {
    if (!freerun_placed(m->decoder, _Alignof(freerun_layer))) return 0;
    for (int64_t n = 0; n < m->layers; n++)
        if (!is_layer(m, &m->decoder[n], n ? 0 : m->target_vocabulary, n ? m->hidden : 0)) return 0;
    return 1;
}

static int has_context(const freerun_model *m) {
    if (!m->context_gates && !m->context_output) return 1;
    return are_linears(m->context_gates, 1, m->hidden, freerun_gates(m)) &&
           are_linears(m->context_output, 1, m->hidden, m->output.outputs);
}

static int has_features(const freerun_model *m) {
    int has_entries = m->attention && m->attention->entries;
    if (!m->feature_vocabulary || (has_entries && !m->feature_table))
        return !m->feature_table && !m->feature_bias && !m->feature_encoder && !m->feature_decoder;
    return is_array(m->feature_table, m->feature_vocabulary, m->embedding) &&
           is_array(m->feature_bias, 1, m->embedding) &&
           are_linears(m->feature_encoder, m->directions, m->embedding, freerun_gates(m)) &&
           are_linears(m->feature_decoder, 1, m->embedding, freerun_gates(m));
}

static int is_optional(const freerun_linear *l, int64_t inputs, int64_t outputs) {
    return !l || are_linears(l, 1, inputs, outputs);
}

/* Its sums are in range because those of the layers are: G and 2 H are at most INT32_MAX each. */
static int has_attention(const freerun_model *m) {
    const freerun_attention *a = m->attention;
    int64_t memory = freerun_memory(m), hidden = m->hidden;
    if (!a) return 1;
    if (!freerun_placed(a, _Alignof(freerun_attention)) || (a->is_within != 0 && a->is_within != 1)) return 0;
    if (!is_optional(a->keys, memory, hidden) || (!a->keys && memory != hidden)) return 0;
    if (!is_optional(a->query, hidden, hidden) || (a->vector && !is_array(a->vector, 1, hidden))) return 0;
    if (!is_linear(&a->values, memory, freerun_read(m)) || !is_linear(&a->state, hidden, freerun_before_output(m))) return 0;
    if (a->is_within ? !is_array(a->tokens, m->target_vocabulary, 2 * hidden) || a->fed != NULL : a->tokens != NULL) return 0;
    if (!is_optional(a->fed, hidden, freerun_gates(m))) return 0;
    return a->entries ? m->feature_vocabulary && is_array(a->entries, m->feature_vocabulary, memory) : 1;
}

static int has_output(const freerun_model *m) {
    int64_t begins = m->output.outputs;
    if (!in_range(begins, 1) || !is_linear(&m->output, m->hidden, begins)) return 0;
    return m->tied ? are_linears(m->tied, 1, begins, m->target_vocabulary) : begins == m->target_vocabulary;
}

/* Bridges before the encoder: they prove how many of its layers may be read. */
int freerun_valid(const freerun_model *m) {
    return freerun_placed(m, _Alignof(freerun_model)) && has_sizes(m) && has_bridges(m) && has_encoder(m) &&
           has_decoder(m) && has_output(m) && has_context(m) && has_attention(m) && has_features(m);
}
