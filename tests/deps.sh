#!/bin/sh
# deps.sh: `make deps` without root: what is missing and the line that installs it, and nothing else.
# A dpkg-query that knows no package stands in for a fresh machine; the user is nobody.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
[ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null || exit 77 # counted as skipped
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
printf '#!/bin/sh\nexit 1\n' >"$folder/dpkg-query"
chmod 755 "$folder/dpkg-query"
cp "$top/cmake/deps.sh" "$folder/deps"
as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups env PATH="$1" "$folder/deps"; }

if said=$(as_nobody "$folder:$PATH"); then
    echo "expected a refusal, found: $said"
    exit 1
fi
echo "$said" | grep -q '^    sudo apt-get install .* libdnnl-dev .* clang ' || {
    echo "expected the line with sudo, found: $said"
    exit 1
}
[ "$(echo "$said" | wc -l)" -eq 2 ]
said=$(as_nobody "$PATH") # all is there: nothing to say
[ -z "$said" ]
