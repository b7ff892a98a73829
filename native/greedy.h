/* Greedy decoding of an encoder-decoder without attention, as one call: source ids in, most likely tokens out.
 *
 * C11 with the extensions of GCC and Clang (vector types); no dependency but libm. `freerun/runtime/compiled.py` mirrors
 * these structures and says how the arrays of a bundle's greedy.npz come into them. Everything is read only and may be shared
 * by threads; a call keeps nothing.
 *
 * Legend: B sources, V vocabulary, E embedding, H hidden, M encoder output (H x directions), G gates x H, O what the output
 * layer begins with.
 */
#ifndef FREERUN_GREEDY_H
#define FREERUN_GREEDY_H

#include <stdint.h>

/* Columns of a weight that stand together. Widths of arrays are rounded up to it, their last columns being 0. */
#define FREERUN_PANEL 64

enum { FREERUN_LSTM, FREERUN_GRU, FREERUN_RNN };
enum { FREERUN_OK, FREERUN_NO_MEMORY, FREERUN_BAD_SOURCE, FREERUN_BAD_MODEL, FREERUN_STOPPED };

/* Changes whenever something below does. */
#define FREERUN_VERSION 3

/* Limits: of each size of a model, and of the inputs of a product in 8 bits, whose sums fit into 32 bits up to there. */
#define FREERUN_MAX_SIZE INT32_MAX
#define FREERUN_MAX_BYTE_INPUTS (1 << 16)

/* y = x W + b. All arrays begin at multiples of 64 bytes, and there is room to read for 64 bytes behind each: vectors may
 * reach past the last gates of a layer.
 *
 * float32: `weight` is [panels][inputs][64], scale and correction are NULL, and step is 0.
 * 8 bits: `weight`, of -64 to 64, is int8 [panels][inputs / 4, rounded up][64][4]; x is rounded to bytes x / step + 128, and
 * y = (x_bytes W + correction) scale + b, where correction [outputs] is -128 times the sum of a column;
 * step is finite and above 0. */
typedef struct {
    int64_t inputs, outputs;
    const void *weight;
    const float *bias; /* or NULL */
    const float *scale;
    const int32_t *correction;
    float step;
} freerun_linear;

/* One recurrent layer in one direction. `input` is not used where `table` has what a token gives to the gates. Gates stand
 * in torch's order: i f g o, and r z n. All biases are the inputs' but a GRU's b_hn, which is the recurrent product's. */
typedef struct {
    freerun_linear input;     /* [I, G] */
    freerun_linear recurrent; /* [H, G] */
    const float *table;       /* [V, G], or NULL */
} freerun_layer;

typedef struct {
    int64_t cell, layers, directions, hidden, embedding, source_vocabulary, target_vocabulary;
    const freerun_layer *encoder;  /* [layers][directions]; only the first layer may have a table */
    const float *source_embedding; /* [V, E], where it has none */
    const freerun_linear *bridge_h, *bridge_c; /* M to H, [layers] each; or NULL: states are handed over as they are,
                                                * which only those of one direction can be; `bridge_c` of an LSTM only */
    const freerun_layer *decoder;  /* [layers]; the first one has a table, the others have none */
    const freerun_linear *context_gates, *context_output; /* H to G and to O, where the context is read at every step; or
                                                           * both NULL */
    freerun_linear output;         /* H to O */
    const freerun_linear *tied;    /* O to V, where O is not V yet; or NULL */
} freerun_model;

/* The most likely token, step by step, until EOS (2) or `bounds` tokens, for each of `count` sources.
 *
 * ids: the sources behind each other, `lengths` [count] of them each, at least one.
 * tokens, scores: where source n begins to write its tokens (EOS with them) and their natural log-probabilities is the
 * sum of `bounds` + 1 over the sources before it; written [count] says how many it wrote. PAD, BOS and UNK (0, 1 and 3)
 * are never written. What is written for a source depends on nothing but that source, to the last bit.
 *
 * stop: NULL, or a number that is 0; once another thread sets it, the call ends within the time of one step.
 *
 * Returns FREERUN_OK, or what went wrong; the outputs are undefined then:
 *   NO_MEMORY   the call needs more memory than there is
 *   BAD_SOURCE  `count` is below 0, an array of the call is NULL or misaligned, a source is empty, an id is not in the
 *               vocabulary, a bound is below 0, or lengths or bounds add up to more than memory can hold
 *   BAD_MODEL   a size of the model is out of range (a target vocabulary has the four special tokens at least), sizes
 *               disagree, or a pointer is NULL or misaligned where the model needs it, or set where it has no use
 *   STOPPED     `stop` was set
 *
 * Guaranteed: if the arrays are as long as their sizes say, any numbers in them, NaN and infinities too, are decoded
 * without undefined behavior and within these arrays, and every token written is EOS or an id from 4 to V - 1. Scores
 * are NaN or infinite where logits overflow or are NaN; where all are NaN, the token is EOS. Not checked: the lengths of
 * arrays, and that weights in 8 bits stay within -64 to 64 (others give wrong products). Where an input in 8 bits is NaN it
 * is rounded to some level, so finite scores do not prove finite weights: check weights when you read them. */
int freerun_greedy(const freerun_model *model, int64_t count, const int64_t *ids, const int64_t *lengths,
                   const int64_t *bounds, int32_t *tokens, float *scores, int64_t *written, const int32_t *stop);

/* FREERUN_VERSION of the library. */
int freerun_version(void);

/* The instruction set in use: "avx512", "avx2" or "base". */
const char *freerun_instructions(void);

#endif
