/* prompt.c: the form in which each model variant was shown its sound descriptions, and
 * what the user should hear about tags.
 *
 * Speech is <S>words<E> for every variant. The sound description is <AUDCAP>..<ENDAUDCAP>
 * for 720x720_5s and "Audio: .." for the 960x960 models; prompts written for one are
 * rewritten for the other. Tags are case-sensitive and mean nothing to this program
 * beyond that: they are tokenised as plain text. */
#include "text/prompt.h"

#include <string.h>

static const utf8_view AUDIO = {"Audio:", 6};
static const utf8_view AUDCAP = {"<AUDCAP>", 8};
static const utf8_view ENDAUDCAP = {"<ENDAUDCAP>", 11};

#define NOT_FOUND SIZE_MAX

bool prompt_style_parse(const char *name, prompt_style *out) {
    bool audcap = strcmp(name, "audcap") == 0;
    if (!audcap && strcmp(name, "audio") != 0)
        return false;
    *out = audcap ? PROMPT_AUDCAP : PROMPT_AUDIO;
    return true;
}

/* Offset of the first word in text at or after `from`. */
static size_t find(utf8_view text, size_t from, utf8_view word) {
    if (from > text.size)
        return NOT_FOUND;
    const char *at = memmem(text.data + from, text.size - from, word.data, word.size);
    return at ? (size_t)(at - text.data) : NOT_FOUND;
}

static void put(buf *out, utf8_view v) {
    buf_append(out, v.data, v.size);
}

static utf8_view skip_space(utf8_view v) {
    while (v.size > 0) {
        uint32_t rune;
        size_t n = utf8_decode(v, &rune, NULL);
        if (!rune_is_space(rune))
            break;
        v = utf8_view_from(v, n);
    }
    return v;
}

/* The first "Audio:" and the white space after it become <AUDCAP>, the end
 * <ENDAUDCAP>. */
static bool to_audcap(utf8_view raw, buf *out) {
    size_t at = find(raw, 0, AUDIO);
    if (at == NOT_FOUND)
        return false;
    put(out, (utf8_view){raw.data, at});
    put(out, AUDCAP);
    put(out, skip_space(utf8_view_from(raw, at + AUDIO.size)));
    put(out, ENDAUDCAP);
    return true;
}

/* Every <AUDCAP> with the nearest <ENDAUDCAP> after it becomes "Audio: " and the words
 * between them. */
static bool to_audio(utf8_view raw, buf *out) {
    size_t done = 0;
    for (;;) {
        size_t open = find(raw, done, AUDCAP);
        if (open == NOT_FOUND)
            break;
        size_t words = open + AUDCAP.size, close = find(raw, words, ENDAUDCAP);
        if (close == NOT_FOUND)
            break;
        put(out, (utf8_view){raw.data + done, open - done});
        put(out, AUDIO);
        buf_putc(out, ' ');
        put(out, (utf8_view){raw.data + words, close - words});
        done = close + ENDAUDCAP.size;
    }
    put(out, utf8_view_from(raw, done));
    return done > 0;
}

ovi_status prompt_rewrite(prompt_style style, utf8_view raw, buf *out, bool *changed,
                          err *e) {
    buf_clear(out);
    bool rewritten = style == PROMPT_AUDCAP ? to_audcap(raw, out) : to_audio(raw, out);
    if (style == PROMPT_AUDCAP && !rewritten)
        put(out, raw);
    if (!buf_ok(out))
        return err_set(e, OVI_MEMORY, "prompt: out of host memory for %zu bytes",
                       raw.size);
    *changed = rewritten;
    return OVI_OK;
}

/* ------------------------------------------------------------------------ notices
 * ---- */

/* Do open and close take turns, starting with open and ending with close? */
static bool is_balanced(utf8_view text, utf8_view open, utf8_view close) {
    for (size_t at = 0;;) {
        size_t begin = find(text, at, open), end = find(text, at, close);
        if (begin == NOT_FOUND && end == NOT_FOUND)
            return true;
        if (begin == NOT_FOUND || end == NOT_FOUND || end < begin)
            return false;
        if (find(text, begin + open.size, open) < end)
            return false;
        at = end + close.size;
    }
}

static bool has(utf8_view text, const char *word) {
    return find(text, 0, utf8_view_of(word)) != NOT_FOUND;
}

/* Appends to the list while it has room, which it always has. */
static void add(prompt_notice **next, const char *about, bool hint,
                const char *sentence) {
    *(*next)++ = (prompt_notice){about, sentence, hint};
}

static void notice_speech(utf8_view text, prompt_notice **next) {
    if (!is_balanced(text, utf8_view_of("<S>"), utf8_view_of("<E>")))
        add(next, "speech", false,
            "speech tags are not balanced or stand in each other: every <S> wants one "
            "<E> "
            "after its words");
    else if (!has(text, "<S>"))
        add(next, "speech", true,
            "no speech: words to be spoken stand between <S> and <E>");
    if (has(text, "<s>") || has(text, "<e>"))
        add(next, "tags", false,
            "<s> and <e> are not speech tags: write <S> and <E> in capitals");
}

static void notice_sound(prompt_style style, utf8_view text, prompt_notice **next) {
    bool audcap = has(text, "<AUDCAP>"), end = has(text, "<ENDAUDCAP>");
    bool audio = has(text, "Audio:");
    if (!is_balanced(text, AUDCAP, ENDAUDCAP))
        add(next, "sound", false,
            "sound tags are not balanced: every <AUDCAP> wants one <ENDAUDCAP> after its "
            "words");
    else if (style == PROMPT_AUDIO && audcap)
        add(next, "sound", false,
            "this model knows sound as \"Audio: ..\", not as <AUDCAP>");
    else if (style == PROMPT_AUDCAP && !audcap)
        add(next, "sound", false,
            "no sound description: this model knows it as <AUDCAP>..<ENDAUDCAP>");
    else if (style == PROMPT_AUDIO && !audio)
        add(next, "sound", false,
            "no sound description: this model knows it as \"Audio: ..\"");
    if (!audcap && !end && (has(text, "<audcap>") || has(text, "audio:")))
        add(next, "tags", false,
            "tags are case-sensitive: write <AUDCAP>, <ENDAUDCAP>, Audio:");
}

int prompt_notices(prompt_style style, utf8_view cleaned,
                   prompt_notice out[PROMPT_MAX_NOTICES]) {
    prompt_notice *next = out;
    notice_speech(cleaned, &next);
    notice_sound(style, cleaned, &next);
    return (int)(next - out);
}
