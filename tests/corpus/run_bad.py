#!/usr/bin/env python3
"""Gives every bad input to the real command, as a process.

    run_bad.py build/ovi [--only PATTERN] [--verbose] [--jobs N]

What holds for each: it ends by itself with the row's exit code (never a signal), says exactly one
line on stderr, which names the file and matches the row, takes no more memory than MOST_MEMORY, and
leaves nothing behind, neither in the output folder nor beside the input. Rows marked good are the
controls: they must succeed. The inputs come from make_bad.py, and from bad/, where each line of LIST
is: kind, file, pattern. Leaks are found by running a build with -DOVI_SANITIZE=ON.
"""
import argparse
import concurrent.futures
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import make_bad
from corpus import Bad

HERE = os.path.dirname(os.path.abspath(__file__))
MOST_MEMORY = 300 << 20
MOST_SECONDS = 120  # on a loaded machine, with sanitizers
FULL_BYTES = 65536


class Micro:
    """The small preset, and what is made with it once."""

    def __init__(self, ovi, folder):
        self.folder = os.path.join(folder, "micro")
        run = lambda *words: subprocess.run([ovi, *words], check=True, env=ENV, capture_output=True)
        run("make-checkpoint", "--preset", "micro", "--quiet", self.folder)
        self.latents_path = os.path.join(folder, "good.safetensors")
        self.picture_path = os.path.join(folder, "good.png")
        with open(self.picture_path, "wb") as f:
            f.write(make_bad.png())
        self.sound_path = os.path.join(folder, "good.wav")
        run("generate", "x", "--quiet", "--threads", "1", "--steps", "1", "--models", self.folder, "-o",
            self.sound_path, "--save-latents", self.latents_path)
        self.latents = open(self.latents_path, "rb").read()
        self.resume = self.interrupted(ovi, os.path.join(folder, "run.y4m"))
        self.tensors = {option: self.list_tensors(ovi, path) for option, path in {
            "fusion": "Ovi/model.safetensors",
            "text-encoder": "Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth",
            "video-vae": "Wan2.2-TI2V-5B/Wan2.2_VAE.pth",
            "audio-vae": "MMAudio/ext_weights/v1-16.pth",
            "vocoder": "MMAudio/ext_weights/best_netG.pt"}.items()}

    def read(self, name):
        with open(os.path.join(self.folder, name), "rb") as f:
            return f.read()

    def list_tensors(self, ovi, path):
        said = subprocess.run([ovi, "inspect", "--json", os.path.join(self.folder, path)], check=True,
                              env=ENV, capture_output=True).stdout
        return [(t["name"], t["dtype"], t["shape"])
                for t in make_bad.json.loads(said)["files"][0]["tensors"]]

    def interrupted(self, ovi, output):
        """The file of a run that was stopped in its middle."""
        path = output + ".resume.safetensors"
        p = subprocess.Popen([ovi, "generate", "x", "--quiet", "--threads", "1", "--steps", "1000", "--checkpoint-every",
                              "1", "--models", self.folder, "-o", output], env=ENV,
                             stderr=subprocess.DEVNULL)
        while not os.path.exists(path) and p.poll() is None:
            time.sleep(0.01)
        p.send_signal(signal.SIGINT)
        p.wait()
        with open(path, "rb") as f:
            return f.read()


ENV = {k: v for k, v in os.environ.items() if k not in ("OVI_MODELS", "OVI_ENGINE_DEBUG")}
ENV.update(OMP_WAIT_POLICY="passive", LC_ALL="C.UTF-8")


class Places:
    """Folders that cannot be written to: a full disk and a read-only one need root."""

    def __init__(self, folder):
        self.folders = os.path.join(folder, "folders")
        for ending in ("svg", "mp4", "y4m", "wav", "safetensors", "json"):
            os.makedirs(os.path.join(self.folders, "x." + ending))
        self.mounted = []
        self.full = self.mount(os.path.join(folder, "full"), f"size={FULL_BYTES}")
        if self.full:
            with open(os.path.join(self.full, "filler"), "wb", buffering=0) as f:
                try:
                    while True:
                        f.write(b"x" * 4096)
                except OSError:
                    pass
        self.closed = self.mount(os.path.join(folder, "closed"), "ro")
        if not self.closed and os.geteuid() != 0:
            self.closed = os.path.join(folder, "closed")
            os.chmod(self.closed, 0o555)

    def mount(self, path, options):
        os.mkdir(path)
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path],
                                               capture_output=True).returncode != 0:
            return None
        self.mounted.append(path)
        return path

    def release(self):
        for path in self.mounted:
            subprocess.run(["umount", path], check=False)


def listing(*folders):
    """Names and sizes below the folders."""
    found = []
    for top in folders:
        for folder, names, files in os.walk(top) if top else []:
            found += [os.path.join(folder, n) for n in names]
            found += [(os.path.join(folder, f), os.lstat(os.path.join(folder, f)).st_size) for f in files]
    return sorted(map(str, found))


