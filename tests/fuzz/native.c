/* Random models, sources and damage for freerun_greedy, to be built with sanitizers: `native FIRST COUNT` runs the cases
 * from FIRST on with every instruction set of this machine. A failure names its case, and `native CASE 1` repeats it.
 *
 * A valid case is decoded twice, with different bytes in fresh memory and behind arrays, and one of its sources again
 * alone: three times the same outputs. A damaged one has to be rejected, or to be as good as a valid one.
 * greedy.c is included here so that tests choose its instruction set and its memory.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- what stands between greedy.c and the machine --------------------------------------------------------------------- */

enum { BASE, AVX2, AVX512, SETS };

static int allowed;       /* the best instruction set that may be used */
static int fill;          /* the byte that fresh memory is full of */
static int64_t live;      /* pieces of memory in use */
static int64_t allocated; /* pieces so far in a call */
static int64_t failing;   /* the piece that there is no memory for, or 0 */

static int permitted(const char *feature) { return allowed >= (strncmp(feature, "avx512", 6) ? AVX2 : AVX512); }

static void *fresh(size_t alignment, size_t size) {
    void *made = NULL;
    if (++allocated == failing || size > (size_t)1 << 30 || posix_memalign(&made, alignment, size)) return NULL;
    live++;
    return memset(made, fill, size);
}

static void *test_malloc(size_t size) { return fresh(sizeof(void *), size); }
static void *test_aligned_alloc(size_t alignment, size_t size) { return fresh(alignment, size); }

static void test_free(void *piece) {
    live -= piece != NULL;
    free(piece);
}

#define __builtin_cpu_supports(feature) (permitted(feature) && __builtin_cpu_supports(feature))
#define MAX_FLOATS (1 << 14) /* small, for groups that have to be split */
#define malloc test_malloc
#define aligned_alloc test_aligned_alloc
#define free test_free
#include "greedy.c"
#undef malloc
#undef aligned_alloc
#undef free

/* -- random numbers --------------------------------------------------------------------------------------------------- */

static int64_t number; /* of the case */
static uint64_t seed;

static void say_case(void) { fprintf(stderr, "case %lld, %s\n", (long long)number, freerun_instructions()); }

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    say_case();
    abort();
}

