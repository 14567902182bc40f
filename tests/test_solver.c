/* Tests of sample/solver.c and unipc.c on velocities whose answer is known. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "sample/solver.h"

#define N 15 /* elements of a sample, in rows of 5 */

typedef double (*velocity_of)(double x, double sigma);

/* A straight path from noise to data: every solver is exact on it. */
static double straight(double x, double sigma) {
    (void)x;
    (void)sigma;
    return 0.75;
}

/* The field of the recorded trajectories. */
static double curved(double x, double sigma) {
    return tanh(1.3 * x - 0.8 * sigma);
}

typedef struct run {
    const backend *backend;
    int n_threads;
    const solver *kind;
    int n;
    double shift;
    velocity_of velocity;
} run;

/* Integrates x [N] over a whole schedule; trajectory [n, N] is optional. */
static void integrate(const run *r, float *x, float *trajectory) {
    static host h;
    h = (host){0};
    schedule times;
    assert_int_equal(schedule_make(&times, r->kind->schedule, r->n, r->shift, &h.err),
                     OVI_OK);
    device_options options = {.compute = DTYPE_F32, .n_threads = r->n_threads};
    device *d = device_open(&h, r->backend, &options);
    assert_non_null(d);
    device_arena_open(d, 1 << 16);
    tensor sample = arena_keep(d, DTYPE_F32, SHAPE(N / 5, 5)),
           v = arena_keep(d, DTYPE_F32, SHAPE(N / 5, 5));
    solver_state state;
    solver_init(&state, r->kind, &times, d, SHAPE(N / 5, 5));
    device_put_f32(d, &sample, x);
    for (int i = 0; i < r->n; i++) {
        float velocity[N];
        for (int k = 0; k < N; k++)
            velocity[k] = (float)r->velocity((double)x[k], (double)times.sigma[i]);
        device_put_f32(d, &v, velocity);
        solver_step(&state, d, i, v, sample);
        assert_int_equal(device_get_f32(d, x, &sample), OVI_OK);
        if (trajectory)
            memcpy(trajectory + i * N, x, N * sizeof *x);
    }
    device_arena_close(d);
    device_close(d);
}

static run reference_run(const char *name, int n, double shift, velocity_of velocity) {
    err e = {0};
    const solver *kind = solver_find(name, &e);
    assert_non_null(kind);
    return (run){&backend_ref, 1, kind, n, shift, velocity};
}

static void fill_start(float *x) {
    for (int k = 0; k < N; k++)
        x[k] = (float)sin(1.7 * k) * 2;
}

static void straight_paths_are_followed_exactly(void **state) {
    (void)state;
    for (int row = 0; solver_at(row); row++) {
        for (int n = 1; n <= 40; n += 13) {
            run r = reference_run(solver_at(row)->name, n, 5, straight);
            schedule times;
            err e = {0};
            assert_int_equal(schedule_make(&times, r.kind->schedule, n, 5, &e), OVI_OK);
            float x[N], start[N];
            fill_start(start);
            memcpy(x, start, sizeof x);
            integrate(&r, x, NULL);
            for (int k = 0; k < N; k++)
                assert_true(fabsf(x[k] - (start[k] - times.sigma[0] * 0.75f)) < 2e-6f);
        }
    }
}

/* Solves dx/dsigma = curved from sigma to 0 in f64 (classical Runge-Kutta). */
static double true_end(double x, double sigma) {
    const int n = 400;
    double h = -sigma / n;
    for (int i = 0; i < n; i++, sigma += h) {
        double a = curved(x, sigma), b = curved(x + h / 2 * a, sigma + h / 2);
        double c = curved(x + h / 2 * b, sigma + h / 2), d = curved(x + h * c, sigma + h);
        x += h / 6 * (a + 2 * b + 2 * c + d);
    }
    return x;
}

static double largest_error(const char *name, int n) {
    run r = reference_run(name, n, 1, curved);
    schedule times;
    err e = {0};
    assert_int_equal(schedule_make(&times, r.kind->schedule, n, 1, &e), OVI_OK);
    float x[N], start[N];
    fill_start(start);
    memcpy(x, start, sizeof x);
    integrate(&r, x, NULL);
    double worst = 0;
    for (int k = 0; k < N; k++)
        worst = fmax(worst, fabs((double)x[k] -
                                 true_end((double)start[k], (double)times.sigma[0])));
    return worst;
}

/* The last step, from sigma_{n-1} to 0, is of first order by design: second-order solvers
 * come near their factor of 16 only slowly. */
static void errors_fall_with_the_order_of_the_solver(void **state) {
    (void)state;
    double euler = largest_error("euler", 80) / largest_error("euler", 320);
    double dpmpp = largest_error("dpm++", 80) / largest_error("dpm++", 320);
    double unipc = largest_error("unipc", 80) / largest_error("unipc", 320);
    assert_true(euler > 3.5 && euler < 4.5);
    assert_true(dpmpp > 8);
    assert_true(unipc > 10);
    assert_true(largest_error("unipc", 10) < largest_error("dpm++", 10));
    assert_true(largest_error("dpm++", 10) < largest_error("euler", 10));
}

