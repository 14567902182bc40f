# Two commands for a newcomer: `make demo` and `make check`. CMake does the work.
# The long ones: `make torture` fails every call once, `make endurance` makes 200 clips,
# `make batch-1000` a list of 1,000 rows, `make peaks` holds every way of the mid preset against its
# plan, `make sweep` runs it in 24 budgets, `make fullsize` the published size, `make fuzz` gives every reader FUZZ_SECONDS of input.
BUILD ?= build
FUZZ_SECONDS ?= 600

# make install PREFIX=/usr/local DESTDIR=, after make.
PREFIX ?= /usr/local

.PHONY: all configure deps demo tour check install torture endurance batch-1000 peaks sweep fullsize \
	fuzz bench lint clean

all: configure
	@cmake --build $(BUILD)

configure: deps
	@cmake -S . -B $(BUILD) -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null

deps:
	@cmake/deps.sh

demo: configure
	@cmake --build $(BUILD) --target ovi-cli
	@cmake/demo.sh $(BUILD)

# docs/TOUR.md once more, with new pictures.
tour: all
	@docs/tour.sh $(BUILD)

check: all
	@ctest --test-dir $(BUILD) --output-on-failure -j2

install: all
	@cmake --install $(BUILD) --prefix $(PREFIX)

# Every n, one subject beside the other; then evenly spread ones with sanitizers.
SUBJECTS = opening a_clip_survives from_an_image streamed streaming decoding mp4 checkpoint plan inspection
torture: configure
	@cmake --build $(BUILD) --target test_torture
	@printf '*%s*\n' $(SUBJECTS) | OMP_WAIT_POLICY=passive xargs -P2 -n1 \
		$(BUILD)/tests/test_torture all
	@cmake -S . -B $(BUILD)-asan -G Ninja -DCMAKE_BUILD_TYPE=Release -DOVI_SANITIZE=ON >/dev/null
	@cmake --build $(BUILD)-asan --target test_torture
	@OMP_WAIT_POLICY=passive $(BUILD)-asan/tests/test_torture 40

endurance: all
	@OMP_WAIT_POLICY=passive $(BUILD)/tests/test_endurance 200

# A list of 1,000 rows, 100 of them broken, with three kill -9 (docs/BATCH.md).
batch-1000: all
	@OMP_WAIT_POLICY=passive $(BUILD)/tests/test_batch 1000

# Planned and measured peaks of all ways of the mid preset, about 15 minutes of 8 processors.
peaks: all
	@OMP_WAIT_POLICY=passive $(BUILD)/tests/test_peaks mid

# The same latents in 24 budgets, peaks within them, and the price of streaming (docs/MEMORY.md).
sweep: all
	@test -d $(BUILD)/mid || $(BUILD)/ovi make-checkpoint $(BUILD)/mid --preset mid --quiet
	@bench/memory_sweep.py $(BUILD)/ovi $(BUILD)/mid --svg $(BUILD)/memory-sweep.svg
	@bench/memory_sweep.py $(BUILD)/ovi $(BUILD)/mid --cost 5

# A step of the published 23.3 GB model in 6 GiB: as root, with 45 GB of disk (tests/fullsize.sh).
fullsize: all
	@OVI_FULLSIZE=1 tests/fullsize.sh $(BUILD)/ovi

fuzz: deps
	@CC=clang cmake -S . -B $(BUILD)-fuzz -G Ninja -DOVI_FUZZ=ON -DOVI_SANITIZE=ON -DOVI_CPU=OFF >/dev/null
	@cmake --build $(BUILD)-fuzz
	@tests/fuzz/run.sh $(BUILD)-fuzz $(FUZZ_SECONDS)

# BENCH="--threads 1 --clock cpu" and the like: bench/bench.h.
bench: all
	@bench/run.sh $(BUILD) $(BENCH)

lint:
	@cmake/lint.sh

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-fuzz
