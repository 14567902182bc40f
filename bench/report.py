#!/usr/bin/python3
"""Writes the tables of docs/PERFORMANCE.md from what the benchmark programs printed.

    bench/run.sh build --json >wall.json
    bench/run.sh build --json --threads 1 --clock cpu >cpu.json
    bench/report.py wall.json cpu.json
    bench/gpu_run.sh && bench/report.py bench/out/gpu.json  # on a machine with a GPU
    bench/report.py check.json clips.json                   # calls of gpu_run.sh with other PARTS, as one;
                                                            # of another card, after it
    bench/report.py --show gpu.json                         # prints its tables, writes nothing

Each of the first two holds JSON objects one after the other. Each run (threads and clock) becomes a
column; the text around the tables stays as it is.
"""
import json
import os
import re
import sys

import gpu_report

HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = os.path.join(HERE, "..", "docs", "PERFORMANCE.md")
TARGETS = {"linear": 0.85, "attention": 0.60, "fused block": 0.70, "video decoder": 0.60}


def objects_of(path):
    decoder = json.JSONDecoder()
    with open(path, encoding="utf-8") as file:
        text = file.read().strip()
    while text:
        found, end = decoder.raw_decode(text)
        yield found
        text = text[end:].lstrip()


def column_of(run):
    threads = f"{run['threads']} thread" + ("s" if run["threads"] > 1 else "")
    return threads + (", processor time" if run["clock"] == "cpu" else "")


def target_of(name):
    return next((f"{t:.2f}" for word, t in TARGETS.items() if name.startswith(word)), "")


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def collect(runs):
    """Columns in order of appearance, and rows by (name, type), each by column."""
    columns, rows = [], {}
    for run in runs:
        column = column_of(run)
        if column not in columns:
            columns.append(column)
        for row in run["rows"]:
            rows.setdefault((row["name"], row["type"]), {})[column] = row
    return columns, rows


def cells(row):
    if row is None:
        return ["", ""]
    ratios = f"{row['ratio']:.2f} ({row['ratio_of_min']:.2f})"
    return [f"{row['gflop'] / row['ours_s']:.0f}", ratios]


def onednn_table(runs):
    columns, rows = collect(runs)
    header = ["", "type", "target"]
    for column in columns:
        header += [f"GFLOP/s, {column}", "ratio (of least)"]
    body = []
    for (name, dtype), by_column in rows.items():
        line = [name, dtype, target_of(name)]
        for column in columns:
            line += cells(by_column.get(column))
        body.append(line)
    fallbacks = sum(r["fallbacks"] for run in runs for r in run["rows"])
    last = f"\n\nFallbacks to the reference in all rows: {fallbacks}."
    return table(header, body) + last


def share_of(row, op):
    entry = next((x for x in row["profile"] if x["op"] == op), None)
    return f"{entry['share'] * 100:.1f} %" if entry else ""


def profile_table(runs):
    """Whole pieces only: an operation is all of itself."""
    rows = [(run, r) for run in runs for r in run["rows"]]
    rows = [(run, r) for run, r in rows if len(r.get("profile", "")) > 1]
    ops = list(dict.fromkeys(x["op"] for _, r in rows for x in r["profile"]))
    body = [
        [r["name"], r["type"], column_of(run)] + [share_of(r, op) for op in ops]
        for run, r in rows
    ]
    return table(["", "type", ""] + ops, body)


def pytorch_table(runs):
    body = [
        [
            r["name"],
            r["type"],
            column_of(run),
            f"{r['ours_s'] * 1e3:.0f} ms",
            f"{r['pytorch_s'] * 1e3:.0f} ms",
            f"{r['ratio']:.2f} ({r['ratio_of_min']:.2f})",
        ]
        for run in runs
        for r in run["rows"]
    ]
    return table(["", "type", "", "ours", "PyTorch", "PyTorch / ours (of least)"], body)


def replace(page, name, text):
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    new, n = re.subn(pattern, lambda m: m[1] + text + "\n" + m[2], page, flags=re.S)
    if n != 1:
        sys.exit(f"{PAGE}: expected one <!-- {name} -->, found {n}")
    return new


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def fill_cpu(page, runs):
    torch = [run for run in runs if "torch" in run]
    ours = [run for run in runs if "torch" not in run]
    page = replace(page, "onednn", onednn_table(ours))
    page = replace(page, "profile", profile_table(ours))
    return replace(page, "pytorch", pytorch_table(torch))


def fill_gpu(page, cards):
    for name, text in gpu_report.page(cards).items():
        page = page if text is None else replace(page, name, text)
    picture = gpu_report.roofline(cards[0])
    if picture:
        write(os.path.join(os.path.dirname(PAGE), "roofline.svg"), picture)
    return page


def main():
    paths = [path for path in sys.argv[1:] if path != "--show"]
    if not paths:
        sys.exit(__doc__)
    runs = [run for path in paths for run in objects_of(path)]
    gpu = [run for run in runs if "gpu" in run]
    cards = gpu_report.by_card(gpu)
    if "--show" in sys.argv:
        if cards:
            print("\n\n".join(text for text in gpu_report.page(cards).values() if text))
        return
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    if cards:
        page = fill_gpu(page, cards)
    others = [run for run in runs if "gpu" not in run]
    if others:
        page = fill_cpu(page, others)
    write(PAGE, page)


if __name__ == "__main__":
    main()
