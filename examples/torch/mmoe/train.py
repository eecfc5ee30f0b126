"""Train the mixture of experts for a moment on synthetic users, so that its two heads say something."""

from __future__ import annotations

import torch
from torch import nn
from tqdm import tqdm

STEPS = 200
BATCH = 512


def train(net_class: type[nn.Module], features: int) -> tuple[nn.Module, float]:
    """Train a fresh network of net_class on a made-up rule with two related targets; return it and its last
    loss.

    The rule: two directions in feature space that share half of their weights decide click and apply.
    """
    torch.manual_seed(58)
    net = net_class()
    shared, click_only, apply_only = torch.randn(3, features)
    directions = torch.stack([shared + click_only, shared + apply_only], dim=1) / features**0.5
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    loss_of = nn.BCELoss()
    net.train()
    last = float("inf")
    for _ in tqdm(range(STEPS), desc="mmoe: training", unit="step"):
        x = torch.randn(BATCH, features)
        y = (x @ directions > 0).float()
        heads = net(x)
        loss = sum(loss_of(head[:, 0], y[:, task]) for task, head in enumerate(heads))
        assert isinstance(loss, torch.Tensor)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        last = loss.item()
    net.eval()
    return net, last
