#!/usr/bin/env python3
"""Writes mlp.json beside this file: what PyTorch computes for a tiny MLP, for tests/golden_test.cpp to compare with.

    python3 tests/golden/make_golden.py          (needs PyTorch and numpy, as in Debian's python3-torch)

The model covers Linear with and without bias, BatchNorm1d, LayerNorm, ReLU and cross-entropy with ignored rows;
the runs cover AdamW and SGD with momentum, Nesterov momentum, weight decay and clip_grad_norm_. Inputs and weights are
multiples of 1/1024, hence the same numbers in float32 and float64. Numbers are written in shortest round-trip form.
The first Linear has no bias: BatchNorm cancels it, so that its gradient is rounding noise, which AdamW would normalise.
"""
import datetime
import json
import pathlib
import platform

import numpy as np
import torch
from torch import nn

UPDATES = 10
IGNORED = -100
ADAMW = dict(lr=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
SGD = dict(lr=0.05, momentum=0.9, weight_decay=0.01)
# name -> (optimizer, its options, max_norm or 0, the updates after which parameters are written)
RUNS = {
    "adamw": (torch.optim.AdamW, ADAMW, 0, range(1, UPDATES + 1)),
    "adamw_clipped": (torch.optim.AdamW, ADAMW, 0.25, (1, 2, UPDATES)),
    "sgd": (torch.optim.SGD, SGD, 0, range(1, UPDATES + 1)),
    "sgd_nesterov": (torch.optim.SGD, dict(SGD, nesterov=True), 0, (1, 2, UPDATES)),
    "sgd_clipped": (torch.optim.SGD, SGD, 0.25, (1, 2, UPDATES)),
}


def coarse(generator, shape, center, spread):
    values = center + spread * generator.standard_normal(tuple(shape))
    return torch.from_numpy(np.round(values * 1024) / 1024)


def new_model(dtype):
    return nn.Sequential(
        nn.Linear(12, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 6), nn.LayerNorm(6), nn.ReLU(),
        nn.Linear(6, 4),
    ).to(dtype)  # fmt: skip


def state_of(model):
    return {name: value for name, value in model.state_dict().items() if "num_batches_tracked" not in name}


def initial_state(generator):
    state = {}
    for name, value in state_of(new_model(torch.float64)).items():
        near_one = name.endswith("running_var") or name in ("1.weight", "4.weight")
        matrix = value.dim() == 2
        state[name] = coarse(generator, value.shape, 1.0 if near_one else 0.0, 0.35 if matrix else 0.125)
    return state


class Setting:
    """The model, the batch and the loss in one dtype."""

    def __init__(self, dtype, initial, inputs, targets):
        self.model = new_model(dtype)
        self.model.load_state_dict({name: value.to(dtype) for name, value in initial.items()}, strict=False)
        self.model.train()
        self.inputs = inputs.to(dtype)
        self.targets = targets

    def logits(self):
        return self.model(self.inputs)

    def loss(self, reduction):
        return nn.functional.cross_entropy(self.logits(), self.targets, reduction=reduction, ignore_index=IGNORED)

    def parameters(self):
        return {name: value.detach().clone() for name, value in self.model.named_parameters()}

    def gradients(self):
        return {name: value.grad.clone() for name, value in self.model.named_parameters()}


def results(dtype, initial, inputs, targets):
    setting = Setting(dtype, initial, inputs, targets)
    logits = setting.logits()
    out = {"logits": logits.detach()}
    out["running_after_forward"] = {k: v.clone() for k, v in state_of(setting.model).items() if "running" in k}
    for reduction in ("sum", "mean"):
        setting = Setting(dtype, initial, inputs, targets)
        loss = setting.loss(reduction)
        loss.backward()
        out["loss_" + reduction] = loss.detach()
        out["gradients_of_" + reduction] = setting.gradients()
    out["runs"] = {}
    for name, (optimizer_class, options, max_norm, written) in RUNS.items():
        setting = Setting(dtype, initial, inputs, targets)
        optimizer = optimizer_class(setting.model.parameters(), **options)
        losses, norms, parameters = [], [], {}
        for update in range(1, UPDATES + 1):
            optimizer.zero_grad()
            loss = setting.loss("mean")
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(setting.model.parameters(), max_norm or float("inf")))
            optimizer.step()
            losses.append(loss.detach())
            if update in written:
                parameters[str(update)] = setting.parameters()
        out["runs"][name] = {
            "losses": torch.stack(losses),
            "grad_norms": torch.stack(norms),
            "parameters_after": parameters,
            "running_var_after": state_of(setting.model)["1.running_var"],
        }
    return out


def number(value):
    return repr(value) if isinstance(value, (int, float)) else str(value)  # numpy's str is the shortest for its dtype


def to_json(value, indent=""):
    """JSON with one tensor per line, flattened row-major."""
    if isinstance(value, dict):
        inner = indent + " "
        lines = [f"{inner}{json.dumps(key)}: {to_json(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + indent + "}"
    if isinstance(value, torch.Tensor):
        array = value.numpy()
        return number(array[()]) if array.ndim == 0 else "[" + ",".join(number(item) for item in array.ravel()) + "]"
    return json.dumps(value)


def main():
    torch.set_num_threads(1)
    generator = np.random.default_rng(20)
    initial = initial_state(generator)
    inputs = coarse(generator, (10, 12), 0.0, 1.0)
    targets = torch.tensor([0, 3, IGNORED, 1, 2, 2, IGNORED, 0, 1, 3])
    document = {
        "provenance": {
            "command": "python3 tests/golden/make_golden.py",
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "date": datetime.date.today().isoformat(),
        },
        "ignore_index": IGNORED,
        "inputs": inputs,
        "targets": targets,
        "shapes": {name: list(value.shape) for name, value in initial.items()},
        "initial": initial,
        "runs": {name: dict(options, max_norm=max_norm) for name, (_, options, max_norm, _) in RUNS.items()},
        "float64": results(torch.float64, initial, inputs, targets),
        "float32": results(torch.float32, initial, inputs, targets),
    }
    pathlib.Path(__file__).with_name("mlp.json").write_text(to_json(document) + "\n")


if __name__ == "__main__":
    main()
