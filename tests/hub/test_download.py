"""Cache, offline, pinned revisions, interrupted downloads, private repositories."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN

import defectgen
from defectgen import Backbone, ConfigError, DefectSynthesizer, WeightsError
from defectgen.hub import HubOptions, HubSource
from defectgen.hub.client import HubError

NAME = "tester/base"
WEIGHTS = "model.safetensors"


def load(name=NAME, **options):
    return Backbone.from_pretrained(name, **{"device": "cpu", **options})


@pytest.fixture
def commit(hub, published):
    """A public repository of the fitted backbone; its commit."""
    hub.create(NAME)
    return hub.commit(NAME, published[NAME])


@pytest.fixture
def later(hub, commit, fitted_backbone):
    """A second commit with other weights, on top of the first."""
    import copy

    other = copy.deepcopy(fitted_backbone)
    with torch.no_grad():
        next(other.generator.parameters()).add_(0.5)
    found = other.push_to_hub(NAME, license="other", private=False, token=TOKEN)
    hub.log.clear()
    return found


# -- the cache ---


def test_what_is_in_the_cache_is_not_downloaded_again(hub, commit, cache):
    load()
    assert len(hub.asked(WEIGHTS)) == 1
    load()
    assert len(hub.asked(WEIGHTS)) == 1
    assert len(hub.asked("/revision/main")) == 2  # only asked which commit it is
    load(force_download=True)
    assert len(hub.asked(WEIGHTS)) == 2
    assert not list(cache.glob("models--*/defectgen"))


def test_only_what_is_read_is_downloaded(hub, commit, cache):
    load()
    folder = cache / "models--tester--base" / "snapshots" / commit
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == {"SHA256SUMS", "config.json", WEIGHTS}


def test_the_tools_of_the_client_see_the_cache(hub, commit, cache):
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    load()
    (repo,) = scan_cache_dir(cache).repos
    assert repo.repo_id == NAME
    assert [r.commit_hash for r in repo.revisions] == [commit]
    assert Path(try_to_load_from_cache(NAME, WEIGHTS)).is_file()


def test_a_snapshot_of_the_client_itself_is_used(hub, commit, cache):
    from huggingface_hub import hf_hub_download

    for name in ("SHA256SUMS", "config.json", WEIGHTS, "README.md"):
        hf_hub_download(NAME, name)
    hub.log.clear()
    load()
    assert hub.asked(WEIGHTS) == []


def test_a_cache_that_rotted_is_downloaded_again(hub, commit, cache, fitted_backbone):
    load()
    file = cache / "models--tester--base" / "snapshots" / commit / WEIGHTS
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(WeightsError, match=f"{WEIGHTS} must have the sha256"):
        load(local_files_only=True)
    assert load().digest() == fitted_backbone.digest()
    assert load(local_files_only=True).digest() == fitted_backbone.digest()


def test_cache_dir_is_where_downloads_go(hub, commit, cache, tmp_path):
    load(cache_dir=tmp_path / "mine")
    assert (tmp_path / "mine" / "models--tester--base" / "snapshots" / commit).is_dir()
    assert not cache.exists()


def test_two_at_once_download_once(hub, commit, fitted_backbone):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: load(revision=commit), range(2)))
    assert {b.digest() for b in both} == {fitted_backbone.digest()}
    assert len(hub.asked(WEIGHTS)) == 1


# -- revisions ---


def test_a_revision_is_pinned(hub, commit, later, fitted_backbone):
    hub.repos[NAME].refs["v1"] = commit
    assert load(revision=commit).digest() == fitted_backbone.digest()
    assert load(revision="v1").digest() == fitted_backbone.digest()
    newest = load()
    assert newest.digest() != fitted_backbone.digest()
    assert newest.source_ == HubSource(NAME, later)


def test_a_commit_in_the_cache_needs_no_network(hub, commit):
    load(revision=commit)
    hub.log.clear()
    load(revision=commit)
    assert hub.log == []


def test_all_files_are_of_one_commit(hub, commit):
    load()
    assert {r.path.split("/")[4] for r in hub.log if "/resolve/" in r.path} == {commit}


def test_an_unknown_revision_is_named(hub, commit):
    with pytest.raises(WeightsError, match=r"^revision: .*of tester/base; got 'v9'"):
        load(revision="v9")


def test_a_folder_has_no_revision(hub, fitted_backbone, tmp_path):
    fitted_backbone.save_pretrained(tmp_path / "b")
    with pytest.raises(ConfigError, match="^revision: only for a repository"):
        load(tmp_path / "b", revision="main")


# -- without the network ---


def test_offline_takes_what_is_there(hub, commit, fitted_backbone, monkeypatch):
    load()
    hub.log.clear()
    assert load(local_files_only=True).digest() == fitted_backbone.digest()
    assert load(local_files_only=True, revision=commit).digest() == fitted_backbone.digest()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load().digest() == fitted_backbone.digest()
    assert hub.log == []
    with pytest.raises(ConfigError, match="^force_download: needs the network"):
        load(force_download=True)


def test_offline_says_what_is_missing(hub, commit, cache):
    with pytest.raises(WeightsError, match="^name: without the network .*neither; download"):
        load(local_files_only=True)
    assert hub.log == []
    assert not cache.exists()
    with pytest.raises(ConfigError, match="^local_files_only, force_download:"):
        load(local_files_only=True, force_download=True)


def test_nobody_pushes_to_a_folder(hub, fitted_backbone, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        HubError, match="^hub: must be reached for .*/base'; got Connect.*call again$"
    ):
        fitted_backbone.push_to_hub(NAME, license="other", token=TOKEN)


def test_a_hub_that_is_down_leaves_what_was_downloaded(
    hub, commit, fitted_backbone, monkeypatch, caplog
):
    load()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING, logger="defectgen"):
        assert load().digest() == fitted_backbone.digest()
    assert "the hub cannot be reached; taking" in caplog.text
    with pytest.raises(WeightsError, match="^hub: must be reached for .*/base', .* got Connect"):
        load(force_download=True)
    with pytest.raises(WeightsError, match="^hub: must be reached for 'tester/other', which is no"):
        load("tester/other")


def run(program, environment, tmp_path, **more):
    root = Path(defectgen.__file__).parents[1]
    kernels = {"DEFECTGEN_KERNELS": "reference", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | environment | kernels | more,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )


def test_the_variables_of_the_client_are_respected(hub, fitted_backbone, environment, tmp_path):
    fitted_backbone.push_to_hub(NAME, license="other", token=TOKEN)  # private
    hub.log.clear()
    program = f"""
