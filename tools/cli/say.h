/* say.h: sentences on standard error, and texts from outside made harmless: names and values
 * come from files and command lines, and a terminal obeys control characters. */
#ifndef OVI_CLI_SAY_H
#define OVI_CLI_SAY_H

#include <jansson.h>
#include <stdbool.h>

/* A word that stands out: in colour on a terminal, unless $NO_COLOR is set. */
typedef enum say_colour { SAY_PLAIN, SAY_RED, SAY_YELLOW } say_colour;
void cli_put_word(const char *word, say_colour colour);
/* One line, "ovi" before its colon in red: its controls, and bytes that are no UTF-8, are question marks. */
void cli_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same of a text in place; line ends stay if wanted. */
void cli_mask(char *text, bool keep_line_ends);
/* A text as JSON, which is UTF-8: other bytes are question marks. NULL is "". */
json_t *cli_json_text(const char *text);
#endif
