"""The world "shapes and tones": everything the small model knows.

A clip is 49 frames of 128x128 pixels at 24 a second and 32,768 samples at 16 kHz. One shape of
one colour stands or moves before one background above a floor; one sound plays. All of it is
computed from a few numbers per clip, on whatever device the caller names:

    draw_attributes  which shape, colour, background, motion and sound   [B] integers each
    draw_scene       where, how large, how fast                          [B] floats
    render_video     scene -> [B, 3, T, H, W] in [-1, 1]
    render_audio     scene -> [B, 32768] in (-1, 1)
    caption          attributes -> a sentence, in many wordings

A bounce touches the floor on a whole frame, and its thump starts with the first sample of that
frame. Of all combinations of shape, colour, background and motion one in ten is never drawn for
training, and some wordings are never written: the evaluation uses exactly those.
"""
import math
import random

import torch

SIZE, FRAMES, FPS = 128, 49, 24
RATE, SAMPLES = 16000, 32768
FLOOR = 112  # first row of the floor

SHAPES = ["circle", "square", "triangle", "star"]
COLOURS = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 80, 220),
    "yellow": (240, 215, 40), "orange": (245, 140, 30), "purple": (140, 60, 180),
    "pink": (245, 130, 190), "cyan": (50, 200, 215),
}
BACKGROUNDS = {  # wall, floor
    "black": ((18, 18, 22), (48, 48, 54)), "white": ((238, 238, 238), (205, 205, 205)),
    "gray": ((120, 120, 124), (86, 86, 90)), "brown": ((92, 58, 32), (60, 36, 18)),
}
MOTIONS = ["still", "left", "right", "up", "down", "circling", "growing", "bouncing"]
SOUNDS = ["low", "middle", "high", "rising", "falling", "beeps", "noise", "impact"]
TONES = (250.0, 500.0, 1000.0)  # whole multiples of the vocoder's 62.5 mel frames a second
BOUNCE, IMPACT = MOTIONS.index("bouncing"), SOUNDS.index("impact")

# Of a shape of size R: how far it reaches below its centre.
BELOW = torch.tensor([1.0, 0.88, 0.625, 1.3 * math.sin(math.radians(54))])


def palette(device, walls=None):
    """[8, 3] colours, [4, 3] walls, [4, 3] floors, in [-1, 1]."""
    def unit(rows):
        return torch.tensor(rows, dtype=torch.float32, device=device) / 127.5 - 1
    return (unit(list(COLOURS.values())), unit([b[0] for b in BACKGROUNDS.values()]),
            unit([b[1] for b in BACKGROUNDS.values()]))


# ---- what is in a clip ----

def is_held_out(shape, colour, background, motion):
    """One combination in ten; works on integers and on integer tensors."""
    return (shape * 7 + colour * 3 + background * 5 + motion * 11 + shape * motion) % 10 == 0


def draw_attributes(n, generator, device, held_out=False):
    """Combinations for training, or only those that training never sees."""
    def pick(k, m):
        return torch.randint(k, (m,), generator=generator, device=device)
    out = {k: [] for k in ("shape", "colour", "background", "motion", "sound")}
    have = 0
    while have < n:
        m = 2 * n + 64 if not held_out else 14 * n + 64
        a = {"shape": pick(4, m), "colour": pick(8, m), "background": pick(4, m),
             "motion": pick(9, m).clamp(max=BOUNCE)}  # bouncing twice as often
        sound = pick(7, m)
        thump = torch.rand(m, generator=generator, device=device) < 0.8
        a["sound"] = torch.where((a["motion"] == BOUNCE) & thump, IMPACT, sound)
        keep = is_held_out(a["shape"], a["colour"], a["background"], a["motion"])
        keep = keep if held_out else ~keep
        for k in out:
            out[k].append(a[k][keep])
        have += int(keep.sum())
    return {k: torch.cat(v)[:n] for k, v in out.items()}


