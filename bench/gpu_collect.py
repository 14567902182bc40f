#!/usr/bin/env python3
"""Puts what gpu_run.sh left in a folder into one JSON on standard output.

    gpu_collect.py FOLDER

{"gpu", "driver", "parts": as asked for, "pieces": [how each command ended], "reference": [rows of compare_gpu.py],
 "runs": {name: {"wall_s", "step_s", "host_bytes", "stages": {stage: {"load_s", "run_s", "release_s", bytes, ops}}}},
 "checks": {name: {"passed", "failed", "ways", "said": [lines]}}, "fp8_latents": {"video", "audio"}: relative L2,
 "same": [clips of which the bytes must be equal, and are],
 "ballast": what it held, "bench": what ovi bench --json said}
"""
import json
import os
import re
import statistics
import sys

WARM_STEPS = 2  # the first steps meet cold caches
CHECKS = ("golden-", "ops", "ptx", "block", "memcheck-", "racecheck-", "peaks-")
SAID = re.compile(r"SUMMARY|of the stream|fallbacks on")
WAY = re.compile(r": \d+ bytes$") # a way that was tried, and its peak
# Names of pieces. The first of a group is the standard; libraries without workspace take other
# algorithms.
SAME = [
    ["resident", "stream-4GiB", "stream-6G", "blocks-12GiB", "ballast", "decode-80G", "decode-5500M", "decode-3G",
     "ballast-decode"],
    ["step-fp8", "step-fp8-4GiB"],
    ["long-resident", "long-stream-6GiB", "long-8GiB", "long-12GiB"],
    ["way-plain", "way-no-pin", "way-no-pin,no-cache", "way-direct", "way-slow-link"],
    ["small-plain", "small-ram", "small-sm80", "small-watchdog", "small-no-pin", "small-no-pin,no-cache", "small-direct",
     "small-slow-link", "small-poisoned", "small-apart"],
    ["small-no-workspace", "small-sm86,watchdog,no-workspace,slow-link"],
]


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def report_of(path):
    """The last event of a command's output: what was done."""
    try:
        with open(path, encoding="utf-8") as file:
            events = [json.loads(line) for line in file if line.startswith("{")]
    except (OSError, ValueError):
        return None
    return events[-1] if events and "stages" in events[-1] else None


def pieces_of(folder):
    with open(os.path.join(folder, "pieces.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def pairs(events, stage, first, last):
    """Seconds from each line of the log of a stage to the next of another kind."""
    found, begin = [], None
    for e in events:
        if e["stage"] == stage and e["event"] == first:
            begin = e["t_ms"]
        elif e["stage"] == stage and e["event"] == last and begin is not None:
            found.append((e["t_ms"] - begin) / 1e3)
            begin = None
    return found


def step_times(memory):
    """Seconds of each denoising step: a sample is taken when it is done."""
    events = {(e["t_ms"], e["event"]) for e in memory["events"] if e["stage"] == "diffuse"}
    loaded = max((t for t, event in events if event == "after load"), default=None)
    ended = min((t for t, event in events if t > (loaded or 0)), default=None)
    if loaded is None or ended is None:
        return []
    t = [s["t_ms"] for s in memory["samples"] if s["stage"] == "diffuse" and loaded < s["t_ms"] < ended]
    return [(b - a) / 1e3 for a, b in zip(t, t[1:])]


def spread(samples):
    if not samples:
        return None
    return {"median": statistics.median(samples), "least": min(samples), "most": max(samples), "n": len(samples)}


def stage_of(row, events):
    name = row["name"]
    found = {k: row[k] for k in ("planned_peak_bytes", "measured_peak_bytes", "seconds", "fallbacks",
                                 "bytes_read", "ops")}
    # Every phase of a stage brings in weights and computes; at the end goes what is still there.
    released = pairs(events, name, "before cleanup", "after cleanup")
    found["load_s"] = sum(pairs(events, name, "before load", "after load")) or None
    computed = pairs(events, name, "after load", "before release") + pairs(events, name, "after load", "before cleanup")
    found["run_s"] = sum(computed) or None
    found["release_s"] = released[-1] if released else None
    return found


def run_of(folder, piece):
    report = report_of(os.path.join(folder, piece["name"] + ".out"))
    if not isinstance(report, dict) or "stages" not in report:
        return None
    memory = read(os.path.join(folder, piece["name"] + ".memory.json")) or {"events": [], "samples": []}
    return {"wall_s": piece["wall_s"], "command": piece["command"],
            "driver_peak_bytes": (piece["most_mib"] - piece["before_mib"]) << 20,
            "overhead_bytes": report.get("overhead_bytes"),
            "host_bytes": {key: max((e[key] for e in memory["events"]), default=None)
                           for key in ("host_own", "host_mapped_files")},
            "step_s": spread(step_times(memory)[WARM_STEPS:]),
            "stages": {s["name"]: stage_of(s, memory["events"]) for s in report["stages"]}}


def reference_of(folder):
    found = [read(os.path.join(folder, name)) for name in ("reference.json", "reference-long.json")]
    found = [r for r in found if r]
    if not found:
        return None
    return {**found[0], "rows": [row for r in found for row in r["rows"]]}


def text_of(folder, name):
    found = ""
    for ending in (".out", ".err"):
        with open(os.path.join(folder, name + ending), encoding="utf-8", errors="replace") as file:
            found += file.read()
    return found


def check_of(folder, name):
    """Golden files and tests that passed and failed, and what tools sum up."""
    lines = text_of(folder, name).splitlines()
    return {"passed": sum(x.startswith(("pass ", "[       OK ]")) for x in lines),
            "failed": sum(x.startswith(("FAIL ", "[  FAILED  ] ")) and "test(s)" not in x for x in lines),
            "ways": sum(WAY.search(x) is not None for x in lines),
            "said": [x.strip("= ") for x in lines if SAID.search(x)]}


def checks_of(folder, pieces):
    return {p["name"]: check_of(folder, p["name"]) for p in pieces if p["name"].startswith(CHECKS)}


def same_of(folder):
    """A row for each group and kind of bytes that two of the group have."""
    rows = []
    for group in SAME:
        found = {name: read(os.path.join(folder, name + ".digest.json")) or {} for name in group}
        for what in ("latents", "frames", "sound"):
            has = {name: digests[what] for name, digests in found.items() if what in digests}
            if len(has) > 1:
                standard = next(iter(has.values()))
                rows.append({"what": what, "clips": list(has), "others": [n for n, d in has.items() if d != standard]})
    return rows


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = sys.argv[1]
    pieces = pieces_of(folder)
    with open(os.path.join(folder, "device.txt"), encoding="utf-8") as file:
        name, driver = (word.strip() for word in file.read().split(",")[:2])
    with open(os.path.join(folder, "parts.txt"), encoding="utf-8") as file:
        parts = file.read().split()
    runs = {p["name"]: run_of(folder, p) for p in pieces if "most_mib" in p}
    json.dump({"gpu": name, "driver": driver, "parts": parts, "pieces": pieces, "reference": reference_of(folder),
               "runs": {k: v for k, v in runs.items() if v}, "checks": checks_of(folder, pieces),
               "same": same_of(folder), "fp8_latents": read(os.path.join(folder, "fp8-latents.out")),
               "ballast": read(os.path.join(folder, "held.json")),
               "bench": read(os.path.join(folder, "bench.out"))},
              sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
