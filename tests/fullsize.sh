#!/bin/sh
# fullsize.sh OVI [FOLDER]: one denoising step of the published 23.3 GB fusion model, at full
# width and few tokens, within 6 GiB of memory, of which 4 GB may be ours.
#
# Asserts that it finishes, that every measured peak is the planned one, that the process's
# own memory stays within the bound, and that what was read of files is what the stages say
# they read. 77 (skipped) unless OVI_FULLSIZE=1, as root, with a version 1 memory group and
# either a FOLDER of models or 45 GB of room for random ones.
set -eu
ovi=$1 models=${2:-} group=/sys/fs/cgroup/memory/ovi-fullsize-$$

skip() {
    echo "skipped 1: $1"
    exit 77
}
[ "${OVI_FULLSIZE:-0}" = 1 ] || skip "OVI_FULLSIZE is not 1"
[ "$(id -u)" = 0 ] || skip "not root"
[ -w /sys/fs/cgroup/memory/memory.limit_in_bytes ] || skip "no memory group of version 1"

work=$(mktemp -d "${TMPDIR:-/tmp}/ovi-fullsize-XXXXXX")
clean() {
    rm -rf "$work"
    [ ! -d "$group" ] || rmdir "$group"
}
trap clean EXIT
if [ -z "$models" ]; then
    room=$(df --output=avail -B1000000000 "$work" | tail -1)
    [ "$room" -ge 45 ] || skip "$room GB of disk, 45 are needed"
    models=$work/models
    "$ovi" make-checkpoint "$models" --preset 720x720_5s --quiet >/dev/null
fi

# The same files for clips of 64x64 pixels: few tokens, full width.
"$ovi" make-checkpoint "$work/micro" --preset micro --quiet >/dev/null
mkdir "$work/small"
for name in "$models"/*; do ln -s "$name" "$work/small/"; done
python3 - "$work/micro/ovi.json" "$work/small/ovi.json" <<'PYTHON'
import json, sys
spec = json.load(open(sys.argv[1]))
spec.update(name="few-tokens", target_area=4096, default_size=[64, 64],
            video_latent_frames=2, audio_latent_frames=8)
spec["text"].update(vocab=256384, dim=4096, dim_attn=4096, dim_ffn=10240, num_heads=64,
                    num_layers=24)
for stream in "video", "audio":
    spec[stream].update(dim=3072, num_heads=24, num_layers=30, ffn_dim=14336, freq_dim=256,
                        text_dim=4096, text_len=512)
spec["video_vae"].update(dim=160, dec_dim=256)
spec["audio_vae"].update(hidden_dim=384)
spec["vocoder"].update(upsample_initial_channel=1536)
json.dump(spec, open(sys.argv[2], "w"))
PYTHON

mkdir "$group"
echo $((6 << 30)) >"$group/memory.limit_in_bytes"
sync
echo 3 >/proc/sys/vm/drop_caches
python3 - "$ovi" "$work" "$group" <<'PYTHON'
import json, os, subprocess, sys, time
ovi, work, group = sys.argv[1:]
def join():
    with open(group + "/cgroup.procs", "w") as f:
        f.write(str(os.getpid()))
start = time.time()
run = subprocess.Popen([ovi, "generate", "A red kite. <AUDCAP>Wind.<ENDAUDCAP>",
    "--models", work + "/small", "--dtype", "bf16", "--ram", "4G", "--steps", "1",
    "--output", work + "/clip.wav", "--json"], stdout=subprocess.PIPE, preexec_fn=join)
text = run.stdout.read()
# Waited for without being reaped: its counters can still be read.
os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOWAIT)
io = dict(line.split(": ") for line in open(f"/proc/{run.pid}/io").read().splitlines())
_, status, usage = os.wait4(run.pid, 0)
assert status == 0, status
seconds = time.time() - start
peak = int(open(group + "/memory.max_usage_in_bytes").read())
stages = json.loads(text.splitlines()[-1])["stages"]  # of the event "done"
with open(work + "/small/Ovi/model.safetensors", "rb") as f:
    header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
header.pop("__metadata__", None)
size = lambda t: t["data_offsets"][1] - t["data_offsets"][0]
in_place = sum(size(t) for name, t in header.items() if ".blocks." not in name and len(t["shape"]) == 2)
expected = sum(map(size, header.values())) - in_place
read = sum(s["bytes_read"] for s in stages)
for s in stages:
    print("%-13s planned %12d  measured %12d  read %12d  %7.1f s" % (s["name"],
          s["planned_peak_bytes"], s["measured_peak_bytes"], s["bytes_read"], s["seconds"]))
    assert s["planned_peak_bytes"] == s["measured_peak_bytes"], s
    # Each weight is read once in one step, but for matrices outside of blocks, used in place.
    if s["name"] == "diffuse":
        print("  of the fusion model %d bytes, and %d used in place" % (expected, in_place))
        assert abs(s["bytes_read"] - expected) < 4 << 20, (s["bytes_read"], expected)
print("files: the stages read %d bytes, the process %s (rchar), the disk gave %s (read_bytes)"
      % (read, io["rchar"], io["read_bytes"]))
assert 0 <= int(io["rchar"]) - read < 32 << 20  # headers, tokenizer, libraries
print("memory: largest resident set %d bytes, of the group %d of %d with the page cache; %.0f s"
      % (usage.ru_maxrss * 1024, peak, 6 << 30, seconds))
assert usage.ru_maxrss * 1024 <= 4e9
PYTHON
