"""Diffusion models: one interface for pixels and latents, what is read is checked, which one fits a dataset."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import EAGER, TINY, TINY_DIFFUSION, few_plain_samples
from safetensors.torch import load_file, save_file

from ddbench.data.dataset import make_dataset
from ddbench.data.load import load_dataset
from ddbench.data.specs import DATASETS
from ddbench.diffusion.backends import Backend, LatentDiT, PixelUNet
from ddbench.diffusion.recipe import DiffusionRecipe, scheduler_config, unet_config, usable_levels
from ddbench.diffusion.store import FILE, check_model, class_map, find_model, open_model, read_model
from ddbench.protocols.training import Settings
from ddbench.runtime.errors import UserError
from ddbench.runtime.seeds import isolated
from ddbench.synset import read_synset
from ddbench.tasks.base import Run
from ddbench.tasks.distilling import again, needs_of, recorded_run, source_of

diffusers = pytest.importorskip("diffusers")
CPU = torch.device("cpu")


def save_dit(folder: Path, classes: int = 10, channels: int = 1, **scheduler: Any) -> Path:
    """A tiny pretrained pipeline as others publish them: DiT with learned variance, autoencoder, 8 px."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            sample_size=4,
            patch_size=2,
            num_embeds_ada_norm=classes,
            norm_num_groups=4,
        )
        vae = diffusers.AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=8,
        )
        for net in (transformer, vae):  # some weights are published as zeros: then nothing would be tested
            for parameter in net.parameters():
                parameter.data.add_(0.02 * torch.randn_like(parameter))
    pipeline = diffusers.DiTPipeline(transformer, vae, diffusers.DDIMScheduler(**{**scheduler_config(), **scheduler}))
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dit(tmp_path_factory.mktemp("dit") / "pipeline")


@pytest.fixture
def dit(dit_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(dit_folder, tmp_path / "dit"))


@pytest.fixture
def own(tiny_diffusions: Path, tmp_path: Path) -> Path:
    """A copy of the trained model's folder."""
    (description,) = tiny_diffusions.glob(f"*/*/{FILE}")
    return Path(shutil.copytree(description.parent, tmp_path / "d" / "digits" / description.parent.name))


def pixel_backend(classes: int = 10) -> PixelUNet:
    with isolated(0, "pixel backend"):
        net = diffusers.UNet2DModel(**unet_config(DiffusionRecipe(widths=(8, 8)), 1, 8, classes))
    return PixelUNet(net, diffusers.DDIMScheduler(**scheduler_config()).alphas_cumprod, CPU)


@pytest.mark.parametrize(
    ("side", "levels", "usable"), [(8, 3, 3), (8, 5, 3), (28, 4, 3), (28, 3, 3), (32, 4, 4), (25, 3, 1), (30, 3, 2)]
)
def test_levels(side: int, levels: int, usable: int):
    """A level more than usable fails in the network; this many work."""
    assert usable_levels(side, levels) == usable
    recipe = DiffusionRecipe(widths=(8,) * levels)
    net = diffusers.UNet2DModel(**unet_config(recipe, 1, side, 2))
    x = torch.zeros(1, 1, side, side)
    assert net(x, 0, class_labels=torch.tensor([0])).sample.shape == x.shape


