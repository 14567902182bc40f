"""Tables and the roofline of one gpu.json (gpu_collect.py), as Markdown and SVG."""
import math
import statistics

import recorded

GB = 1e9
SECONDS = "seconds"


def seconds(s):
    if s is None:
        return ""
    return f"{s * 1e3:.1f} ms" if s < 0.1 else f"{s:.3f} s" if s < 10 else f"{s:.1f} s"


AUTOCAST = ", under autocast"


class Published(float):
    """Seconds measured with the published code before, not in this run."""


class Gpu:
    """Looks things up; None where a part was not run or failed."""

    def __init__(self, data):
        self.data, self.runs = data, data["runs"]
        self.rows = (data["reference"] or {"rows": []})["rows"]
        self.code = self.rows[0].get("code", "published") if self.rows else None

    def row(self, what, preset, code=None):
        code = code or self.code
        return next((r for r in self.rows
                     if (r["what"], r["preset"], r.get("code", self.code)) == (what, preset, code)), None)

    def seconds(self, what, preset, code=None):
        found = self.row(what, preset, code)
        return found and found["seconds"]

    def recorded(self, what, preset):
        figure = recorded.seconds(self.data["gpu"], what, preset)
        return figure and Published(figure)

    def reference(self, what, preset="720x720_5s"):
        """Seconds of a way whose judged time counts, first of that in which the published engine calls
        the model; else the recorded figure."""
        for way in (AUTOCAST, ""):
            judged = self.row(("forward" if what == "guided step" else what) + way, preset)
            if judged and judged.get("counts") and self.row(what + way, preset):
                return self.seconds(what + way, preset)
        return self.recorded(what, preset)

    def step(self, run):
        found = self.runs.get(run, {}).get("step_s")
        return found and found["median"]

    def stage(self, run, stage, key):
        return self.runs.get(run, {}).get("stages", {}).get(stage, {}).get(key)

    def median(self, stage, key, *runs):
        """Of runs that do the same in this stage."""
        found = [t for t in (self.stage(run, stage, key) for run in runs) if t is not None]
        return statistics.median(found) if found else None

    def warm(self, stage):
        """Seconds of a stage after loading, of several clips in one process."""
        found = next((s for s in (self.data["bench"] or {"stages": []})["stages"] if s["name"] == stage), None)
        return found and found.get("run_seconds", found["seconds"] - found["load_seconds"])

    def wall(self, run, steps):
        found = self.runs.get(run)
        return found["wall_s"] if found and f"--steps {steps}" in " ".join(found["command"]) else None


RESIDENT = ("resident", "whole-50", "step-fp8", "long-resident")
STREAMED = ("stream-4GiB", "stream-6G", "step-fp8-4GiB", "long-stream-6GiB")


def target_rows(g):
    """What, ours, that which it is divided by, most ratio, aimed ratio; SECONDS: the bounds are
    seconds."""
    whole = g.stage("resident", "decode_video", "run_s")
    long = "960x960_10s"
    return [
        ("guided step 720x720_5s, resident", g.step("resident"), g.reference("guided step"), 0.61, 0.55),
        ("guided step 720x720_5s, --fp8-products", g.step("step-fp8"), g.reference("guided step"), 0.48, 0.43),
        ("the same step, streamed, --vram 4GiB (to ours resident)", g.step("step-fp8-4GiB"), g.step("step-fp8"), None, None),
        ("guided step 960x960_10s, resident", g.step("long-resident"), g.reference("guided step", long), 0.81, 0.75),
        ("guided step 720x720_5s in bf16, streamed, --vram 4GiB (to ours resident)", g.step("stream-4GiB"), g.step("resident"), 1.10, 1.04),
        ("streamed, --vram 6G (to ours resident)", g.step("stream-6G"), g.step("resident"), None, None),
        ("some blocks resident, --vram 12GiB (to ours resident)", g.step("blocks-12GiB"), g.step("resident"), None, None),
        ("beside a program that holds all but 6 GiB (to ours resident)", g.step("ballast"), g.step("resident"), None, None),
        ("guided step from an image, resident (to ours without)", g.step("image"), g.step("resident"), None, None),
        ("960x960_10s streamed, --vram 6GiB (to ours resident)", g.step("long-stream-6GiB"), g.step("long-resident"), 1.05, 1.02),
        ("960x960_10s, --vram 8GiB (to ours resident)", g.step("long-8GiB"), g.step("long-resident"), None, None),
        ("960x960_10s, --vram 12GiB (to ours resident)", g.step("long-12GiB"), g.step("long-resident"), None, None),
        ("video decode 720x720, 121 frames", whole, g.reference("decode"), 2.0 / 3.9, 1.75 / 3.9),
        ("video decode, --vram 5500M (to ours whole)", g.stage("decode-5500M", "decode_video", "run_s"), whole, None, None),
        ("video decode, split, --vram 3G (to ours whole)", g.stage("decode-3G", "decode_video", "run_s"), whole, None, 1.7),
        ("video decode 960x960_10s", g.stage("long-resident", "decode_video", "run_s"), g.reference("decode", long),
         7.5 / 14.3, 6.5 / 14.3),
        ("text encoder, three prompts, the first of 512 tokens", g.warm("text_encode"), SECONDS, 0.020, 0.012),
        ("text encoder streamed, first of its process, median", g.median("text_encode", "run_s", *STREAMED), SECONDS, 0.6, 0.3),
        ("audio decode 5 s", g.warm("decode_audio"), SECONDS, 0.030, 0.010),
        ("giving the fusion model back, median", g.median("diffuse", "release_s", *RESIDENT), SECONDS, 0.1, 0.02),
        ("bringing it back, file in the page cache, median", g.median("diffuse", "load_s", *RESIDENT), SECONDS, 0.9, 0.5),
        ("whole clip, 50 steps, start of the process to raw frames and sound", g.wall("whole-50", 50), SECONDS, 50, 43),
    ]


