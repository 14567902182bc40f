/* SHA-256 against the examples of FIPS 180-4, whole and in pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/sha256.h"

static void check(const char *text, size_t repeat, const char *want) {
    sha256 s;
    char have[SHA256_HEX_SIZE];
    sha256_init(&s);
    for (size_t i = 0; i < repeat; i++)
        sha256_update(&s, text, strlen(text));
    sha256_hex(&s, have);
    assert_string_equal(have, want);
}

static void known_messages_have_known_digests(void **state) {
    (void)state;
    check("", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check("abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    check("aaaaaaaaaa", 100000,
          "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void pieces_make_the_same_digest_as_the_whole(void **state) {
    (void)state;
    uint8_t bytes[300];
    char whole[SHA256_HEX_SIZE], parts[SHA256_HEX_SIZE];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7);
    for (size_t n = 0; n <= sizeof bytes; n += 13) {
        for (size_t cut = 0; cut <= n; cut += 11) {
            sha256 s;
            sha256_init(&s);
            sha256_update(&s, bytes, n);
            sha256_hex(&s, whole);
            sha256_init(&s);
            sha256_update(&s, bytes, cut);
            sha256_update(&s, bytes + cut, n - cut);
            sha256_hex(&s, parts);
            assert_string_equal(whole, parts);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_messages_have_known_digests),
        cmocka_unit_test(pieces_make_the_same_digest_as_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
