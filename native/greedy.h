/* Decoding with an encoder-decoder: greedy search in one call, or the steps of any other search. A source may have features, a
 * second input: a set of ids of their own vocabulary. A decoder may have attention.
 *
 * C11 with the extensions of GCC and Clang (vector types); the only dependency is libm. `freerun/runtime/compiled.py` mirrors
 * these structures and lays out the arrays of a bundle's greedy.npz for them. A model is read only and may be shared by
 * threads; a call leaves no state behind.
 *
 * Shape suffixes: B sources, V vocabulary, F feature vocabulary, E embedding, H hidden, M encoder output (H x directions),
 * G gates x H, O the width of the output layer's first product (V, or E if its weight is tied to the embedding), W what a
 * step reads of the memory, P the sum before attention's output.
 */
#ifndef FREERUN_GREEDY_H
#define FREERUN_GREEDY_H

#include <stdint.h>

/* Columns of a weight that are stored together. Widths of arrays are rounded up to a multiple; the padding is 0. */
#define FREERUN_PANEL 64

enum { FREERUN_LSTM, FREERUN_GRU, FREERUN_RNN };
enum { FREERUN_OK, FREERUN_NO_MEMORY, FREERUN_BAD_SOURCE, FREERUN_BAD_MODEL, FREERUN_STOPPED };

/* Increases whenever something below changes. */
#define FREERUN_VERSION 6

/* Largest size in a model, and most inputs of an 8 bit product, whose sums then fit into 32 bits. */
#define FREERUN_MAX_SIZE INT32_MAX
#define FREERUN_MAX_BYTE_INPUTS (1 << 16)

/* y = x W + b. All arrays begin at multiples of 64 bytes, and 64 bytes after each must be readable: vectors may reach past
 * the last gates of a layer.
 *
 * float32: `weight` is [panels][inputs][64], scale and correction are NULL, and step is 0.
 * 8 bits: `weight`, with values from -64 to 64, is int8 [panels][inputs / 4, rounded up][64][4]; x is rounded to the bytes
 * x / step + 128, and y = (x_bytes W + correction) scale + b, where correction [outputs] is -128 times the sum of a column;
 * step is finite and above 0. */
typedef struct {
    int64_t inputs, outputs;
    const void *weight;
    const float *bias; /* or NULL */
    const float *scale;
    const int32_t *correction;
    float step;
} freerun_linear;

/* One recurrent layer in one direction. `table` replaces `input` if not NULL: its rows are the input projections of the
 * tokens. Gates have torch's order: i f g o, and r z n. All biases belong to the input projection, except a GRU's b_hn, which
 * belongs to the recurrent one. */
typedef struct {
    freerun_linear input;     /* [I, G] */
    freerun_linear recurrent; /* [H, G] */
    const float *table;       /* [V, G], or NULL */
} freerun_layer;

/* Attention: the memory has an entry m [M] for each token of the source, the encoder's output there, then one for each of its
 * features, if `entries` is set. A step compares its query q with the key k of every entry, and reads
 *
 *     r = sum_j a_j `values`(m_j),   a = softmax(e),   e_j = q . k_j,  or  e_j = `vector` . tanh(q + k_j).
 *
 * `is_within`: of the recurrence (Bahdanau et al. 2015). q comes from the top layer's h before the step, and W = G + 2 H:
 * the first G numbers of r are added to the gates of the first layer, and the features for the output layer are
 * max(p_j, p_(H+j)) with p the rest of r, plus `state`(h) after the step, plus the row of `tokens` for the token fed (P = 2 H).
 * Otherwise (Luong et al. 2015): q comes from h after the step, W = H, and the features are tanh(r + `state`(h)) (P = H); with
 * `fed` (input feeding), `fed`(features) is added to the gates of the first layer at the next step. */