def verdict(value, must, aim):
    if value is None or (must is None and aim is None):
        return ""
    if aim is not None and value <= aim:
        return "aim"
    if must is not None and value <= must:
        return "must"
    return "no"


def number(x):
    return "" if x is None else f"{x:.3f}"


def target_line(what, ours, by, must, aim):
    if by == SECONDS:
        cells = [seconds(ours), "", "", seconds(must), seconds(aim), verdict(ours, must, aim)]
    else:
        ratio = ours / by if by else None
        whose = " (published figure)" if isinstance(by, Published) else ""
        cells = [seconds(ours), seconds(by) + whose, number(ratio), number(must), number(aim), verdict(ratio, must, aim)]
    return "| " + " | ".join([what] + cells) + " |"


def targets_table(g):
    """Rows that were measured."""
    lines = ["| | ours | divided by | ratio | must | aim | reached |", "|---|---|---|---|---|---|---|"]
    return "\n".join(lines + [target_line(*row) for row in target_rows(g) if row[1] is not None])


CODES = {"published": "the published code", "ours": "our writing of it"}
LONG = "960x960_10s"


def choice_line(name, g, by):
    """by(what, preset): seconds. What ours is of them."""
    ours = [(g.step("resident"), "guided step", "720x720_5s"), (g.step("step-fp8"), "guided step", "720x720_5s"),
            (g.stage("resident", "decode_video", "run_s"), "decode", "720x720_5s"),
            (g.step("long-resident"), "guided step", LONG), (g.stage("long-resident", "decode_video", "run_s"), "decode", LONG)]
    cells = [number(s / by(what, preset)) if s and by(what, preset) else "" for s, what, preset in ours]
    return "| " + " | ".join([name] + cells) + " |" if any(cells) else None


def choices_table(g):
    """None: nothing was measured beside ours."""
    if not g.rows:
        return None
    lines = ["| ours divided by | 720x720_5s step | fp8 step | decode | 960x960_10s step | decode |", "|---|---|---|---|---|---|",
             choice_line("the recorded figures", g, g.recorded)]
    for code, name in CODES.items():
        for way, called in ((AUTOCAST, ", as the published engine calls it"), ("", ", without autocast")):
            lines.append(choice_line(name + called, g, lambda what, preset: g.seconds(
                what + way if what == "guided step" else what, preset, code)))
    lines.append("| must, aim | 0.61, 0.55 | 0.48, 0.43 | 0.513, 0.449 | 0.81, 0.75 | 0.524, 0.455 |")
    return "\n".join(line for line in lines if line)


def reference_line(row):
    counts = {True: "yes", False: "no", None: ""}[row.get("counts")]
    off = f"{row['off'] * 100:+.1f} %" if "off" in row else ""
    return f"| {row['preset']} | {CODES[row.get('code', 'published')]} | {row['what']} | {seconds(row['seconds'])} | " \
           f"{seconds(row.get('published_seconds'))} | {off} | {counts} | " \
           f"{row['peak_bytes'] / GB:.1f} / {row['reserved_bytes'] / GB:.1f} GB |"