from defectgen import Backbone, WeightsError
try:
    print(Backbone.from_pretrained({NAME!r}, device="cpu").digest())
except WeightsError as error:
    print("refused:", error)
"""
    said = run(program, environment, tmp_path).stdout
    assert said.startswith("refused: name: must be an existing folder, or a repository")
    done = run(program, environment, tmp_path, HF_TOKEN=TOKEN)
    assert done.stdout.strip() == fitted_backbone.digest(), done.stderr
    assert TOKEN not in done.stdout + done.stderr
    seen = len(hub.log)
    offline = run(program, environment, tmp_path, HF_HUB_OFFLINE="1")
    assert offline.stdout.strip() == fitted_backbone.digest(), offline.stderr
    assert len(hub.log) == seen
    elsewhere = {"HF_HUB_CACHE": str(tmp_path / "elsewhere"), "HF_TOKEN": TOKEN}
    assert run(program, environment, tmp_path, **elsewhere).returncode == 0
    assert (tmp_path / "elsewhere" / "models--tester--base").is_dir()


# -- interrupted ---


def test_a_broken_connection_goes_on_where_it_broke(hub, commit, fitted_backbone, monkeypatch):
    monkeypatch.setattr("defectgen.hub.transfer.PAUSE", 0.0)
    hub.cut[WEIGHTS] = 200_000  # of 556 kB: each answer ends after so many
    assert load().digest() == fitted_backbone.digest()
    ranges = [r.range for r in hub.asked(WEIGHTS)]
    assert ranges[0] == ""
    assert len(ranges) >= 3
    assert all(r.startswith("bytes=") for r in ranges[1:])


def test_a_later_call_goes_on_where_an_earlier_one_ended(hub, commit, cache, fitted_backbone):
    """As after Ctrl-C, a crash or a lost network: what has come is on the disk."""
    whole = hub.files(NAME)[WEIGHTS]
    staging = cache / "models--tester--base" / "defectgen" / commit
    staging.mkdir(parents=True)
    (staging / WEIGHTS).write_bytes(whole[:300_000])
    assert load().digest() == fitted_backbone.digest()
    assert [r.range for r in hub.asked(WEIGHTS)] == ["bytes=300000-"]
    assert not staging.exists()


def test_a_process_killed_in_the_middle_has_lost_nothing(
    hub, commit, cache, environment, tmp_path, fitted_backbone
):
    program = f"""
