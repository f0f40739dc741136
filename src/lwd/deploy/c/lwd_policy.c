#include "lwd_policy.h"

#include <math.h>
#include <string.h>

/* --- the control step ------------------------------------------------------------------------------------------------------------- */

static float clipped(float x, float low, float high) { /* NaN stays NaN */
    return x < low ? low : x > high ? high : x;
}

/* y = b + x W. The inner loop runs over outputs, whose sums do not depend on each other: compilers vectorise it without -ffast-math.
 * Four inputs at a time, because each pass reads and writes y. */
static const float *layer(const float *w, size_t in, size_t out, const float *restrict x, float *restrict y) {
    const float *bias = w + in * out;
    size_t i = 0;
    memcpy(y, bias, out * sizeof(float));
    for (; i + 4 <= in; i += 4, w += 4 * out) {
        const float x0 = x[i], x1 = x[i + 1], x2 = x[i + 2], x3 = x[i + 3];
        const float *restrict w0 = w, *restrict w1 = w + out, *restrict w2 = w + 2 * out, *restrict w3 = w + 3 * out;
        for (size_t j = 0; j < out; j++) y[j] += (x0 * w0[j] + x1 * w1[j]) + (x2 * w2[j] + x3 * w3[j]);
    }
    for (; i < in; i++, w += out) {
        const float *restrict row = w;
        for (size_t j = 0; j < out; j++) y[j] += x[i] * row[j];
    }
    return bias + out;
}

int lwd_policy_step(const lwd_policy *policy, const float *obs, uint32_t t, float *action) {
    float first[LWD_MAX_WIDTH], second[LWD_MAX_WIDTH], *x = first, *y = second;
    const lwd_policy *p = policy;
    const int32_t angles = p->obs_dim - p->linear, outputs = p->sizes[p->layers];
    const float *w = p->weights;
    for (int32_t i = 0; i < p->obs_dim; i++) {
        const float raw = obs[p->order[i]];
        if (!isfinite(raw)) return LWD_NOT_FINITE;
        if (i < p->linear) {
            x[i] = clipped((raw - p->obs_center[i]) * p->obs_scale[i], -p->obs_limit, p->obs_limit);
        } else {
            x[i] = cosf(raw);
            x[i + angles] = sinf(raw);
        }
    }
    if (p->phase_steps > 0) {
        const float phase = (float)t / p->phase_steps;
        x[p->obs_dim + angles] = 2 * (phase < 1 ? phase : 1) - 1;
    }
    for (int32_t l = 0; l < p->layers; l++) {
        float *const swap = x;
        const int32_t out = p->sizes[l + 1];
        w = layer(w, (size_t)p->sizes[l], (size_t)out, x, y);
        for (int32_t j = 0; j < out && l + 1 < p->layers; j++) y[j] = y[j] < 0 ? 0 : y[j]; /* NaN stays NaN */
        x = y;
        y = swap;
    }
    for (int32_t j = 0; j < outputs; j++) {
        x[j] = clipped(x[j] * p->action_half[j] + p->action_center[j], p->action_low[j], p->action_high[j]);
        if (!isfinite(x[j])) return LWD_NOT_FINITE;
    }
    memcpy(action, x, (size_t)outputs * sizeof(float));
    return LWD_OK;
}

/* --- what a policy must be -------------------------------------------------------------------------------------------------------- */

size_t lwd_policy_weights(const lwd_policy *policy) {
    size_t count = 0;
    if (policy->layers < 1 || policy->layers > LWD_MAX_LAYERS) return 0;
    for (int32_t l = 0; l <= policy->layers; l++) {
        const int32_t in = policy->sizes[l > 0 ? l - 1 : 0], out = policy->sizes[l];
        if (out < 1 || out > LWD_MAX_WIDTH) return 0;
        if (l > 0) count += ((size_t)in + 1) * (size_t)out;
    }
    return count;
}

static int finite_all(const float *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i])) return 0;
    return 1;
}