def reference_table(g):
    r = g.data["reference"]
    if not r:
        return "The reference was not run."
    lines = [f"PyTorch {r['torch']}, cuDNN {r['cudnn']}. A time counts as a reference if it is within 5 % of the recorded one.", "",
             "| | | | measured | recorded | off | counts | memory, allocated / reserved |", "|---|---|---|---|---|---|---|---|"]
    return "\n".join(lines + [reference_line(row) for row in r["rows"]])


def memory_table(g):
    lines = ["| run | stage | planned = measured | load | run | release | read |", "|---|---|---|---|---|---|---|"]
    for name, run in g.runs.items():
        for stage, s in run["stages"].items():
            planned, measured = s["planned_peak_bytes"], s["measured_peak_bytes"]
            same = f"{planned / GB:.3f} GB" if planned == measured else f"**{planned} planned, {measured} measured**"
            lines.append(f"| {name} | {stage} | {same} | {seconds(s['load_s'])} | {seconds(s['run_s'])} | "
                         f"{seconds(s['release_s'])} | {s['bytes_read'] / GB:.2f} GB |")
        lines.append(f"| {name} | process, by the driver | {run['driver_peak_bytes'] / GB:.2f} GB | | "
                     f"{seconds(run['wall_s'])} | | |")
        own = run.get("host_bytes", {}).get("host_own")
        if own:
            lines.append(f"| {name} | host memory of its own | {own / GB:.2f} GB | | | | |")
    return "\n".join(lines)


def ceilings(g):
    """FLOP/s and bytes/s of the same run, the higher of PyTorch's and ours; None: not measured."""
    found = [(g.data["reference"] or {}).get("ceilings"), (g.data["bench"] or {}).get("speed")]
    found = [c for c in found if c]
    return (max(c["flops"] for c in found), max(c["bytes"] for c in found)) if found else None


def timed_ops(g):
    """(stage, op), every operation timed alone."""
    for s in (g.data["bench"] or {"stages": []})["stages"]:
        for op in s["ops"]:
            if op["seconds"] > 0:
                yield s["name"], op


def fraction(op, tops):
    return max(op["flops"] / tops[0], op["bytes"] / tops[1]) / op["seconds"]


def op_line(stage, op, whole, tops):
    s = op["seconds"]
    return f"| {stage} | {op['name']} | {op['calls']} | {seconds(s)} | {s / whole * 100:.1f} % | " \
           f"{op['flops'] / s / 1e12:.1f} | {op['bytes'] / s / 1e12:.2f} | {fraction(op, tops):.2f} |"


def ops_table(g):
    tops, ops, sums = ceilings(g), list(timed_ops(g)), {}
    lines = ["| stage | op | calls | time | share | TFLOP/s | TB/s | of the roofline |", "|---|---|---|---|---|---|---|---|"]
    for stage, op in ops:
        sums[stage] = sums.get(stage, 0) + op["seconds"]
    lines += [op_line(stage, op, sums[stage], tops) for stage, op in ops]
    fallbacks = sum(s["fallbacks"] for r in g.runs.values() for s in r["stages"].values())
    return "\n".join(lines) + f"\n\nFallbacks to the reference in all runs: {fallbacks}."


def passed_of(g, name):
    found = g.data.get("checks", {}).get(name)
    if not found:
        return ""
    return str(found["passed"]) + (f", **{found['failed']} failed**" if found["failed"] else "")


def devices_table(g):
    """Golden files and tests that passed, as the card is and as lesser ones."""
    names = [p["name"] for p in g.data["pieces"]]
    words = [n[len("golden-"):-len("-f32")] for n in names if n.startswith("golden-") and n.endswith("-f32")]
    words.sort(key=lambda word: ({"clone": 0, "all": 1}.get(word, 2), word))
    lines = ["| the card as | golden files in f32 | in bf16 | tests of test_ops |", "|---|---|---|---|"]
    for word in words:
        ops = "ops" if word == "clone" else f"ops-{word}"
        cells = [passed_of(g, name) for name in (f"golden-{word}-f32", f"golden-{word}-bf16", ops)]
        name = {"clone": "it is", "all": "it is, shared/golden"}.get(word, f"`{word}`")
        lines.append("| " + " | ".join([name] + cells) + " |")
    if passed_of(g, "ptx"):
        lines.append(f"| PTX alone, compiled by the driver; all together | {passed_of(g, 'ptx')} | | |")
    return lines


