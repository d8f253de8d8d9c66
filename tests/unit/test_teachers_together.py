"""Several teachers in one file: what it is, who may be in it, and who finds it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import EAGER

from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.evaluation.kept import same_head
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.protocols.teacher import protocol_teacher
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.runtime.tensors import open_tensors, write_tensors
from ddbench.synset import read_synset
from ddbench.teachers.join import check_members, join_teachers, joined_file
from ddbench.teachers.recipe import TeacherRecipe
from ddbench.teachers.remedy import how_to_join
from ddbench.teachers.store import KIND, Teacher, default_teachers, find_teacher, read_teacher, teacher_files
from ddbench.teachers.train import train_teacher

ONE, TWO = "convnet-d1-w4-bn", "convnet-d2-w4-bn"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A store of two teachers of digits, and one file with both."""
    root = tmp_path_factory.mktemp("teachers")
    dataset = load_dataset("digits", data_root)
    made = [
        train_teacher(
            root=root,
            dataset=dataset,
            data=data_root,
            student=student,
            recipe=TeacherRecipe(epochs=2, augmentation="crop"),
            device="cpu",
            threads=1,
            compile="off",
            console=Console(quiet=True),
        )
        for student in (ONE, TWO)
    ]
    join_teachers(
        root, made, dataset=dataset, preprocess=fit_preprocess(dataset, "meanstd"), device=CPU, console=Console(True)
    )
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "teachers"))


@pytest.fixture
def members(root: Path) -> list[Teacher]:
    found = [find_teacher(root, student=student) for student in (ONE, TWO)]
    assert found[0] is not None
    assert found[1] is not None
    return [one for one in found if one is not None]


@pytest.fixture
def both(root: Path, members: list[Teacher]) -> Teacher:
    return read_teacher(joined_file(root, members))


def test_it_is_one_teacher_to_all(both: Teacher, members: list[Teacher]):
    """Its logits are the mean of theirs, its bytes their sum; its reference names each."""
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    mean = sum(one.network(CPU)(x).double() for one in members) / 2
    torch.testing.assert_close(both.network(CPU)(x).double(), mean, rtol=0, atol=1e-6)
    assert both.bytes == sum(one.bytes for one in members)
    assert both.student == f"{ONE}+{TWO}"
    assert [one["sha256"] for one in both.reference()["members"]] == [one.sha256 for one in members]
    assert "members" not in members[0].reference()
    assert both.holdout == members[0].holdout
    assert both.accuracy is not None
    assert both.path.with_name(f"{both.path.stem}.cost.json").exists()


def test_made_again_it_is_the_same_file(root: Path, members: list[Teacher], both: Teacher, data_root: Path):
    before = both.path.read_bytes()
    both.path.unlink()
    dataset = load_dataset("digits", data_root)
    how = {"dataset": dataset, "preprocess": fit_preprocess(dataset, "meanstd"), "device": CPU}
    again = join_teachers(root, members, console=Console(True), **how)
    assert again.path.read_bytes() == before
    other = joined_file(root, members[::-1])
    assert other != again.path, "the order in which they are asked belongs to it"


def test_a_file_of_others_is_not_taken_for_theirs(root: Path, members: list[Teacher], both: Teacher, data_root: Path):
    """A name is made of the members' hashes; what lies there is looked at all the same."""
    dataset = load_dataset("digits", data_root)
    how = {"dataset": dataset, "preprocess": fit_preprocess(dataset, "meanstd"), "device": CPU}
    odd = joined_file(root, members[::-1])
    shutil.copy(both.path, odd)
    with pytest.raises(UserError, match="holds other teachers than those that its name stands for; remove it"):
        join_teachers(root, members[::-1], console=Console(True), **how)


def test_found_by_its_hash_only(root: Path, both: Teacher):
    """It is never chosen by itself for a set that asks for a teacher."""
    shutil.rmtree(root / "digits" / ONE)
    shutil.rmtree(root / "digits" / TWO)
    assert teacher_files(root) == [both.path]
    assert find_teacher(root, dataset="digits") is None
    found = find_teacher(root, sha256=both.sha256)
    assert found is not None
    assert found.members


