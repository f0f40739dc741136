/* The control step of a generated policy, and a reader of policy files. C99, float32, no allocation, no dependency but libm.
 *
 * The code does not depend on a policy's size: sizes and weights are data, so a policy that arrives at run time needs no compiler.
 * Policies are constants (`lwd export POLICY --to c`), or are read from the file that `lwd generate` wrote. src/lwd/deploy/policy.py
 * describes the file. */
#ifndef LWD_POLICY_H
#define LWD_POLICY_H

#include <stddef.h>
#include <stdint.h>

#ifndef LWD_MAX_WIDTH
#define LWD_MAX_WIDTH 512 /* neurons of the widest layer, and observed dimensions; a step keeps two layers on the stack */
#endif
#ifndef LWD_MAX_LAYERS
#define LWD_MAX_LAYERS 8 /* matrices */
#endif

typedef struct {
    int32_t layers;                            /* matrices; there are layers + 1 sizes */
    const int32_t *sizes;                      /* neurons, inputs first and outputs last */
    const float *weights;                      /* per layer the matrix (in, out), row by row, then the bias (out) */
    int32_t obs_dim, linear;                   /* observed dimensions, and how many of them are no angles */
    const int32_t *order;                      /* the linear dimensions, then the angles (radians) */
    const float *obs_center, *obs_scale;       /* feature = (raw - center) * scale, for each linear dimension */
    float obs_limit;                           /* features are clipped to +- this */
    const float *action_center, *action_half;  /* raw action = output * half + center */
    const float *action_low, *action_high;     /* raw actions are clipped to these */
    float phase_steps;                         /* steps over which the phase goes from 0 to 1; 0: the policy does not see it */
} lwd_policy;

enum { LWD_OK, LWD_MALFORMED, LWD_BAD_VALUE, LWD_TOO_LARGE, LWD_MISALIGNED, LWD_NOT_FINITE };

/* One control step: raw observation -> raw action. `t` counts the steps since the observation that the policy was made from.
 * LWD_NOT_FINITE, and the action stays as it was, for an observation or an action that is no finite number. */
int lwd_policy_step(const lwd_policy *policy, const float *obs, uint32_t t, float *action);

/* A policy from the bytes of a file. It points into the buffer, which must stay, and must be aligned as a float is.
 * Anything but LWD_OK: the bytes are no policy for this program, and `policy` is left as it was. */
int lwd_policy_read(const void *buffer, size_t size, lwd_policy *policy);

/* Whether sizes and values fit together. `lwd_policy_read` has checked it; call it after changing a policy by hand. */
int lwd_policy_check(const lwd_policy *policy);

/* The number of weights that the sizes ask for; 0 where they are out of range. */
size_t lwd_policy_weights(const lwd_policy *policy);

/* What a code means. */
const char *lwd_policy_error(int code);

#endif