def draw_scene(attributes, generator):
    """Places, sizes and times. Returns the attributes and centre [B,T,2], size [B,T], ..."""
    a = attributes
    device, n = a["shape"].device, a["shape"].numel()

    def uniform(lo, hi, *shape):
        return lo + (hi - lo) * torch.rand(n, *shape, generator=generator, device=device)

    def among(values):
        v = torch.tensor(values, device=device)
        return v[torch.randint(len(values), (n,), generator=generator, device=device)]

    t = torch.arange(FRAMES, device=device, dtype=torch.float32)[None]  # [1, T]
    s = t / (FRAMES - 1)
    size = uniform(12, 17)
    below = BELOW.to(device)[a["shape"]] * size
    go = uniform(52, 66)[:, None]
    x_any, y_any = uniform(32, 96)[:, None], uniform(32, 86)[:, None]
    x_right, y_low, climb = uniform(88, 102)[:, None], uniform(80, 86)[:, None], uniform(44, 56)[:, None]
    angle = 2 * math.pi * (uniform(0, 1)[:, None] + uniform(0.9, 1.1)[:, None] * s)
    orbit = uniform(22, 28)[:, None]
    first, drop = among([10, 12, 14, 16]), uniform(52, 64)
    height, impacts = bounce(first, drop, t)
    zero = torch.zeros(n, FRAMES, device=device)
    x_mid, y_mid = uniform(58, 70)[:, None], uniform(52, 60)[:, None]
    xs = torch.stack([x_any + zero, x_right - go * s, 128 - x_right + go * s, x_any + zero,
                      x_any + zero, x_mid + orbit * torch.cos(angle), x_mid + zero,
                      x_any + zero], 1)
    ys = torch.stack([y_any + zero, y_any + zero, y_any + zero, y_low - climb * s,
                      y_low - climb * (1 - s), y_mid + orbit * torch.sin(angle), y_mid + zero,
                      FLOOR - below[:, None] - height], 1)
    small, large = uniform(6, 8)[:, None], uniform(25, 29)[:, None]
    row = torch.arange(n, device=device)
    motion = a["motion"]
    centre = torch.stack([xs[row, motion], ys[row, motion]], -1)
    grown = torch.where((motion == MOTIONS.index("growing"))[:, None],
                        small + (large - small) * s, size[:, None] + zero)
    impacts = impacts & (a["sound"] == IMPACT)[:, None]
    return dict(a, centre=centre, size=grown, impacts=impacts,
                phase=uniform(0, 1), level=uniform(0.9, 1.1),
                hue=0.06 * (torch.rand(n, 3, generator=generator, device=device) - 0.5))


def bounce(first, drop, t):
    """Height above the contact at each frame [B,T], and which frames touch the floor [B,T].

    The fall takes `first` frames; bounce k lasts round(2 first 0.8^k) frames and rises so
    that gravity is the same throughout."""
    first = first.float()[:, None]
    gravity = drop[:, None] / first ** 2
    height = gravity * (first ** 2 - t ** 2)
    impacts = t == first
    begin = first
    for k in range(1, 8):
        length = torch.round(2 * first * 0.8 ** k).clamp(min=3)
        u = t - begin
        height = torch.where(u >= 0, gravity * u * (length - u), height)
        begin = begin + length
        impacts = impacts | (t == begin)
    return height.clamp(min=0), impacts


# ---- pictures ----

def distance(shape, px, py):
    """Signed distance to each shape of size 1, y downwards; shape [...] broadcast."""
    circle = torch.sqrt(px * px + py * py) - 1.0
    square = torch.maximum(px.abs(), py.abs()) - 0.88
    c, s = math.cos(math.radians(30)), math.sin(math.radians(30))
    triangle = torch.maximum(py, c * px.abs() - s * py) - 0.625
    return torch.where(shape == 0, circle, torch.where(shape == 1, square, torch.where(
        shape == 2, triangle, star_distance(px, -py, 1.3, 0.45))))


def star_distance(x, y, radius, ratio):
    """Five points, one up: the plane is folded onto one half of a point."""
    kx, ky = 0.809016994375, -0.587785252292
    x = x.abs()
    d = 2 * (kx * x + ky * y).clamp(min=0)
    x, y = x - d * kx, y - d * ky
    d = 2 * (-kx * x + ky * y).clamp(min=0)
    x, y = x + d * kx, y - d * ky
    x, y = x.abs(), y - radius
    bx, by = -ratio * ky, ratio * kx - 1
    h = ((x * bx + y * by) / (bx * bx + by * by)).clamp(0, radius)
    return torch.sqrt((x - bx * h) ** 2 + (y - by * h) ** 2) * torch.sign(y * bx - x * by)


def coverage(shape, centre, size):
    """How much of each pixel the shape covers: [B,T,H,W] from [B], [B,T,2], [B,T]."""
    axis = torch.arange(SIZE, device=size.device, dtype=torch.float32) + 0.5
    px = (axis[None, None, None, :] - centre[..., 0, None, None]) / size[..., None, None]
    py = (axis[None, None, :, None] - centre[..., 1, None, None]) / size[..., None, None]
    d = distance(shape[:, None, None, None], px, py) * size[..., None, None]
    return (0.5 - d).clamp(0, 1)


