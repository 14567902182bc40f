#!/bin/sh
# demo.sh BUILD: makes a clip with the small model that ships in models/tiny, and a strip of its
# frames; prints the paths of both.
set -eu
out="$1/demo"
mkdir -p "$out"
"$1/ovi" generate --force --models models/tiny --steps 20 -o "$out/demo.mp4" \
    "a green star bouncing on a dark floor. <AUDCAP>A thump at every bounce.<ENDAUDCAP>"
ffmpeg -y -loglevel error -i "$out/demo.mp4" \
    -vf "select='not(mod(n,6))',tile=9x1" -frames:v 1 "$out/demo.png"
echo "$out/demo.png"
