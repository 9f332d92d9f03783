"""What steps of private training spend of privacy, by Opacus's accountants."""

import math
import warnings

from lm.errors import UserError

History = list[tuple[float, float, int]]  # noise multiplier, sample rate, and for how many steps


def epsilon_of(history: History, delta: float, accountant: str) -> float:
    """What steps have spent of privacy at a delta, by Opacus's accountant; infinite without noise."""
    if any(noise == 0 for noise, _, _ in history):
        return math.inf
    if not history:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import create_accountant

        counts = create_accountant(accountant)
        counts.history = list(history)
        return float(counts.get_epsilon(delta=delta))


def noise_for(epsilon: float, delta: float, rate: float, steps: int, accountant: str) -> float:
    """The noise multiplier with which so many steps spend `epsilon` at most.

    Raises:
        UserError: none does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants.utils import get_noise_multiplier

        try:
            return get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=rate,
                steps=steps,
                accountant=accountant,
                epsilon_tolerance=0.01 * min(1.0, epsilon),
            )
        except (ValueError, RuntimeError) as error:
            few = f"PrivateTraining: no noise gives epsilon {epsilon} over {steps} steps ({error})"
            raise UserError(f"{few}: allow more, or give `accountant` rdp", status=2) from error
