"""What every part of the training shares: the clock that drives the learning rate, steps as
CUDA graphs, optimisers, and the record of losses."""
import json
import os
import sys
import time

import torch

from storage import load_part, save_part, write_curves

KEEP_EVERY = 60


class Clock:
    """Progress 0..1 by steps or by the time from now until then, whichever is further, and the
    learning rate of it."""

    def __init__(self, steps, until, warm=300):
        self.steps, self.warm, self.step = steps, warm, 0
        self.begin = time.time()
        self.seconds = until - self.begin

    def progress(self):
        return max(self.step / self.steps, (time.time() - self.begin) / max(self.seconds, 1))

    def rate(self):
        """Up in `warm` steps, flat, then down to nothing over the last 60 %."""
        return min(1.0, self.step / self.warm, max(0.0, (1 - self.progress()) / 0.6))


class Step:
    """A training step as one CUDA graph; on a CPU it is just called."""

    def __init__(self, step, device):
        self.step, self.graph, self.result = step, None, None
        if device == "cuda":
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.result = step()

    def __call__(self):
        if self.graph is None:
            return self.step()
        self.graph.replay()
        return self.result


def adam(params, rate, device, decay=0.01):
    if device != "cuda":
        return torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.98), weight_decay=decay)
    return torch.optim.AdamW(params, lr=torch.tensor(rate, device=device), betas=(0.9, 0.98),
                             weight_decay=decay, fused=True, capturable=True)


def muon_and_adam(named, is_hidden, rates, device):
    """Muon for the parameters that is_hidden(name, p) names, Adam for the others.
    Returns [(optimiser, peak rate)]."""
    hidden = [p for n, p in named if is_hidden(n, p)]
    chosen = {id(p) for p in hidden}
    rest = [p for _, p in named if id(p) not in chosen]
    both = [(adam(rest, rates[1], device), rates[1])]
    if hidden:
        both.append((Muon(hidden, torch.tensor(rates[0], device=device)), rates[0]))
    return both


def set_rate(optimiser, rate):
    for group in optimiser.param_groups:
        value = rate * group.get("share", 1.0)
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def orthogonal(g):
    """The nearest matrix with equal singular values, roughly: five Newton-Schulz steps."""
    x = g.bfloat16() if g.is_cuda else g
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.transpose(1, 2) if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal (Jordan et al. 2024), scaled to the size of
    Adam's updates. Matrices of one shape go through it together."""

    def __init__(self, params, lr, momentum=0.95):
        super().__init__(params, dict(lr=lr, momentum=momentum))
        self.shapes = {}
        for p in self.param_groups[0]["params"]:
            self.shapes.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {s: torch.zeros(len(ps), *s, device=ps[0].device) for s, ps in self.shapes.items()}

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        for shape, ps in self.shapes.items():
            g, buffer = torch.stack([p.grad for p in ps]), self.buffers[shape]
            buffer.mul_(group["momentum"]).add_(g)
            matrices = (g + group["momentum"] * buffer).flatten(2)
            update = orthogonal(matrices) * (0.2 * max(matrices.shape[1:]) ** 0.5)
            for p, u in zip(ps, (update * group["lr"]).unbind(0)):
                p.sub_(u.view_as(p))


class Record:
    """Losses as they come: printed now and then, drawn at the end. Beside them the weights so far,
    from which an interrupted part goes on."""

    def __init__(self, folder, name):
        self.folder, self.name, self.rows, self.begin = folder, name, [], time.time()
        self.kept = self.begin
        os.makedirs(folder, exist_ok=True)

    def keep(self, *nets):
        if time.time() - self.kept > KEEP_EVERY:
            save_part(self.folder, unfinished(self.name), [net.state_dict() for net in nets])
            self.kept = time.time()

    def add(self, step, **values):
        row = {k: float(v) for k, v in values.items()}
        self.rows.append(row)
        text = " ".join(f"{k} {v:.4g}" for k, v in row.items())
        print(f"{self.name} {step} {time.time() - self.begin:.0f}s {text}", flush=True)

    def close(self):
        curves = {k: [r[k] for r in self.rows] for k in (self.rows[0] if self.rows else {})}
        write_curves(os.path.join(self.folder, self.name + ".png"), curves)
        with open(os.path.join(self.folder, self.name + ".json"), "w") as f:
            json.dump(curves, f)
        kept = os.path.join(self.folder, unfinished(self.name) + ".pt")
        if os.path.exists(kept):
            os.remove(kept)


def wait_for_parts(args, *names):
    """Until the files of parts that are trained beside this one are there."""
    while not all(os.path.exists(os.path.join(args.out, name + ".pt")) for name in names):
        if time.time() > args.until:
            sys.exit(f"no {' and '.join(names)} in time")
        time.sleep(0.2)


def unfinished(name):
    return name + "_unfinished"


def go_on(args, name, *nets):
    """Takes the weights that an interrupted run of this part kept."""
    kept = load_part(args.out, unfinished(name))
    for net, state in zip(nets, kept or []):
        net.load_state_dict(state)
    if kept:
        print(f"{name}: goes on from the weights of an interrupted run", flush=True)


def arguments(parser):
    parser.add_argument("--out", required=True, help="folder of the parts, the curves and the weights")
    parser.add_argument("--start", help="packed model directory whose weights the training starts from")
    parser.add_argument("--seed", type=int, default=1, help="of the clips and the order they come in")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after them, whatever the step")
    parser.add_argument("--until", type=float, default=1e12, help="the same as a time since the epoch")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.until = min(args.until, time.time() + args.seconds)
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    return args
