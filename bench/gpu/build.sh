# build.sh: BIN, the folder of programs that are run: the one that is named, else built here. Part
# of gpu_run.sh.

has_header() { echo "#include <$1>" | "${CC:-cc}" -E -x c - >/dev/null 2>&1; }

# configure FOLDER OPTIONS...
configure() {
    local folder=$1
    shift
    has_header dnnl.h || set -- "$@" -DOVI_CPU=OFF
    has_header libavformat/avformat.h || set -- "$@" -DOVI_MEDIA=OFF
    cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release "$@"
}

build_here() {
    local folder=${BUILD:-build-gpu} programs=(ovi ovi-golden bench/ovi-image tests/test_ops tests/test_peaks tests/block_error)
    if ! command -v nvcc >/dev/null && [ ! -x /usr/local/cuda/bin/nvcc ]; then
        echo "gpu_run: nvcc is not here, so a folder with the programs is needed"
        return 1
    fi
    configure "$folder" >/dev/null &&
        cmake --build "$folder" --target ovi-cli ovi-golden ovi-image test_ops test_peaks block_error ovi_cuda | tail -1 &&
        configure "$folder-ptx" -DOVI_CUDA_TARGETS= >/dev/null &&
        cmake --build "$folder-ptx" --target ovi_cuda | tail -1 || return 1
    BIN=$WORK/bin
    mkdir -p "$BIN/ptx"
    (cd "$folder" && cp "${programs[@]}" libovi_cuda.so "$BIN") && cp "$folder-ptx/libovi_cuda.so" "$BIN/ptx"
}

# build [FOLDER]
build() {
    if [ -n "$1" ]; then
        BIN=$(cd "$1" && pwd) || return 1
    else
        build_here || return 1
    fi
    chmod +x "$BIN"/ovi* "$BIN"/test_* "$BIN/block_error" 2>/dev/null
    export LD_LIBRARY_PATH=$BIN${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}
