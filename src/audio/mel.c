/* mel.c: waveform to log10-mel (spec/audio-decoder.md section 4), for each frame t:
 *
 *   1024 samples from 256 t of the wave, clamped to [-1, 1] and reflect-padded by 384
 *   -> times a Hann window -> DFT, bins 0..512 -> sqrt(re^2 + im^2 + 1e-9)
 *   -> filter bank [80, 513] -> log10(max(x, 1e-5))
 *
 * All in f64, rounded once at the end. Ten seconds are 625 transforms: milliseconds. */
#include "audio/mel.h"

#include <inttypes.h>
#include <math.h>

#include "core/host.h"

#define PAD         384
#define SAMPLE_RATE 16000
#define TOP_HZ      8000
#define LOG2_WINDOW 10

static const double pi = 3.14159265358979323846;

int64_t mel_frames(int64_t n_samples) {
    return n_samples < MEL_MIN_SAMPLES ? 0 : n_samples / MEL_HOP;
}

/* ---- tables ---- */

/* The Slaney scale: linear below 1000 Hz (mel 15), logarithmic above. */
static double hz_to_mel(double f) {
    return f < 1000 ? 3 * f / 200 : 15 + 27 * log(f / 1000) / log(6.4);
}

static double mel_to_hz(double mel) {
    return mel < 15 ? 200 * mel / 3 : 1000 * pow(6.4, (mel - 15) / 27);
}

void mel_filter_bank(double bank[MEL_BANDS][MEL_BINS]) {
    double edge[MEL_BANDS + 2];
    for (int i = 0; i < MEL_BANDS + 2; i++)
        edge[i] = mel_to_hz(hz_to_mel(TOP_HZ) * i / (MEL_BANDS + 1));
    for (int i = 0; i < MEL_BANDS; i++) {
        for (int b = 0; b < MEL_BINS; b++) {
            double f = (double)SAMPLE_RATE / MEL_WINDOW * b;
            double rise = (f - edge[i]) / (edge[i + 1] - edge[i]);
            double fall = (edge[i + 2] - f) / (edge[i + 2] - edge[i + 1]);
            bank[i][b] = fmax(0, fmin(rise, fall)) * 2 / (edge[i + 2] - edge[i]);
        }
    }
}

void mel_hann_window(double window[MEL_WINDOW]) {
    for (int k = 0; k < MEL_WINDOW; k++)
        window[k] = 0.5 - 0.5 * cos(2 * pi * k / MEL_WINDOW);
}

/* ---- one frame ---- */

typedef struct spectrum {
    double window[MEL_WINDOW];
    double cos[MEL_WINDOW / 2], sin[MEL_WINDOW / 2]; /* of -2 pi k / 1024 */
    double bank[MEL_BANDS][MEL_BINS];
    double re[MEL_WINDOW], im[MEL_WINDOW];
    double magnitude[MEL_BINS];
} spectrum;

static spectrum *spectrum_create(err *e) {
    spectrum *s = mem_alloc(e, 1, sizeof *s);
    if (!s)
        return NULL;
    mel_hann_window(s->window);
    mel_filter_bank(s->bank);
    for (int k = 0; k < MEL_WINDOW / 2; k++) {
        s->cos[k] = cos(2 * pi * k / MEL_WINDOW);
        s->sin[k] = -sin(2 * pi * k / MEL_WINDOW);
    }
    return s;
}

static int reversed_bits(int i) {
    int r = 0;
    for (int b = 0; b < LOG2_WINDOW; b++)
        r |= ((i >> b) & 1) << (LOG2_WINDOW - 1 - b);
    return r;
}

/* Discrete Fourier transform in place, radix 2; the input is in bit-reversed order. */
static void transform(spectrum *s) {
    for (int half = 1; half < MEL_WINDOW; half *= 2) {
        int step = MEL_WINDOW / 2 / half;
        for (int from = 0; from < MEL_WINDOW; from += 2 * half) {
            for (int k = 0; k < half; k++) {
                int a = from + k, b = a + half;
                double c = s->cos[k * step], w = s->sin[k * step];
                double re = s->re[b] * c - s->im[b] * w;
                double im = s->re[b] * w + s->im[b] * c;
                s->re[b] = s->re[a] - re;
                s->im[b] = s->im[a] - im;
                s->re[a] += re;
                s->im[a] += im;
            }
        }
    }
}

/* Sample i of the wave, mirrored at both ends without repeating the end itself. */
static double reflected(const float *wave, int64_t n, int64_t i) {
    if (i < 0)
        i = -i;
    if (i >= n)
        i = 2 * (n - 1) - i;
    return fmin(fmax((double)wave[i], -1), 1);
}

static void frame_magnitude(spectrum *s, const float *wave, int64_t n, int64_t frame) {
    for (int k = 0; k < MEL_WINDOW; k++) {
        int to = reversed_bits(k);
        s->re[to] = s->window[k] * reflected(wave, n, frame * MEL_HOP + k - PAD);
        s->im[to] = 0;
    }
    transform(s);
    for (int b = 0; b < MEL_BINS; b++)
        s->magnitude[b] = sqrt(s->re[b] * s->re[b] + s->im[b] * s->im[b] + 1e-9);
}

static void log_mel(const spectrum *s, float *mel) {
    for (int i = 0; i < MEL_BANDS; i++) {
        double sum = 0;
        for (int b = 0; b < MEL_BINS; b++)
            sum += s->bank[i][b] * s->magnitude[b];
        mel[i] = (float)log10(fmax(sum, 1e-5));
    }
}

/* ---- whole waves ---- */

static ovi_status check_wave(const float *wave, int64_t n, err *e) {
    if (n < MEL_MIN_SAMPLES)
        return err_set(e, OVI_ARGUMENT,
                       "sound has %" PRId64 " samples, at least %d needed", n,
                       MEL_MIN_SAMPLES);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(wave[i]))
            return err_set(e, OVI_ARGUMENT,
                           "sample %" PRId64 " of the sound is not finite", i);
    return OVI_OK;
}

ovi_status mel_magnitude(const float *wave, int64_t n, float *magnitude, err *e) {
    if (check_wave(wave, n, e) != OVI_OK)
        return e->status;
    spectrum *s = spectrum_create(e);
    if (!s)
        return e->status;
    for (int64_t t = 0; t < mel_frames(n); t++) {
        frame_magnitude(s, wave, n, t);
        for (int b = 0; b < MEL_BINS; b++)
            magnitude[t * MEL_BINS + b] = (float)s->magnitude[b];
    }
    mem_free(s);
    return OVI_OK;
}

ovi_status mel_from_wave(const float *wave, int64_t n, float *mel, err *e) {
    if (check_wave(wave, n, e) != OVI_OK)
        return e->status;
    spectrum *s = spectrum_create(e);
    if (!s)
        return e->status;
    for (int64_t t = 0; t < mel_frames(n); t++) {
        frame_magnitude(s, wave, n, t);
        log_mel(s, mel + t * MEL_BANDS);
    }
    mem_free(s);
    return OVI_OK;
}
