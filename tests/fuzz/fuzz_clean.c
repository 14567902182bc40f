/* fuzz_clean.c: prompts. What prompt_clean promises (text/prompt.h): UTF-8, a bound on its length,
 * the same text again where no reference is left and nothing looks garbled, and an end of changes
 * everywhere. */
#include <string.h>

#include "core/host.h"
#include "fuzz.h"
#include "text/mojibake.h"
#include "text/prompt.h"

#define MOST_REPEATED 512 /* bytes of prompts that are cleaned until nothing changes */

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

/* Cleans again; did that change nothing? */
static bool clean_again(buf *text) {
    buf next = {0};
    err e = {0};
    size_t damaged = 0;
    utf8_view before = {buf_text(text), text->size};
    FUZZ_HOLDS(prompt_clean(before, &next, &damaged, &e) == OVI_OK);
    FUZZ_HOLDS(damaged == 0 && next.size <= PROMPT_MAX_GROWTH * before.size);
    bool same =
        next.size == text->size && memcmp(buf_text(&next), before.data, before.size) == 0;
    buf_release(text);
    *text = next;
    return same;
}

static void check_end(buf *text, size_t size) {
    size_t passes = 1;
    while (passes <= PROMPT_MOST_PASSES(size) && !clean_again(text))
        passes++;
    FUZZ_HOLDS(passes <= PROMPT_MOST_PASSES(size));
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
        FUZZ_HOLDS(out.size <= PROMPT_MAX_GROWTH * size);
        check_forms(cleaned);
        if (!holds_reference(raw) && !holds_reference(cleaned) && !looks_garbled(cleaned))
            FUZZ_HOLDS(clean_again(&out));
        else if (size <= MOST_REPEATED)
            check_end(&out, size);
    }
    buf_release(&out);
    return 0;
}
