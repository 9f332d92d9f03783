"""How often a reward ranks the answer that people chose above the one they rejected."""

import torch
from torch import Tensor

from lm.metrics.base import Sums, ratio


class PreferenceScores(Sums):
    """Accuracy and mean rewards of preference pairs, for reward models and direct preference optimisation."""

    def __init__(self) -> None:
        super().__init__()
        self.add_sums("pairs", "wins", "ties")
        self.add_sums("chosen", "rejected", dtype=torch.float32)

    def update(self, chosen_rewards: Tensor, rejected_rewards: Tensor) -> None:
        """Add pairs: the rewards of the preferred answers and of the others, (N,); of other shapes a
        ValueError."""
        if chosen_rewards.shape != rejected_rewards.shape or chosen_rewards.dim() != 1:
            shapes = tuple(chosen_rewards.shape), tuple(rejected_rewards.shape)
            raise ValueError(f"chosen and rejected rewards must both have shape (N,), not {shapes}")
        self.increase(
            pairs=len(chosen_rewards),
            wins=(chosen_rewards > rejected_rewards).sum(),
            ties=(chosen_rewards == rejected_rewards).sum(),
            # A sum in bf16 over the batch would lose what the state keeps.
            chosen=chosen_rewards.float().sum(),
            rejected=rejected_rewards.float().sum(),
        )

    def compute(self) -> dict[str, Tensor]:
        """Means over pairs; not a number without pairs.

        `accuracy` (the share of pairs ranked as people did, a tie counting half), `margin` (chosen minus
        rejected reward), `chosen_reward`, `rejected_reward`.
        """
        return {
            "accuracy": ratio(2 * self.wins + self.ties, 2 * self.pairs),
            "margin": ratio(self.chosen - self.rejected, self.pairs),
            "chosen_reward": ratio(self.chosen, self.pairs),
            "rejected_reward": ratio(self.rejected, self.pairs),
        }
