/* denoise.h: the sampling loop. It knows two streams (video, audio), guidance, a held
 * first frame and a solver; the model is reached only through a velocity callback. */
#ifndef OVI_SAMPLE_DENOISE_H
#define OVI_SAMPLE_DENOISE_H

#include "sample/solver.h"

typedef enum denoise_stream { STREAM_VIDEO, STREAM_AUDIO, STREAM_COUNT } denoise_stream;
typedef enum denoise_branch {
    BRANCH_POSITIVE,
    BRANCH_NEGATIVE,
    BRANCH_COUNT
} denoise_branch;

/* One question to the model: the velocities of both streams at model time t, for the
 * first n_branches branches. Tensors are F32; x: video [C, F, h, w], audio [L, C]. */
typedef struct velocity_call {
    int step;
    double t;         /* 0..1000, the same for both streams */
    bool first_clean; /* frame 0 of the video is data, not noise: its tokens get time 0 */
    int n_branches;   /* 1: no guidance, only BRANCH_POSITIVE is asked for */
    tensor x[STREAM_COUNT];
    tensor v[BRANCH_COUNT][STREAM_COUNT]; /* to be written, shaped like x */
} velocity_call;

/* Failures are latched on the device. */
typedef void (*velocity_fn)(void *user, device *d, const velocity_call *call);
/* After each step; done counts from 1. */
typedef void (*denoise_progress_fn)(void *user, int done, int n_steps);

#define DENOISE_MAX_STATE  (STREAM_COUNT * (1 + SOLVER_MAX_HISTORY))
#define DENOISE_STATE_NAME 24

/* All that a run is between two steps: the latents of both streams and what their solvers
 * remember, always in the same order. Dense F32; these are the run's own tensors, so that
 * looking costs nothing and writing changes the run. */
typedef struct denoise_state {
    int n;
    char name[DENOISE_MAX_STATE]
             [DENOISE_STATE_NAME];            /* video, audio, solver.video.0 .. */
    denoise_stream stream[DENOISE_MAX_STATE]; /* whose shape it has */
    tensor data[DENOISE_MAX_STATE];
} denoise_state;
/* Between two steps: `done` of n_steps are done. */
typedef void (*denoise_state_fn)(void *user, int done, int n_steps,
                                 const denoise_state *state);

typedef struct denoise_options {
    const solver *solver;
    const schedule *times;         /* made by solver->schedule */
    double guidance[STREAM_COUNT]; /* both 1: the negative branch is left out */
    tensor first_frame;            /* video [C, 1, h, w] F32; rank 0: text to video */
    velocity_fn velocity;
    void *user;
    denoise_progress_fn progress; /* may be NULL */
    void *progress_user;
    int first_step;           /* > 0: this many steps were done by an earlier run */
    denoise_state_fn restore; /* then writes the state they left; NULL on a dry run */
    denoise_state_fn save;    /* after each step, before progress; may be NULL */
    void *state_user;
} denoise_options;

/* Turns noise into latents, in place. Velocities and solver history come from arena_keep;
 * after that the loop allocates nothing. A run that starts from a saved state gives the
 * bits of one that was never interrupted. Polls for a cancel before every step. Taps:
 * step%d.guided_video, step%d.guided_audio, step%d.video, step%d.audio (what the solver
 * returned, before the first frame is put back). */
ovi_status denoise_run(device *d, const denoise_options *o,
                       const tensor x[STREAM_COUNT]) OVI_MUST_CHECK;
#endif
