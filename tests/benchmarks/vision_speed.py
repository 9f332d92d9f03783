"""How fast training is on pictures and sounds, beside transformers' ViT and Whisper encoder: in one process,
in turns.

    python tests/benchmarks/vision_speed.py --json vision.json

Both of a row are the same network with a linear head on the mean of its positions, fp32, fused AdamW, the
same batch: forward, loss, backward, step. Rounds alternate and medians are taken (see speed.py).
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from speed import alternate, flags
from torch import Tensor, nn

from lm.backbone import BackboneConfig, Classifier, Frames, Patches


@dataclass
class Row:
    """One shape.

    Args:
        kind: whose architecture: vit or whisper.
        width, layers, heads: of the network.
        batch: pictures or sounds of a step.
        size: side of a picture, or frames of a sound.
        patch: side of a patch.
    """

    name: str
    kind: str
    width: int
    layers: int
    heads: int
    batch: int
    size: int
    patch: int = 16

    @property
    def raw(self) -> tuple[int, ...]:
        """The shape of a batch."""
        return (self.batch, *((80, self.size) if self.kind == "whisper" else (3, self.size, self.size)))


ROWS = [
    Row("vit 0.8M, 32 × 32 / 4", "vit", 128, 4, 4, 64, 32, 4),
    Row("vit-tiny, 224 × 224 / 16", "vit", 192, 12, 3, 4, 224),
    Row("vit-small, 224 × 224 / 16", "vit", 384, 12, 6, 2, 224),
    Row("whisper 0.8M, 3 s", "whisper", 128, 4, 4, 16, 300),
    Row("whisper-tiny, 10 s", "whisper", 384, 4, 6, 4, 1000),
    Row("whisper-base, 10 s", "whisper", 512, 6, 8, 2, 1000),
]


def ours(row: Row) -> nn.Module:
    """Our network."""
    config = BackboneConfig(
        hidden_size=row.width,
        num_layers=row.layers,
        num_heads=row.heads,
        mlp="gelu",
        norm="layer",
        bias=True,
        causal=False,
        positions="none",
    )
    shape = Frames(max_frames=row.size) if row.kind == "whisper" else None
    shape = shape or Patches(patch_size=row.patch, size=(row.size, row.size), prefix=1)
    return Classifier(config, 10, "mean", embeddings=shape.make(config))


class Theirs(nn.Module):
    """That of transformers, with the same head."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        import transformers as hf

        hf.logging.set_verbosity_error()
        if row.kind == "vit":
            config = hf.ViTConfig(
                hidden_size=row.width,
                num_hidden_layers=row.layers,
                num_attention_heads=row.heads,
                intermediate_size=4 * row.width,
                image_size=row.size,
                patch_size=row.patch,
            )
            self.net: nn.Module = hf.ViTModel(config, add_pooling_layer=False)
        else:
            config = hf.WhisperConfig(
                d_model=row.width,
                encoder_layers=row.layers,
                encoder_attention_heads=row.heads,
                encoder_ffn_dim=4 * row.width,
                max_source_positions=row.size // 2,
                decoder_layers=0,
                decoder_attention_heads=row.heads,
            )
            self.net = hf.WhisperModel(config).encoder
        self.head = nn.Linear(row.width, 10)

    def forward(self, raw: Tensor) -> Tensor:
        """Logits (B, 10)."""
        return self.head(self.net(raw).last_hidden_state.mean(1))


class Trained:
    """A contestant in training: one step at a time on the same random batch."""

    def __init__(self, net: nn.Module, row: Row, device: str) -> None:
        torch.manual_seed(0)
        self.net = net.to(device).train()
        learned = [each for each in net.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, lr=1e-4, fused=True)
        self.raw = torch.randn(row.raw, device=device)
        self.targets = torch.randint(10, (row.batch,), device=device)
        self.step()

    def step(self) -> float:
        """One step; its loss."""
        loss = F.cross_entropy(self.net(self.raw), self.targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="", help="those whose name has this in it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {flags()}", flush=True)
    found = []
    for row in (row for row in ROWS if args.rows in row.name):
        made = {"lm": Trained(ours(row), row, args.device)}
        made["transformers"] = Trained(Theirs(row), row, args.device)
        seconds, _ = alternate(made, args.rounds, args.seconds, args.device)
        speeds = {name: row.batch / each for name, each in seconds.items()}
        ratio = speeds["lm"] / speeds["transformers"]
        words = "  ".join(f"{name} {speed:,.1f}" for name, speed in speeds.items())
        print(f"{row.name:28} {words}  examples/s  lm / transformers {ratio:.2f}", flush=True)
        found.append({"row": row.name, "examples_per_second": speeds, "ratio": ratio})
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
