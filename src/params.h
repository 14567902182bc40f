/* params.h: the one table of options, for code inside the library. */
#ifndef OVI_PARAMS_H
#define OVI_PARAMS_H

#include "core/err.h"

/* Checks every field of a settings or request struct against the table. */
ovi_status params_check_settings(const ovi_settings *settings, err *e) OVI_MUST_CHECK;
ovi_status params_check_request(const ovi_request *request, err *e) OVI_MUST_CHECK;

/* The first option of a request that is not at its default, other than those named in
 * `except`, separated by spaces; NULL: there is none. */
const char *params_changed(const ovi_request *request, const char *except);

/* "WIDTHxHEIGHT" and "W:H": two positive whole numbers; false if it is not that. */
bool params_parse_pair(const char *text, char separator, int *first, int *second);

/* A size like 6G or 512MiB in bytes; auto gives 0; false if it is neither. */
bool params_parse_size(const char *text, size_t *bytes);
#endif
