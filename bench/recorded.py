"""recorded.py: seconds of the published code (PyTorch 2.11, cuDNN attention, bf16) that were measured
before, by device."""

SECONDS = {
    "H200": {"forward": {"720x720_5s": 0.670, "960x960_5s": 1.454, "960x960_10s": 3.788},
             "decode": {"720x720_5s": 3.60, "960x960_5s": 6.52, "960x960_10s": 13.0}},
    "H100": {"forward": {"720x720_5s": 0.702, "960x960_5s": 1.522, "960x960_10s": 3.847},
             "decode": {"720x720_5s": 3.9, "960x960_5s": 7.1, "960x960_10s": 14.3}},
}
GUIDED = 1 + 29 / 30  # forwards of a guided step: the second leaves one of 30 blocks out


def seconds(device, what, preset):
    """None: not recorded. A guided step is reckoned from the forward."""
    found = next((v for k, v in SECONDS.items() if k in device), {})
    figure = found.get("forward" if what == "guided step" else what, {}).get(preset)
    return figure and figure * (GUIDED if what == "guided step" else 1)