int lwd_policy_check(const lwd_policy *policy) {
    const lwd_policy *p = policy;
    const size_t count = lwd_policy_weights(p);
    unsigned char seen[LWD_MAX_WIDTH] = {0};
    if (count == 0 || p->obs_dim < 1 || p->obs_dim > LWD_MAX_WIDTH) return LWD_TOO_LARGE;
    if (p->linear < 0 || p->linear > p->obs_dim) return LWD_BAD_VALUE;
    if (!isfinite(p->phase_steps) || p->phase_steps < 0 || !isfinite(p->obs_limit) || p->obs_limit <= 0) return LWD_BAD_VALUE;
    if (p->sizes[0] != 2 * p->obs_dim - p->linear + (p->phase_steps > 0)) return LWD_BAD_VALUE;
    for (int32_t i = 0; i < p->obs_dim; i++) { /* a permutation */
        if (p->order[i] < 0 || p->order[i] >= p->obs_dim || seen[p->order[i]]++) return LWD_BAD_VALUE;
    }
    for (int32_t j = 0, outputs = p->sizes[p->layers]; j < outputs; j++) {
        const float limits[4] = {p->action_low[j], p->action_high[j], p->action_center[j], p->action_half[j]};
        if (!finite_all(limits, 4) || limits[0] > limits[1]) return LWD_BAD_VALUE;
    }
    if (!finite_all(p->obs_center, (size_t)p->linear) || !finite_all(p->obs_scale, (size_t)p->linear)) return LWD_BAD_VALUE;
    return finite_all(p->weights, count) ? LWD_OK : LWD_BAD_VALUE;
}

const char *lwd_policy_error(int code) {
    static const char *const meanings[] = {
        "no error",
        "the bytes are not those of a whole policy file",
        "sizes or values of the policy do not fit together, or are not finite",
        "the layers of the policy are more than LWD_MAX_LAYERS, or not between 1 and LWD_MAX_WIDTH wide",
        "the buffer, or a tensor in it, is not aligned to four bytes",
        "the observation or the action is not finite",
    };
    return code >= 0 && code <= LWD_NOT_FINITE ? meanings[code] : "unknown code";
}

/* --- the reader ------------------------------------------------------------------------------------------------------------------- */

enum { SIZES, WEIGHTS, ORDER, OBS_CENTER, OBS_SCALE, OBS_LIMIT, ACTION_CENTER, ACTION_HALF, ACTION_LOW, ACTION_HIGH, PHASE_STEPS, TENSORS };
static const char *const names[TENSORS] = {"sizes",         "weights",     "order",      "obs_center",  "obs_scale",  "obs_limit",
                                           "action_center", "action_half", "action_low", "action_high", "phase_steps"};

typedef struct {
    const unsigned char *at, *end; /* of the header */
} cursor;

typedef struct {
    const unsigned char *at;
    size_t length;
} text;

static void skip_space(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r')) c->at++;
}

static int take(cursor *c, unsigned char wanted) { /* 1, and behind it, where the next character is this one */
    skip_space(c);
    if (c->at == c->end || *c->at != wanted) return 0;
    c->at++;
    return 1;
}

static int hexadecimal(unsigned char x) {
    return (x >= '0' && x <= '9') || (x >= 'a' && x <= 'f') || (x >= 'A' && x <= 'F');
}

static int take_string(cursor *c, text *found) { /* escapes stay as they are */
    if (!take(c, '"')) return 0;
    found->at = c->at;
    for (; c->at < c->end && *c->at >= ' '; c->at++) {
        if (*c->at == '"') {
            found->length = (size_t)(c->at - found->at);
            c->at++;
            return 1;
        }
        if (*c->at != '\\') continue;
        if (++c->at == c->end) return 0;
        if (*c->at == 'u') {
            if (c->end - c->at < 5) return 0;
            for (int i = 0; i < 4; i++)
                if (!hexadecimal(*++c->at)) return 0;
        } else if (*c->at == 0 || strchr("\"\\/bfnrt", *c->at) == NULL) {
            return 0;
        }
    }
    return 0;
}

static int take_number(cursor *c, size_t *found) { /* a whole number below 10^9, which also fits where size_t has 32 bits */
    int digits = 0, zero;
    skip_space(c);
    zero = c->at < c->end && *c->at == '0';
    for (*found = 0; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++) {
        if (++digits > 9) return 0;
        *found = 10 * *found + (size_t)(*c->at - '0');
    }
    return digits == 1 || (digits > 1 && !zero);
}

static int equal(text a, const char *b) { return a.length == strlen(b) && memcmp(a.at, b, a.length) == 0; }

static int take_metadata(cursor *c) {
    text ignored;
    if (!take(c, '{')) return 0;
    if (take(c, '}')) return 1;
    do {
        if (!take_string(c, &ignored) || !take(c, ':') || !take_string(c, &ignored)) return 0;
    } while (take(c, ','));
    return take(c, '}');
}