/* splitmix64 (Steele, Lea and Flood 2014) */
static uint64_t draw(void) {
    uint64_t z = seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int64_t below(int64_t limit) { return (int64_t)(draw() % (uint64_t)limit); }
static int chance(int percent) { return below(100) < percent; }
static float uniform(void) { return (float)below(1 << 24) / (1 << 23) - 1; }

#define PICK(values) ((values)[below((int64_t)(sizeof(values) / sizeof *(values)))])

/* -- models ----------------------------------------------------------------------------------------------------------- */

/* Numbers of a model: ordinary ones, ones that overflow, any bits at all. */
enum { ORDINARY, LARGE, ANY };
/* What a word of a structure is, and so what may be put there: a size, the number of layers, a pointer, a step. */
enum { SIZE, LAYERS, POINTER, STEP };

#define OWN_WORDS 21 /* of the model itself, which are noted first */
#define SLACK 64 /* bytes that may be read behind an array */

static struct {
    char *start;
    size_t bytes, slack;
} arrays[1024];
static struct {
    void *word;
    int kind;
} words[2048];
static int64_t num_arrays, num_words;
static int style, eights; /* eights: per cent of the products in 8 bits */

static void *piece(int64_t bytes, size_t slack) {
    void *made = NULL;
    if (num_arrays == 1024 || posix_memalign(&made, 64, (size_t)bytes + slack)) fail("no room for a case");
    memset(made, 0, (size_t)bytes);
    arrays[num_arrays].slack = slack;
    arrays[num_arrays].bytes = (size_t)bytes;
    arrays[num_arrays++].start = made;
    return made;
}

static void *array(int64_t items, int64_t size) { return piece(items * size, SLACK); }
static void *structures(int64_t items, size_t size) { return piece(items * (int64_t)size, 0); }

static void fill_slack(void) {
    for (int64_t n = 0; n < num_arrays; n++) memset(arrays[n].start + arrays[n].bytes, fill, arrays[n].slack);
}

static void release(void) {
    while (num_arrays) free(arrays[--num_arrays].start);
    num_words = 0;
}

static void note(void *word, int kind) {
    if (num_words == 2048) fail("no room for a word");
    words[num_words].word = word;
    words[num_words++].kind = kind;
}

static float drawn(float scale) {
    if (style == LARGE && chance(5)) return uniform() * 3e38f;
    if (style != ANY) return uniform() * scale;
    uint32_t bits = (uint32_t)draw();
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* [rows, width], the columns up to the next panel being 0. */
static float *rows_of(int64_t rows, int64_t width, float scale) {
    int64_t stride = freerun_rounded(width);
    float *made = array(rows * stride, sizeof(float));
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < width; column++) made[row * stride + column] = drawn(scale);
    return made;
}

static void fill_floats(freerun_linear *l) {
    float *weight = array(l->inputs * freerun_rounded(l->outputs), sizeof(float));
    for (int64_t column = 0; column < l->outputs; column++)
        for (int64_t k = 0; k < l->inputs; k++)
            weight[(column / 64 * l->inputs + k) * 64 + column % 64] = drawn(0.5f);
    l->weight = weight;
}

static void fill_bytes(freerun_linear *l) {
    int64_t fours = (l->inputs + 3) / 4;
    int8_t *weight = array(4 * fours * freerun_rounded(l->outputs), 1);
    int32_t *correction = array(freerun_rounded(l->outputs), sizeof *correction);
    for (int64_t column = 0; column < l->outputs; column++) {
        for (int64_t k = 0; k < l->inputs; k++) {
            int8_t value = (int8_t)(style == ANY ? below(256) - 128 : below(129) - 64);
            weight[((column / 64 * fours + k / 4) * 64 + column % 64) * 4 + k % 4] = value;
            correction[column] -= 128 * value;
        }
        if (style == ANY) correction[column] = (int32_t)(uint32_t)draw();
    }
    l->weight = weight;
    l->correction = correction;
    l->scale = rows_of(1, l->outputs, 0.001f);
    l->step = style == ORDINARY ? 1.0f / 127 : chance(50) ? 1e-44f : 3e38f;
}

static void make_linear(freerun_linear *l, int64_t inputs, int64_t outputs) {
    l->inputs = inputs;
    l->outputs = outputs;
    if (chance(eights)) fill_bytes(l);
    else fill_floats(l);
    if (chance(70)) l->bias = rows_of(1, outputs, 0.5f);
    note(&l->inputs, SIZE);
    note(&l->outputs, SIZE);
    note(&l->weight, POINTER);
    note(&l->bias, POINTER);
    note(&l->scale, POINTER);
    note(&l->correction, POINTER);
    note(&l->step, STEP);
}

static freerun_linear *linears(int64_t count, int64_t inputs, int64_t outputs) {
    freerun_linear *made = structures(count, sizeof *made);
    for (int64_t n = 0; n < count; n++) make_linear(&made[n], inputs, outputs);
    return made;
}

/* With a table of so many tokens, or without one for 0. */
static void make_layer(const freerun_model *m, freerun_layer *layer, int64_t tokens, int64_t inputs) {
    make_linear(&layer->recurrent, m->hidden, freerun_gates(m));
    if (tokens) layer->table = rows_of(tokens, freerun_gates(m), 1);
    else make_linear(&layer->input, inputs, freerun_gates(m));
    note(&layer->table, POINTER);
}

static freerun_layer *make_encoder(freerun_model *m) {
    freerun_layer *layers = structures(m->layers * m->directions, sizeof *layers);
    for (int64_t n = 0; n < m->layers * m->directions; n++) {
        int table = n < m->directions && chance(50);
        if (n < m->directions && !table && !m->source_embedding)
            m->source_embedding = rows_of(m->source_vocabulary, m->embedding, 1);
        make_layer(m, &layers[n], table ? m->source_vocabulary : 0,
                   n < m->directions ? m->embedding : freerun_memory(m));
    }
    return layers;
}

static freerun_layer *make_decoder(const freerun_model *m) {
    freerun_layer *layers = structures(m->layers, sizeof *layers);
    for (int64_t n = 0; n < m->layers; n++) make_layer(m, &layers[n], n ? 0 : m->target_vocabulary, m->hidden);
    return layers;
}

static void make_output(freerun_model *m, int64_t begins) {
    make_linear(&m->output, m->hidden, begins);
    if (begins != m->target_vocabulary || chance(10)) m->tied = linears(1, begins, m->target_vocabulary);
    if (chance(40)) {
        m->context_gates = linears(1, m->hidden, freerun_gates(m));
        m->context_output = linears(1, m->hidden, begins);
    }
}

static void make_attention(freerun_model *m) {
    if (chance(40)) return;
    freerun_attention *a = structures(1, sizeof *a);
    m->attention = a;
    a->is_within = below(2);
    if (m->directions == 2 || chance(70)) a->keys = linears(1, freerun_memory(m), m->hidden);
    if (chance(50)) a->query = linears(1, m->hidden, m->hidden);
    if (chance(50)) a->vector = rows_of(1, m->hidden, 1);
    make_linear(&a->values, freerun_memory(m), freerun_read(m));
    make_linear(&a->state, m->hidden, freerun_before_output(m));
    if (a->is_within) a->tokens = rows_of(m->target_vocabulary, 2 * m->hidden, 1);
    else if (chance(50)) a->fed = linears(1, m->hidden, freerun_gates(m));
    if (m->feature_vocabulary && chance(60)) a->entries = rows_of(m->feature_vocabulary, freerun_memory(m), 1);
    note(&a->is_within, SIZE);
    const void *pointers[] = {&a->keys, &a->query, &a->vector, &a->tokens, &a->fed, &a->entries};
    for (int n = 0; n < 6; n++) note((void *)pointers[n], POINTER);
}

static void make_features(freerun_model *m) {
    if (!m->feature_vocabulary || (m->attention && m->attention->entries && chance(50))) return;
    m->feature_table = rows_of(m->feature_vocabulary, m->embedding, 1);
    m->feature_bias = rows_of(1, m->embedding, 1);
    m->feature_encoder = linears(m->directions, m->embedding, freerun_gates(m));
    m->feature_decoder = linears(1, m->embedding, freerun_gates(m));
}

static void note_model(freerun_model *m) {
    int64_t *sizes[] = {&m->cell,      &m->directions,        &m->hidden,
                        &m->embedding, &m->source_vocabulary, &m->target_vocabulary,
                        &m->feature_vocabulary};
    void *pointers[] = {&m->encoder,         &m->source_embedding, &m->bridge_h,          &m->bridge_c,
                        &m->decoder,         &m->context_gates,    &m->context_output,    &m->tied,
                        &m->feature_table, &m->feature_bias, &m->feature_encoder, &m->feature_decoder, &m->attention};
    note(&m->layers, LAYERS);
    for (int n = 0; n < 7; n++) note(sizes[n], SIZE);
    for (int n = 0; n < 13; n++) note(pointers[n], POINTER);
    if (num_words != OWN_WORDS) fail("words of the model that are not its own");
}

static void make_model(freerun_model *m) {
    static const int64_t widths[] = {1,  2,  3,  4,  5,  8,  9,  15, 16, 17,  21,  22,
                                     31, 32, 33, 43, 47, 63, 64, 65, 86, 127, 128, 129};
    static const int64_t vocabularies[] = {4, 5, 9, 15, 16, 17, 33, 63, 64, 65, 100, 128, 129};
    static const int often[] = {0, 0, 100, 100, 50};
    style = chance(60) ? ORDINARY : chance(50) ? LARGE : ANY;
    eights = PICK(often);
    *m = (freerun_model){.cell = below(3),
                         .layers = 1 + below(3),
                         .directions = 1 + below(2),
                         .hidden = PICK(widths),
                         .embedding = PICK(widths),
                         .source_vocabulary = PICK(vocabularies),
                         .target_vocabulary = PICK(vocabularies),
                         .feature_vocabulary = chance(50) ? PICK(vocabularies) : 0};
    note_model(m);
    m->encoder = make_encoder(m);
    m->decoder = make_decoder(m);
    if (m->directions == 2 || chance(20)) m->bridge_h = linears(m->layers, freerun_memory(m), m->hidden);
    if (m->cell == FREERUN_LSTM && m->bridge_h) m->bridge_c = linears(m->layers, freerun_memory(m), m->hidden);
    make_attention(m);
    make_features(m);
    make_output(m, chance(50) ? m->target_vocabulary : chance(50) ? PICK(widths) : 70 + below(130));
}

/* Something in a word of a structure that cannot be used: never a pointer to memory that is not there, nor a number of
 * layers that the arrays do not have, for nothing can notice these. */
static void damage_model(void) {
    static const int64_t sizes[] = {0, -1, INT64_MIN, INT64_MAX, (int64_t)1 << 31, (int64_t)1 << 62};
    static const float steps[] = {0, -1, -0.0f, INFINITY, NAN};
    int64_t n = below(chance(30) ? OWN_WORDS : num_words), *word = words[n].word;
    if (words[n].kind == STEP) {
        float step = PICK(steps);
        memcpy(word, &step, sizeof step);
    } else if (words[n].kind == POINTER) *word = chance(50) ? 0 : *word + (chance(50) ? 1 : 4);
    else *word = words[n].kind == SIZE && chance(30) ? *word + (chance(50) ? 1 : 4) : PICK(sizes);
}

/* -- calls ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    int64_t count, *ids, *lengths, *feature_ids, *feature_counts, *bounds;
} texts;
typedef struct {
    int32_t *tokens;
    float *scores;
    int64_t *written;
} outputs;

static void make_features_of(const freerun_model *m, texts *t) {
    int64_t total = 0, most = chance(90) ? 5 : 300;
    t->feature_counts = structures(t->count + !t->count, sizeof *t->feature_counts);
    for (int64_t n = 0; n < t->count; n++) total += t->feature_counts[n] = below(most);
    t->feature_ids = structures(total + !total, sizeof *t->feature_ids);
    for (int64_t n = 0; n < total; n++) t->feature_ids[n] = 1 + below(m->feature_vocabulary - 1);
}

static void make_texts(const freerun_model *m, texts *t) {
    int64_t total = 0, count = t->count = chance(90) ? below(16) : 40 + below(40);
    int64_t longest = count > 3 || chance(80) ? 12 : 300;
    t->lengths = structures(count + !count, sizeof *t->lengths);
    t->bounds = structures(count + !count, sizeof *t->bounds);
    for (int64_t n = 0; n < count; n++) {
        total += t->lengths[n] = 1 + below(longest);
        t->bounds[n] = chance(90) ? below(9) : below(70);
    }
    t->ids = structures(total + !total, sizeof *t->ids);
    for (int64_t n = 0; n < total; n++) t->ids[n] = below(m->source_vocabulary);
    if (m->feature_vocabulary) make_features_of(m, t);
}

/* Of the features, or some for a model that has none. */
static void damage_features(const freerun_model *m, texts *t) {
    static const int64_t ids[] = {0, -1, INT64_MIN, INT64_MAX}, counts[] = {-1, INT64_MIN, INT64_MAX, (int64_t)1 << 61};
    int64_t n = below(t->count), first = 0, **one[] = {&t->feature_ids, &t->feature_counts}, **which = PICK(one);
    for (int64_t before = 0; m->feature_vocabulary && before < n; before++) first += t->feature_counts[before];
    if (!m->feature_vocabulary) *which = t->ids;
    else if (chance(30)) *which = chance(50) ? NULL : (int64_t *)((uintptr_t)*which + 1 + (uintptr_t)below(7));
    else if (first && chance(30)) t->feature_counts[n] = INT64_MAX / 8; /* too large only in their sum */
    else if (chance(50) || !t->feature_counts[n]) t->feature_counts[n] = PICK(counts);
    else t->feature_ids[first] = chance(25) ? m->feature_vocabulary : PICK(ids);
}

/* The result that the damage has to give. */
static int damage_texts(const freerun_model *m, texts *t) {
    static const int64_t ids[] = {-1, INT64_MIN, INT64_MAX}, lengths[] = {0, -1, INT64_MIN, INT64_MAX, (int64_t)1 << 61};
    static const int64_t bounds[] = {-1, INT64_MIN, INT64_MAX, INT64_MAX - 1}, counts[] = {-1, INT64_MIN};
    int64_t n = t->count ? below(t->count) : 0;
    int64_t kind = t->count ? below(8) : 0, **one[] = {&t->ids, &t->lengths, &t->bounds}, **which = PICK(one);
    if (kind == 0) t->count = PICK(counts);
    if (kind == 1) t->count = chance(50) ? INT64_MAX : INT64_MAX / 64;
    if (kind == 2) *which = chance(50) ? NULL : (int64_t *)((uintptr_t)*which + 1 + (uintptr_t)below(7));
    if (kind == 3) t->ids[n] = chance(25) ? m->source_vocabulary : PICK(ids);
    if (kind == 4) t->lengths[n] = n && chance(30) ? INT64_MAX / 8 : PICK(lengths); /* the former only in their sum */
    if (kind == 5) t->bounds[n] = PICK(bounds);
    if (kind > 5) damage_features(m, t);
    return kind == 1 ? FREERUN_NO_MEMORY : FREERUN_BAD_SOURCE;
}

static int64_t room_of(const texts *t) {
    int64_t room = 0;
    for (int64_t n = 0; n < t->count; n++) room += t->bounds[n] + 1;
    return room;
}

static outputs make_outputs(int64_t room, int64_t count) {
    return (outputs){structures(room + !room, sizeof(int32_t)), structures(room + !room, sizeof(float)),
                     structures(count + !count, sizeof(int64_t))};
}

static int decoded(const freerun_model *m, const texts *t, outputs o, int with) {
    fill = with;
    fill_slack();
    allocated = 0;
    int result = freerun_greedy(m, t->count, t->ids, t->lengths, t->feature_ids, t->feature_counts, t->bounds, o.tokens,
                                o.scores, o.written, NULL);
    if (live) fail("memory is left");
    return result;
}

static int same(float one, float other) { return !memcmp(&one, &other, sizeof one) || (one != one && other != other); }

static void compare(outputs one, int64_t n, int64_t place, outputs other, int64_t m, int64_t there) {
    if (one.written[n] != other.written[m]) fail("outputs of different lengths");
    for (int64_t k = 0; k < one.written[n]; k++)
        if (one.tokens[place + k] != other.tokens[there + k] || !same(one.scores[place + k], other.scores[there + k]))
            fail("outputs that differ");
}

static void check(const freerun_model *m, int64_t bound, const int32_t *tokens, int64_t written) {
    if (written < 0 || written > bound + 1) fail("an output longer than its bound");
    for (int64_t k = 0; k < written; k++)
        if (tokens[k] < UNK + 1 ? tokens[k] != EOS || k + 1 < written : tokens[k] >= m->target_vocabulary)
            fail("a token that may not be written");
    if (written == bound + 1 ? tokens[bound] != EOS : written < bound && (!written || tokens[written - 1] != EOS))
        fail("an output that does not end");
}

static void check_all(const freerun_model *m, const texts *t, outputs o) {
    outputs again = make_outputs(room_of(t), t->count);
    if (decoded(m, t, again, 0xff) != FREERUN_OK) fail("another result the second time");
    int64_t alone = t->count ? below(t->count) : -1;
    texts one = *t;
    one.count = 1;
    for (int64_t n = 0, place = 0; n < t->count; place += t->bounds[n++] + 1) {
        check(m, t->bounds[n], o.tokens + place, o.written[n]);
        compare(o, n, place, again, n, place);
        if (n < alone) one.ids += t->lengths[n];
        if (n < alone && m->feature_vocabulary) one.feature_ids += t->feature_counts[n];
        if (n != alone) continue;
        one.lengths += n;
        one.bounds += n;
        if (m->feature_vocabulary) one.feature_counts += n;
        outputs single = make_outputs(t->bounds[n] + 1, 1);
        if (decoded(m, &one, single, 0x3f) != FREERUN_OK) fail("another result alone");
        compare(o, n, place, single, 0, 0);
    }
}

/* -- other searches --------------------------------------------------------------------------------------------------- */

/* The weights of a step of many rows, and of one of its rows that was stepped alone: the same numbers to the last bit, those
 * with which the step has read, nothing behind a row's memory, and no weights where there is no room for them. */
static void check_attention(const freerun_model *m, freerun_steps *one, freerun_steps *other, int64_t rows, int64_t which) {
    const writing *w = &one->rows[one->now].w;
    int64_t positions = one->entries + below(3);
    float *weights = structures(rows * positions, sizeof *weights), *alone = structures(positions, sizeof *alone);
    int result = m->attention ? FREERUN_OK : FREERUN_BAD_SOURCE;
    if (freerun_attended(one, rows, positions, weights) != result) fail("an unexpected result of weights");
    if (freerun_attended(other, 1, positions, alone) != result) fail("an unexpected result of weights alone");
    if (freerun_attended(one, rows + 1, positions, weights) != FREERUN_BAD_SOURCE) fail("weights of rows that are not there");
    if (!m->attention) return;
    float *read = array(one->r.read, sizeof *read);
    for (int64_t row = 0; row < rows; row++) {
        const source *of = &one->sources[w->source[row]];
        double sum = 0;
        for (int64_t n = 0; n < positions; n++) {
            float weight = weights[row * positions + n];
            if (n >= of->entries && weight != 0) fail("a weight behind a row's memory");
            if (row == which && !same(weight, alone[n])) fail("a weight that depends on other rows");
            sum += weight;
        }
        const float *values = one->r.values + of->first_entry * one->r.read;
        one->r.step->average(of->entries, weights + row * positions, values, one->r.read, read);
        for (int64_t n = 0; n < one->r.read; n++)
            if (!same(read[n], w->read[row * one->r.read + n])) fail("weights that were not read with");
        if (sum == sum && fabs(sum - 1) > 1e-3) fail("weights that do not add up to 1");
        if (freerun_attended(one, rows, of->entries - 1, weights) != FREERUN_BAD_SOURCE) fail("weights without room");
    }
}

/* Steps of random rows, each again alone: the same numbers to the last bit. */
static void check_steps(const freerun_model *m, const texts *t) {
    freerun_steps *one = NULL, *other = NULL;
    int64_t rows = t->count, vocabulary = m->target_vocabulary, chosen = 0, most = 1 + below(60);
    if (!rows) return;
    for (int n = 0; n < 2; n++)
        if (freerun_start(m, rows, t->ids, t->lengths, t->feature_ids, t->feature_counts, n ? &other : &one, NULL))
            fail("sources that are not read");
    if (freerun_attended(one, rows, one->entries, structures(rows * one->entries, sizeof(float))) != FREERUN_BAD_SOURCE)
        fail("weights before the first step");
    float *log_probs = structures(most * vocabulary, sizeof *log_probs), *alone = structures(vocabulary, sizeof *alone);
    int64_t *tokens = structures(most, 8), *origins = structures(most, 8);
    for (int64_t step = 0; step < 4; step++) {
        int64_t now = 1 + below(most), followed = below(now), zero = 0;
        for (int64_t row = 0; row < now; row++) {
            tokens[row] = below(vocabulary);
            origins[row] = below(rows);
        }
        if (step) origins[followed] = chosen; /* the row that is stepped alone, too */
        int64_t origin = step ? zero : origins[followed];
        if (freerun_step(one, now, tokens, origins, log_probs)) fail("a step that is not made");
        if (freerun_step(other, 1, tokens + followed, &origin, alone)) fail("a step that is not made alone");
        for (int64_t id = 0; id < vocabulary; id++)
            if (!same(log_probs[followed * vocabulary + id], alone[id])) fail("a step that depends on other rows");
        check_attention(m, one, other, now, followed);
        chosen = followed;
        rows = now;
        tokens[0] = chance(50) ? vocabulary : -1;
        if (freerun_step(one, 1, tokens, &zero, log_probs) != FREERUN_BAD_SOURCE) fail("a token that does not exist");
        tokens[0] = 0;
        if (freerun_step(one, 1, tokens, &rows, log_probs) != FREERUN_BAD_SOURCE) fail("a row that does not exist");
    }
    freerun_end(one);
    freerun_end(other);
    freerun_end(NULL);
    if (live) fail("memory is left of steps");
}

/* Each piece of memory that starting, a step and a beam search ask for, missing: they say so, and leave nothing behind. */
static void check_without_memory(const freerun_model *m, const texts *t) {
    static const int32_t stop = 1;
    freerun_steps *steps = NULL;
    freerun_beam how = {2, 1, 0, 0};
    freerun_outputs o;
    int64_t starts[2], written[2], zero = 0, token = 0;
    float *log_probs = structures(2 * m->target_vocabulary, sizeof *log_probs), *again = log_probs + m->target_vocabulary;
    texts one = *t;
    if (!t->count) return;
    one.count = 1;
    int result = FREERUN_NO_MEMORY;
    for (int64_t piece = 1; result == FREERUN_NO_MEMORY; piece++) {
        allocated = 0;
        failing = piece;
        result = freerun_start(m, 1, one.ids, one.lengths, one.feature_ids, one.feature_counts, &steps, NULL);
        if (result && (live || steps)) fail("memory is left of sources that were not read");
    }
    if (result) fail("another result than no memory");
    allocated = 0;
    failing = 1;
    if (freerun_step(steps, 1, &token, &zero, log_probs) != FREERUN_NO_MEMORY) fail("a step without memory");
    failing = 0;
    if (freerun_step(steps, 1, &token, &zero, log_probs)) fail("a step after one that was not made");
    freerun_end(steps);
    steps = NULL;
    if (freerun_start(m, 1, one.ids, one.lengths, one.feature_ids, one.feature_counts, &steps, NULL)) fail("sources");
    if (freerun_step(steps, 1, &token, &zero, again)) fail("a step");
    for (int64_t id = 0; id < m->target_vocabulary; id++)
        if (!same(log_probs[id], again[id])) fail("a step that was not made has changed something");
    freerun_end(steps);
    steps = NULL;
    if (freerun_start(m, 1, one.ids, one.lengths, one.feature_ids, one.feature_counts, &steps, &stop) != FREERUN_STOPPED)
        fail("sources that are read in spite of a stop");
    if (live || steps) fail("memory is left of sources that were stopped");
    result = FREERUN_NO_MEMORY;
    for (int64_t piece = 1; result == FREERUN_NO_MEMORY; piece++) {
        allocated = 0;
        failing = piece;
        result = freerun_beam_search(m, 1, one.ids, one.lengths, one.feature_ids, one.feature_counts, one.bounds, &how,
                                     starts, written, &o, NULL);
        if (result && (live || o.tokens || o.scores)) fail("memory is left of a beam search without any");
    }
    failing = 0;
    if (result) fail("another result of a beam search than no memory");
    freerun_release(&o);
}

static void check_beam(const freerun_model *m, const texts *t) {
    static const double penalties[] = {0, 0, 0.6, 1, -1, 5};
    freerun_beam how = {1 + below(7), 1, chance(30), PICK(penalties)};
    how.num_hypotheses = 1 + below(how.beam_size);
    int64_t size = t->count * how.num_hypotheses, *found[2][2], alone = t->count ? below(t->count) : -1;
    freerun_outputs o[2];
    for (int n = 0; n < 2; n++) {
        found[n][0] = structures(size + !size, 8);
        found[n][1] = structures(size + !size, 8);
    }
    if (freerun_beam_search(m, t->count, t->ids, t->lengths, t->feature_ids, t->feature_counts, t->bounds, &how,
                            found[0][0], found[0][1], &o[0], NULL))
        fail("a beam search that fails");
    texts one = *t;
    for (int64_t n = 0; n < t->count; n++) {
        for (int64_t k = 0; k < how.num_hypotheses; k++) {
            int64_t place = n * how.num_hypotheses + k, written = found[0][1][place];
            if (!k && written < 0) fail("a source without a hypothesis");
            if (written >= 0) check(m, t->bounds[n], o[0].tokens + found[0][0][place], written);
        }
        if (n < alone) one.ids += t->lengths[n];
        if (n < alone && m->feature_vocabulary) one.feature_ids += t->feature_counts[n];
    }
    if (alone >= 0) {
        if (freerun_beam_search(m, 1, one.ids, t->lengths + alone, one.feature_ids,
                                t->feature_counts ? t->feature_counts + alone : NULL, t->bounds + alone, &how, found[1][0],
                                found[1][1], &o[1], NULL))
            fail("a beam search that fails alone");
        outputs all = {o[0].tokens, o[0].scores, found[0][1]}, single = {o[1].tokens, o[1].scores, found[1][1]};
        for (int64_t k = 0; k < how.num_hypotheses; k++) {
            int64_t place = alone * how.num_hypotheses + k;
            if (found[0][1][place] < 0 && found[1][1][k] < 0) continue;
            compare(all, place, found[0][0][place], single, k, found[1][0][k]);
        }
        freerun_release(&o[1]);
    }
    freerun_release(&o[0]);
    how.beam_size = chance(50) ? 0 : FREERUN_MAX_BEAM + 1;
    if (freerun_beam_search(m, t->count, t->ids, t->lengths, t->feature_ids, t->feature_counts, t->bounds, &how,
                            found[0][0], found[0][1], &o[0], NULL) != FREERUN_BAD_SOURCE)
        fail("a beam that is out of range");
    if (live) fail("memory is left of a beam search");
}

static int run_case(void) {
    texts t = {0};
    freerun_model *m = structures(1, sizeof *m);
    seed = (uint64_t)number;
    make_model(m);
    make_texts(m, &t);
    outputs o = make_outputs(room_of(&t), t.count);
    int harm = chance(30) ? 1 : chance(20) ? 2 : chance(5) ? 3 : 0, expected = FREERUN_OK;
    if (harm == 1) damage_model();
    if (harm == 2) expected = damage_texts(m, &t);
    if (harm == 3 && t.count) expected = FREERUN_NO_MEMORY;
    failing = harm == 3 ? 1 + below(2) : 0;
    int result = decoded(m, &t, o, 0);
    failing = 0;
    if (harm == 1 ? result != FREERUN_OK && result != FREERUN_BAD_MODEL : result != expected) fail("an unexpected result");
    if (result == FREERUN_OK) {
        check_all(m, &t, o);
        check_steps(m, &t);
        check_beam(m, &t);
        check_without_memory(m, &t);
    }
    release();
    return result;
}

/* Of the sanitizers' own; called before they stop the program. */
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

static const char *names[] = {"base", "avx2", "avx512"};

/* Whether this machine has the best of the allowed instruction sets. */
static int is_here(void) { return !strcmp(freerun_instructions(), names[allowed]); }

int main(int argc, char **argv) {
    int64_t first = argc == 3 ? atoll(argv[1]) : 0, count = argc == 3 ? atoll(argv[2]) : 100, results[4] = {0};
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(say_case);
    for (allowed = BASE; allowed < SETS; allowed++)
        if (is_here()) printf("%s ", names[allowed]);
    for (number = first; number < first + count; number++)
        for (allowed = BASE; allowed < SETS; allowed++)
            if (is_here()) results[run_case()]++;
    printf("ok %lld, no memory %lld, bad source %lld, bad model %lld\n", (long long)results[0], (long long)results[1],
           (long long)results[2], (long long)results[3]);
    return 0;
}