@pytest.mark.parametrize("classes", [2, 3, 10, 17])
@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_null_class_is_the_one_after_the_last(classes: int, kind: str, tmp_path: Path):
    backend: Backend
    if kind == "pixel":
        backend, table = pixel_backend(classes), "class_embedding.weight"
        assert backend.net.state_dict()[table].shape[0] == classes + 1
    else:
        model = open_model(str(save_dit(tmp_path / "dit", classes)))
        assert model.classes == classes
        backend = model.backend(CPU)
        (rows,) = {len(t) for name, t in backend.transformer.state_dict().items() if "embedding_table" in name}
        assert rows == classes + 1
    assert backend.null_class == backend.classes == classes
    seen: list[torch.Tensor] = []
    network = backend.predict

    def spying(latents: torch.Tensor, times: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(labels)
        return network(latents, times, labels)

    backend.predict = spying  # type: ignore[method-assign]
    z = torch.randn(2, *backend.latent_shape, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, classes - 1])
    times = torch.tensor([600, 600])
    told, untold = network(z, times, labels), network(z, times, torch.tensor([classes, classes]))
    guided = backend.noise(z, 600, labels, 4.0)
    assert seen[0].tolist() == [0, classes - 1, classes, classes]
    torch.testing.assert_close(guided, untold + 4 * (told - untold), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(told, untold)
    torch.testing.assert_close(backend.noise(z, 600, labels, 1.0), told)
    assert seen[1].tolist() == [0, classes - 1], "guidance 1 is one pass"


def test_latent_backend(dit: Path):
    """What it makes of the parts is what diffusers makes of them, called by hand."""
    model = open_model(str(dit))
    assert (model.kind, model.channels, model.side, model.classes) == ("latent", 1, 8, 10)
    backend = model.backend(CPU)
    assert isinstance(backend, LatentDiT)
    parts = diffusers.DiTPipeline.from_pretrained(dit)
    assert model.parameters == sum(p.numel() for net in (parts.transformer, parts.vae) for p in net.parameters())
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.randn(3, *backend.latent_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        posterior = parts.vae.encode(x).latent_dist
        torch.testing.assert_close(backend.encode(x), posterior.mode() * parts.vae.config.scaling_factor)
        z = backend.encode(x, noise)
        torch.testing.assert_close(z, (posterior.mean + posterior.std * noise) * parts.vae.config.scaling_factor)
        decoded = parts.vae.decode(z / parts.vae.config.scaling_factor).sample.clamp(-1, 1)
        torch.testing.assert_close(backend.decode(z), decoded)
        labels = torch.tensor([0, 4, 9])
        both = parts.transformer.eval()(z, timestep=torch.full((3,), 20), class_labels=labels).sample
        assert both.shape[1] == 8, "learned variance"
        torch.testing.assert_close(backend.noise(z, 20, labels), both[:, :4])
    torch.testing.assert_close(backend.alphas, parts.scheduler.alphas_cumprod.double())
    assert not backend.transformer.training
    assert not any(p.requires_grad for net in (backend.transformer, backend.vae) for p in net.parameters())


def test_the_pipeline_itself_would_not_do(dit: Path):
    """``DiTPipeline`` takes class 1000 for the null class whatever the model; the day that it does not, use it."""
    pipeline = diffusers.DiTPipeline.from_pretrained(dit)
    pipeline.set_progress_bar_config(disable=True)
    with pytest.raises(IndexError):
        pipeline([0], num_inference_steps=2)


def test_pixels_there_and_back():
    backend = pixel_backend()
    grey = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    images = backend.images(grey)
    assert float(images.min()) == -1
    assert float(images.max()) == 1
    assert torch.equal(backend.pixels(backend.decode(backend.encode(images)), 8), grey)
    assert backend.pixels(images, 5).shape == (4, 1, 5, 5)
    assert backend.images(torch.full((1, 1, 16, 16), 100, dtype=torch.uint8)).shape == (1, 1, 8, 8)
    flat = backend.images(torch.full((1, 1, 16, 16), 255, dtype=torch.uint8))
    assert torch.equal(backend.pixels(flat, 12), torch.full((1, 1, 12, 12), 255, dtype=torch.uint8))


def test_stored_model_opens_in_diffusers(own: Path):
    """The folder is diffusers' own format."""
    pipeline = diffusers.DDIMPipeline.from_pretrained(own)
    assert pipeline.scheduler.config.clip_sample is False
    backend = read_model(own).backend(CPU)
    ours = backend.net.state_dict()  # type: ignore[attr-defined]
    for name, tensor in pipeline.unet.state_dict().items():
        assert torch.equal(ours[name], tensor)


def test_runs_on_a_pretrained_pipeline(ddb: Callable, dit: Path, tmp_path: Path):
    """The methods by a local folder; nothing of the network is asked for."""
    for name, more in (
        ("unguided", ()),
        ("d3hr", ("--images", 4, "--candidates", 5, "--start", 600)),
        ("mgd3", ("--images", 4, "--stop", 5)),
        ("minimax", ("--tuning-steps", 3)),
    ):
        out = tmp_path / name
        flags = ("--dataset", "digits", "--ipc", 2, "--steps", 10, "--recipe", "none", "--student", TINY)
        where = ("--diffusion-model", dit, "--diffusions", tmp_path / "d")
        result = ddb("distill", "--method", name, *flags, *more, *where, "--out", out, "--quiet", *EAGER)
        assert result.code == 0, result.err
        synset = read_synset(out / "synset.safetensors")
        assert synset.images.shape == (20, 1, 8, 8)
        assert synset.images.dtype == torch.uint8
        assert synset.parents["diffusion"] == read_model(dit).sha256
        assert json.loads((out / "config.json").read_text())["diffusion"]["kind"] == "latent"
        assert "dit" not in (out / "config.json").read_text().replace("edit", "")


def test_what_a_pretrained_model_never_does_is_told(ddb: Callable, dit: Path, tmp_path: Path):
    """Latents are never clamped; a series over models may have the flag all the same."""
    for flags, told in ((("--no-clip",), True), ((), False)):
        result = ddb(*distill(dit, tmp_path / str(told), "--steps", 2, "--recipe", "none", *flags))
        assert result.code == 0, result.err
        assert ("--no-clip: it has no effect with a pretrained model" in result.err) is told


def test_imagenet_subsets_use_the_classes_of_a_model_of_imagenet(dit: Path):
    model = dataclasses.replace(read_model(dit), classes=1000, channels=3)
    spec = DATASETS["imagenette"]
    dataset = type("Some", (), {"spec": spec})()
    check_model(model, dataset)
    assert class_map(model, dataset).tolist() == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    ten = dataclasses.replace(model, classes=10)
    check_model(ten, dataset)
    assert class_map(ten, dataset).tolist() == list(range(10))
    with pytest.raises(UserError, match="has 500 classes, imagenette has 10"):
        check_model(dataclasses.replace(model, classes=500), dataset)


def distill(model: object, root: Path, *more: object) -> list[object]:
    return [
        *("distill", "--method", "unguided", "--dataset", "digits", "--ipc", 1, "--student", TINY),
        *("--diffusion-model", model, "--diffusions", root / "d", "--out", root / "run", *EAGER, *more),
    ]


def test_missing_folder(refused: Callable, tmp_path: Path):
    refused(distill(tmp_path / "nothing", tmp_path), "nothing", "no such folder", "ddbench diffusion train")


def test_a_folder_without_a_model(refused: Callable, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    refused(distill(tmp_path / "empty", tmp_path), "empty", "no diffusion model")


def test_unknown_name_of_the_hub(refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    refused(distill("nobody/no-such-model", tmp_path), "--diffusion-model nobody/no-such-model", "--download")


def test_held_out_fraction_differs(refused: Callable, own: Path, tmp_path: Path):
    refused(distill(own, tmp_path, "--holdout", 0.2), "--holdout 0.1", "0.2", "ddbench diffusion train")


def change(folder: Path, **values: Any) -> None:
    description = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps({**description, **values}))


def test_another_fingerprint(refused: Callable, own: Path, tmp_path: Path):
    change(own, dataset_fingerprint="0" * 64)
    refused(distill(own, tmp_path), str(own), "fingerprint 000000000000")


def test_another_size_and_other_classes(own: Path, data_root: Path):
    digits = load_dataset("digits", data_root)
    spec = dataclasses.replace(digits.spec, size=4)
    half = dataclasses.replace(digits.train, images=digits.train.images[..., ::2, ::2])
    small = make_dataset(spec, half, dataclasses.replace(digits.test, images=digits.test.images[..., ::2, ::2]))
    with pytest.raises(UserError, match="makes images of 8 px, those of digits are 4 px"):
        check_model(read_model(own), small)
    names = (*digits.spec.class_names, "eleventh")
    more = dataclasses.replace(digits, spec=dataclasses.replace(digits.spec, classes=11, class_names=names))
    with pytest.raises(UserError, match=r"its 10 classes .* are not the 11"):
        check_model(read_model(own), more)
    colour = dataclasses.replace(digits, spec=dataclasses.replace(digits.spec, channels=3))
    with pytest.raises(UserError, match=r"1 channel\(s\), digits has 3"):
        check_model(read_model(own), colour)


@pytest.mark.parametrize(
    ("values", "needle"),
    [
        ({"kind": "something"}, "kind"),
        ({"schema": 99}, "schema 99"),
        ({"shape": [1, 10**9, 10**9]}, "shape"),
        ({"shape": [1, 16, 16]}, "sample_size is 8"),
        ({"class_names": []}, "class_names"),
        ({"class_names": ["a", "b"]}, "num_class_embeds is 11"),
        ({"recipe": {"steps": 1}}, "damaged"),
        ({"losses": []}, "losses"),
        ({"parameters": "many"}, "damaged"),
        ({"files": {}}, "damaged"),
    ],
)
def test_hostile_description(values: dict[str, Any], needle: str, own: Path):
    change(own, **values)
    with pytest.raises(UserError, match=needle):
        read_model(own)


@pytest.mark.parametrize("values", [{"widths": [8 * 10**6]}, {"widths": [8] * 100}, {"layers": 10**6}], ids=str)
def test_huge_network_is_not_made(values: dict[str, Any], own: Path):
    recipe = json.loads((own / FILE).read_text())["recipe"]
    change(own, recipe={**recipe, **values})
    with pytest.raises(UserError, match=next(iter(values))):
        read_model(own)


@pytest.mark.parametrize("values", [{"widths": [8] * 13}, {"widths": [2048, 8]}, {"layers": 16}], ids=str)
def test_what_a_recipe_allows_can_be_read(values: dict[str, Any], own: Path):
    """Only the network in the folder is another one."""
    recipe = json.loads((own / FILE).read_text())["recipe"]
    DiffusionRecipe(**{name: tuple(value) if name == "widths" else value for name, value in values.items()}).check(8)
    change(own, recipe={**recipe, **values})
    with pytest.raises(UserError, match=r"unet/config.json: (block_out_channels|layers_per_block) is"):
        read_model(own)


def test_missing_and_changed_weights(own: Path):
    weights = own / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights)
    with pytest.raises(UserError, match="its sha256 is not the one"):
        read_model(own)
    weights.unlink()
    with pytest.raises(UserError, match="missing"):
        read_model(own)
    with pytest.raises(UserError, match="missing"):
        find_model(own.parents[1], dataset="digits")


def test_pipeline_without_weights(refused: Callable, dit: Path, tmp_path: Path):
    for path in (dit / "transformer").glob("*.safetensors"):
        path.unlink()
    refused(distill(dit, tmp_path), "transformer", "holds no weights")


@pytest.mark.parametrize(
    ("part", "values", "needle"),
    [
        ("transformer", {"num_layers": 10**6}, "num_layers is 1000000, expected 256 at most"),
        ("transformer", {"num_layers": "2"}, "num_layers is '2'"),
        ("transformer", {"num_attention_heads": "ab", "attention_head_dim": 2**20}, "num_attention_heads is 'ab', exp"),
        ("transformer", {"attention_head_dim": 2**31}, "attention_head_dim is 2147483648, expected int of a usual"),
        ("transformer", {"out_channels": [8]}, r"out_channels is \[8\], expected int \| None"),
        ("transformer", {"activation_fn": 1.5}, "activation_fn is 1.5, expected str"),
        ("vae", {"scaling_factor": "0.2"}, "scaling_factor is '0.2', expected float"),
        ("vae", {"latents_mean": [0.1, "a"]}, "latents_mean is"),
        ("transformer", {"sample_size": 10**6}, "sample_size is 1000000"),
        ("transformer", {"attention_head_dim": 10**5}, r"DiTTransformer2DModel of [\d,]+ numbers, its weights are"),
        ("transformer", {"patch_size": 0}, "no DiTTransformer2DModel"),
        ("vae", {"layers_per_block": 10**6}, "layers_per_block is 1000000"),
        ("vae", {"block_out_channels": [8] * 10**4}, "block_out_channels is .*expected 16 at most"),
        ("vae", {"norm_num_groups": 0}, "no AutoencoderKL"),
    ],
    ids=str,
)
def test_a_pipeline_of_huge_networks_is_not_made(part: str, values: dict[str, Any], needle: str, dit: Path):
    path = dit / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(UserError, match=needle):
        read_model(dit)


@pytest.mark.parametrize(
    "values",
    [{"num_train_timesteps": 10**12}, {"trained_betas": "a"}, {"trained_betas": [0.1] * 100_001}],
    ids=["steps", "text", "list"],
)
def test_a_scheduler_of_endless_steps_is_not_made(values: dict[str, Any], dit: Path):
    path = dit / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(UserError, match=f"scheduler_config.json: {next(iter(values))} is .*, expected "):
        open_model(str(dit)).backend(CPU)


def test_texts_of_a_foreign_configuration_are_not_logged(dit: Path, monkeypatch: pytest.MonkeyPatch):
    """The library warns of what it does not know, with the name as it stands."""
    path = dit / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "\x1b[2Jodd": 1}))
    handler = logging.Handler()
    said: list[str] = []
    monkeypatch.setattr(handler, "emit", lambda record: said.append(record.getMessage()))
    diffusers.utils.logging.add_handler(handler)
    try:
        open_model(str(dit)).backend(CPU)
    finally:
        diffusers.utils.logging.remove_handler(handler)
    assert said == []


