#!/bin/sh
# demo.sh BUILD: makes a small random checkpoint and a clip with it; prints the clip's path.
set -eu
ovi="$1/ovi"
out="$1/demo"
mkdir -p "$out"
if [ ! -f "$out/tiny/ovi.json" ]; then
    rm -rf "$out/tiny"
    "$ovi" make-checkpoint --preset tiny "$out/tiny" >/dev/null
fi
"$ovi" generate --models "$out/tiny" --steps 20 -o "$out/demo.mp4" \
    "A lighthouse keeper greets the morning. <S>Good morning, sea.<E> <AUDCAP>Waves, gulls, a warm voice.<ENDAUDCAP>"
