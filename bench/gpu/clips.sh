# clips.sh: what is timed, one after the other with nothing else on the card: part_NAME for each of
# PARTS. Part of gpu_run.sh.

PROMPT="A dog barks at the sea while waves roll in and a man on the shore turns around and
laughs, warm evening light, hand-held camera. <S>Hello there, old friend.<E> <AUDCAP>Barking,
waves, a man's laughing voice, wind in the microphone.<ENDAUDCAP>"
LONG_PROMPT=$(printf 'the quick brown fox jumps over a lazy dog and %.0s' $(seq 80)) # all 512 rows

# made NAME LIMIT PROGRAM WORDS...: a clip of the full-size models, its memory report and digests.
made() {
    local name=$1 limit=$2 at=$WORK/$1 rc
    shift 2
    piece "$name" "$limit" "$@" --models "$MODELS" --device "$DEVICE" --json --log-level debug \
        --memory-report "$at.memory.json" -o "$at.y4m"
    rc=$?
    python3 bench/gpu/digest.py "$at"
    return $rc
}

# clip NAME LIMIT OPTIONS...
clip() {
    local name=$1 limit=$2
    shift 2
    made "$name" "$limit" "${PROGRAM:-$BIN/ovi}" generate "$PROMPT" --aspect 1:1 --seed 1 \
        --save-latents "$WORK/$name.safetensors" "$@"
}

# decode NAME OPTIONS...: of the resident clip's latents.
decode() {
    local name=$1
    shift
    [ -e "$WORK/resident.safetensors" ] || part_clip
    made "$name" 60 "$BIN/ovi" decode "$WORK/resident.safetensors" "$@"
}

# The long model: its published files have the same tensors and a name of their own.
long_clip() {
    local name=$1
    shift
    ln -sf "$MODELS/Ovi/model.safetensors" "$WORK/model_960x960_10s.safetensors"
    clip "$name" 180 --variant 960x960_10s --fusion "$WORK/model_960x960_10s.safetensors" --steps "$LONG_STEPS" "$@"
}

make_models() {
    [ -d "$MODELS" ] || timeout 250 "$BIN/ovi" make-checkpoint "$MODELS" --preset "$PRESET" --quiet
}

# reference NAME LIMIT OPTIONS...
reference() {
    local name=$1 limit=$2
    shift 2
    piece "$name" "$limit" python3 bench/compare_gpu.py --json "$WORK/$name.json" "$@"
    cat "$WORK/$name.out"
}

part_reference() { reference reference 120 --steps 3 --seconds 70; }
part_long_reference() {
    reference reference-long 140 --presets 960x960_10s --steps 1 --decodes 1 --seconds 70 --one-code
}

part_ops() {
    # Stages that are warm, every operation timed alone, ceilings.
    piece bench 100 "$BIN/ovi" bench --prompt "$LONG_PROMPT" --models "$MODELS" --device "$DEVICE" --aspect 1:1 \
        --steps 4 --repeat 3 --json --quiet --save "$WORK/speed.json"
}

part_clip() { clip resident 120 --steps "$STEPS"; }
part_whole() { # start of the process to raw frames and WAV
    clip whole-50 200 --steps 50
    clip whole-50-fp8 200 --steps 50 --fp8-products
    noted fp8-latents 60 python3 bench/gpu/differ.py "$WORK/whole-50.safetensors" "$WORK/whole-50-fp8.safetensors"
}
part_fp8() {
    clip step-fp8 120 --fp8-products --steps "$STEPS"
    clip step-fp8-4GiB 120 --fp8-products --vram 4GiB --steps "$STEPS"
}
part_stream() {
    clip stream-4GiB 120 --vram 4GiB --steps "$STEPS"
    clip stream-6G 120 --vram 6G --steps "$STEPS"
}
part_decode() {
    local vram
    for vram in 80G 5500M 3G; do
        decode decode-$vram --vram $vram
    done
}
part_modes() {
    # A build without FFmpeg reads no pictures; ovi-image is one that makes them.
    if [ -x "$BIN/ovi-image" ]; then
        PROGRAM=$BIN/ovi-image clip image 120 --image 704x704 --steps "$STEPS"
    else
        piece image 1 missing "$BIN/ovi-image"
    fi
    clip blocks-12GiB 120 --vram 12GiB --steps "$STEPS" # some blocks resident, the others streamed
}
part_long() {
    long_clip long-resident
    long_clip long-stream-6GiB --vram 6GiB
}
part_long_more() {
    long_clip long-8GiB --vram 8GiB
    long_clip long-12GiB --vram 12GiB
}

# Ways in which weights reach the GPU; the last is a lane of PCIe 3.0.
part_ways() {
    local words
    clip way-plain 120 --vram 4GiB --steps 1
    for words in no-pin no-pin,no-cache direct slow-link; do
        clip "way-$words" 120 --vram 4GiB --steps 1 --emulate "$words"
    done
}

# Beside a program that holds all but 6 GiB, of which no option tells.
part_ballast() {
    local ballast held=$WORK/held.json
    [ -e "$WORK/resident.safetensors" ] || part_clip
    timeout 150 python3 bench/ballast.py 6 >"$held" 2>"$WORK/held.err" &
    ballast=$!
    until [ -s "$held" ] || ! kill -0 $ballast 2>/dev/null; do
        sleep 0.2
    done
    if [ -s "$held" ]; then
        cat "$held"
        clip ballast 120 --steps "$STEPS"
        decode ballast-decode
    else
        piece ballast 1 missing "a program that holds the card ($(tail -1 "$WORK/held.err"))"
    fi
    kill $ballast 2>/dev/null
    wait $ballast 2>/dev/null
}