def said_lines(g):
    found = g.data.get("checks", {})
    ends = {p["name"]: f"ended with {p['rc']} after {p['wall_s']:.0f} s" for p in g.data["pieces"]}
    whole = {p["name"] for p in g.data["pieces"] if p["rc"] == 0}
    sums = {}
    for name, check in sorted(found.items()):
        if name.startswith(("memcheck-", "racecheck-")):
            tool, what = name.split("-", 1)
            said = " ".join(check["said"]) or f"no summary, {ends[name]}, {check['passed']} tests passed"
            sums.setdefault((tool, said), []).append(what)
    lines = [f"- {tool} of {', '.join(whats)}: {said}" + (", cuDNN's own kernels left out" if tool == "racecheck" else "")
             for (tool, said), whats in sums.items()]
    lines += [f"- {name}: {check['ways']} ways, " + ("planned = measured" if name in whole else f"**{ends[name]}**")
              for name, check in found.items() if name.startswith("peaks-")]
    return lines + [f"- {line}" for line in found.get("block", {"said": []})["said"]]


def same_lines(g):
    lines = []
    for row in g.data.get("same", []):
        text = f"- {row['what']} of {', '.join(row['clips'])}: "
        lines.append(text + (f"**others in {', '.join(row['others'])}**" if row["others"] else "the same bytes"))
    return lines


def checks_table(g):
    """None: nothing was checked, or compared."""
    if not g.data.get("checks") and not g.data.get("same"):
        return None
    held = g.data.get("ballast")
    devices = devices_table(g)
    far = g.data.get("fp8_latents")
    beside = [f"- latents after 50 guided steps, --fp8-products from bf16 (relative L2): video {far['video']:.3f}, audio {far['audio']:.3f}"] if far else []
    beside += [f"- ballast: beside a program that held all but {held['free_bytes'] / GB:.2f} GB of the card"] if held else []
    return "\n".join((devices + [""] if len(devices) > 2 else []) + said_lines(g) + same_lines(g) + beside)


def head_of(g):
    data, tops = g.data, ceilings(g)
    head = f"{data['gpu']}, driver {data['driver']}."
    if data.get("calls"):
        head += " Calls of gpu_run.sh, with their parts: " + "; ".join(data["calls"]) + "."
    if tops:
        head += f" Ceilings of the same run: {tops[0] / 1e12:.0f} TFLOP/s (a large product in bf16), " \
                f"{tops[1] / 1e12:.2f} TB/s (a large copy, read and written)."
    return head


def of_each(cards, table):
    """A table of each card, under its name where there are several; None: no card has it."""
    found = [(g, table(g)) for g in cards]
    found = [(g, text) for g, text in found if text]
    if len(cards) > 1:
        return "\n\n".join(f"**{g.data['gpu']}**\n\n{text}" for g, text in found) or None
    return found[0][1] if found else None


def page(runs):
    """The section's generated parts by the name of their marker; None: not measured, stays as it is.
    Of several cards the first gives what is long: memory and operations."""
    cards = [Gpu(data) for data in runs]
    return {"gpu-targets": "\n\n".join(head_of(g) + "\n\n" + targets_table(g) for g in cards if g.runs),
            "gpu-choices": of_each(cards, choices_table), "gpu-reference": of_each(cards, reference_table),
            "gpu-checks": of_each(cards, checks_table), "gpu-memory": memory_table(cards[0]), "gpu-ops": ops_table(cards[0])}


def by_card(runs):
    """Calls on one kind of card are one; in the order of the cards."""
    names = list(dict.fromkeys(run["gpu"] for run in runs))
    return [joined([run for run in runs if run["gpu"] == name]) for name in names]


