/* speed.h: how fast a device is, as a file that `speed` names: a JSON object with `format` 1,
 * `name`, and per second `flops`, `bytes`, `link_bytes`. */
#ifndef OVI_SPEED_H
#define OVI_SPEED_H

#include "core/err.h"

ovi_status speed_read(ovi_device_speed *speed, const char *path, err *e) OVI_MUST_CHECK;
ovi_status speed_write(const ovi_device_speed *speed, const char *path,
                       err *e) OVI_MUST_CHECK;
#endif
