#!/usr/bin/python3
"""Budgets from the smallest possible to unlimited: the same latents, and the time they take.

    bench/memory_sweep.py OVI MODELS [--budgets 24] [--steps 1]
                          [--svg docs/memory-sweep.svg] [--cost N]

Asserts for each budget that the latents are those of the unbounded run, byte for byte (f32),
and that every measured peak equals its plan and is within the budget. The clip is its sound:
decoding the picture takes longer than a step and less memory. Prints a table in
Markdown and draws budget against time: of denoising by the clock, and of all processors for
the whole run, which does not depend on who else uses the machine.

With --cost N instead: denoising with all blocks streamed against all resident, both with the
branches batched, in N alternating runs each; medians. It fails where streaming makes denoising
longer by more than MOST_PRICE, by the clock. Standard library only.
"""
import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile

# As many tokens as a text may have, so that runs need what `ovi plan` counts.
TEXT = "wind over water " * 300

MOST_PRICE = 0.10  # of streaming, of the time that denoising takes with all blocks resident


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("ovi")
    p.add_argument("models")
    p.add_argument("--budgets", type=int, default=24)
    p.add_argument("--steps", type=int, default=1)
    p.add_argument("--svg", default="docs/memory-sweep.svg")
    p.add_argument("--cost", type=int, default=0)
    return p.parse_args()


def common(a):
    return ["--models", a.models, "--dtype", "f32", "--steps", str(a.steps)]


def plan(a):
    """Ways by stage, as [(peak bytes, words)]."""
    text = subprocess.run([a.ovi, "plan", *common(a), "--json",
                           "--negative-video", TEXT, "--negative-audio", TEXT], check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    ways = {}
    for way in json.loads(text)["ways"]:
        ways.setdefault(way["stage"], []).append((way["peak_bytes"], way["way"]))
    return ways


def taken(ways, budget):
    """The first way of diffusing that fits."""
    return next(what for peak, what in ways["diffuse"] if not budget or peak <= budget)


def budgets(ways, n):
    """0 (unlimited), then from all at once down to the least, evenly in the logarithm."""
    least = max(min(peak for peak, _ in stage) for stage in ways.values())
    most = max(stage[0][0] for stage in ways.values())
    if n < 3 or least >= most:
        sys.exit("nothing to sweep")
    ratio = least / most
    return [0] + [most if i == 0 else least if i == n - 2 else
                  int(most * ratio ** (i / (n - 2))) for i in range(n - 1)]


def run(a, folder, budget):
    """Bytes of the latents, largest peak, seconds of denoising, and of processors in all."""
    latents = os.path.join(folder, "latents.safetensors")
    command = [a.ovi, "generate", TEXT, *common(a), "--json", "--quiet",
               "--negative-video", TEXT, "--negative-audio", TEXT,
               "--save-latents", latents, "--output", os.path.join(folder, "clip.wav"), "--force"]
    if budget:
        command += ["--vram", str(budget)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    stages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE,
                                       stderr=subprocess.DEVNULL).stdout)["stages"]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    for s in stages:
        assert s["measured_peak_bytes"] == s["planned_peak_bytes"], s
        assert not budget or s["measured_peak_bytes"] <= budget, (budget, s)
    with open(latents, "rb") as f:
        data = f.read()
    diffuse = next(s["seconds"] for s in stages if s["name"] == "diffuse")
    return (data, max(s["measured_peak_bytes"] for s in stages), diffuse,
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def tensors(data):
    """The tensors' bytes: the header of a file names the request."""
    return data[8 + int.from_bytes(data[:8], "little"):]


def draw(rows, path):
    """Budget (log) on x, seconds on y: of all processors, and of denoising by the clock."""
    width, height, left, bottom, top = 720, 380, 60, 330, 30
    finite = [r for r in rows if r["budget"]]
    low, high = (math.log(f(r["budget"] for r in finite)) for f in (min, max))
    most = max(max(r["diffuse"], r["processors"]) for r in rows) * 1.1

    def x(budget):
        return left + 20 + (width - left - 60) * (math.log(budget) - low) / (high - low)

    def y(seconds):
        return bottom - (bottom - top) * seconds / most

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>',
           f'<path d="M{left} {top}V{bottom}H{width - 20}" fill="none" stroke="black"/>']
    for i in range(5):
        s = most * i / 4
        out.append(f'<text x="{left - 6}" y="{y(s) + 4:.0f}" text-anchor="end">{s:.1f}</text>')
    for r in finite[::4] + finite[-1:]:
        out.append(f'<text x="{x(r["budget"]):.0f}" y="{bottom + 16}" text-anchor="middle">'
                   f'{r["budget"] / 1e6:.0f}</text>')
    out.append(f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">'
               'budget, MB of device memory (logarithmic)</text>')
    out.append(f'<text x="{left}" y="18">seconds</text>')
    for key, colour, name, line in (("processors", "#4575b4", "processors", 0),
                                    ("diffuse", "#d73027", "denoising", 1)):
        points = " ".join(f'{x(r["budget"]):.1f},{y(r[key]):.1f}' for r in finite)
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        out += [f'<circle cx="{x(r["budget"]):.1f}" cy="{y(r[key]):.1f}" r="3" '
                f'fill="{colour}"/>' for r in finite]
        out.append(f'<text x="{width - 110}" y="{24 + 16 * line}" fill="{colour}">{name}'
                   '</text>')
    with open(path, "w") as f:
        f.write("\n".join(out) + "\n</svg>\n")


def spread(seconds):
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def cost(a, ways):
    """What streaming costs while the file is in the page cache."""
    streamed = next(peak for peak, what in ways["diffuse"] if what.startswith("streamed"))
    seconds = {0: [], streamed: []}
    with tempfile.TemporaryDirectory() as folder:
        run(a, folder, streamed)  # the file is in the cache from here on
        for _ in range(a.cost):
            for budget, times in seconds.items():
                times.append(run(a, folder, budget)[2:])
    price = []
    for i, clock in enumerate(("denoising", "processors, whole run")):
        resident, flowing = ([t[i] for t in times] for times in seconds.values())
        price.append(statistics.median(flowing) / statistics.median(resident) - 1)
        print(f"{clock}: resident {spread(resident)}, streamed {spread(flowing)}: "
              f"{100 * price[-1]:+.1f} %")
    if price[0] > MOST_PRICE:
        sys.exit(f"streaming costs more than {100 * MOST_PRICE:.0f} % of denoising")


def main():
    a = arguments()
    ways = plan(a)
    if a.cost:
        cost(a, ways)
        return
    rows, expected = [], None
    print("| budget MB | peak MB | denoising s | processor s | denoising, as planned |")
    print("|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        for budget in budgets(ways, a.budgets):
            data, peak, diffuse, processors = run(a, folder, budget)
            expected = expected or tensors(data)
            assert tensors(data) == expected, f"other latents within {budget} bytes"
            rows.append({"budget": budget, "diffuse": diffuse, "processors": processors})
            words = f"{budget / 1e6:.1f}" if budget else "unlimited"
            print(f"| {words} | {peak / 1e6:.1f} | {diffuse:.2f} | {processors:.2f} | "
                  f"{taken(ways, budget)} |", flush=True)
    draw(rows, a.svg)
    print(f"\n{len(rows)} budgets, one set of latents ({len(expected)} bytes)")


if __name__ == "__main__":
    main()