def test_who_may_be_together(members: list[Teacher], both: Teacher):
    one, two = members
    with pytest.raises(UserError, match=r"1 teacher\(s\) to join, expected 2 to 16"):
        check_members([one])
    with pytest.raises(UserError, match=r"the same teacher as .*give each once"):
        check_members([one, two, one])
    with pytest.raises(UserError, match="holds 2 teachers already"):
        check_members([both, one])
    for name, change in {
        "input": {"shape": (3, 8, 8)},
        "classes": {"class_names": ("a", "b")},
        "data": {"fingerprint": "0" * 64},
        "preprocess": {"preprocess": {"kind": "zca"}},
        "held-out fraction": {"holdout": 0.5},
    }.items():
        with pytest.raises(UserError, match=rf"its {name} is .*, that of .* is .*of the same images"):
            check_members([one, replace(two, **change)])


def test_two_machines_whiten_alike(members: list[Teacher]):
    """The last bits of a ZCA may differ; its images and eps may not."""
    whitening = {"kind": "zca", "eps": 0.1, "dataset_fingerprint": "0" * 64, "dims": [1, 8, 8]}
    here, there = ({**whitening, "matrix_sha256": one * 64, "probe": [0.5]} for one in "ab")
    one, two = members
    check_members([replace(one, preprocess=here), replace(two, preprocess=there)])
    with pytest.raises(UserError, match="its preprocess is"):
        check_members([replace(one, preprocess=here), replace(two, preprocess={**there, "eps": 0.2})])


def test_command(root: Path, members: list[Teacher], both: Teacher, ddb: Callable, refused: Callable[..., str]):
    """``ddbench teacher join`` makes the same file; what cannot be one is refused in one line."""
    files = [one.path for one in members]
    before = both.path.read_bytes()
    both.path.unlink()
    result = ddb("teacher", "join", *files, "--teachers", root, *EAGER[2:])
    assert result.code == 0, result.err
    assert result.out.endswith(f"\nnext: ddbench evaluate RUN --protocol kd-v1 --teacher {both.path}\n")
    assert "None" not in ddb("info", both.path).out, "it has no seed of its own, so none is told"
    assert both.path.read_bytes() == before
    listed = ddb("teacher", "info", root)
    assert f"{ONE}+{TWO}" in listed.out
    refused(["teacher", "join", files[0], files[0], "--teachers", root], "the same teacher as", "give each once")
    refused(["teacher", "join", files[0], root / "none.safetensors", "--teachers", root], "none.safetensors")
    refused(["teacher", "join", files[0], "--teachers", root], "FILES: 1 teacher(s) to join")


def test_a_lost_joined_file_is_named_with_the_command_that_makes_it(
    root: Path, members: list[Teacher], both: Teacher, random_run: Path, refused: Callable[..., str], ddb: Callable
):
    """The command may be copied and run; members that are lost too, and a file of other bytes, are told."""
    synset = replace(read_synset(random_run / "synset.safetensors"), teacher=both.reference())
    before, one = both.path.read_bytes(), members[0].path
    both.path.unlink()

    def said() -> str:
        with pytest.raises(UserError) as error:
            protocol_teacher(PROTOCOLS["kd-v1"], synset, given=None, root=root)
        assert "train one" not in str(error.value)
        return str(error.value)

    command = f"ddbench teacher join {one} {members[1].path} --teachers {root}"
    assert f"does not hold it: `{command}` makes it, {both.path}; or give --teacher FILE" in said()
    result = ddb(*command.split()[1:], *EAGER[2:])
    assert result.code == 0, result.err
    assert both.path.read_bytes() == before
    both.path.write_bytes(before[:-1])
    assert f"{both.path}, named after the same teachers, has other bytes" in said()
    both.path.unlink()
    one.unlink()
    assert f"join FILE {members[1].path} " in said()
    assert f"teachers that are not there either: {ONE}, sha256 {members[0].sha256[:12]}; or give" in said()


@pytest.mark.parametrize("members", [None, [], [{"sha256": "a"}], [1, 2], [{"sha256": 1}, {"sha256": "a"}], "ab"])
def test_no_command_joins_what_is_no_list_of_teachers(members: object, tmp_path: Path):
    assert how_to_join(tmp_path, "digits", {"sha256": "c", "members": members}) is None


