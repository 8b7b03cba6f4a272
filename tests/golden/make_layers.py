#!/usr/bin/env python3
"""Writes layers.json beside this file: what PyTorch computes for every layer and loss, forward and backward, for
tests/golden_layers_test.cpp to compare with.

    python3 tests/golden/make_layers.py          (needs PyTorch and numpy, as in Debian's python3-torch)

Each entry names the tensors that go in, the result for them and the gradients for a given dy, all in float64. Inputs are
multiples of 1/1024, hence the same numbers in float32. RMSNorm, which PyTorch has from 2.4 on, is written out in
PyTorch's operations. Losses: the mean that PyTorch returns, dy = 1.
"""
import datetime
import json
import pathlib
import platform

import numpy as np
import torch
from torch.nn import functional as F

GENERATOR = np.random.default_rng(2024)


def coarse(*shape, center=0.0, spread=1.0):
    values = center + spread * GENERATOR.standard_normal(shape)
    return torch.from_numpy(np.round(values * 1024) / 1024)


def entry(name, call, inputs, constants=None, loss=False, after=None):
    """One entry: call(*inputs, *constants); gradients of the floating inputs; `after`: tensors that the call changed."""
    constants = constants or {}
    leaves = {key: value.clone().requires_grad_(value.is_floating_point()) for key, value in inputs.items()}
    output = call(*leaves.values(), *constants.values())
    dy = torch.ones_like(output) if loss else coarse(*output.shape)
    output.backward(dy)
    record = {
        "name": name,
        "inputs": {key: tensor(value) for key, value in {**inputs, **constants}.items() if torch.is_tensor(value)},
        "output": tensor(output),
        "dy": tensor(dy),
        "gradients": {key: tensor(leaf.grad) for key, leaf in leaves.items() if leaf.grad is not None},
    }
    if after:
        record["after"] = {key: tensor(value) for key, value in after.items()}
    return record


def tensor(value):
    return {"shape": list(value.shape), "values": value.detach().flatten().tolist()}


def activations():
    x = coarse(3, 7, spread=2.0)
    functions = {
        "relu": F.relu,
        "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "softplus": lambda x: F.softplus(x, beta=2.0, threshold=3.0),
        "softmax": lambda x: F.softmax(x, -1),
        "softmax_dim0": lambda x: F.softmax(x, 0),
        "log_softmax": lambda x: F.log_softmax(x, -1),
    }
    return [entry(name, function, {"x": x}) for name, function in functions.items()]


def rms_norm(x, weight, eps=1e-6):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def layers():
    entries = [
        entry("linear", F.linear, {"x": coarse(2, 3, 5), "weight": coarse(4, 5), "bias": coarse(4)}),
        entry("layer_norm", lambda x, weight, bias: F.layer_norm(x, (6,), weight, bias),
              {"x": coarse(4, 6, center=3.0), "weight": coarse(6, center=1.0), "bias": coarse(6)}),
        entry("layer_norm_2d", lambda x, weight, bias: F.layer_norm(x, (3, 4), weight, bias, 1e-3),
              {"x": coarse(2, 3, 4), "weight": coarse(3, 4, center=1.0), "bias": coarse(3, 4)}),
        entry("rms_norm", rms_norm, {"x": coarse(4, 6), "weight": coarse(6, center=1.0)}),
        entry("group_norm", lambda x, weight, bias: F.group_norm(x, 2, weight, bias),
              {"x": coarse(2, 4, 3, 2, center=1.0), "weight": coarse(4, center=1.0), "bias": coarse(4)}),
        entry("matmul", torch.matmul, {"a": coarse(2, 3, 4), "b": coarse(4, 5)}),
        entry("embedding", lambda weight, indices: F.embedding(indices, weight, padding_idx=2),
              {"weight": coarse(5, 3), "indices": torch.tensor([[1, 2, 4], [1, 1, 0]])}),
    ]
    for name, shape in (("batch_norm_1d", (6, 3)), ("batch_norm_2d", (3, 3, 2, 2))):
        for training in (True, False):
            mean, var = coarse(3), coarse(3, center=2.0, spread=0.25)
            before = {"running_mean": mean.clone(), "running_var": var.clone()}
            record = entry(f"{name}_{'train' if training else 'eval'}",
                           lambda x, weight, bias, training=training, mean=mean, var=var: F.batch_norm(
                               x, mean, var, weight, bias, training=training, momentum=0.1),
                           {"x": coarse(*shape, center=1.0), "weight": coarse(3, center=1.0), "bias": coarse(3)},
                           after={"running_mean": mean, "running_var": var})
            record["inputs"].update({key: tensor(value) for key, value in before.items()})
            entries.append(record)
    return entries


def losses():
    logits, labels = coarse(6, 5, spread=2.0), torch.tensor([0, 4, -100, 2, 2, 1])
    weight = coarse(5, center=2.0, spread=0.25)
    soft = torch.softmax(coarse(6, 5), -1)
    x, y = coarse(4, 5), coarse(4, 5)
    binary = (coarse(4, 5) > 0).double()
    cross = {
        "cross_entropy": dict(),
        "cross_entropy_smoothed": dict(label_smoothing=0.1),
        "cross_entropy_weighted": dict(weight=weight),
        "cross_entropy_weighted_smoothed": dict(weight=weight, label_smoothing=0.1),
    }
    entries = [entry(name, lambda logits, labels, weight=None, options=options: F.cross_entropy(
        logits, labels, **{**options, **({"weight": weight} if weight is not None else {})}),
        {"logits": logits}, {"labels": labels, **({"weight": weight} if "weight" in options else {})}, loss=True)
        for name, options in cross.items()]
    for name, options in (("cross_entropy_soft", dict()), ("cross_entropy_soft_smoothed", dict(label_smoothing=0.2)),
                          ("cross_entropy_soft_weighted", dict(weight=weight))):
        entries.append(entry(name, lambda logits, soft, weight=None, options=options: F.cross_entropy(
            logits, soft, **{**options, **({"weight": weight} if weight is not None else {})}),
            {"logits": logits}, {"soft": soft, **({"weight": weight} if "weight" in options else {})}, loss=True))
    pos_weight = coarse(5, center=1.5, spread=0.25)
    entries += [
        entry("mse_loss", F.mse_loss, {"input": x, "target": y}, loss=True),
        entry("l1_loss", F.l1_loss, {"input": x, "target": y}, loss=True),
        entry("huber_loss", lambda input, target: F.huber_loss(input, target, delta=0.75), {"input": x, "target": y}, loss=True),
        entry("binary_cross_entropy_with_logits", F.binary_cross_entropy_with_logits, {"input": x}, {"target": binary}, loss=True),
        entry("binary_cross_entropy_with_logits_weighted",
              lambda input, target, pos_weight: F.binary_cross_entropy_with_logits(input, target, pos_weight=pos_weight),
              {"input": x}, {"target": binary, "pos_weight": pos_weight}, loss=True),
    ]
    return entries


def main():
    document = {
        "made_by": "tests/golden/make_layers.py",
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "entries": activations() + layers() + losses(),
    }
    path = pathlib.Path(__file__).with_name("layers.json")
    path.write_text(json.dumps(document, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")
    print(f"{path}: {len(document['entries'])} entries, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
