#!/bin/sh
# lint.sh: what the compiler does not check: format, the include law, headers that compile
# alone, file names that are unique in the tree, length, and clang-tidy.
set -eu
cd "$(dirname "$0")/.."
status=0
fail() {
    echo "lint: $*"
    status=1
}

sources=$(git ls-files -co --exclude-standard 'src/*.[ch]' 'src/*.cu' 'src/*.cuh' 'tools/*.[ch]' 'tests/*.[ch]' \
    'bench/*.[ch]' 'include/*.h' 'examples/*.c')

# Format.
for file in $sources; do
    case $file in *_table.h) continue ;; esac
    clang-format --dry-run -Werror "$file" >/dev/null 2>&1 || fail "$file: not in clang-format's form"
done

# Include law: folder -> folders it may include. "top" is src/*.c.
allowed() {
    case $1 in
        core) echo "core" ;;
        backend) echo "backend core" ;;
        weights) echo "weights backend/tensor.h core" ;;
        residency) echo "residency weights backend core" ;;
        sample) echo "sample backend core" ;;
        text | fusion | video | audio) echo "$1 residency weights backend core" ;;
        media) echo "media core" ;;
        top) echo "core backend weights residency sample text fusion video audio media top" ;;
        tools/cli) echo "none" ;;
    esac
}
for file in $sources; do
    case $file in
        src/*/*) folder=${file#src/} folder=${folder%%/*} ;;
        src/*) folder=top ;;
        tools/cli/*) folder=tools/cli ;;
        *) continue ;;
    esac
    rule=$(allowed "$folder")
    for included in $(sed -n 's/^#include "\([^"]*\)".*/\1/p' "$file"); do
        case $included in
            ovi.h) continue ;;
            */*) target=${included%%/*} ;;
            *)
                [ "$folder" = tools/cli ] && [ -f "tools/cli/$included" ] && continue
                target=top
                ;;
        esac
        ok=no
        for name in $rule; do
            [ "$name" = "$target" ] || [ "$name" = "$included" ] && ok=yes
        done
        [ $ok = yes ] || fail "$file: may not include $included"
    done
done

# Headers compile alone.
flags="-std=gnu11 -D_GNU_SOURCE -DOVI_WITH_CPU -DFAKE_DIR=\"\" -Wall -Wextra -Werror -fsyntax-only -Iinclude -Isrc -Itools/golden"
[ ! -d /usr/local/cuda/include ] || flags="$flags -isystem /usr/local/cuda/include"
for file in $sources; do
    case $file in
        src/backend/cuda/*) [ -d /usr/local/cuda/include ] || continue ;;
    esac
    case $file in
        *.h) printf '#include "%s"\n' "$PWD/$file" | cc $flags -x c - || fail "$file: does not compile alone" ;;
    esac
done
printf '#include "ovi.h"\n' | c++ -Wall -Wextra -Werror -fsyntax-only -Iinclude -x c++ - || fail "ovi.h: not C++ clean"

# Unique names.
repeated=$(for file in $sources; do basename "$file"; done | sort | uniq -d)
[ -z "$repeated" ] || fail "file names used twice: $repeated"

# Length: a function of 80 lines, a file of 900.
for file in $sources; do
    case $file in
        *_table.h) continue ;;
        src/* | tools/*) ;;
        *) continue ;;
    esac
    long=$(awk '/^[a-z].*[(,]/ && !/;$/ && !/ struct [a-z_]* {$/ { start = NR }
        /^}/ { if (start && NR - start > 80) print FILENAME ":" start ": " NR - start " lines"
               start = 0 }
        END { if (NR > 900) print FILENAME ": " NR " lines" }' "$file")
    [ -z "$long" ] || fail "too long: $long"
done

# What clang-tidy finds (.clang-tidy), where a build has said how files are compiled.
if [ -f build/compile_commands.json ] && command -v clang-tidy >/dev/null; then
    compiled=$(for file in $sources; do
        case $file in
            src/*.c | tools/*.c) ! grep -q "/$file\"" build/compile_commands.json || echo "$file" ;;
        esac
    done)
    echo "$compiled" | xargs -P2 -n8 clang-tidy -p build --quiet 2>/dev/null ||
        fail "clang-tidy has findings"
fi

[ $status -eq 0 ] && echo "lint: clean"
exit $status