def render_video(scene, start=0, length=FRAMES, colours=None):
    """Frames start..start+length-1: [B, 3, T, H, W]. colours: (shape, wall, floor), each
    [B, 3], in place of the palette's (a wider world for the video VAE)."""
    shape = scene["shape"]
    if colours is None:
        fore, walls, floors = palette(shape.device)
        colours = ((fore[scene["colour"]] + scene["hue"]).clamp(-1, 1),
                   walls[scene["background"]], floors[scene["background"]])
    fore, wall, floor = (c[:, :, None, None, None] for c in colours)
    span = slice(start, start + length)
    alpha = coverage(shape, scene["centre"][:, span], scene["size"][:, span])[:, None]
    below = (torch.arange(SIZE, device=shape.device) >= FLOOR).float()[:, None]
    back = wall + (floor - wall) * below
    return back + (fore - back) * alpha


# ---- sound ----

def render_audio(scene, generator):
    """[B, 32768]."""
    sound = scene["sound"]
    device, n = sound.device, sound.numel()
    t = torch.arange(SAMPLES, device=device, dtype=torch.float32)[None] / RATE
    phase = scene["phase"][:, None]
    length = SAMPLES / RATE
    tones = [tone(f * t + phase) for f in TONES]
    ratio, low = math.log(5.0), 300.0  # 300 to 1500 Hz
    rising = tone(low * length / ratio * (torch.exp(ratio * t / length) - 1) + phase)
    falling = tone(5 * low * length / ratio * (1 - torch.exp(-ratio * t / length)) + phase)
    beat = torch.remainder(t / 0.25 + phase, 1.0)
    gate = torch.clamp(torch.minimum(beat, 0.5 - beat) * 50, 0, 1)
    beeps = tone(750 * t + phase) * gate
    noise = 0.35 * torch.randn(n, SAMPLES, generator=generator, device=device)
    hits = thumps(scene["impacts"], t, generator)
    every = torch.stack(tones + [rising, falling, beeps, noise.clamp(-1, 1), hits], 1)
    wave = every[torch.arange(n, device=device), sound]
    return (0.8 * scene["level"][:, None] * wave).clamp(-0.98, 0.98)


def tone(cycles):
    """A sine with a little of its octave, of a phase in cycles."""
    turn = 2 * math.pi * torch.remainder(cycles, 1.0)
    return 0.5 * torch.sin(turn) + 0.12 * torch.sin(2 * turn)


def thumps(impacts, t, generator):
    """A click and a falling low note from the first sample of every marked frame."""
    n, device = impacts.shape[0], impacts.device
    wave = torch.zeros(n, SAMPLES, device=device)
    click = torch.randn(n, SAMPLES, generator=generator, device=device)
    for frame in range(FRAMES):
        hit = impacts[:, frame]
        u = (t - frame / FPS).clamp(min=0)
        one = torch.sin(2 * math.pi * (110 * u + 2.5 * (1 - torch.exp(-u / 0.03)))) * torch.exp(-u / 0.07)
        one = (0.9 * one * (1 - torch.exp(-u / 0.001)) + 0.4 * click * torch.exp(-u / 0.006)) * (t >= frame / FPS)
        wave = wave + one * hit[:, None]
    return wave.clamp(-1, 1)


# ---- words ----