import os
from defectgen import Backbone
from defectgen.hub import transfer
real = transfer._stream
def killed(url, headers):
    class Answer:
        def __enter__(self):
            self.stream = real(url, headers)
            status, pieces = self.stream.__enter__()
            return status, self.pieces(pieces)
        def __exit__(self, *error):
            return self.stream.__exit__(*error)
        def pieces(self, pieces):
            for n, piece in enumerate(pieces):
                if n == 4:
                    os.kill(os.getpid(), 9)
                yield piece
    return Answer()
transfer._stream = killed
Backbone.from_pretrained({NAME!r}, device="cpu")
"""
    assert run(program, environment, tmp_path).returncode == -9
    assert not list(cache.glob("models--*/snapshots/*"))
    hub.log.clear()
    assert load().digest() == fitted_backbone.digest()
    (begun,) = [r.range for r in hub.asked(WEIGHTS)]
    assert begun in {f"bytes={n << 16}-" for n in (3, 4)}  # what the process had not yet written
    assert hub.asked("config.json") == []


def test_an_interrupt_keeps_what_has_come(hub, commit, monkeypatch, fitted_backbone):
    from defectgen.hub import transfer

    real = transfer._continue

    def interrupted(source, name, size, file, token):
        if name != WEIGHTS:
            return real(source, name, size, file, token)
        file.write(hub.files(NAME)[WEIGHTS][:100_000])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_continue", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load()
    assert load().digest() == fitted_backbone.digest()
    assert [r.range for r in hub.asked(WEIGHTS)] == ["bytes=100000-"]


def test_a_line_that_stays_dead_is_given_up_and_the_beginning_kept(
    hub, commit, cache, monkeypatch, fitted_backbone
):
    monkeypatch.setattr("defectgen.hub.transfer.PAUSE", 0.0)
    hub.cut[WEIGHTS] = 0
    with pytest.raises(WeightsError, match="^hub: must be reached .*what has come is kept"):
        load()
    assert len(hub.asked(WEIGHTS)) == 3
    assert not list(cache.glob("models--*/snapshots/*"))
    hub.cut.clear()
    assert load().digest() == fitted_backbone.digest()
    assert len(hub.asked("config.json")) == 1


def test_a_server_that_knows_no_ranges_begins_anew(hub, commit, cache, fitted_backbone):
    staging = cache / "models--tester--base" / "defectgen" / commit
    staging.mkdir(parents=True)
    (staging / WEIGHTS).write_bytes(hub.files(NAME)[WEIGHTS][:1000])
    hub.ranges = False
    assert load().digest() == fitted_backbone.digest()


def test_a_beginning_longer_than_the_whole_is_dropped(hub, commit, cache, fitted_backbone):
    staging = cache / "models--tester--base" / "defectgen" / commit
    staging.mkdir(parents=True)
    (staging / WEIGHTS).write_bytes(b"x" * 600_000)
    assert load().digest() == fitted_backbone.digest()


def test_a_rest_that_does_not_exist_does_not_block_later_calls(
    hub, commit, monkeypatch, fitted_backbone
):
    monkeypatch.setattr("defectgen.hub.transfer.PAUSE", 0.0)
    hub.sizes[WEIGHTS] = len(hub.files(NAME)[WEIGHTS]) + 1000  # the listing was wrong
    with pytest.raises(WeightsError, match="^hub: must be reached .*got 416"):
        load()
    hub.sizes.clear()
    assert load().digest() == fitted_backbone.digest()


def test_a_beginning_of_something_else_is_noticed(hub, commit, cache, fitted_backbone):
    staging = cache / "models--tester--base" / "defectgen" / commit
    staging.mkdir(parents=True)
    (staging / WEIGHTS).write_bytes(b"x" * 1000)
    with pytest.raises(WeightsError, match=f"{WEIGHTS} must have the sha256"):
        load()
    assert not staging.exists()
    assert load().digest() == fitted_backbone.digest()


# -- private repositories and tokens ---


@pytest.fixture
def private(hub, published):
    hub.create(NAME, private=True)
    hub.commit(NAME, published[NAME])


def test_a_private_repository_wants_the_token(hub, private, cache, fitted_backbone):
    for token in (None, False, "hf_wrong"):
        with pytest.raises(WeightsError, match=r"^name: .*'tester/base', which is no folder here"):
            load(token=token)
    assert not cache.exists()
    assert load(token=TOKEN).digest() == fitted_backbone.digest()


def test_the_token_of_the_machine_is_used_unless_refused(hub, private, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(WeightsError):
        load(token=False)
    assert {r.token for r in hub.log} == {""}
    load()


def test_the_token_is_nowhere_to_be_read(hub, private, caplog, capsys, cache):
    """Not in logs of any library, not in output, errors, objects or files."""
    said = []
    with caplog.at_level(logging.DEBUG):
        back = load(token=TOKEN)
        for name, options in ((NAME, {"revision": "v9"}), ("tester/none", {})):
            with pytest.raises(WeightsError) as error:
                load(name, token=TOKEN, **options)
            said += traceback.format_exception(error.value)
        with pytest.raises(ConfigError, match="^token: .*not shown") as error:
            load(token=TOKEN + "\n")
        said += traceback.format_exception(error.value)
    shown = capsys.readouterr()
    said += [caplog.text, shown.out, shown.err, repr(vars(back)), repr(HubOptions(token=TOKEN))]
    assert len(caplog.records) > 3
    assert [text for text in said if TOKEN in text] == []
    assert not [p for p in cache.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]


def test_what_a_client_says_of_a_token_is_not_passed_on(hub, commit, monkeypatch):
    def careless(*_, **__):
        raise ValueError(f"Illegal header value b'Bearer {TOKEN}'")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", careless)
    with pytest.raises(WeightsError, match="^hub: must be reached .*got ValueError") as error:
        load(token=TOKEN)
    assert TOKEN not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("token", ["", "two words", "hf_ü", 3, TOKEN + "\r\n"])
def test_what_cannot_be_a_token_is_refused(hub, token):
    with pytest.raises(ConfigError, match="^token: "):
        load(token=token)
    assert hub.log == []


# -- names ---


def test_an_existing_folder_comes_first(hub, fitted_backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("tester/base", "mvtec/bottle", "demo"):
        fitted_backbone.save_pretrained(name)
        assert load(name).source_ == Path(name)
    assert hub.log == []


@pytest.mark.parametrize("name", ["mvtec/bottle", "visa/pcb1"])
def test_names_of_the_zoo_are_reserved(hub, name):
    for cls in (Backbone, DefectSynthesizer):
        with pytest.raises(WeightsError, match=f"^name: .*'{name}', which is not published yet"):
            cls.from_pretrained(name)
    with pytest.raises(WeightsError, match="^name: must be of the zoo; got 'mvtec/bottel'"):
        Backbone.from_pretrained("mvtec/bottel")
    with pytest.raises(WeightsError, match="not published yet; train it with .defectgen zoo train"):
        DefectSynthesizer(name)._resolve_backbone()
    assert hub.log == []


def test_demo_is_the_shipped_backbone(hub):
    assert load("demo").fitted().config.resolution == 64
    with pytest.raises(WeightsError, match="^name: demo is a backbone; .*fit"):
        DefectSynthesizer.from_pretrained("demo")
    assert hub.log == []


@pytest.mark.parametrize("name", ["typo", "./a/b", "a/b/c", "../a", "/a/b", "a--b/c", "a/b.git"])
def test_what_is_no_repository_id_is_a_folder_that_is_missing(hub, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="existing weights folder.*check the path"):
        load(name)
    with pytest.raises(WeightsError, match="existing weights folder"):
        load(Path("tester/base"))  # a path object is a folder
    assert hub.log == []
