#!/usr/bin/env python3
"""Samples per second of the loader beside PyTorch's DataLoader with the same transforms, in turn (A B A B ...), on the cpu.

  python3 bench/peers/data_loader.py --repeats 3 --out bench/results/data_loader.json

Needs ./run build weft_bench --preset release, the package dataset-fashion-mnist, and a Python with torch for the peer
(--python /usr/bin/python3 for Debian's python3-torch).

Both read the Fashion-MNIST training set from bytes in memory, in a new random order each epoch, and make batches of f32
images: random crop of 28 x 28 after padding by 2, (flip with probability 1/2,) normalised. Nothing is done with the batches.
The peer's transforms are what torchvision does to tensors, spelt out on one image at a time in Dataset.__getitem__, as its
users write them; its rate is the best of 0, 1 and 2 worker processes, ours the best of 0, 1 and 2 worker threads. "batched"
is what a patient user writes instead of DataLoader: a loop that transforms a whole batch at once, its crops gathered by
index, with one thread or two, whichever is faster. A rate is samples / seconds of one epoch after a warm one, median over the repeats. "others" is the number
of cores that other processes kept busy meanwhile: above about 0.2 of two, a row is disturbed.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# name, benchmark of ours, flip
CONFIGURATIONS = [("crop, normalise", "normalize_crop", False), ("crop, flip, normalise", "normalize_crop_flip", True)]

PEER = r'''
import gzip, json, os, sys, time
import numpy as np, torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
a = json.loads(sys.argv[1])
torch.manual_seed(1)
raw = gzip.open(os.path.join(a["data"], "train-images-idx3-ubyte.gz"), "rb").read()
X = torch.from_numpy(np.frombuffer(raw, np.uint8, -1, 16).reshape(-1, 1, 28, 28).copy())
Y = torch.from_numpy(np.frombuffer(gzip.open(os.path.join(a["data"], "train-labels-idx1-ubyte.gz"), "rb").read(), np.uint8, -1, 8).astype(np.int64))
class Set(Dataset):
    def __len__(self): return len(X)
    def __getitem__(self, i):
        x = F.pad(X[i], (2, 2, 2, 2))
        dy, dx = torch.randint(0, 5, (2,)).tolist()
        x = x[:, dy:dy + 28, dx:dx + 28]
        if a["flip"] and torch.rand(1).item() < 0.5: x = x.flip(-1)
        return (x.float().div_(255) - 0.2860) / 0.3530, Y[i]
def batched():
    P = F.pad(X[:, 0], (2, 2, 2, 2)).reshape(len(X), -1)
    window = (torch.arange(28)[:, None] * 32 + torch.arange(28)).reshape(-1)
    mirrored = (torch.arange(28)[:, None] * 32 + torch.arange(27, -1, -1)).reshape(-1)
    for ids in torch.randperm(len(X)).split(a["batch"]):
        d = torch.randint(0, 5, (2, len(ids)))
        at = window.expand(len(ids), -1)
        if a["flip"]: at = torch.where((torch.rand(len(ids)) < 0.5)[:, None], mirrored, at)
        at = at + (d[0] * 32 + d[1])[:, None]
        yield (P[ids].gather(1, at).float().mul_(1 / (255 * 0.3530)).sub_(0.2860 / 0.3530)).reshape(-1, 1, 28, 28), Y[ids]
def rate(make):
    best = 0
    for epoch in range(2):
        start, samples = time.perf_counter(), 0
        for x, y in make(): samples += len(x)
        best = samples / (time.perf_counter() - start)
    return best
by_hand = []
for threads in (2, 1):
    torch.set_num_threads(threads)
    by_hand.append(rate(batched))
rates = {"batched": max(by_hand)}
for workers in (0, 1, 2):
    torch.set_num_threads(1)
    loader = DataLoader(Set(), batch_size=a["batch"], shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    rates[f"workers {workers}"] = rate(lambda: loader)
print(json.dumps({"rates": rates, "torch": torch.__version__}))
'''


def busy_and_time():
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:9]]
    t = os.times()
    return (sum(v) - v[3] - v[4]) / os.sysconf("SC_CLK_TCK") - sum(t[:4]), time.perf_counter()


def run(command):
    busy, start = busy_and_time()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    busy_after, end = busy_and_time()
    return json.loads(done.stdout), round(max(0.0, (busy_after - busy) / (end - start)), 2)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--repeats", type=int, default=3)
    ap.add_argument("--batch", type=int, default=512, choices=[128, 512])
    ap.add_argument("--python", default=sys.executable)
    ap.add_argument("--binary", default=os.path.join(ROOT, "build", "release", "bin", "weft_bench"))
    ap.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    ap.add_argument("--out", default="")
    a = ap.parse_args()

    rows, torch_version = [], ""
    for name, benchmark, flip in CONFIGURATIONS:
        ours, theirs, others = {}, {}, 0.0
        for _ in range(a.repeats):
            result, busy = run([a.binary, f"--benchmark_filter=loader/{benchmark}/workers:./batch:{a.batch}/",
                                "--benchmark_format=json", "--benchmark_min_time=1"])
            for b in result["benchmarks"]:
                ours.setdefault("workers " + b["name"].split("workers:")[1][0], []).append(b["items_per_second"])
            peer, peer_busy = run([a.python, "-c", PEER, json.dumps({"flip": flip, "batch": a.batch, "data": a.data})])
            for key, value in peer["rates"].items():
                theirs.setdefault(key, []).append(value)
            torch_version, others = peer["torch"], max(others, busy, peer_busy)
        ours = {k: round(statistics.median(v)) for k, v in ours.items()}
        theirs = {k: round(statistics.median(v)) for k, v in theirs.items()}
        best = max(ours.values())
        peer_best = max(v for k, v in theirs.items() if k != "batched")
        rows.append({"name": name, "batch": a.batch, "weft": ours, "torch": theirs, "ratio": round(best / peer_best, 1),
                     "ratio_batched": round(best / theirs["batched"], 1), "others_max": others})
        print(f"{name:24} weft {best:>8} samples/s  DataLoader {peer_best:>7} ({rows[-1]['ratio']}x)  by hand "
              f"{theirs['batched']:>7} ({rows[-1]['ratio_batched']}x)  others {others}", flush=True)

    if a.out:
        with open("/proc/cpuinfo") as f:
            cpu = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), platform.processor())
        document = {"date": time.strftime("%Y-%m-%d"), "machine": f"{cpu}, {os.cpu_count()} cores", "torch": torch_version,
                    "repeats": a.repeats, "unit": "samples/s", "command": "python3 bench/peers/data_loader.py", "rows": rows}
        with open(a.out, "w") as f:
            json.dump(document, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