static int take_tensor(cursor *c, const char *dtype, size_t *count, size_t *begin, size_t *end) {
    unsigned have = 0, field;
    text key, value;
    if (!take(c, '{')) return 0;
    do {
        if (!take_string(c, &key) || !take(c, ':')) return 0;
        if (equal(key, "dtype")) {
            field = 1;
            if (!take_string(c, &value) || !equal(value, dtype)) return 0;
        } else if (equal(key, "shape")) {
            field = 2;
            if (!take(c, '[') || !take_number(c, count) || !take(c, ']')) return 0;
        } else if (equal(key, "data_offsets")) {
            field = 4;
            if (!take(c, '[') || !take_number(c, begin) || !take(c, ',') || !take_number(c, end) || !take(c, ']')) return 0;
        } else {
            return 0;
        }
        if (have & field) return 0;
        have |= field;
    } while (take(c, ','));
    return have == 7 && take(c, '}');
}

int lwd_policy_read(const void *buffer, size_t size, lwd_policy *policy) {
    const unsigned char *bytes = buffer, *data;
    const void *tensor[TENSORS] = {0};
    size_t count[TENSORS] = {0}, length = 0, end = 0, room;
    const uint32_t one = 1;
    cursor c;
    int metadata = 0, code;
    if (size < 8 || !*(const unsigned char *)&one) return LWD_MALFORMED; /* the file is little-endian, and so must be the machine */
    for (int i = 7; i >= 0; i--) {
        if (length > size / 256) return LWD_MALFORMED;
        length = length * 256 + bytes[i];
    }
    if (length > size - 8) return LWD_MALFORMED;
    data = bytes + 8 + length;
    room = size - 8 - length;
    if ((uintptr_t)data % sizeof(float) != 0) return LWD_MISALIGNED;
    c.at = bytes + 8;
    c.end = data;
    if (!take(&c, '{')) return LWD_MALFORMED;
    do {
        text name;
        int which = 0;
        size_t begin, stop;
        if (!take_string(&c, &name) || !take(&c, ':')) return LWD_MALFORMED;
        if (equal(name, "__metadata__")) {
            if (metadata++ || !take_metadata(&c)) return LWD_MALFORMED;
            continue;
        }
        while (which < TENSORS && !equal(name, names[which])) which++;
        if (which == TENSORS || tensor[which] != NULL) return LWD_MALFORMED;
        if (!take_tensor(&c, which == SIZES || which == ORDER ? "I32" : "F32", &count[which], &begin, &stop)) return LWD_MALFORMED;
        if (begin != end || stop > room || stop < begin || (stop - begin) % 4 || (stop - begin) / 4 != count[which]) return LWD_MALFORMED;
        tensor[which] = data + begin;
        end = stop;
    } while (take(&c, ','));
    if (!take(&c, '}')) return LWD_MALFORMED;
    skip_space(&c);
    if (c.at != c.end || end != room || !metadata) return LWD_MALFORMED;
    for (int which = 0; which < TENSORS; which++)
        if (tensor[which] == NULL) return LWD_MALFORMED;
    if (count[SIZES] > LWD_MAX_LAYERS + 1 || count[ORDER] > LWD_MAX_WIDTH) return LWD_TOO_LARGE;
    if (count[SIZES] < 2 || count[OBS_LIMIT] != 1 || count[PHASE_STEPS] != 1) return LWD_BAD_VALUE;
    {
        const size_t linear = count[OBS_CENTER], layers = count[SIZES] - 1;
        const lwd_policy found = {
            .layers = (int32_t)layers,
            .sizes = tensor[SIZES],
            .weights = tensor[WEIGHTS],
            .obs_dim = (int32_t)count[ORDER],
            .linear = (int32_t)linear,
            .order = tensor[ORDER],
            .obs_center = tensor[OBS_CENTER],
            .obs_scale = tensor[OBS_SCALE],
            .obs_limit = *(const float *)tensor[OBS_LIMIT],
            .action_center = tensor[ACTION_CENTER],
            .action_half = tensor[ACTION_HALF],
            .action_low = tensor[ACTION_LOW],
            .action_high = tensor[ACTION_HIGH],
            .phase_steps = *(const float *)tensor[PHASE_STEPS],
        };
        const size_t weights = lwd_policy_weights(&found);
        if (weights == 0) return LWD_TOO_LARGE;
        if (weights != count[WEIGHTS] || linear > count[ORDER] || count[OBS_SCALE] != linear) return LWD_BAD_VALUE;
        for (int which = ACTION_CENTER; which <= ACTION_HIGH; which++)
            if (count[which] != (size_t)found.sizes[layers]) return LWD_BAD_VALUE;
        code = lwd_policy_check(&found);
        if (code == LWD_OK) *policy = found;
        return code;
    }
}