WORDS = {
    "shape": [["circle", "disc", "ball", "dot", "round shape"],
              ["square", "box", "block", "square tile"],
              ["triangle", "three-sided shape", "wedge", "triangular shape"],
              ["star", "five-pointed star", "star shape", "little star"]],
    "colour": [["red", "red", "crimson", "scarlet", "bright red"],
               ["green", "green", "emerald", "grass-green", "bright green"],
               ["blue", "blue", "royal blue", "bright blue"],
               ["yellow", "yellow", "golden", "lemon yellow", "bright yellow"],
               ["orange", "orange", "tangerine", "bright orange"],
               ["purple", "purple", "violet", "deep purple"],
               ["pink", "pink", "rosy", "light pink"],
               ["cyan", "cyan", "turquoise", "aqua", "teal"]],
    "background": [["black", "black", "dark", "pitch-black", "very dark"],
                   ["white", "white", "bright white", "pale", "plain white"],
                   ["gray", "grey", "gray", "neutral gray", "concrete grey"],
                   ["brown", "brown", "wooden", "earthy brown", "chocolate brown"]],
}
# Finite and "-ing" forms of each motion.
MOVES = [
    [("stands still", "standing still"), ("does not move", "not moving"), ("rests", "resting"),
     ("stays in place", "staying in place"), ("sits motionless", "sitting motionless"),
     ("is still", "being still"), ("remains at rest", "remaining at rest")],
    [("moves left", "moving left"), ("slides to the left", "sliding to the left"),
     ("travels leftwards", "travelling leftwards"), ("drifts left", "drifting left"),
     ("goes from right to left", "going from right to left"),
     ("glides toward the left side", "gliding toward the left side"), ("rolls left", "rolling left")],
    [("moves right", "moving right"), ("slides to the right", "sliding to the right"),
     ("travels rightwards", "travelling rightwards"), ("drifts right", "drifting right"),
     ("goes from left to right", "going from left to right"),
     ("glides toward the right side", "gliding toward the right side"), ("rolls right", "rolling right")],
    [("moves up", "moving up"), ("rises", "rising"), ("floats upwards", "floating upwards"),
     ("climbs slowly", "climbing slowly"), ("goes from bottom to top", "going from bottom to top"),
     ("lifts upward", "lifting upward"), ("ascends", "ascending")],
    [("moves down", "moving down"), ("sinks", "sinking"), ("floats downwards", "floating downwards"),
     ("descends slowly", "descending slowly"), ("goes from top to bottom", "going from top to bottom"),
     ("lowers itself", "lowering itself"), ("glides down", "gliding down")],
    [("moves in a circle", "moving in a circle"), ("circles around", "circling around"),
     ("goes round and round", "going round and round"), ("orbits the middle", "orbiting the middle"),
     ("travels along a circular path", "travelling along a circular path"), ("loops around", "looping around")],
    [("grows", "growing"), ("gets bigger", "getting bigger"), ("becomes larger", "becoming larger"),
     ("expands", "expanding"), ("swells up", "swelling up"), ("increases in size", "increasing in size"),
     ("comes closer", "coming closer")],
    [("bounces", "bouncing"), ("falls and bounces", "falling and bouncing"), ("jumps", "jumping"),
     ("hops up and down", "hopping up and down"), ("drops and bounces", "dropping and bouncing"),
     ("bounces on the floor", "bouncing on the floor"), ("jumps up and down", "jumping up and down"),
     ("hits the floor and bounces", "hitting the floor and bouncing"),
     ("falls to the floor", "falling to the floor")],
]
NOISES = [
    ["a low tone", "a low steady note", "a deep tone", "a deep steady hum", "a low-pitched sound", "a bass note"],
    ["a middle tone", "a medium tone", "a tone of medium pitch", "a steady mid-range note", "a mid-pitched tone",
     "a tone in the middle range"],
    ["a high tone", "a high steady note", "a high-pitched tone", "a high whistle", "a shrill steady tone",
     "a high-pitched sound"],
    ["a rising tone", "a tone that rises", "a sweep going up", "a pitch that climbs", "an upward sweep",
     "a siren rising in pitch"],
    ["a falling tone", "a tone that falls", "a sweep going down", "a pitch that drops", "a downward sweep",
     "a siren falling in pitch"],
    ["beeps", "short beeps", "a beeping sound", "repeated beeps", "a series of beeps", "beep beep beep"],
    ["noise", "white noise", "static", "a hiss", "a noisy hiss", "hissing static"],
    ["a thump", "a thump at each bounce", "thuds", "a thud when it hits the floor", "impact sounds",
     "a thump on every impact", "thumps", "a dull thud at each landing"],
]
ADJECTIVES = ["", "", "", "", "simple ", "flat ", "plain ", "small ", "single ", "solid "]
PLACES = ["on a {b} background", "against a {b} background", "in front of a {b} wall", "on a {b} floor",
          "before a {b} backdrop", "in a {b} room", "on a {b} backdrop", "with a {b} background"]
# {s} subject, {f} finite verb, {g} -ing form, {p} place with its article, {b} background word
SCENES = ["{s} {f} {p}", "{s} {g} {p}", "{s} is {g} {p}", "{p}, {s} {f}", "{p}, {s} is {g}",
          "we see {s} {g} {p}", "a clip of {s} {g} {p}", "{s} that {f} {p}", "there is {s} {p}; it {f}",
          "{s} {p} {f}", "the background is {b} and {s} {f}", "{s} {f}. The background is {b}",
          "video of {s} that {f} {p}", "{s}, {g}, {p}", "{s}, {g} {p}", "{s} {f}, {p}", "{s}: {g} {p}",
          "{s} keeps {g} {p}", "{p} we see how {s} {f}", "a short video of {s} {g} {p}", "now {s} {f} {p}",
          "here {s} {f} {p}", "here is {s}, {g} {p}", "show me {s} {g} {p}", "make a clip of {s} that {f} {p}",
          "please draw {s} that {f} {p}", "{p} one finds {s}, {g}", "{s} {f} while the background is {b}",
          "the wall is {b}, and {s} is {g}", "{b} background, {s}, {g}", "{s}, {b} background, {g}",
          "scene: {s} {g} {p}", "{p} {s} {f} all the time", "{s} {f} and the wall behind is {b}",
          "everything is {b} except {s}, {g}", "{s} {f} in this film, {p}"]
