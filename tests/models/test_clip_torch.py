"""CLIP's tower against implementations in PyTorch, with random weights; skips what is not installed."""

import jax
import numpy as np
import pytest

from soda_jax import inputs
from soda_jax.models import clip
from soda_jax.models.clip_weights import tower_parameters
from soda_jax.workdir.safetensors import read_header, read_tensor
from tests.models import clip_reference

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)


def vectors(name, params, activation, images):
    mean, std = tuple(inputs.IMAGENET_MEAN.tolist()), tuple(inputs.IMAGENET_STD.tolist())
    tower = clip.ClipTower(name, activation, source_mean=mean, source_std=std)
    return jax.jit(lambda x: tower.apply({"params": params}, inputs.normalise_source(x))[0])(images)


def pixels(images):
    """What CLIP's own preprocessing makes of images of the right size, [B, 3, s, s]."""
    values = (images / 255.0 - np.array(clip.MEAN)) / np.array(clip.STD)
    return torch.from_numpy(values.transpose(0, 3, 1, 2).astype(np.float32).copy())


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(expected).mean() > 0.01


def randomised(network):
    """The network with no weight at a start that hides it: zero biases, scales of one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def loaded(path):
    header = read_header(path)
    shapes = {name: tensor.shape for name, tensor in header.items()}
    return tower_parameters(shapes, lambda name: read_tensor(path, name, header[name]))


@pytest.mark.parametrize("activation", clip.ACTIVATIONS)
def test_against_pytorchs_transformer_layers(monkeypatch, activation):
    monkeypatch.setitem(clip.VARIANTS, "tiny", clip_reference.TINY)
    patch, width, depth, _, size = clip_reference.TINY
    weights = clip_reference.weights(seed=1)
    name, params = tower_parameters({n: v.shape for n, v in weights.items()}, weights.__getitem__)
    w = {n.removeprefix("visual."): torch.from_numpy(v) for n, v in weights.items()}
    functional = torch.nn.functional
    activations = {"quick_gelu": lambda x: x * torch.sigmoid(1.702 * x), "gelu": functional.gelu}
    renamed = {"attn": "self_attn", "ln_1": "norm1", "ln_2": "norm2", "mlp.c_fc": "linear1", "mlp.c_proj": "linear2"}
    images = IMAGES[:, :size, :size]
    with torch.no_grad():
        x = functional.conv2d(pixels(images), w["conv1.weight"], stride=patch).flatten(2).transpose(1, 2)
        x = torch.cat([w["class_embedding"].expand(len(x), 1, width), x], 1) + w["positional_embedding"]
        x = functional.layer_norm(x, (width,), w["ln_pre.weight"], w["ln_pre.bias"])
        for index in range(depth):
            layer = torch.nn.TransformerEncoderLayer(
                width, width // 64, 4 * width, 0.0, activations[activation], batch_first=True, norm_first=True
            )
            block = f"transformer.resblocks.{index}."
            state = {n.removeprefix(block): value for n, value in w.items() if n.startswith(block)}
            for theirs, ours in renamed.items():
                state = {n.replace(theirs, ours, 1): value for n, value in state.items()}
            layer.load_state_dict(state)
            x = layer.eval()(x)
        expected = functional.layer_norm(x[:, 0], (width,), w["ln_post.weight"], w["ln_post.bias"]) @ w["proj"]
    assert_same(vectors(name, params, activation, images), expected.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("activation", clip.ACTIVATIONS)
def test_against_transformers(tmp_path, activation):
    """ViT-B/32 at its size, through a file that Hugging Face's library wrote."""
    transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
    config = transformers.CLIPVisionConfig(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, patch_size=32,
        projection_dim=512, hidden_act=activation,
    )  # fmt: skip
    network = randomised(transformers.CLIPVisionModelWithProjection(config))
    network.save_pretrained(tmp_path)
    name, params = loaded(tmp_path / "model.safetensors")
    assert name == "vit_b32"
    with torch.no_grad():
        expected = network(pixel_values=pixels(IMAGES)).image_embeds.numpy()
    assert_same(vectors(name, params, activation, IMAGES), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "variant", "activation"),
    [
        ("ViT-B-32-quickgelu", "vit_b32", "quick_gelu"),
        ("ViT-B-32", "vit_b32", "gelu"),
        ("ViT-B-16", "vit_b16", "gelu"),
        ("ViT-L-14", "vit_l14", "gelu"),
    ],
)
def test_against_open_clip(tmp_path, model, variant, activation):
    """Each size, text tower and all, through a file of OpenCLIP's names in half precision, and its preprocessing."""
    open_clip = pytest.importorskip("open_clip", reason="the package open_clip_torch is not installed")
    package = pytest.importorskip("safetensors.torch", reason="the package safetensors is not installed")
    images_module = pytest.importorskip("PIL.Image")
    network, _, preprocess = open_clip.create_model_and_transforms(model)
    network = randomised(network)
    package.save_file(
        {n: v.to(torch.bfloat16).contiguous() for n, v in network.state_dict().items()},
        tmp_path / "open_clip_model.safetensors",
    )
    network.load_state_dict({n: v.to(torch.bfloat16).float() for n, v in network.state_dict().items()})
    name, params = loaded(tmp_path / "open_clip_model.safetensors")
    assert name == variant
    with torch.no_grad():
        seen = torch.stack([preprocess(images_module.fromarray(image)) for image in IMAGES])
        expected = network.encode_image(seen).numpy()
    assert_same(vectors(name, params, activation, IMAGES), expected)
