/* mojibake.h: UTF-8 that was once read as Latin-1 or Windows-1252, put right. */
#ifndef OVI_TEXT_MOJIBAKE_H
#define OVI_TEXT_MOJIBAKE_H

#include "text/utf8.h"

/* Repairs text in place until nothing changes. */
void mojibake_repair(runes *text);

/* A C1 control as Windows-1252 has that byte (U+0092 -> U+2019); any other character, and
 * the five bytes that Windows-1252 leaves undefined, as it is. */
uint32_t c1_to_windows_1252(uint32_t rune);
#endif
