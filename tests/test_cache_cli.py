"""`mentee cache`: the card, the difference, and files for others."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from caches import answers, cache_spec, files_under, make_cache, mentee

from pipeline.cache.reader import Kind
from pipeline.cache.schema import places


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cache(tmp_path_factory.mktemp("cache") / "labelled").parent


def test_the_card_says_teacher_data_views_kinds_bytes_and_readers(root: Path) -> None:
    text = mentee("cache", "inspect", root).output
    for told in ("timm:some", "a" * 64, "cat, dog, eel", "d" * 64, "uint8 per channel", "700",
                 "probe with teacher: late", "gamma above 0", "50 images"):  # fmt: skip
        assert told in text, told
    assert max(map(len, text.splitlines())) < 130


def test_the_card_as_json_agrees_with_the_files(root: Path) -> None:
    content = json.loads(mentee("cache", "inspect", "--json", root).output)
    (split,) = content["splits"].values()
    late = split["kinds"]["features/late"]
    assert late["bytes"] == sum(p.stat().st_size for p in root.rglob("late/*/*.h5"))
    assert (late["views"], late["shards"]) == (3, 9)
    spec = cache_spec()
    kind = Kind(root / "labelled/features/late")
    worst = max(
        np.abs(kind.part(place) - answers(spec, "features/late", place)).max()
        for place in places(spec)
    )
    assert late["max_error"] == pytest.approx(worst)
    assert 0 < worst < 0.02  # half of a 255th of what normal numbers span


def test_the_card_of_an_empty_split_says_that_it_has_nothing(tmp_path: Path) -> None:
    folder = make_cache(tmp_path / "unlabelled", cache_spec(split="unlabelled", rows=0))
    done = mentee("cache", "inspect", "--json", folder)
    (split,) = json.loads(done.stdout)["splits"].values()
    for kind in split["kinds"].values():
        held = [kind[key] for key in ("views", "shards", "bytes", "bytes_a_view", "max_error")]
        assert held == [0, 0, 0, 0, 0]
    assert "(split unlabelled, 0 images)" in mentee("cache", "inspect", folder).stdout


def test_a_class_with_a_comma_is_one_name_on_the_card(tmp_path: Path) -> None:
    names = ["a,b", 'say "c", d', "e"]
    spec = cache_spec(data={"digest": "d" * 64, "class_names": names})
    text = mentee("cache", "inspect", make_cache(tmp_path / "labelled", spec)).output
    assert r'"a,b", "say \"c\", d", e' in text


def test_equal_caches_do_not_differ_and_others_say_in_what(root: Path, tmp_path: Path) -> None:
    same = make_cache(tmp_path / "same" / "labelled").parent
    assert mentee("cache", "diff", root, same).output == ""
    spec = cache_spec(
        views={**cache_spec()["views"], "count": 4},
        teacher={**cache_spec()["teacher"], "weights_sha256": "b" * 64},
        kinds={"views": {}, "logits": cache_spec()["kinds"]["logits"]},
    )
    other = make_cache(tmp_path / "other" / "labelled", spec).parent
    lines = mentee("cache", "diff", root, other).output.splitlines()
    assert json.loads(mentee("cache", "diff", "--json", root, same).stdout) == {
        "only_in_one": [], "only_in_other": [], "different": {}
    }  # fmt: skip
    content = json.loads(mentee("cache", "diff", "--json", root, other).stdout)
    assert (content["only_in_one"], content["only_in_other"]) == (["labelled/features/late"], [])
    changed = content["different"]["labelled/logits"]
    assert changed["teacher.weights_sha256"] == ["a" * 64, "b" * 64]
    assert changed["views"] == [3, 4]
    assert f"labelled/features/late: only in {root}" in lines
    assert "labelled/logits: views: 3 | 4" in lines
    assert f"labelled/logits: teacher.weights_sha256: {'a' * 57}... | {'b' * 57}..." in lines


@pytest.mark.parametrize("form", ["numpy", "torch"])
def test_exported_files_hold_the_decoded_answers(root: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    done = mentee("cache", "export", root, out, "--as", form)
    assert done.exit_code == 0, done.output
    for kind, name in (("logits", "logits"), ("features/late", "features/late")):
        expected = Kind(root / "labelled" / kind)
        if form == "numpy":
            held = np.load(out / f"labelled/{name}.npy", allow_pickle=False)
        else:
            held = torch.load(out / f"labelled/{name}.pt", weights_only=True).numpy()
        for view in range(3):
            np.testing.assert_array_equal(held[view], expected.view(view))
    regions = out / "labelled/views" / ("regions.npy" if form == "numpy" else "regions.pt")
    assert regions.is_file()
    assert (out / "labelled/index.h5").is_file()
    assert not list(out.rglob("*.npy")) or form == "numpy"


def test_an_archive_within_a_cache_is_no_part_of_it_and_the_cache_none_of_the_archive(
    root: Path, tmp_path: Path
) -> None:
    """Its spec.json and index.h5 were taken along, without an answer beside them."""
    here = Path(shutil.copytree(root, tmp_path / "here"))
    assert mentee("cache", "pack", root, here / "packed").exit_code == 0
    shutil.copytree(here / "packed", here / ".packed.old")  # of a command that was killed
    for command, whole in (("pack", here / "packed"), ("unpack", root)):
        assert mentee("cache", command, here, tmp_path / command).exit_code == 0
        inner = tmp_path / command / ("packed" if command == "unpack" else "")
        assert files_under(inner) == files_under(whole)
    assert [path.name for path in (tmp_path / "unpack").iterdir()] == ["packed"]
    assert mentee("cache", "export", here, tmp_path / "export").exit_code == 0
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["labelled"]


def test_what_the_help_of_export_shows_brings_ids_and_labels_along(
    root: Path, tmp_path: Path
) -> None:
    said = " ".join(mentee("cache", "export", "--help").output.split())
    shown = re.search(r"Example: mentee cache export data/cache/(\S+) exported", said)
    assert shown, said
    assert mentee("cache", "export", root / shown[1], tmp_path / "out").exit_code == 0
    assert {"spec.json", "index.h5", "logits.npy"} <= files_under(tmp_path / "out").keys()


@pytest.mark.parametrize("left", [".logits.old", ".logits.partial"])
def test_what_a_killed_command_left_beside_a_kind_is_no_part_of_the_cache(
    left: str, root: Path, tmp_path: Path
) -> None:
    """Killed while it removed a folder that it had replaced, or before it put one in its place."""
    here, packed = tmp_path / "here", tmp_path / "packed"
    split = shutil.copytree(root, here) / "labelled"
    shutil.copytree(split / "logits", split / left)
    next((split / left).rglob("p*.h5")).unlink()
    for words in (("verify", here), ("pack", here, packed)):
        done = mentee("cache", *words)
        assert done.exit_code == 0, done.stdout + done.stderr
    shutil.copytree(packed / "labelled/logits", packed / "labelled" / left)
    assert mentee("cache", "unpack", packed, tmp_path / "back").exit_code == 0
    assert files_under(tmp_path / "back") == files_under(root)


@pytest.mark.parametrize("linked", ["labelled", "labelled/logits"])
def test_a_link_to_a_folder_is_named_and_never_left_out_in_silence(
    root: Path, tmp_path: Path, linked: str
) -> None:
    """A split on a shared disk, say: training reads it, and verify said that all was whole."""
    here = tmp_path / "here"
    shutil.copytree(root / "labelled", here / "validation")
    shutil.copytree(root, here, dirs_exist_ok=True)
    (here / linked).rename(tmp_path / "elsewhere")
    (here / linked).symlink_to(tmp_path / "elsewhere")
    for words in (("verify", here), ("pack", here, tmp_path / "out"), ("inspect", here)):
        done = mentee("cache", *words)
        assert done.exit_code == 1
        assert done.stderr == (
            f"error: {here / linked} is a link to a folder, which is not followed: name the link\n"
        )
    assert mentee("cache", "verify", here / linked).exit_code == 0


@pytest.mark.skipif(os.getuid() == 0, reason="root may read anything")
def test_a_folder_that_may_not_be_read_is_named(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "here")
    folder = tmp_path / "here/labelled/logits"
    folder.chmod(0)
    done = mentee("cache", "verify", tmp_path / "here")
    folder.chmod(0o700)
    assert (done.exit_code, f"{folder}: Permission denied" in done.stderr) == (1, True)


def test_one_kind_alone_is_inspected_and_exported(root: Path, tmp_path: Path) -> None:
    folder = root / "labelled/logits"
    assert "logits" in mentee("cache", "inspect", folder).output
    assert mentee("cache", "export", folder, tmp_path / "out").exit_code == 0
    assert np.load(tmp_path / "out/logits.npy").shape == (3, 50, 3)


def test_an_empty_split_is_left_out_of_an_export_and_alone_is_refused(
    root: Path, tmp_path: Path
) -> None:
    """As `data.unlabelled: 0` makes one."""
    here = Path(shutil.copytree(root, tmp_path / "here"))
    make_cache(here / "unlabelled", cache_spec(split="unlabelled", rows=0))
    done = mentee("cache", "export", here, tmp_path / "out")
    assert done.exit_code == 0, done.output
    names = {path.name for path in (tmp_path / "out").rglob("*.npy")}
    assert names == {"logits.npy", "late.npy", "regions.npy", "pixels.npy"}
    assert not list((tmp_path / "out/unlabelled").rglob("*.npy"))
    done = mentee("cache", "export", here / "unlabelled", tmp_path / "none")
    assert (done.exit_code, "holds no answers: its splits are empty" in done.stderr) == (1, True)
    assert not (tmp_path / "none").exists()


def test_a_kind_in_which_the_user_stands_is_as_any_other(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file had no name, so that it was hidden, and spec.json beside it was not looked at."""
    here = shutil.copytree(root, tmp_path / "here") / "labelled"
    monkeypatch.chdir(here / "features/late")
    assert mentee("cache", "export", ".", tmp_path / "out").exit_code == 0
    assert files_under(tmp_path / "out").keys() == {"late.npy"}
    other = cache_spec(teacher={**cache_spec()["teacher"], "model": "timm:new"})
    shutil.rmtree(here)
    make_cache(here, other)
    shutil.copy(root / "labelled/spec.json", here)
    monkeypatch.chdir(here / "features/late")
    done = mentee("cache", "verify", ".")
    assert (done.exit_code, "of another dump than" in done.stdout) == (1, True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with room for a part of what is written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]).returncode:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def assert_does_not_fit(disk: Path, *command: object) -> None:
    """In a process of its own: HDF5, or a map of a file, may end it."""
    done = subprocess.run(["mentee", "cache", *command], text=True, capture_output=True)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert re.match(rf"error: {disk}/\S+: No space left on device \([\d.]+ MB are free\)", line)
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    "command", [("pack",), ("export",), ("export", "--as", "torch")], ids=" ".join
)
def test_a_full_disk_is_said_in_one_line_and_nothing_is_left(
    root: Path, small_disk: Path, command: tuple[str, ...]
) -> None:
    assert_does_not_fit(small_disk, *command, root, small_disk / "out")


