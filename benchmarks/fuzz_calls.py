"""How the readers of ddbench are called with a file, as a command that meets it would."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_valid import TINY, half_method


def lazy(module: str, name: str) -> Callable[..., Any]:
    return getattr(importlib.import_module(f"ddbench.{module}"), name)  # type: ignore[no-any-return]


def info(path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        lazy("cli.info", "main")([str(path)])


def synset(path: Path) -> None:
    synset = lazy("synset", "read_synset")(path)
    lazy("data.preprocess", "Preprocess").from_json(synset.preprocess, None)
    synset.hard_labels()


def teacher(path: Path) -> None:
    lazy("teachers.store", "read_teacher")(path).network("cpu")


def manifest(path: Path) -> None:
    store = lazy("experts.store", "read_store")(path.parent)
    assert store.size >= 0
    store.verify()


def expert(path: Path) -> None:
    """With its own hash in the manifest: another file ends there."""
    manifest = path.with_name("manifest.json")
    found, content = json.loads(manifest.read_text()), path.read_bytes()
    found["experts"]["00000"] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest.write_text(json.dumps(found))
    store = lazy("experts.store", "read_store")(path.parent)
    assert not store.verify()
    store.rows(0, 0, store.recipe.epochs)
    store.buffers(0, 0)
    store.experts.clear()
    store.scan(0)


def checkpoint(path: Path) -> None:
    method = half_method()
    meter = lazy("runtime.resources", "Meter")()
    lazy("distillation.folder", "resume")(path, method, meter, range(method.iterations), method.context.console)


def metrics(path: Path) -> None:
    """As a run goes on after its second step: what is kept are lines of steps, and the next one follows them."""
    log = lazy("runtime.tracking", "JsonLines")(path, 2)
    log.log(3, {"loss": float("nan")})
    log.close()
    *kept, own, end = path.read_bytes().split(b"\n")
    assert (own, end) == (b'{"iteration":3,"loss":null}', b"")
    assert not any(json.loads(line)["iteration"] > 2 for line in kept)


def verification(path: Path) -> None:
    (row,) = path.parent.glob("????????????????.json")
    lazy("leaderboard.verification", "read_verification")(path, lazy("leaderboard.schema", "read_result")(row))


def evaluation(path: Path) -> None:
    run = path.parents[1]
    info(run)
    info(path)
    given, submission = lazy("leaderboard.submit", "Given")(), lazy("leaderboard.submit", "Submission")()
    lazy("leaderboard.submit", "plan_submissions")(run, run / "board", submission, given, protocol=path.stem)


def row(path: Path) -> None:
    lazy("leaderboard.schema", "read_result")(path)
    info(path)


def take(path: Path) -> None:
    settings = lazy("exchange.settings", "ImportSettings")()
    lazy("exchange.importer", "import_synset")(path, dataset=digits(), data=None, settings=settings)


def digits() -> Any:
    return lazy("data.load", "load_dataset")("digits", Path("data"))


def buffers(path: Path) -> None:
    from ddbench.experts.importer import import_buffers

    with tempfile.TemporaryDirectory() as root:
        import_buffers(
            [path], root=Path(root), dataset=digits(), data=Path("data"), student=TINY, preprocess="meanstd",
            lr=0.01, augmentation="none",
        )  # fmt: skip


def hub(path: Path) -> None:
    from ddbench.exchange.importer import import_content
    from ddbench.hub.read import open_hub, read_content

    folder = path if path.is_dir() else path.parents[path.parent.name != "hub"]
    hub = open_hub(folder)
    content = read_content(hub)
    import_content(folder, content, dataset=digits(), data=None, settings=lazy("exchange.settings", "ImportSettings")())


def plan(path: Path) -> None:
    for cell in lazy("leaderboard.plans", "read_plan")(path).cells:
        assert str(cell)


def picture(path: Path) -> None:
    for whole in (False, True):
        lazy("data.images", "look_at")(path, whole=whole)
    for channels in (1, 3):
        lazy("data.images", "read_image")(path, channels, 8, upright=True)


def look(path: Path) -> None:
    lazy("data.look", "kept_look")(path)


def annotated(path: Path) -> None:
    lazy("data.folder", "_annotated")(path, ("n01", "n02"))


def class_order(path: Path) -> None:
    lazy("exchange.convert", "class_order")(str(path), digits().spec)


def diffusion(path: Path) -> None:
    lazy("diffusion.store", "read_model")(path.parent)


def rehashed(folder: Path, path: Path) -> None:
    """With the file's own hash in the description: another file ends there."""
    description = folder / "ddbench.json"
    found = json.loads(description.read_text())
    found["files"][str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    description.write_text(json.dumps(found))
    diffusion(description)


def graphs(path: Path) -> None:
    lazy("graphs.read", "load_graphs")(f"graphs:{path}")


def signs(path: Path) -> None:
    assert lazy("runtime.signs", "signs")(path.parent, path.suffix) is not None


def idx(path: Path) -> None:
    with path.open("rb") as handle:
        dims = 1 if handle.read(4)[3:] == b"\1" else 3
    lazy("data.idx", "read_idx")(path, dims)


def own(path: Path) -> None:
    lazy("data.load", "load_dataset")(f"npz:{path}", Path("data"))


def usps(path: Path) -> None:
    lazy("data.arrays", "_usps")(path, lazy("data.specs", "dataset_spec")("usps"))


def parquet(path: Path) -> None:
    with tempfile.TemporaryDirectory() as root:
        lazy("data.load", "load_dataset")(f"hub:{path.parents[1]}", Path(root), size=8)
