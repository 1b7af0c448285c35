import gzip
import io
import json
import lzma
import re
import sys
import tarfile

import debian_packages
import debian_text
import plain_text
import pytest
import zstandard
from debian_sources import SOURCES, Source

LONG = "A sentence that says enough to be kept, because it is longer than the least that we keep. " * 3


def deb(path, files, compress=lzma.compress, suffix=".xz"):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, text in sorted(files.items()):
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    members = {"debian-binary": b"2.0\n", "control.tar": b"odd", f"data.tar{suffix}": compress(data.getvalue())}
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        parts.append(header + content + b"\n" * (len(content) % 2))
    path.write_bytes(b"".join(parts))
    return path


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zst", ""])
def test_package_is_read_whatever_its_compression(tmp_path, suffix):
    compress = {".xz": lzma.compress, ".gz": gzip.compress, ".zst": zstandard.compress, "": bytes}[suffix]
    path = deb(tmp_path / "a_1_all.deb", {"usr/b": "text", "usr/a": "other", "usr/c": "no"}, compress, suffix)
    assert list(debian_packages.files(path, lambda name: name != "usr/c")) == [("usr/a", b"other"), ("usr/b", b"text")]


@pytest.mark.parametrize("damage", [lambda content: b"no archive", lambda content: content[:-200], lambda content: content[:80]])
def test_damaged_package_is_named(tmp_path, damage):
    path = deb(tmp_path / "a_1_all.deb", {"usr/a": LONG * 1000})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(debian_packages.PackageError, match="a_1_all.deb is not a complete package.*delete it"):
        list(debian_packages.files(path, bool))


@pytest.mark.parametrize("name", ["../a", "usr/../../a", "/etc/a"])
def test_package_whose_paths_lead_out_of_it_is_refused(tmp_path, name):
    path = deb(tmp_path / "a_1_all.deb", {name: LONG})
    with pytest.raises(debian_packages.PackageError, match="a_1_all.deb is not a complete package.*leads out of it"):
        list(debian_packages.files(path, bool))


def test_cached_package_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    cached = tmp_path / "python3.11-doc_3.11_all.deb"
    cached.touch()
    cache = debian_packages.Cache(tmp_path)
    assert cache.get("python3-doc", r"python3\.\d+-doc") == cached
    with pytest.raises(debian_packages.PackageError, match="no apt-get"):
        cache.get("perl-doc")


def program(folder, name, lines):
    path = folder / name
    path.write_text("#!/bin/sh\n" + lines)
    path.chmod(0o755)


def test_versioned_name_is_found_through_its_dependency(tmp_path, monkeypatch):
    program(tmp_path, "apt-cache", 'echo "python3-doc"; echo "  Depends: python3.9-doc"\n')
    program(tmp_path, "apt-get", 'for last; do :; done; echo x > "${last}_1_all.deb"\n')
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    found = debian_packages.Cache(tmp_path / "debs").get("python3-doc", r"python3\.\d+-doc")
    assert found == tmp_path / "debs" / "python3.9-doc_1_all.deb" and found.read_text() == "x\n"


def test_failed_network_is_one_line_and_asked_once(tmp_path, monkeypatch):
    program(tmp_path, "apt-get", f'echo "$@" >> {tmp_path}/calls; echo "E: Failed to fetch http://mirror" >&2; exit 100\n')
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    cache = debian_packages.Cache(tmp_path / "debs")
    for _ in range(2):
        with pytest.raises(debian_packages.PackageError, match=r"^Failed to fetch http://mirror$"):
            cache.get("perl-doc")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [line.split()[-1] for line in calls] == ["perl-doc", "update"]


def test_translations_share_a_family_and_lose_what_is_english(tmp_path):
    def page(text):
        return f'<page xmlns="http://projectmallard.org/1.0/"><p>{text}</p><p>This paragraph nobody translated at all.</p></page>'

    files = {f"usr/share/help/{folder}/gnome-help/a.page": page(folder + " " + LONG) for folder in ("C", "de")}
    sources = [source for source in SOURCES if source.package == "gnome-user-docs" and source.language in ("en", "de")]
    writer = debian_text.Writer(tmp_path)
    debian_text.add_package(deb(tmp_path / "gnome-user-docs_1_all.deb", files), sources, set(), writer)
    writer.close()
    (english,), (german,) = (rows(tmp_path / domain / "gnome-user-docs.jsonl") for domain in ("english", "multilingual"))
    assert english["family"] == german["family"] == "gnome-user-docs/gnome-help/a"
    assert german["source"] == "gnome-user-docs:usr/share/help/de/gnome-help/a.page"
    assert "nobody" in english["text"] and "nobody" not in german["text"]