def test_an_archive_that_does_not_fit_unpacked_is_said_in_one_line(
    root: Path, tmp_path: Path, small_disk: Path
) -> None:
    assert mentee("cache", "pack", root, tmp_path / "archive").exit_code == 0
    assert_does_not_fit(small_disk, "unpack", tmp_path / "archive", small_disk / "out")


@pytest.mark.parametrize("size", ["440k", "600k"])
def test_a_disk_that_fills_up_while_torch_writes_is_said_in_one_line(
    root: Path, small_disk: Path, size: str
) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", small_disk], check=True)
    features = root / "labelled/features"  # 420 kB as numbers, twice while torch writes them
    assert_does_not_fit(small_disk, "export", features, small_disk / "out", "--as", "torch")


def test_a_link_that_leads_nowhere_is_not_written_over(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.symlink_to("nowhere")
    done = mentee("cache", "pack", root, out)
    assert (done.exit_code, f"{out} is there already" in done.output) == (1, True), done.output
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["index.h5", "spec.json"])
@pytest.mark.parametrize("command", ["pack", "export", "merge"])
def test_a_strangers_link_to_a_file_of_ours_does_not_take_it_along(
    root: Path, tmp_path: Path, name: str, command: str
) -> None:
    ours = tmp_path / "private.json"
    ours.write_text('{"secret": 1, "index": {"sha256": "0"}}')
    theirs = Path(shutil.copytree(root, tmp_path / "theirs"))
    (theirs / "labelled" / name).unlink()
    (theirs / "labelled" / name).symlink_to(ours)
    out = tmp_path / "out"
    paths = [out, theirs] if command == "merge" else [theirs, out]
    done = mentee("cache", command, *paths)
    assert (done.exit_code, name in done.output) == (1, True), done.output
    assert len(done.output.splitlines()) == 1
    assert not out.exists()


def test_an_index_that_is_a_link_into_dvcs_store_is_taken_along_as_a_file(
    root: Path, tmp_path: Path
) -> None:
    ours = Path(shutil.copytree(root, tmp_path / "ours"))
    index, store = ours / "labelled/index.h5", tmp_path / "store"
    index.rename(store)
    index.symlink_to(store)
    assert mentee("cache", "export", ours, tmp_path / "out").exit_code == 0
    taken = tmp_path / "out/labelled/index.h5"
    assert not taken.is_symlink()
    assert taken.read_bytes() == store.read_bytes()