class Runner:
    def __init__(self, ovi, folder, verbose):
        self.ovi, self.folder, self.verbose = ovi, folder, verbose
        self.micro = Micro(ovi, folder)
        self.places = Places(folder)
        self.sanitized = b"__asan_init" in open(ovi, "rb").read()
        self.serial = threading.Lock()
        self.failures, self.done, self.skipped, self.controls, self.largest = [], 0, 0, 0, 0

    def fail(self, title, why, said):
        self.failures.append(title)
        print(f"FAILED {title}: {why}\n    said: {said!r}", flush=True)

    def words(self, kind, row, fill):
        template = row.command or kind.command
        return [w if isinstance(w, bytes) else w.format(**fill) for w in template]

    def execute(self, words):
        """Exit code (negative: a signal), stderr, peak of resident bytes."""
        with tempfile.TemporaryFile() as err:
            p = subprocess.Popen([self.ovi, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err,
                                 env=ENV, cwd=self.folder)
            timer = threading.Timer(MOST_SECONDS, p.kill)
            timer.start()
            _, status, usage = os.wait4(p.pid, 0)
            timer.cancel()
            p.returncode = os.waitstatus_to_exitcode(status)
            err.seek(0)
            return p.returncode, err.read(), usage.ru_maxrss * 1024

    def run(self, title, kind, row):
        case = os.path.join(self.folder, "cases", re.sub(r"[^A-Za-z0-9_.-]", "_", title))
        out = os.path.join(case, "out")
        os.makedirs(out)
        bad = os.path.join(case, kind.ending if kind.ending == "ovi.json" else "input" + kind.ending)
        if callable(row.content):
            row.content(bad)
        elif kind.ending or row.content:
            with open(bad, "wb") as f:
                f.write(row.content)
        fill = {"bad": bad, "dir": case, "out": out, "models": self.micro.folder, "latents": self.micro.latents_path,
                "picture": self.micro.picture_path, "sound": self.micro.sound_path, "folders": self.places.folders,
                "full": self.places.full, "closed": self.places.closed}
        text = " ".join(w for w in (row.command or kind.command) if isinstance(w, str))
        if ("{full}" in text and not self.places.full) or ("{closed}" in text and not self.places.closed):
            self.skipped += 1
            return
        watched = (case, self.places.folders, self.places.full, self.places.closed)
        before = listing(*watched)
        code, said, memory = self.execute(self.words(kind, row, fill))
        self.judge(title, kind, row, code, said, memory, os.path.basename(bad))
        after = listing(*watched)
        left = [x for x in after if x not in before and not (row.keeps and re.search(row.keeps, x))]
        if (left or set(before) - set(after)) and not row.good:
            self.fail(title, "it left something behind or took something away", left)
        shutil.rmtree(case, ignore_errors=True)

    def judge(self, title, kind, row, code, said, memory, name):
        self.done += 1
        self.largest = max(self.largest, memory)
        try:
            line = said.decode()
        except UnicodeDecodeError:
            return self.fail(title, "it did not speak UTF-8", said)
        if self.verbose:
            print(f"{title}: {code}: {line.rstrip()}", flush=True)
        if memory > MOST_MEMORY and not self.sanitized:
            self.fail(title, f"it took {memory >> 20} MB", line)
        if row.good:
            self.controls += 1
            if code != 0:
                self.fail(title, f"the control failed with {code}", line)
        elif code != row.code:
            self.fail(title, f"expected exit code {row.code}, found {code}", line)
        elif not 1 <= line.count("\n") <= row.lines or not line.endswith("\n"):
            self.fail(title, f"expected one line, found {line.count(chr(10))}", line)
        elif len(line) > 1200 * row.lines or re.search(r"[\x00-\x09\x0b-\x1f\x7f]", line):
            self.fail(title, "the line is too long or holds control characters", line[:300])
        elif not re.search(row.says, line):
            self.fail(title, f"expected /{row.says}/", line)
        elif kind.ending and not row.nameless and name not in line:
            self.fail(title, f"it does not name the file {name}", line)


def kept_rows():
    """The hand-made inputs and those that fuzzers found."""
    with open(os.path.join(HERE, "bad", "LIST")) as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                kind, name, says = line.rstrip("\n").split("\t")
                with open(os.path.join(HERE, "bad", name), "rb") as data:
                    yield kind, Bad(name, data.read(), says)


def all_rows(micro):
    for key, kind in make_bad.KINDS.items():
        for row in kind.rows(micro) if kind.needs_micro else kind.rows():
            yield f"{key}/{row.name}", key, row
    for key, row in kept_rows():
        if key in make_bad.KINDS:  # the others are seeds of fuzzers only
            yield f"bad/{row.name}", key, row


def main():
    p = argparse.ArgumentParser()
    p.add_argument("ovi")
    p.add_argument("--only", default="")
    p.add_argument("--verbose", action="store_true")
    p.add_argument("--jobs", type=int, default=2)
    args = p.parse_args()
    folder = tempfile.mkdtemp(prefix="ovi-bad-")
    os.chmod(folder, 0o755)
    start, runner = time.monotonic(), None
    try:
        runner = Runner(os.path.abspath(args.ovi), folder, args.verbose)
        rows = [r for r in all_rows(runner.micro) if re.search(args.only, r[0])]
        assert len({r[0] for r in rows}) == len(rows), "two rows of one name"
        alone = [r for r in rows if r[1].endswith("output")]  # they share a disk
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            tasks = [pool.submit(runner.run, t, make_bad.KINDS[k], row) for t, k, row in rows if not k.endswith("output")]
            for task in tasks:
                task.result()
        for title, key, row in alone:
            runner.run(title, make_bad.KINDS[key], row)
    finally:
        if runner:
            runner.places.release()
        shutil.rmtree(folder, ignore_errors=True)
    bad = runner.done - runner.controls
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{bad} bad inputs and {runner.controls} controls: {len(runner.failures)} failed, {runner.skipped} skipped "
          f"(need root); largest process {runner.largest >> 20} MB; {time.monotonic() - start:.1f} s, of the "
          f"processors {used.ru_utime + used.ru_stime:.1f} s")
    return 1 if runner.failures or bad == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