def joined(runs):
    """Several gpu.json of one kind of card, with one driver, as one; what ran again counts as it ran last."""
    first = runs[0]
    for run in runs[1:]:
        if run["driver"] != first["driver"]:
            raise ValueError(f"{first['gpu']}: expected driver {first['driver']}, found {run['driver']}")
    found = {**first, "calls": [" ".join(run.get("parts", [])) for run in runs if run.get("parts")]}
    found["pieces"] = list({x["name"]: x for run in runs for x in run["pieces"]}.values())
    found["same"] = list({(x["what"], *x["clips"]): x for run in runs for x in run.get("same", [])}.values())
    for key in ("runs", "checks"):
        found[key] = {name: x for run in runs for name, x in run.get(key, {}).items()}
    for key in ("bench", "ballast", "fp8_latents"):
        found[key] = next((run[key] for run in runs if run.get(key)), None)
    references = [run["reference"] for run in runs if run["reference"]]
    found["reference"] = references and {**references[0], "rows": [x for r in references for x in r["rows"]]} or None
    return found


# --------------------------------------------------------------------------- roofline ----

WIDE, HIGH, LEFT, BOTTOM, TOP = 860, 520, 80, 60, 30
COLOURS = {"text_encode": "#8d6e63", "diffuse": "#1565c0", "decode_audio": "#2e7d32", "decode_video": "#c62828"}


class Axes:
    """Both logarithmic: FLOPs a byte, FLOPs a second."""

    def __init__(self, points, tops):
        xs = [p[0] for p in points] + [tops[0] / tops[1]]
        ys = [p[1] for p in points] + [tops[0]]
        self.x = (math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs))))
        self.y = (math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys) * 1.2)))

    def at(self, x, y):
        u = (math.log10(x) - self.x[0]) / (self.x[1] - self.x[0])
        v = (math.log10(y) - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + u * (WIDE - LEFT - 20), HIGH - BOTTOM - v * (HIGH - BOTTOM - TOP)


def text(x, y, words, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{words}</text>'


def grid(axes):
    out = []
    for k in range(axes.x[0], axes.x[1] + 1):
        x, low = axes.at(10.0**k, 10.0**axes.y[0])
        out.append(f'<path d="M{x:.1f} {TOP}V{low:.1f}" stroke="#ddd"/>')
        out.append(text(x, low + 18, f"{10.0**k:g}", 'text-anchor="middle"'))
    for k in range(axes.y[0], axes.y[1] + 1):
        x, y = axes.at(10.0**axes.x[0], 10.0**k)
        out.append(f'<path d="M{x:.1f} {y:.1f}H{WIDE - 20}" stroke="#ddd"/>')
        out.append(text(x - 6, y + 4, f"{10.0**k / 1e12:g}", 'text-anchor="end"'))
    out.append(text((LEFT + WIDE) / 2, HIGH - 14, "FLOP per byte of least traffic", 'text-anchor="middle"'))
    out.append(text(14, TOP - 10, "TFLOP/s"))
    return out


def roof(axes, tops):
    knee = tops[0] / tops[1]
    least, most = 10.0**axes.x[0], 10.0**axes.x[1]
    floor = max(least, 10.0**axes.y[0] / tops[1])
    points = [axes.at(floor, floor * tops[1]), axes.at(knee, tops[0]), axes.at(most, tops[0])]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return [f'<polyline points="{line}" fill="none" stroke="#333" stroke-width="2"/>']


def roofline(data):
    """SVG; None without timed ops or ceilings."""
    g = Gpu(data)
    tops = ceilings(g)
    ops = [(stage, op) for stage, op in timed_ops(g) if op["flops"] > 0 and op["bytes"] > 0]
    if not tops or not ops:
        return None
    points = [(op["flops"] / op["bytes"], op["flops"] / op["seconds"]) for _, op in ops]
    axes = Axes(points, tops)
    longest = max(op["seconds"] for _, op in ops)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDE}" height="{HIGH}" font-family="sans-serif" '
           'font-size="12">', f'<rect width="{WIDE}" height="{HIGH}" fill="white"/>']
    out += grid(axes) + roof(axes, tops)
    for (stage, op), point in zip(ops, points):
        x, y = axes.at(*point)
        size = 3 + 11 * math.sqrt(op["seconds"] / longest)
        colour = COLOURS.get(stage, "#666")
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" fill="{colour}" fill-opacity="0.6"/>')
        out.append(text(x + size + 2, y + 4, op["name"], f'fill="{colour}" font-size="10"'))
    for i, (stage, colour) in enumerate(COLOURS.items()):
        out.append(text(WIDE - 130, HIGH - BOTTOM - 70 + 16 * i, stage, f'fill="{colour}"'))
    out.append(text(LEFT + 10, TOP + 14, f"{data['gpu']}: operations by stage; area is time"))
    return "\n".join(out) + "\n</svg>\n"
