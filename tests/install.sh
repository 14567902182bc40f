#!/bin/sh
# install.sh BUILD: installs into a folder of its own and uses what is there as others would:
# symbols, soname, pkg-config, C++, both examples (shared and static), Python, man page.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
build=$1
work=$(mktemp -d /tmp/ovi-install-XXXXXX)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "install: $*"
    exit 1
}

DESTDIR=$work cmake --install "$build" --prefix /opt/ovi >/dev/null
root=$work/opt/ovi
lib=$(dirname "$(find "$root" -name libovi.a)")
export PKG_CONFIG_PATH="$lib/pkgconfig" LD_LIBRARY_PATH="$lib"
[ -s "$root/share/man/man1/ovi.1" ] || fail "no man page"
[ -s "$root/share/bash-completion/completions/ovi" ] || fail "no completion"
[ "$("$root/bin/ovi" --version)" = "ovi $(pkg-config --modversion ovi)" ] ||
    fail "versions differ"

# Symbols: the functions of ovi.h, no more and no less, in both libraries.
sed -n 's/.*OVI_API.*[ *]\(ovi_[a-z_]*\)(.*/\1/p' "$root/include/ovi.h" | sort >"$work/declared"
nm -D --defined-only "$lib/libovi.so" | awk '$2 == "T" { sub(/@.*/, "", $3); print $3 }
    $2 != "T" && $2 != "A" { print "other:" $3 }' | sort >"$work/shared"
nm -g --defined-only "$lib/libovi.a" | awk 'NF == 3 { print $3 }' | sort >"$work/static"
[ "$(wc -l <"$work/declared")" -gt 30 ] || fail "ovi.h declares too little: $(cat "$work/declared")"
diff "$work/declared" "$work/shared" || fail "libovi.so does not show what ovi.h declares"
diff "$work/declared" "$work/static" || fail "libovi.a does not show what ovi.h declares"
readelf -d "$lib/libovi.so" | grep -q 'SONAME.*libovi\.so\.0\]' || fail "no soname libovi.so.0"

# Programs.
cflags="-Wall -Wextra -Wpedantic -Werror $(pkg-config --cflags ovi)"
cd "$work"
for example in generate two_clips; do
    cc -std=c11 $cflags "$source/examples/$example.c" $(pkg-config --libs ovi) -o $example
    # libovi.a with the shared libraries it needs (--static would ask for theirs as well)
    cc -std=c11 $cflags "$source/examples/$example.c" "$lib/libovi.a" \
        $(pkg-config --libs $(pkg-config --print-requires-private ovi)) \
        $(pkg-config --variable=private_libs ovi) -o $example-static
done
ldd ./generate | grep -q "$lib/libovi.so.0" || fail "the example does not use libovi.so.0"
! ldd ./generate-static | grep -q libovi || fail "the static example uses libovi.so"
cat >header.cc <<'END'
#include <ovi.h>
int main() {
    ovi_request request;
    ovi_request_init(&request);
    return request.steps > 0 && ovi_status_name(OVI_OK) ? 0 : 1;
}
END
c++ $cflags header.cc $(pkg-config --libs ovi) -o header
./header || fail "the C++ program"

# Clips: the same bytes by every way.
prompt="Rain. <AUDCAP>Rain.<ENDAUDCAP>"
"$root/bin/ovi" make-checkpoint --preset micro models >/dev/null
"$root/bin/ovi" generate --models models --steps 2 --quiet -o command.wav "$prompt" >/dev/null
./generate models "$prompt" shared.wav 2 2>/dev/null
./generate-static models "$prompt" static.wav 2 2>/dev/null
python3 "$source/examples/generate.py" models "$prompt" python.wav steps=2 >/dev/null
for way in shared static python; do
    cmp command.wav $way.wav
done
[ "$(./two_clips models "A dog." "A cat.")" = "clip 1: 5 frames
clip 2: 5 frames" ] || fail "two_clips"
./two_clips-static models "A dog." "A cat." >/dev/null

# Failures come with their sentence.
! ./generate nowhere "$prompt" x.wav 2>said || fail "an empty folder was taken"
grep -q nowhere said || fail "said: $(cat said)"
! python3 "$source/examples/generate.py" models x x.wav steps=many 2>said || fail "steps=many"
grep -q "steps: expected a whole number" said || fail "said: $(cat said)"
