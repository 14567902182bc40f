# Two commands for a newcomer: `make demo` and `make check`. CMake does the work.
BUILD ?= build

.PHONY: all deps demo check bench lint clean

all: deps
	@cmake -S . -B $(BUILD) -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
	@cmake --build $(BUILD)

deps:
	@cmake/deps.sh

demo: all
	@cmake/demo.sh $(BUILD)

check: all
	@ctest --test-dir $(BUILD) --output-on-failure

# BENCH="--threads 1 --clock cpu" and the like: bench/bench.h.
bench: all
	@bench/run.sh $(BUILD) $(BENCH)

lint:
	@cmake/lint.sh

clean:
	rm -rf $(BUILD)