/* Published solvers on the field `curved`, shift 5: three elements at the end. */
static void recorded_trajectories_are_reproduced(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int n;
        float end[3];
    } recorded[] = {
        {"unipc", 4, {0.459406972f, 0.445313454f, 0.412243396f}},
        {"unipc", 10, {0.430565596f, 0.40819189f, 0.348184913f}},
        {"dpm++", 4, {0.460083544f, 0.446124911f, 0.413335353f}},
        {"dpm++", 10, {0.430796593f, 0.408483863f, 0.348658144f}},
        {"euler", 4, {0.472150415f, 0.461772323f, 0.440385342f}},
        {"euler", 10, {0.436601758f, 0.415849984f, 0.360730141f}},
    };
    for (size_t i = 0; i < sizeof recorded / sizeof recorded[0]; i++) {
        run r = reference_run(recorded[i].name, recorded[i].n, 5, curved);
        float x[N] = {0.83203125f, 0.7578125f, 0.5390625f};
        integrate(&r, x, NULL);
        for (int k = 0; k < 3; k++)
            assert_true(fabsf(x[k] - recorded[i].end[k]) < 1e-6f);
    }
}

static void one_step_is_first_order(void **state) {
    (void)state;
    for (int row = 0; solver_at(row); row++) {
        run r = reference_run(solver_at(row)->name, 1, 5, curved);
        schedule times;
        err e = {0};
        assert_int_equal(schedule_make(&times, r.kind->schedule, 1, 5, &e), OVI_OK);
        float x[N], start[N];
        fill_start(start);
        memcpy(x, start, sizeof x);
        integrate(&r, x, NULL);
        for (int k = 0; k < N; k++) {
            float v = (float)curved((double)start[k], (double)times.sigma[0]);
            assert_true(x[k] == start[k] - times.sigma[0] * v);
        }
    }
}

/* The data estimate of the last step, to the bit: sigma_n = 0. */
static void last_step_returns_the_data_estimate(void **state) {
    (void)state;
    static const char *const names[] = {"unipc", "dpm++"};
    for (int i = 0; i < 2; i++) {
        for (int n = 2; n <= 5; n++) {
            run r = reference_run(names[i], n, 5, curved);
            schedule times;
            err e = {0};
            assert_int_equal(schedule_make(&times, r.kind->schedule, n, 5, &e), OVI_OK);
            float x[N], path[5 * N];
            fill_start(x);
            integrate(&r, x, path);
            const float *before = path + (n - 2) * N;
            for (int k = 0; k < N; k++) {
                float s = times.sigma[n - 1];
                float v = (float)curved((double)before[k], (double)s);
                assert_true(x[k] == before[k] - s * v);
            }
        }
    }
}

static void extreme_runs_stay_finite(void **state) {
    (void)state;
    static const double shifts[] = {0.1, 1, 5, 20, 100};
    static const int lengths[] = {2, 3, 1000};
    for (int row = 0; solver_at(row); row++) {
        for (int i = 0; i < 15; i++) {
            run r = reference_run(solver_at(row)->name, lengths[i % 3], shifts[i / 3],
                                  curved);
            float x[N];
            fill_start(x);
            integrate(&r, x, NULL);
            for (int k = 0; k < N; k++)
                assert_true(fabsf(x[k]) < 10);
        }
    }
}

static void bits_do_not_depend_on_threads(void **state) {
    (void)state;
    const backend *best = backend_find(NULL);
    assert_non_null(best);
    for (int row = 0; solver_at(row); row++) {
        float one[N], many[N];
        run r = reference_run(solver_at(row)->name, 20, 5, curved);
        r.backend = best;
        fill_start(one);
        integrate(&r, one, NULL);
        for (r.n_threads = 2; r.n_threads <= 4; r.n_threads += 2) {
            fill_start(many);
            integrate(&r, many, NULL);
            assert_memory_equal(one, many, sizeof one);
        }
    }
}

static void names_are_found_and_others_refused(void **state) {
    (void)state;
    err e = {0};
    assert_string_equal(solver_find("dpm++", &e)->name, "dpm++");
    assert_null(solver_find("heun", &e));
    assert_int_equal(e.status, OVI_ARGUMENT);
    assert_non_null(strstr(e.text, "unipc, dpm++, euler"));
    assert_null(solver_at(-1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(straight_paths_are_followed_exactly),
        cmocka_unit_test(errors_fall_with_the_order_of_the_solver),
        cmocka_unit_test(recorded_trajectories_are_reproduced),
        cmocka_unit_test(one_step_is_first_order),
        cmocka_unit_test(last_step_returns_the_data_estimate),
        cmocka_unit_test(extreme_runs_stay_finite),
        cmocka_unit_test(bits_do_not_depend_on_threads),
        cmocka_unit_test(names_are_found_and_others_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