typedef struct {
    int64_t is_within;
    const freerun_linear *keys;  /* M to H; NULL: m itself, which needs M = H */
    const freerun_linear *query; /* H to H; NULL: h itself */
    const float *vector;         /* [H]; NULL: scores are products */
    freerun_linear values;       /* M to W */
    freerun_linear state;        /* H to P */
    const float *tokens;         /* [V, 2 H] if `is_within`, otherwise NULL */
    const freerun_linear *fed;   /* H to G, or NULL */
    const float *entries;        /* [F, M], or NULL */
} freerun_attention;

typedef struct {
    int64_t cell, layers, directions, hidden, embedding, source_vocabulary, target_vocabulary;
    const freerun_layer *encoder;  /* [layers][directions]; only the first layer may have a table */
    const float *source_embedding; /* [V, E] if the first layer has no table, otherwise NULL */
    const freerun_linear *bridge_h, *bridge_c; /* M to H, [layers] each; or NULL: states are copied, which needs a
                                                * unidirectional encoder; only an LSTM has `bridge_c` */
    const freerun_layer *decoder;  /* [layers]; only the first one has a table */
    const freerun_linear *context_gates, *context_output; /* H to G and to O if every step reads the context,
                                                           * otherwise both NULL */
    freerun_linear output;         /* H to O */
    const freerun_linear *tied;    /* O to V, or NULL if O is V */
    int64_t feature_vocabulary;    /* F, or 0 if sources have no features; then the four pointers below are NULL */
    const float *feature_table, *feature_bias; /* [F, E] and [E]: the summary of features is the tanh of the sum of their
                                                * rows and the bias */
    const freerun_linear *feature_encoder; /* E to G, [directions]; added to the gates of the first layer at every step */
    const freerun_linear *feature_decoder; /* E to G; likewise. The four may also be NULL if features are entries of the
                                            * memory alone */
    const freerun_attention *attention;    /* or NULL */
} freerun_model;

/* Write the most likely token, step by step, until EOS (2) or `bounds` tokens, for each of `count` sources.
 *
 * ids: the concatenated sources; `lengths` [count] has the length of each, at least 1.
 * feature_ids: the concatenated features of all sources, ids from 1 to F - 1; `feature_counts` [count] has the number of
 * each source, which may be 0. The model reads the sum of their embeddings, added up in the given order, so an id that occurs
 * twice counts twice. Both are NULL if and only if the model has no features.
 * tokens, scores: the output of source n (EOS included) and its natural log-probabilities begin at the sum of `bounds` + 1
 * over the sources before it; written [count] is its length. PAD, BOS and UNK (0, 1 and 3) are never written. The output of
 * a source with its features is bit-identical whatever other sources are in the call.
 *
 * stop: NULL, or a number that is 0; once another thread sets it, the call ends within the time of one step.
 *
 * Returns FREERUN_OK, or one of these errors, which leave the outputs undefined:
 *   NO_MEMORY   the call needs more memory than there is
 *   BAD_SOURCE  `count` is below 0, an array of the call is NULL or misaligned, a source is empty, an id is not in the
 *               vocabulary, a bound or a feature count is below 0, lengths, feature counts or bounds add up to more than
 *               memory can hold, or the model has features and the call has not, or the other way round
 *   BAD_MODEL   a size of the model is out of range (a target vocabulary has at least the four special tokens), sizes
 *               disagree, a pointer that the model needs is NULL or misaligned, or one that it does not use is set
 *   STOPPED     `stop` was set
 *
 * Guaranteed: if the arrays are as long as their sizes imply, any numbers in them, even NaN and infinities, are decoded
 * without undefined behavior and within these arrays, and every token written is EOS or an id from 4 to V - 1. Scores are
 * NaN or infinite if logits overflow or are NaN; if all logits are NaN, the token is EOS. Not checked: the lengths of arrays,
 * and that 8 bit weights stay within -64 to 64 (others give wrong products). An 8 bit input that is NaN is rounded to some
 * level, so finite scores do not prove finite weights: check weights when you read them. */
int freerun_greedy(const freerun_model *model, int64_t count, const int64_t *ids, const int64_t *lengths,
                   const int64_t *feature_ids, const int64_t *feature_counts, const int64_t *bounds, int32_t *tokens,
                   float *scores, int64_t *written, const int32_t *stop);