@pytest.mark.parametrize(
    ("part", "key"), [("transformer", "proj_out_2.weight"), ("vae", "decoder.conv_in.weight")], ids=["DiT", "VAE"]
)
def test_weights_that_lack_a_layer(part: str, key: str, dit: Path):
    """The library draws it at random and says so in a log."""
    (weights,) = (dit / part).glob("*.safetensors")
    tensors = load_file(weights)
    del tensors[key]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"its weights lack {key} \(of 1\)"):
        open_model(str(dit)).backend(CPU)


def test_pipeline_with_truncated_or_nan_weights(dit: Path):
    (weights,) = (dit / "vae").glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot read this AutoencoderKL"):
        open_model(str(dit)).backend(CPU)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first] * torch.nan}, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="NaN"):
        open_model(str(dit)).backend(CPU)


def test_pipeline_that_predicts_something_else(tmp_path: Path):
    folder = save_dit(tmp_path / "v", prediction_type="v_prediction")
    with pytest.raises(UserError, match="prediction_type is 'v_prediction'"):
        open_model(str(folder)).backend(CPU)


def test_find_model(own: Path, data_root: Path):
    root, digits = own.parents[1], load_dataset("digits", data_root)
    found = find_model(root, dataset="digits", fingerprint=digits.fingerprint, holdout=0.1)
    assert found is not None
    assert found.folder == own
    assert find_model(root, sha256=found.sha256) is not None
    for other in ({"dataset": "mnist"}, {"fingerprint": "0" * 64}, {"holdout": 0.2}, {"sha256": "0" * 64}):
        assert find_model(root, **{"dataset": "digits", **other}) is None


