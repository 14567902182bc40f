/* fuzz_tokenizer.c: spiece.model and tokenizer.json. What is accepted encodes any text into ids of
 * its vocabulary. */
#include "fuzz.h"
#include "text/tokenizer.h"

#define MOST_IDS 64

static void encode(const tokenizer *t, const char *text) {
    err e = {0};
    tokens k = {0};
    if (tokenizer_encode(t, utf8_view_of(text), MOST_IDS, &k, &e) != OVI_OK)
        return;
    FUZZ_HOLDS(k.n >= 1 && k.n <= MOST_IDS);
    for (int i = 0; i < k.n; i++)
        FUZZ_HOLDS(k.id[i] >= 0 && k.id[i] < tokenizer_count(t));
    tokens_release(&k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    err e = {0};
    tokenizer *t = NULL;
    if (tokenizer_open(&t, fuzz_file(data, size), &e) == OVI_OK) {
        encode(t, "");
        encode(t, "a ab  abc");
        encode(t, "The caf\xc3\xa9 \xef\xbc\xa6\xe2\x80\x94 </s> \xff\xe2\x80");
        tokenizer_free(t);
    }
    return 0;
}
