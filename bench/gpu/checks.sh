# checks.sh: are the results right, as this card is and as lesser ones? All of it runs side by side.
# Part of gpu_run.sh.

export OVI_TEST_REQUIRE=cuda # a test without the GPU is no test
CLONE=tests/data/golden
LIMIT=${LIMIT:-400} # seconds of each, with all that runs beside
# As whom: with kernels of other devices; with weights that come on other ways, tensors elsewhere.
KERNELS="sm80 sm86 sm80,no-cudnn no-cudnn no-workspace sm80,no-workspace watchdog sm86,watchdog"
PLACES="slow-link no-pin,no-cache direct poisoned apart"
SMALL_PROMPT="A dog barks at the sea. <S>Hello there.<E> <AUDCAP>Barking, waves.<ENDAUDCAP>"

# golden NAME FOLDER EMULATE: in both types.
golden() {
    local dtype
    for dtype in f32 bf16; do
        beside "golden-$1-$dtype" $LIMIT sh tests/golden.sh "$BIN/ovi-golden" "$DEVICE" $dtype "$2" "$3"
    done
}

# small NAME OPTIONS...: a clip of the small model; what of its bytes must be equal says gpu_collect.py.
small() {
    local name=small-$1
    shift
    beside "$name" $LIMIT small_clip "$name" "$@"
}
small_clip() {
    local at=$WORK/$1
    shift
    timeout -k 5 $LIMIT "$BIN/ovi" generate "$SMALL_PROMPT" --models models/tiny --device "$DEVICE" --dtype bf16 --seed 3 \
        --steps 8 --cache "$at.cache" --save-latents "$at.safetensors" -o "$at.y4m" --quiet "$@"
    local rc=$?
    rm -rf "$at.cache"
    python3 bench/gpu/digest.py "$at"
    return $rc
}

# A module of PTX alone, which the driver compiles. (With CUDA_FORCE_PTX_JIT cuBLASLt does not start.)
check_ptx() {
    local bin=$WORK/ptx.bin
    [ -e "$BIN/ptx/libovi_cuda.so" ] || { beside ptx 1 missing "$BIN/ptx/libovi_cuda.so"; return; }
    mkdir -p "$bin"
    cp "$BIN"/ovi-golden "$BIN"/test_ops "$BIN"/lib*.so* "$bin" 2>/dev/null
    cp "$BIN/ptx/libovi_cuda.so" "$bin"
    beside ptx $LIMIT compiled_by_the_driver "$bin"
}
compiled_by_the_driver() {
    local bin=$1 dtype worst=0
    export LD_LIBRARY_PATH=$bin:$LD_LIBRARY_PATH CUDA_CACHE_PATH=$WORK/jit CUDA_CACHE_MAXSIZE=2147483648
    for dtype in f32 bf16; do
        timeout $LIMIT sh tests/golden.sh "$bin/ovi-golden" "$DEVICE" $dtype "$CLONE" || worst=$?
    done
    timeout $LIMIT "$bin/test_ops" || worst=$?
    return $worst
}

check() {
    local words
    beside ops $LIMIT "$BIN/test_ops"
    golden clone "$CLONE" ""
    [ -z "$GOLDEN" ] || golden all "$GOLDEN" ""
    for words in $KERNELS; do
        beside "ops-$words" $LIMIT env OVI_TEST_EMULATE="$words" "$BIN/test_ops"
    done
    for words in $KERNELS $PLACES; do
        golden "$words" "${GOLDEN:-$CLONE}" "$words"
    done
    check_ptx
    small plain
    small ram --ram 600M
    for words in sm80 watchdog no-pin no-pin,no-cache direct slow-link poisoned apart no-workspace \
        sm86,watchdog,no-workspace,slow-link; do
        small "$words" --emulate "$words"
    done
}

# A block of published widths on the GPU against f32 on the processor, and in fp8; needs the models.
check_block() {
    beside block $LIMIT env OMP_NUM_THREADS=4 "$BIN/block_error" "$MODELS/Ovi/model.safetensors" 3 16
}

# Every way of every stage takes what its plan says.
peaks() {
    beside peaks-micro $LIMIT "$BIN/test_peaks" micro
    beside peaks-mid-f32 $LIMIT "$BIN/test_peaks" mid f32
    beside peaks-mid-bf16 $LIMIT "$BIN/test_peaks" mid bf16
}

# sanitizer TOOL NAME WORDS COMMAND...: as a device of these words. Hazards in cuDNN's own kernels
# are NVIDIA's to mend.
sanitizer() {
    local tool=$1 name=$2 words=$3 skip=()
    shift 3
    [ "$tool" = racecheck ] && skip=(--kernel-name-exclude kernel_substring=cudnn)
    beside "$tool-$name" $LIMIT env OVI_TEST_EMULATE="$words" "$SANITIZER" --tool "$tool" "${skip[@]}" --error-exitcode 9 "$@"
}

# Every tensor an allocation of its own, full of NaN; the files dealt to four processes, of which
# each has some that use the device.
memcheck_golden() {
    local dtype=$1 i files=("${GOLDEN:-$CLONE}"/*.safetensors) group
    for i in 0 1 2 3; do
        group=()
        for ((; i < ${#files[@]}; i += 4)); do
            group+=("${files[i]}")
        done
        sanitizer memcheck "golden-$dtype-$((i % 4))" "" "$BIN/ovi-golden" --backend "$DEVICE" --dtype "$dtype" --emulate apart "${group[@]}"
    done
}

sanitize() {
    local words
    SANITIZER=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1)
    [ -n "$SANITIZER" ] || { beside sanitize 1 missing compute-sanitizer; return; }
    for words in "" sm80 sm80,no-cudnn; do # in two: together they take 400 s beside the rest
        sanitizer racecheck "attention${words:+-$words}" "$words" "$BIN/test_ops" '*attention*'
        sanitizer racecheck "ops${words:+-$words}" "$words" "$BIN/test_ops" '!*attention*'
    done
    for words in "" apart sm80 sm80,no-cudnn; do
        sanitizer memcheck "ops${words:+-$words}" "$words" "$BIN/test_ops"
    done
    memcheck_golden bf16
    memcheck_golden f32
}
