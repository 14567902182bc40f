/* fuzz_clean.c: prompts. Cleaning gives UTF-8 of at most CLEAN_MAX_GROWTH times the length, and
 * gives the same again when it is repeated, where no character reference is left to decode and
 * nothing looks garbled: lines are repaired one by one and then joined. */
#include <string.h>

#include "core/host.h"
#include "fuzz.h"
#include "text/mojibake.h"
#include "text/prompt.h"

#define CLEAN_MAX_GROWTH 3

static bool holds_reference(utf8_view v) {
    return memchr(v.data, '&', v.size) || memmem(v.data, v.size, "\xef\xbc\x86", 3);
}

static bool looks_garbled(utf8_view v) {
    err e = {0};
    runes before = {.err = &e}, after = {.err = &e};
    runes_append_utf8(&before, v);
    runes_append_utf8(&after, v);
    mojibake_repair(&after);
    bool changed = !runes_equal(&before, &after);
    runes_release(&before);
    runes_release(&after);
    return changed;
}

static void check_again(const buf *once) {
    buf twice = {0};
    err e = {0};
    size_t damaged = 0;
    utf8_view text = {buf_text(once), once->size};
    FUZZ_HOLDS(prompt_clean(text, &twice, &damaged, &e) == OVI_OK);
    FUZZ_HOLDS(damaged == 0);
    FUZZ_HOLDS(twice.size == once->size &&
               memcmp(buf_text(&twice), buf_text(once), once->size) == 0);
    buf_release(&twice);
}

static void check_forms(utf8_view cleaned) {
    for (int style = PROMPT_AUDCAP; style <= PROMPT_AUDIO; style++) {
        buf out = {0};
        prompt_notice notices[PROMPT_MAX_NOTICES];
        err e = {0};
        bool changed;
        FUZZ_HOLDS(prompt_rewrite((prompt_style)style, cleaned, &out, &changed, &e) ==
                   OVI_OK);
        FUZZ_HOLDS(utf8_is_valid((utf8_view){buf_text(&out), out.size}));
        int n = prompt_notices((prompt_style)style, cleaned, notices);
        FUZZ_HOLDS(n >= 0 && n <= PROMPT_MAX_NOTICES);
        buf_release(&out);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    err e = {0};
    buf out = {0};
    size_t damaged = 0;
    utf8_view raw = {(const char *)data, size};
    if (prompt_clean(raw, &out, &damaged, &e) == OVI_OK) {
        utf8_view cleaned = {buf_text(&out), out.size};
        FUZZ_HOLDS(utf8_is_valid(cleaned));
        FUZZ_HOLDS(out.size <= CLEAN_MAX_GROWTH * size);
        if (size > 0 && !holds_reference(raw) && !holds_reference(cleaned) &&
            !looks_garbled(cleaned))
            check_again(&out);
        check_forms(cleaned);
    }
    buf_release(&out);
    return 0;
}
