#!/usr/bin/env python3
"""Training speed of the fashion_mnist example beside PyTorch's, in turn (A B A B ...), on the cpu.

  python3 bench/peers/fashion_mnist.py --repeats 5 --out bench/results/fashion_mnist_cpu.json

Needs ./run build example_fashion_mnist, the package dataset-fashion-mnist, and a Python with torch for the peer
(--python /usr/bin/python3 for Debian's python3-torch; --library-path FOLDER puts a BLAS variant's folder first in
LD_LIBRARY_PATH: Debian's default OpenBLAS is the pthread variant, whose spinning threads halve PyTorch's speed at two
threads, so that the fair peer uses libopenblas0-openmp).

Both train the same model (784-512-256-10) with AdamW, lr 1e-3, weight decay 0.01, from data in memory, a new random order
each epoch. A rate is samples per epoch / median epoch seconds, loading included, evaluation not; one process per repeat.
"others" is the number of cores that other processes kept busy meanwhile: above about 0.2 of two, a row is disturbed.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# name, norm, options of the example, options of the peer; epochs as many as give a steady median in a few seconds
CONFIGURATIONS = [
    ("batch 1 (pure SGD regime)", "layer", ["--batch-size", "1", "--epochs", "1", "--max-updates", "6000"],
     {"batch": 1, "epochs": 1, "updates": 6000}),
    ("batch 128", "batch", ["--batch-size", "128", "--epochs", "3"], {"batch": 128, "epochs": 3}),
    ("batch 1000", "batch", ["--batch-size", "1000", "--epochs", "3"], {"batch": 1000, "epochs": 3}),
    ("full batch", "batch", ["--batch-size", "full", "--epochs", "5"], {"batch": 60000, "epochs": 5}),
    ("full batch, 20 micro-batches", "batch",
     ["--batch-size", "full", "--accumulate", "20", "--bn-accumulation", "micro", "--epochs", "5"],
     {"batch": 60000, "accumulate": 20, "epochs": 5}),
]

PEER = r'''
import gzip, json, os, statistics, sys, time
import numpy as np, torch
from torch import nn
import torch.nn.functional as F
a = json.loads(sys.argv[1])
torch.set_num_threads(a["threads"]); torch.manual_seed(a["seed"])
def idx(name):
    raw = gzip.open(os.path.join(a["data"], name), "rb").read()
    nd = raw[3]; dims = np.frombuffer(raw, ">i4", nd, 4)
    return np.frombuffer(raw, np.uint8, -1, 4 + 4 * nd).reshape(dims)
def load(split):
    x = (torch.from_numpy(idx(split + "-images-idx3-ubyte.gz").copy()).float() / 255 - 0.2860) / 0.3530
    return x.reshape(-1, 784), torch.from_numpy(idx(split + "-labels-idx1-ubyte.gz").astype(np.int64))
X, Y = load("train"); Xt, Yt = load("t10k")
norm = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}[a["norm"]]
model = nn.Sequential(nn.Linear(784, 512), norm(512), nn.ReLU(), nn.Linear(512, 256), norm(256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
n, batch, k = len(X), a["batch"], a.get("accumulate", 1)
times, samples = [], 0
for epoch in range(a["epochs"]):
    model.train(); start = time.perf_counter(); samples = updates = 0
    order = torch.randperm(n) if batch < n else torch.arange(n)
    for first in range(0, n, batch):
        optimizer.zero_grad(set_to_none=True)
        ids = order[first:first + batch]
        for part in ids.split(-(-len(ids) // k)):
            x, y = (X, Y) if len(part) == n else (X[part], Y[part])
            (F.cross_entropy(model(x), y, reduction="sum") / len(ids)).backward()
        optimizer.step(); samples += len(ids); updates += 1
        if updates == a.get("updates"): break
    times.append(time.perf_counter() - start)
model.eval()
with torch.no_grad():
    right = sum((model(Xt[i:i + 1000]).argmax(1) == Yt[i:i + 1000]).sum().item() for i in range(0, len(Xt), 1000))
print(json.dumps({"samples_per_s": samples / statistics.median(times), "test_accuracy": right / len(Xt), "torch": torch.__version__}))
'''


def busy_and_time():
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:9]]
    t = os.times()
    return (sum(v) - v[3] - v[4]) / os.sysconf("SC_CLK_TCK") - sum(t[:4]), time.perf_counter()


def run(command, env):
    busy, start = busy_and_time()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    busy_after, end = busy_and_time()
    result = json.loads(done.stdout)
    result["others"] = round(max(0.0, (busy_after - busy) / (end - start)), 2)
    return result


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--repeats", type=int, default=5)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--only", default="", help="configurations whose name contains this")
    ap.add_argument("--python", default=sys.executable)
    ap.add_argument("--library-path", default="")
    ap.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    ap.add_argument("--out", default="")
    a = ap.parse_args()

    binary = os.path.join(ROOT, "build", "release", "bin", "fashion_mnist")
    peer_env = dict(os.environ, OMP_NUM_THREADS=str(a.threads))
    if a.library_path:
        peer_env["LD_LIBRARY_PATH"] = a.library_path
    rows, torch_version, commit = [], "", ""
    for name, norm, ours_options, peer in CONFIGURATIONS:
        if a.only not in name:
            continue
        ours, theirs = [], []
        for repeat in range(a.repeats):
            with tempfile.TemporaryDirectory() as folder:
                ours.append(run([binary, "--json", "--norm", norm, "--threads", str(a.threads), "--seed", str(repeat + 1),
                                 "--data-dir", a.data, "--out", os.path.join(folder, "run"), *ours_options], dict(os.environ)))
            setting = dict(peer, norm=norm, threads=a.threads, seed=repeat + 1, data=a.data)
            theirs.append(run([a.python, "-c", PEER, json.dumps(setting)], peer_env))
        torch_version, commit = theirs[0]["torch"], ours[0]["commit"]

        def rates(results):
            values = sorted(r["samples_per_s"] for r in results)
            return {"median": round(statistics.median(values)), "min": round(values[0]), "max": round(values[-1]),
                    "test_accuracy": round(statistics.mean(r["test_accuracy"] for r in results), 4),
                    "others_max": max(r["others"] for r in results)}

        row = {"name": name, "norm": norm, "options": " ".join(ours_options), "weft": rates(ours), "torch": rates(theirs)}
        row["ratio"] = round(row["weft"]["median"] / row["torch"]["median"], 2)
        row["ratios"] = [round(o["samples_per_s"] / t["samples_per_s"], 2) for o, t in zip(ours, theirs)]
        rows.append(row)
        print(f"{name:32} weft {row['weft']['median']:>7} ({row['weft']['min']}-{row['weft']['max']})  torch "
              f"{row['torch']['median']:>7} ({row['torch']['min']}-{row['torch']['max']})  ratio {row['ratio']:.2f}  "
              f"accuracy {row['weft']['test_accuracy']:.4f} / {row['torch']['test_accuracy']:.4f}  "
              f"others {max(row['weft']['others_max'], row['torch']['others_max'])}", flush=True)

    if a.out:
        with open("/proc/cpuinfo") as f:
            cpu = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), platform.processor())
        document = {"date": time.strftime("%Y-%m-%d"), "commit": commit, "machine": f"{cpu}, {os.cpu_count()} cores",
                    "threads": a.threads, "torch": torch_version, "repeats": a.repeats, "unit": "samples/s",
                    "command": "python3 bench/peers/fashion_mnist.py", "rows": rows}
        with open(a.out, "w") as f:
            json.dump(document, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