def test_parts_of_a_file_are_families_of_their_own(tmp_path):
    source = Source(package="p", domain="d", files="(?P<page>f)", text=lambda content: iter(content.split("%")))
    writer = debian_text.Writer(tmp_path)
    debian_text.add_package(deb(tmp_path / "p_1_all.deb", {"f": f"1{LONG}%2{LONG}"}), [source], set(), writer)
    writer.close()
    assert [row["family"] for row in rows(tmp_path / "d" / "p.jsonl")] == ["p/f#0", "p/f#1"]


def document(text, domain="english"):
    return debian_text.Document(domain, "file", "family", "source", text)


def test_short_repeated_and_generated_documents_are_counted(tmp_path):
    writer = debian_text.Writer(tmp_path)
    for text in (LONG, LONG.replace(" ", "\n"), "short"):
        writer.write(document(text))
    writer.write(document("x = 1\n" * debian_text.MAX_CODE_CHARACTERS, domain="code"))
    writer.close()
    assert writer.table["english"] == {"documents": 1, "bytes": len(LONG.strip()), "duplicate": 1, "short": 1}
    assert writer.table["code"] == {"generated": 1}
    assert [path.name for path in (tmp_path / "english").iterdir()] == ["file.jsonl"]


def test_standard_phrase_is_left_out_after_some_documents(tmp_path):
    writer = debian_text.Writer(tmp_path)
    for number in range(10):
        writer.write(document(f"{number} {LONG}\nThis is free software without warranty.\nOK"), pages=True)
    writer.close()
    texts = [row["text"] for row in rows(tmp_path / "english" / "file.jsonl")]
    assert sum("warranty" in text for text in texts) == debian_text.MAX_REPEATS
    assert all(text.endswith("OK") for text in texts)


def test_standard_library_and_folders_remain_without_apt(tmp_path, monkeypatch, capsys):
    library, own = tmp_path / "lib", tmp_path / "mine"
    for folder in (library / "site-packages", own):
        folder.mkdir(parents=True)
    (library / "module.py").write_text(f'"""{LONG}"""\nx = 1\n')
    (library / "site-packages" / "other.py").write_text(LONG)
    (own / "book.txt").write_text(LONG + "by me")
    (own / "picture.png").write_bytes(b"\x89PNG\xff")
    monkeypatch.setattr(debian_text.sysconfig, "get_paths", lambda: {"stdlib": str(library)})
    monkeypatch.setenv("PATH", "")
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["debian_text.py", "--out", str(out), "--debs", str(tmp_path / "debs"), "--folder", f"novels={own}"])
    assert debian_text.main() == 0
    shown = capsys.readouterr()
    assert "without perl-doc: there is no apt-get" in shown.err and "1 unreadable" in shown.out
    assert rows(out / "code" / "python.jsonl")[0]["family"] == "python/module.py"
    assert rows(out / "english" / "python.jsonl")[0]["text"] == LONG.strip()
    assert [row["family"] for row in rows(out / "novels" / "folder.jsonl")] == ["novels/book.txt"]
    assert debian_text.main() == 0 and "exists already" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["none", "a/b=.", ".hidden=."])
def test_wrong_folder_is_refused(tmp_path, monkeypatch, capsys, folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["debian_text.py", "--folder", folder])
    assert debian_text.main() == 2
    assert "change --folder" in capsys.readouterr().err


def test_docstrings_of_a_module():
    assert (
        debian_text.docstrings('"""One."""\nclass A:\n    def f(self):\n        """Two.\n\n        More.\n        """\n')
        == "One.\n\nTwo.\n\nMore."
    )
    assert debian_text.docstrings("def (") == ""


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: f"{source.package}-{source.domain}-{source.language}")
def test_every_source_can_be_read(source):
    assert source.text is str or getattr(plain_text, source.text.__name__) is source.text
    assert "page" in re.compile(source.files).groupindex