/* The beam search of freerun/search/beam.py. `beam_size` (at most FREERUN_MAX_BEAM) hypotheses are active at a time;
 * `num_hypotheses` of them, or fewer, are the result. They are ranked by score / ((5 + length) / 6)^length_penalty. */
#define FREERUN_MAX_BEAM (1 << 16)
typedef struct {
    int64_t beam_size, num_hypotheses, early_stop;
    double length_penalty;
} freerun_beam;

/* What a beam search has written; freed by freerun_release. */
typedef struct {
    int32_t *tokens;
    float *scores;
} freerun_outputs;

/* Sources, their bounds and errors as in freerun_greedy. Hypothesis k of source n, best first, has written[n][k] tokens, -1 if
 * there is none, EOS included unless its bound came first; tokens and log-probabilities begin at starts[n][k] of `outputs`,
 * which is empty after an error. `starts` and `written` are [count][num_hypotheses]. BAD_SOURCE also stands for settings that
 * are out of range. The result for a source is bit-identical whatever other sources are in the call. */
int freerun_beam_search(const freerun_model *model, int64_t count, const int64_t *ids, const int64_t *lengths,
                        const int64_t *feature_ids, const int64_t *feature_counts, const int64_t *bounds,
                        const freerun_beam *how, int64_t *starts, int64_t *written, freerun_outputs *outputs,
                        const int32_t *stop);
void freerun_release(freerun_outputs *outputs);

/* A search of the caller's own: sources are read once, then each step continues rows of the step before. An object belongs to
 * one thread at a time; the model must outlive it. */
typedef struct freerun_steps freerun_steps;

/* Read `count` sources, at least 1, given as in freerun_greedy; returns what it returns. With FREERUN_OK, `steps` is set to an
 * object that has a row for each source, and that freerun_end frees; otherwise it is left alone. */
int freerun_start(const freerun_model *model, int64_t count, const int64_t *ids, const int64_t *lengths,
                  const int64_t *feature_ids, const int64_t *feature_counts, freerun_steps **steps, const int32_t *stop);

/* Feed tokens [rows], at least one: row n continues row origins[n] of the step before (of freerun_start: source n), which may
 * have any number of successors. Writes the natural log-probabilities [rows][V] of the next token. A row's are bit-identical
 * whatever other rows are in the call. Returns FREERUN_OK; or BAD_SOURCE for an array that is NULL or misaligned, or an id
 * or origin that does not exist, or NO_MEMORY: then nothing has changed. */
int freerun_step(freerun_steps *steps, int64_t rows, const int64_t *tokens, const int64_t *origins, float *log_probs);

/* Write the attention weights [rows][positions] of the last step that was made, whose number of rows is `rows`: a row's first
 * weights are those of its source's tokens, then those of its features, if they are entries of the memory; the rest is 0.
 * They add up to 1, up to rounding, unless scores are not finite, and a row's are bit-identical whatever other rows are in the
 * call. Returns FREERUN_OK; or BAD_SOURCE for a model without attention, before the first step, for another number of rows,
 * fewer `positions` than a row's memory has entries, more weights than memory can hold, or an array as above. */
int freerun_attended(freerun_steps *steps, int64_t rows, int64_t positions, float *weights);

/* Write the k best tokens of each row of log-probabilities [rows][vocabulary], best first, ties to the lowest id: ids [rows][k]
 * and their log-probabilities. PAD, BOS and UNK are left out, so k is at most vocabulary - 3. A NaN takes the
 * place of no number, and keeps its own. Returns FREERUN_OK, or BAD_SOURCE for sizes out of range and arrays as above. */
int freerun_best(int64_t rows, int64_t vocabulary, const float *log_probs, int64_t k, int64_t *ids, float *best);

/* Free what freerun_start has made; NULL is ignored. */
void freerun_end(freerun_steps *steps);

/* FREERUN_VERSION of the library. */
int freerun_version(void);

/* The instruction set in use: "avx512", "avx2" or "base". */
const char *freerun_instructions(void);

#endif
