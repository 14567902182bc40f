#!/usr/bin/env python3
"""coverage.py BUILD: which lines of its readers each fuzzer has run.

BUILD is that of `make fuzz`. Its targets are built once more, for coverage, in BUILD-coverage, and
given what they have learned (BUILD/fuzz, see run.sh) and their seeds. Needs llvm-cov and
llvm-profdata (Debian: llvm)."""
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
READERS = {
    "fuzz_safetensors": "src/weights/safetensors.c",
    "fuzz_torch": "src/weights/torchzip.c src/weights/pickle.c",
    "fuzz_pickle": "src/weights/pickle.c",
    "fuzz_ovi_json": "src/weights/config.c src/spec.c",
    "fuzz_latents": "src/latents.c src/record.c src/weights/seal.c",
    "fuzz_spm": "src/text/tokenizer_spm.c src/text/charsmap.c src/text/tokenizer.c",
    "fuzz_tokenizer_json": "src/text/tokenizer_json.c",
    "fuzz_clean": "src/text/clean.c src/text/mojibake.c src/text/entities.c src/text/prompt.c",
    "fuzz_image": "src/media/image_check.c src/media/image_file.c",
    "fuzz_clip_check": "src/media/clip_check.c",
    "fuzz_list": "tools/cli/csv.c tools/cli/list.c tools/cli/names.c tools/cli/clip_name.c",
    "fuzz_clip_request": "src/media/clip_request.c",
    "fuzz_yaml": "tools/cli/yaml_map.c tools/cli/official_config.c tools/cli/read_file.c",
}


def make(build, folder):
    subprocess.run(["cmake", "-S", TOP, "-B", folder, "-G", "Ninja", "-DOVI_FUZZ=ON", "-DOVI_CPU=OFF", "-DOVI_CUDA=OFF",
                    "-DCMAKE_C_FLAGS=-fprofile-instr-generate -fcoverage-mapping"],
                   check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, CC="clang"))
    with open(os.path.join(build, "fuzzers.txt")) as f:
        rows = [line.split() for line in f if line.strip()]
    subprocess.run(["cmake", "--build", folder, "--target", *(name for name, _ in rows)], check=True,
                   stdout=subprocess.DEVNULL)
    return rows


def run_once(build, folder, name, kinds):
    """Every input once; the summary of each file by its path."""
    program, raw = os.path.join(folder, "tests/fuzz", name), os.path.join(folder, name)
    inputs = [os.path.join(build, "fuzz", name)] + [os.path.join(build, "fuzz/seeds", k) for k in kinds.split(",")]
    subprocess.run([program, "-runs=0", *filter(os.path.isdir, inputs)], check=True, stderr=subprocess.DEVNULL,
                   env=dict(os.environ, LLVM_PROFILE_FILE=raw + ".profraw"))
    subprocess.run(["llvm-profdata", "merge", "-o", raw + ".profdata", raw + ".profraw"], check=True)
    said = subprocess.run(["llvm-cov", "export", "-summary-only", "-instr-profile=" + raw + ".profdata", program],
                          check=True, capture_output=True).stdout
    return {os.path.relpath(f["filename"], TOP): f["summary"]["lines"] for f in json.loads(said)["data"][0]["files"]}


def main():
    build = os.path.abspath(sys.argv[1])
    folder = build + "-coverage"
    for name, kinds in make(build, folder):
        lines = run_once(build, folder, name, kinds)
        print(name, ", ".join(f"{os.path.basename(path)} {lines[path]['percent']:.0f} %" for path in READERS[name].split()),
              flush=True)


if __name__ == "__main__":
    main()