def test_a_task_that_distils_again_refuses_a_pretrained_model(
    dit: Path, tmp_path: Path, ddb: Callable, refused: Callable
):
    """Its sets would be those of another generator: a small one of pixels, trained on the way."""
    run = ("--method", "unguided", "--dataset", "digits", "--ipc", 2, "--steps", 2, "--out", tmp_path / "run")
    assert ddb("distill", *run, "--diffusion-model", dit, "--quiet", *EAGER).code == 0
    small = ("--workers", 1, "--seeds", 1, "--quiet", *EAGER, "--out", tmp_path / "t.json")
    words = ("its diffusion model was pretrained", "leave it out")
    for task in (("membership", "--images", 40, "--shadows", 4), ("continual", "--memory", 2, "--orders", 1)):
        refused(("task", task[0], tmp_path / "run", *task[1:], *small), *words)
    assert not list(tmp_path.glob("t.*"))


def test_a_task_trains_a_diffusion_model_as_the_runs_was(
    tiny_diffusions: Path, data_root: Path, tmp_path: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch
):
    """By the run's recipe, which its record keeps, on the task's images; the default one takes 4,000 steps."""
    run = ("--method", "unguided", "--dataset", "digits", "--ipc", 2, "--steps", 2, "--out", tmp_path / "run")
    assert ddb("distill", *run, "--diffusions", tiny_diffusions, "--quiet", *EAGER).code == 0
    path = tmp_path / "run" / "synset.safetensors"
    made, needs = read_synset(path), needs_of(recorded_run(path), 8)
    source = source_of(Run(label="run", path=path, sha256="", method="unguided", needs=needs), made)
    job: Any = SimpleNamespace(folder=tmp_path / "t", data=data_root, settings=Settings(device="cpu", threads=1))
    few_plain_samples(monkeypatch)
    digits = load_dataset("digits", data_root)
    again(source, digits, job, ipc=2, holdout=0.0, out=tmp_path / "t" / "set", kept="half")
    (trained,) = (tmp_path / "t" / "diffusions" / "half").glob(f"*/*/{FILE}")
    recipe = {**DiffusionRecipe(**TINY_DIFFUSION).to_json(), "holdout": 0.0}
    assert json.loads(trained.read_text())["recipe"] == recipe