def test_another_teacher_is_named_and_not_its_bytes():
    old = {"synset": {"sha256": "a", "bytes": {"teacher": 1}}, "teacher": {"sha256": "b"}}
    new = {"synset": {"sha256": "a", "bytes": {"teacher": 2}}, "teacher": {"sha256": "c"}}
    with pytest.raises(UserError, match=r"\(teacher differs\)"):
        same_head(Path("hard-v1.json"), old, new)
    with pytest.raises(UserError, match=r"\(synset.sha256 differs\)"):
        same_head(Path("hard-v1.json"), old, {**new, "synset": {"sha256": "d", "bytes": {"teacher": 2}}})


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"members": None}, "field 'members' is no list"),
        ({"members": [{"sha256": "a"}]}, "field 'members' is no list"),
        ({"members": [1, 2]}, "field 'members' is no list"),
        ({"student": ONE}, "its weights are not those of"),
        ({"student": f"{ONE}+{ONE}"}, "its weights are not those of"),
        ({"student": f"{ONE}+mlp-d3-w8"}, "its weights are not those of"),
        ({"student": "+".join([ONE] * 17)}, "17 networks"),
        ({"student": f"{ONE}+x"}, "unknown student 'x'"),
    ],
)
def test_hostile_files(both: Teacher, tmp_path: Path, change: dict, needle: str):
    with open_tensors(both.path, KIND, 1) as (handle, header):
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    path = tmp_path / "odd.safetensors"
    write_tensors(path, tensors, {name: value for name, value in {**header, **change}.items() if value is not None})
    with pytest.raises(UserError, match=needle):
        read_teacher(path)


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"dataset_fingerprint": "0" * 64}, "was trained on digits with fingerprint 000000000000"),
        ({"class_names": [f"no {k}" for k in range(10)]}, "its 10 classes are not the 10 of digits"),
    ],
)
def test_teachers_of_other_data_do_not_label(
    both: Teacher, change: dict, needle: str, random_run: Path, refused: Callable[..., str], tmp_path: Path
):
    with open_tensors(both.path, KIND, 1) as (handle, header):
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    path = tmp_path / "odd.safetensors"
    write_tensors(path, tensors, {**header, **change})
    flags = ["--epochs", 2, "--students", "mlp-d3-w8", "--seeds", 1, *EAGER]
    refused(["evaluate", random_run, "--teacher", path, "--protocol", "edc", *flags], needle)
    other = tmp_path / "other.safetensors"
    write_tensors(other, tensors, header)
    refused(["evaluate", random_run, "--teacher", other, *flags], "protocol hard-v1 has no teacher")


def test_defaults_are_three_networks_of_every_size():
    assert default_teachers(8) == ("convnet-d2-w32-bn", "convnet-d1-w32-bn", "convnet-d2-w16-bn")
    assert default_teachers(32) == ("convnet-d3-w128-bn", "convnet-d2-w128-bn", "convnet-d3-w64-bn")


def test_a_run_by_several_its_labels_and_its_row(
    root: Path, both: Teacher, ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The method finds both, the synset names them, their mean labels; and a board has all that a row needs."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    Path("brief.toml").write_text('name = "brief"\nbase = "gvbsm"\nepochs = 2\n')
    argv = ["--method", "edc", "--dataset", "digits", "--ipc", 1, "--iterations", 2, "--recipe", "none", "--out", run]
    argv += ["--teachers", root, "--teacher-student", f"{ONE},{TWO}", *EAGER]
    result = ddb("distill", *argv)
    assert result.code == 0, result.err
    synset = read_synset(run / "synset.safetensors")
    assert synset.teacher == both.reference()
    assert synset.parents["teacher"] == both.sha256
    assert len(teacher_files(root)) == 3, "nothing was trained"
    planned = ddb("plan", "distill", *[part for part in argv if part not in ("--out", run)])
    assert planned.code == 0, planned.err
    result = ddb(
        *("evaluate", run, "--protocol", "brief.toml", "--seeds", 1, "--students", "mlp-d3-w8"),
        *("--teachers", root, "--workers", 1, *EAGER),
    )
    assert result.code == 0, result.err
    assert f"teacher {both.bytes:,}" in result.out
    result = ddb("submit", run, "--protocol", "brief", "--teachers", root)
    assert result.code == 0, result.err
    assert len(list(Path("leaderboard").glob("results/*/*/edc/*.teacher.safetensors"))) == 1
    result = ddb("leaderboard", "verify")
    assert result.code == 0, result.err
    assert "brief: identical" in result.out
    both.path.unlink()
    result = ddb("submit", run, "--protocol", "brief", "--teachers", root, "--leaderboard", "other", "--dry-run")
    assert f"`ddbench teacher join {root}" in result.out
