/* mel.h: waveform to log10-mel, the front end of the 16 kHz converter
 * (spec/audio-decoder.md section 4). Host code in f64; training data and tests use it. */
#ifndef OVI_MEL_H
#define OVI_MEL_H

#include <stdint.h>

#include "core/err.h"

#define MEL_BANDS       80
#define MEL_WINDOW      1024
#define MEL_BINS        (MEL_WINDOW / 2 + 1)
#define MEL_HOP         256
#define MEL_MIN_SAMPLES 385 /* reflect padding reads 384 samples past an end */

/* Frames that n samples give (0 below MEL_MIN_SAMPLES). */
int64_t mel_frames(int64_t n_samples);

/* The tables: triangles of equal area on the Slaney scale; periodic Hann. */
void mel_filter_bank(double bank[MEL_BANDS][MEL_BINS]);
void mel_hann_window(double window[MEL_WINDOW]);

/* wave [n] -> magnitude [mel_frames(n), 513]. */
ovi_status mel_magnitude(const float *wave, int64_t n, float *magnitude,
                         err *e) OVI_MUST_CHECK;
/* wave [n] -> mel [mel_frames(n), 80]. */
ovi_status mel_from_wave(const float *wave, int64_t n, float *mel, err *e) OVI_MUST_CHECK;
#endif
