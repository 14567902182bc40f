# pieces.sh: commands whose end is noted, a row each in $WORK/pieces.jsonl; what they print goes to
# $WORK/NAME.out and NAME.err. Part of gpu_run.sh.

JOBS=$(($(nproc) * 3 / 2))
PIECES=() # in the background

# noted NAME LIMIT COMMAND...
noted() {
    local name=$1 limit=$2 start rc
    shift 2
    start=$(date +%s.%N)
    if [ "$(type -t "$1")" = function ]; then
        "$@"
    else
        timeout -k 5 "$limit" "$@"
    fi >"$WORK/$name.out" 2>"$WORK/$name.err"
    rc=$?
    python3 bench/gpu/note.py "$WORK" "$name" $rc "$start" "$@"
    return $rc
}

USED=(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits)

# piece NAME LIMIT COMMAND...: alone on the card; the driver is asked meanwhile for its memory.
piece() {
    local watch rc
    "${USED[@]}" | head -1 >"$WORK/$1.before"
    "${USED[@]}" -lms 50 >"$WORK/$1.used" 2>/dev/null &
    watch=$!
    noted "$@"
    rc=$?
    kill $watch
    wait $watch 2>/dev/null
    return $rc
}

# beside NAME LIMIT COMMAND...: in the background, JOBS at a time: who waits for the GPU leaves a
# processor to others.
beside() {
    while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do
        wait -n
    done
    noted "$@" &
    PIECES+=($!)
}

# Waits for all that runs beside.
settle() {
    [ ${#PIECES[@]} -eq 0 ] || wait "${PIECES[@]}"
    PIECES=()
}

# What a piece runs where a thing that it needs is not there.
missing() {
    echo "expected $1, found none"
    return 1
}
