#!/bin/sh
# tour.sh BUILD: walks docs/TOUR.md in a folder of its own, prints every command with what it said,
# and makes the pictures of docs/tour anew. Needs the command line tools of FFmpeg for these.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "${1:-$source/build}" && pwd)
work=$(mktemp -d /tmp/ovi-tour-XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset OVI_MODELS || true
PATH=$build:$PATH

# A command of the tour: shown, run, and allowed to fail.
step() {
    printf '\n$ %s\n' "$*"
    sh -c "$*" 2>&1 || printf '(exit code %d)\n' $?
}

# strip CLIP NAME: eight frames beside each other, in few colours, into docs/tour.
strip() {
    ffmpeg -y -loglevel error -i "$1" -vf "select='not(mod(n,6))',scale=-2:96,tile=8x1:padding=2" \
        -frames:v 1 -update 1 strip.png
    ffmpeg -y -loglevel error -i strip.png -vf "split[a][b];[a]palettegen=max_colors=128[p];[b][p]paletteuse" \
        -frames:v 1 -update 1 "$source/docs/tour/$2.png"
}

step ovi --version
step ovi devices
step 'ovi lint "a green star bouncing on a dark floor"'
step 'ovi generate --steps 12 "a green star bouncing on a dark floor. <AUDCAP>A thump at every bounce.<ENDAUDCAP>" -o star.mp4'
strip star.mp4 star

# An image of our own: here a blue square, drawn; a photo does as well.
ffmpeg -y -loglevel error -f lavfi -i color=black:s=640x640 -vf \
    'drawbox=0:560:640:80:0x303038:fill,drawbox=60:220:160:160:0x2040e0:fill' -frames:v 1 -update 1 mine.png
step 'ovi generate --steps 12 --image mine.png "the blue square moves to the right. <AUDCAP>A rising sweep.<ENDAUDCAP>" -o mine.mp4'
strip mine.mp4 mine
step 'ovi inspect mine.mp4'
step 'ovi replay mine.mp4 --image mine.png -o again.mp4 && cmp mine.mp4 again.mp4 && echo the same bytes'

step 'ovi generate --steps 6 --quiet "a red circle moving left on a white floor. <AUDCAP>Beeps.<ENDAUDCAP>" -o circle.gif --sound circle.wav'
step 'ovi generate --steps 6 --quiet "a red circle moving left on a white floor. <AUDCAP>Beeps.<ENDAUDCAP>" -o circle/'
step 'ls circle | head -3; ls circle | wc -l'
step 'ovi generate --steps 6 --quiet "a red circle moving left on a white floor. <AUDCAP>Beeps.<ENDAUDCAP>" -o - --sound pipe.wav | ffmpeg -loglevel error -i - -i pipe.wav circle.mkv && ls circle.mkv'

cat >wishes.csv <<'END'
text_prompt,image_path,seed
"a yellow star growing on a black floor. <AUDCAP>A low tone.<ENDAUDCAP>",,1
"a purple triangle circling on a gray floor. <AUDCAP>Noise.<ENDAUDCAP>",,2
"the square moves up. <AUDCAP>A high tone.<ENDAUDCAP>",mine.png,3
"a cyan circle. <AUDCAP>Beeps.<ENDAUDCAP>",,many
END
step 'cat wishes.csv'
step 'ovi batch wishes.csv --steps 10 --quiet -o clips'
step 'cat wishes.csv.status.jsonl | cut -c1-160'
step 'sed -i s/many/4/ wishes.csv && ovi batch wishes.csv --steps 10 --quiet -o clips'
step 'ls clips'
n=0
for clip in clips/*.mp4; do
    n=$((n + 1))
    strip "$clip" "batch-$n"
done

step "make -s -C $source install BUILD=$build PREFIX=$work/ovi >/dev/null && ls ovi"
export PKG_CONFIG_PATH="$work/ovi/lib/pkgconfig:$(dirname "$(find "$work/ovi" -name ovi.pc)")"
LD_LIBRARY_PATH=$(dirname "$(find "$work/ovi" -name libovi.so)")
export LD_LIBRARY_PATH
step "cc $source/examples/generate.c \$(pkg-config --cflags --libs ovi) -o generate"
step "./generate $source/models/tiny 'a pink star jumping. <AUDCAP>Thumps.<ENDAUDCAP>' embedded.mp4 8 2>&1 | tail -3; ls embedded.mp4"
strip embedded.mp4 embedded
step "python3 $source/examples/generate.py $source/models/tiny 'a pink star jumping. <AUDCAP>Thumps.<ENDAUDCAP>' python.mp4 steps=8 && cmp embedded.mp4 python.mp4 && echo the same bytes"

step 'ovi generate --stepz 20 "a star"'
step 'ovi generate "a star" -o star.mp4'
step 'ovi generate "a star" --vram 1M -o other.mp4'
