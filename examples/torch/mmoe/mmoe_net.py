"""Multi-gate mixture of experts; lies beside model.pth because the pickle refers to its classes by name.

Structure after Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts" (KDD 2018): shared experts, and per task a softmax gate that mixes them and a tower.
"""

from __future__ import annotations

import torch
from torch import nn

FEATURES = 138
EXPERTS = 6
TASKS = 2


class Experts(nn.Module):
    """All experts at once: one wide first layer, then a batched product, instead of a layer per expert.

    Input (n, features), output (n, experts, width).
    """

    def __init__(self, features: int, experts: int, hidden: int, width: int) -> None:
        super().__init__()
        self.experts = experts
        self.hidden = hidden
        self.first = nn.Linear(features, experts * hidden)
        self.second = nn.Parameter(torch.empty(experts, hidden, width))
        self.bias = nn.Parameter(torch.zeros(experts, 1, width))
        nn.init.xavier_uniform_(self.second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.first(x)).view(-1, self.experts, self.hidden).transpose(0, 1)
        return torch.baddbmm(self.bias, inner, self.second).transpose(0, 1)


class Tower(nn.Module):
    """The head of one task: (n, width) to a probability (n, 1)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.second(torch.relu(self.first(x))))


class MMoE(nn.Module):
    """Two probabilities (click, apply) from 138 features.

    Input: float32 (n, 138). Output: a list of TASKS tensors, each float32 (n, 1) in 0..1.
    """

    def __init__(
        self,
        features: int = FEATURES,
        experts: int = EXPERTS,
        tasks: int = TASKS,
        expert_hidden: int = 32,
        expert_width: int = 16,
        tower_hidden: int = 8,
    ) -> None:
        super().__init__()
        self.tasks = tasks
        self.experts = Experts(features, experts, expert_hidden, expert_width)
        self.gates = nn.Linear(features, tasks * experts)
        self.towers = nn.ModuleList(Tower(expert_width, tower_hidden) for _ in range(tasks))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        expertise = self.experts(x)
        mix = torch.softmax(self.gates(x).view(x.shape[0], self.tasks, -1), dim=2)
        per_task = torch.bmm(mix, expertise)
        return [tower(per_task[:, task]) for task, tower in enumerate(self.towers)]
