/* ffmpeg.h: shared by the files that talk to the FFmpeg libraries. Inside media/ only. */
#ifndef OVI_MEDIA_FFMPEG_H
#define OVI_MEDIA_FFMPEG_H

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/avstring.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswresample/swresample.h>
#include <libswscale/swscale.h>

#include "media/image_check.h"
#include "media/media.h"

/* The FFmpeg libraries print to stderr unless told not to; this library never prints. A
 * level that the program has chosen itself stays. */
static inline void ffmpeg_quiet(void) {
    if (av_log_get_level() == AV_LOG_INFO)
        av_log_set_level(AV_LOG_QUIET);
}

/* "path: what: why", with the library's own words for the code. */
static inline ovi_status ffmpeg_fail(err *e, const char *path, const char *what,
                                     int code) {
    char why[AV_ERROR_MAX_STRING_SIZE] = "";
    av_strerror(code, why, sizeof why);
    ovi_status status = code == AVERROR(ENOMEM)       ? OVI_MEMORY
                        : code == AVERROR_INVALIDDATA ? OVI_FORMAT
                                                      : OVI_IO;
    return err_set(e, status, "%s: %s: %s", path, what, why);
}

/* Opens a file of a kind that clips have, with limits; only this file is read, whatever it says.
 * (clip.c) */
ovi_status ffmpeg_open(AVFormatContext **demux, const char *path, err *e) OVI_MUST_CHECK;

/* A decoded frame as RGB [height, width, 3]; *convert is kept between frames. A negative
 * FFmpeg code if that is impossible. (image_file.c) */
int ffmpeg_frame_to_rgb(const AVFrame *f, struct SwsContext **convert, uint8_t *rgb);
#endif
