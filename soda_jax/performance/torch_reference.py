"""A model of SODA's size and layout in plain PyTorch, as a yardstick of training speed. Not a part of the library.

`soda_jax.tools.benchmark --only=torch` starts this file by its path, in whatever Python has PyTorch: it imports nothing
else. The first line that it reads is JSON (`torch_benchmark.specification`), which it answers with one of its own; each
further line is a number of training steps, answered with the seconds that they took.
"""

import copy
import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
HALF_VARIANCE = 2**-0.5


class Unit(nn.Module):
    """A residual unit of a pre-activation ResNet: norm-ReLU-convolution, twice."""

    def __init__(self, inputs, outputs, stride, drop_path):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.drop_path = drop_path
        self.shortcut = None
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        pre = F.relu(self.norm1(x))
        y = self.conv2(F.relu(self.norm2(self.conv1(pre))))
        if self.drop_path and self.training:
            keep = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop_path
            y = y * keep / (1 - self.drop_path)
        return y + (x if self.shortcut is None else self.shortcut(pre))


class Encoder(nn.Module):
    """ResNet-18 or 34 with a 3x3 stem, mean pooling and a linear map to the latent."""

    def __init__(self, spec):
        super().__init__()
        width, sizes = spec["base_features"], STAGES[spec["depth"]]
        self.stem = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        units, inputs = [], width
        for stage, size in enumerate(sizes):
            for unit in range(size):
                outputs = width * 2**stage
                rate = spec["drop_path"] * len(units) / (sum(sizes) - 1)
                units.append(Unit(inputs, outputs, 2 if unit == 0 and stage else 1, rate))
                inputs = outputs
        self.units = nn.Sequential(*units)
        self.norm = nn.BatchNorm2d(inputs)
        self.projection = nn.Linear(inputs, spec["latent_dim"])

    def forward(self, x):
        return self.projection(F.relu(self.norm(self.units(self.stem(x)))).mean((2, 3)))


def group_norm(spec, channels, affine=True, groups=0):
    return nn.GroupNorm(math.gcd(groups or spec["norm_groups"], channels), channels, eps=1e-5, affine=affine)


class Block(nn.Module):
    """A BigGAN residual block modulated by timestep and latent, and the self-attention that may follow it."""

    def __init__(self, spec, block, inputs):
        super().__init__()
        channels, self.resample = block["channels"], block["resample"]
        self.norm1, self.norm2 = group_norm(spec, inputs), group_norm(spec, channels, affine=False)
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = nn.Linear(spec["time_dim"], 2 * channels)
        seen = spec["time_dim"] if spec["embed_sections"] else spec["sections"][block["section"]]
        self.latent = nn.Linear(seen, 2 * channels, bias=False)
        self.shortcut = nn.Conv2d(inputs, channels, 1) if inputs != channels else None
        self.dropout = nn.Dropout(spec["dropout"])
        self.head_dim = spec["head_dim"]
        self.norm3 = None
        if block["attention"]:
            self.norm3, self.qkv = group_norm(spec, channels), nn.Linear(channels, 3 * channels)
            self.out = nn.Linear(channels, channels)

    def change_size(self, x):
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x

    def forward(self, x, t, z):
        h = self.conv1(self.change_size(F.gelu(self.norm1(x), approximate="tanh")))
        x = self.change_size(x)
        h = self.norm2(h)
        for modulation in (self.time(t), self.latent(z)):
            scale, bias = modulation[:, :, None, None].chunk(2, 1)
            h = (1 + scale) * h + bias
        h = self.conv2(self.dropout(F.gelu(h, approximate="tanh")))
        x = ((x if self.shortcut is None else self.shortcut(x)) + h) * HALF_VARIANCE
        return x if self.norm3 is None else self.attend(x)

    def attend(self, x):
        batch, channels, rows, columns = x.shape
        h = self.norm3(x).flatten(2).transpose(1, 2)
        heads = (batch, rows * columns, 3, channels // self.head_dim, self.head_dim)
        query, key, value = self.qkv(h).view(heads).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, -1, channels)
        return (x + self.out(h).transpose(1, 2).reshape(x.shape)) * HALF_VARIANCE