SCENES_HELD_OUT = ["{p} there is {s} which {f}", "{s} can be seen {g} {p}", "imagine {s} {p}, {g}",
                   "an animation: {s} {f} {p}", "look, {s} {f} {p}", "{g} {p}: {s}"]
HEARD = ["{v}. <AUDCAP>{a}<ENDAUDCAP>", "{v}. Audio: {a}", "{v} <AUDCAP>{a}<ENDAUDCAP>", "{v}. Audio: {a}.",
         "{v}. <AUDCAP>{a}.<ENDAUDCAP>", "{v}, with {a}", "{v}, and we hear {a}", "{v}. The sound is {a}",
         "{v} with {a}", "{v} to the sound of {a}", "{v} while {a} plays", "{v}; the sound is {a}",
         "{v}. Sound: {a}", "{v}. <AUDCAP>only {a}<ENDAUDCAP>", "{v}. <AUDCAP>We hear {a}.<ENDAUDCAP>", "{v}, {a}",
         "{v}. It sounds like {a}", "{v} plus {a}", "{v}. Audio: only {a}", "{v}. One hears {a}", "{v}, making {a}",
         "{v}. <AUDCAP>{a} plays<ENDAUDCAP>", "{v}. In the sound track {a}."]
HEARD_HELD_OUT = ["{v}. <AUDCAP>there is {a}<ENDAUDCAP>", "{v}. <AUDCAP>the sound of {a}<ENDAUDCAP>",
                  "{v}, accompanied by {a}", "{v}. You can hear {a}", "{v}. Audio: you hear {a}"]


# Words that say nothing here; a training sentence may have some anywhere, and made-up ones, so
# that the model learns to read past what it does not know. None stands in a held-out form only.
FILLERS = """very nice short quite really scene film video shows picture softly again smoothly screen today some
this that just so also then perhaps clear clean please now here well simply maybe behind front camera view frame
being its own little more such other every first whole same time long day world thing kind style good new old
two many few each when where how what why not yet still-life art cartoon drawn render computer graphic""".split()


def with_fillers(text, rng):
    words = text.split(" ")
    for _ in range(rng.randint(1, 3)):
        made_up = "".join(rng.choice("abcdefghiklmnoprstuvwyz") for _ in range(rng.randint(2, 7)))
        words.insert(rng.randint(0, len(words)), made_up if rng.random() < 0.3 else rng.choice(FILLERS))
    return " ".join(words)


def article(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(a, rng, held_out=False):
    """A sentence for integers a = (shape, colour, background, motion, sound). Now and then a
    training sentence leaves something out; a held-out one never does."""
    def drop(share):
        return not held_out and rng.random() < share
    shape, colour = rng.choice(WORDS["shape"][a[0]]), rng.choice(WORDS["colour"][a[1]])
    back = rng.choice(WORDS["background"][a[2]])
    finite, ing = rng.choice(MOVES[a[3]])
    things = shape if drop(0.04) else colour + " " + shape
    subject = article(rng.choice(ADJECTIVES) + things)
    if drop(0.08):
        subject = things
    place = rng.choice(PLACES).format(b=back).replace("a earthy", "an earthy")
    scene = rng.choice(SCENES_HELD_OUT if held_out else SCENES)
    if drop(0.05):
        text = subject + " " + rng.choice([finite, ing])
    else:
        text = scene.format(s=subject, f=finite, g=ing, p=place, b=back)
    if not drop(0.06):
        heard = rng.choice(HEARD_HELD_OUT if held_out else HEARD)
        text = heard.format(v=text, a=rng.choice(NOISES[a[4]]))
    if drop(0.4):
        text = with_fillers(text, rng)
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.5 and text[-1].isalpha():
        text += "."
    return text


def held_out_prompts(n, seed=2026):
    """The prompts of the evaluation: [(attributes, text)]."""
    generator = torch.Generator().manual_seed(seed)
    a = draw_attributes(n, generator, "cpu", held_out=True)
    rows = torch.stack([a[k] for k in ("shape", "colour", "background", "motion", "sound")], 1).tolist()
    rng = random.Random(seed)
    return [(row, caption(row, rng, held_out=True)) for row in rows]


NEGATIVE_VIDEO = "jitter, bad hands, blur, distortion"
NEGATIVE_AUDIO = "robotic, muffled, echo, distorted"
