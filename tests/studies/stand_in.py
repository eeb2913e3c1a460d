"""In place of `soda_jax.main`: leaves in the workdir what training and evaluation leave, at once and without jax."""

import json
import os
import pathlib
import random
import struct
import sys
import time
import zlib


def grid(path):
    """A PNG of one colour, by hand: this file imports no library."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = b"".join(b"\0" + bytes((90, 120, 150)) * 12 for _ in range(8))
    header = struct.pack(">IIBBBBB", 12, 8, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def main():
    given = dict(argument[2:].partition("=")[::2] for argument in sys.argv[1:])
    workdir, mode = pathlib.Path(given["workdir"]), given["mode"]
    row, steps = workdir.parent.name, int(given["config.train.num_steps"])
    with open(os.environ["STAND_IN_CALLS"], "a") as calls:
        calls.write(json.dumps([row, given["config.seed"], mode]) + "\n")
    if "STAND_IN_CORES" in os.environ:
        with open(os.environ["STAND_IN_CORES"], "a") as cores:
            cores.write(json.dumps(sorted(os.sched_getaffinity(0))) + "\n")
    if os.environ.get("STAND_IN_FAILS") == row:
        sys.exit("error: this row cannot be trained")
    time.sleep(float(os.environ.get("STAND_IN_SECONDS", 0)))
    workdir.mkdir(parents=True, exist_ok=True)
    if mode == "train":
        (workdir / "checkpoints" / str(steps)).mkdir(parents=True)
        (workdir / "checkpoints" / str(steps) / "weights").write_bytes(b"0" * 1000)
        lines = [{"step": n, "eval/loss": 1 / n, "images_per_second": 64.0} for n in (steps // 2, steps)]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        grid(workdir / "images" / f"reconstructions_{steps:08d}.png")
        session = {"last_step": steps, "finished": True, "reason": "last step", "seconds": 60.0}
        session |= {"git": {"revision": "a" * 40, "modified": False}, "hardware": {"platform": "cpu", "cpu_count": 2}}
        (workdir / "run.json").write_text(json.dumps({"num_steps": steps, "sessions": [session]}))
    elif mode == "evaluate":
        assert any((workdir / "checkpoints").iterdir())
        draw = random.Random(f"{row} {given['config.seed']}")
        figures = {"linear_probe/mean": draw.random(), "reconstruction/psnr": 20 + draw.random()}
        entries = {name: {"value": value, "low": None, "high": None} for name, value in figures.items()}
        record = {"format_version": 2, "step": steps, "model": "SODA", "results": {"SODA": entries}}
        (workdir / f"evaluation_{steps:08d}.json").write_text(json.dumps(record))
    else:
        grid(workdir / "samples" / f"grid_{steps:08d}_seed0.png")


if __name__ == "__main__":
    main()