class Denoiser(nn.Module):
    """The UNet whose blocks `spec["blocks"]` lists in order of execution."""

    def __init__(self, spec):
        super().__init__()
        self.specs, self.sections, width = spec["blocks"], spec["sections"], spec["channels"]
        self.time1, self.time2 = (nn.Linear(spec["time_dim"], spec["time_dim"]) for _ in range(2))
        embedded = spec["sections"] if spec["embed_sections"] else ()
        self.embeddings = nn.ModuleList(nn.Linear(size, spec["time_dim"], bias=False) for size in embedded)
        half = spec["time_dim"] // 2
        self.register_buffer("frequencies", 10_000.0 ** (-torch.arange(half) / half))
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        blocks, inputs, skips = [], width, [width]
        for block in self.specs:
            if block["path"] == "up" and block["skip"] is not None:
                inputs += skips.pop()
            blocks.append(Block(spec, block, inputs))
            inputs = block["channels"]
            if block["path"] == "down":
                skips.append(inputs)
        self.blocks = nn.ModuleList(blocks)
        self.norm_out = group_norm(spec, inputs, groups=spec["norm_out_groups"])
        self.conv_out = nn.Conv2d(inputs, 3, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x, t, z):
        angles = t[:, None].float() * self.frequencies
        t = self.time1(torch.cat([angles.cos(), angles.sin()], 1))
        t = F.gelu(self.time2(F.gelu(t, approximate="tanh")), approximate="tanh")
        sections = z.split(self.sections, 1)
        if self.embeddings:
            sections = [embed(section) for embed, section in zip(self.embeddings, sections, strict=True)]
        x = self.conv_in(x)
        skips = [x]
        for spec, block in zip(self.specs, self.blocks, strict=True):
            if spec["path"] == "up" and spec["skip"] is not None:
                x = torch.cat([x, skips.pop()], 1)
            x = block(x, t, sections[spec["section"]])
            if spec["path"] == "down":
                skips.append(x)
        return self.conv_out(F.gelu(self.norm_out(x), approximate="tanh"))


class Training:
    """Steps of training in eager mode, on one batch that stays on the device: AdamW, clipping and EMA as SODA's."""

    def __init__(self, spec, memory_format):
        torch.manual_seed(0)
        self.spec, self.device = spec, "cuda" if torch.cuda.is_available() else "cpu"
        model = nn.ModuleDict({"encoder": Encoder(spec), "denoiser": Denoiser(spec)})
        self.model = model.to(self.device, memory_format=memory_format)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        optim = spec["optim"]
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), optim["learning_rate"], (optim["b1"], optim["b2"]), 1e-8, optim["weight_decay"]
        )
        shapes = [(spec["batch"], 3, side, side) for side in (spec["source_resolution"], spec["resolution"])]
        images = [torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device) for shape in shapes]
        self.source, self.target = (x.contiguous(memory_format=memory_format) for x in images)
        self.abar = torch.tensor(spec["abar"], device=self.device)

    def loss(self):
        source, target = self.source.float() / 127.5 - 1, self.target.float() / 127.5 - 1
        source = source + self.spec["source_noise"] * torch.randn_like(source)
        t = torch.randint(1, len(self.abar), (len(target),), device=self.device)
        noise, abar = torch.randn_like(target), self.abar[t][:, None, None, None]
        x_t = abar.sqrt() * target + (1 - abar).sqrt() * noise
        sixteen = self.spec["dtype"] == "bfloat16"
        with torch.autocast(self.device, torch.bfloat16, enabled=sixteen):
            z = F.dropout(self.model["encoder"](source), self.spec["latent_dropout"])
            rates = self.spec["latent_mask_rate"], self.spec["layer_mask_rate"]
            whole, parts = (torch.rand(len(z), n, device=z.device) for n in (1, len(self.spec["sections"])))
            keep = (whole >= rates[0]) & (parts >= rates[1])
            z = z * keep.repeat_interleave(torch.tensor(self.spec["sections"], device=z.device), 1)
            predicted = self.model["denoiser"](x_t, t, z)
        return F.mse_loss(predicted.float(), noise)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.spec["optim"]["clip_norm"])
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1e-4)

    def seconds(self, steps):
        begin = time.perf_counter()
        for _ in range(steps):
            self.step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin


def main():
    spec = json.loads(sys.stdin.readline())
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    found = {}
    for layout in ("contiguous_format", "channels_last"):
        training = Training(spec, getattr(torch, layout))
        training.seconds(1)
        found[layout] = training.seconds(2)
    best = min(found, key=found.get)
    training = Training(spec, getattr(torch, best))
    training.seconds(1)
    parameters = sum(p.numel() for p in training.model.parameters())
    print(json.dumps({"torch": torch.__version__, "layout": best, "parameters": parameters}), flush=True)
    for line in sys.stdin:
        print(training.seconds(int(line)), flush=True)


if __name__ == "__main__":
    main()
