#!/usr/bin/env python3
"""Holds every run of a gpu.json to its promise of memory: what the driver counts for the process is at
most the largest stage and the overhead that the run named itself, within 64 MiB.

    gpu_overhead.py GPU.json         exit code 1: a run took more, or none can be held
"""
import json
import sys

SLACK = 64 << 20


def excess(run):
    """Bytes above the promise, negative below; None: the run does not say its overhead."""
    if not run.get("overhead_bytes") or run.get("driver_peak_bytes") is None:
        return None
    largest = max(s["measured_peak_bytes"] for s in run["stages"].values())
    return run["driver_peak_bytes"] - largest - run["overhead_bytes"]


def tell(runs):
    """False: a run took more, or none can be held."""
    held = {name: excess(run) for name, run in runs.items() if excess(run) is not None}
    for name, more in held.items():
        print(f"overhead: {name}: {runs[name]['overhead_bytes'] / 2**20:.0f} MiB named, process at "
              f"{more / 2**20:+.0f} MiB of it{'' if more <= SLACK else ': TOO MUCH'}")
    if not held:
        print("overhead: no run names its own")
    return bool(held) and all(more <= SLACK for more in held.values())


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        runs = json.load(file)["runs"]
    return 0 if tell(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
