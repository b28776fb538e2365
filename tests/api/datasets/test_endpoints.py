"""Datasets over HTTP."""

import hashlib
import socket

import pytest

from core.errors import StorageFailed
from core.store import datasets


@pytest.fixture
def archive(zip_of):
    return zip_of({"train/a/1.png": b"1", "train/b/1.png": b"2"})


class TestBuiltin:
    @pytest.mark.parametrize("name", ["digits", "mnist-5k"])
    def test_it_is_accepted_and_the_ingest_worker_is_told(self, server, http, name):
        answer = http.post("/v1/datasets", json={"name": "mine", "source": {"type": "builtin", "name": name}})
        dataset = answer.json()

        assert answer.status_code == 202
        assert dataset["id"].startswith("ds_")
        assert (dataset["object"], dataset["name"], dataset["status"]) == ("dataset", "mine", "processing")
        assert (dataset["splits"], dataset["rejected"], dataset["error"]) == (None, [], None)
        assert http.get(f"/v1/datasets/{dataset['id']}").json() == dataset
        assert server.hints.was_told("datasets")

    def test_without_a_name_it_has_its_sources(self, http):
        answer = http.post("/v1/datasets", json={"source": {"type": "builtin", "name": "digits"}})

        assert answer.json()["name"] == "digits"

    def test_the_same_idempotency_key_makes_one(self, http):
        body, headers = {"source": {"type": "builtin", "name": "digits"}}, {"Idempotency-Key": "k"}
        first, second = (http.post("/v1/datasets", json=body, headers=headers) for _ in range(2))

        assert first.json()["id"] == second.json()["id"]
        assert second.status_code == 202

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({}, "/source"),
            ({"source": None}, "/source"),
            ({"source": {"type": "builtin"}}, "/source/builtin/name"),
            ({"source": {"type": "builtin", "name": "cifar"}}, "/source/builtin/name"),
            ({"source": {"type": "ftp"}}, "/source"),
            ({"source": {"type": "url"}}, "/source/url/url"),
            ({"source": {"type": "url", "url": ["nonsense"]}}, "/source/url/url"),
            ({"source": {"type": "url", "url": "https://example.com/" + "x" * 5000}}, "/source/url/url"),
            ({"source": {"type": "url", "url": "https://example.com/a", "labels": "some"}}, "/source/url/labels"),
            ({"source": {"type": "builtin", "name": "digits"}, "nmae": "x"}, "/nmae"),
            ({"source": {"type": "builtin", "name": "digits"}, "name": "x" * 201}, "/name"),
            ({"source": {"type": "builtin", "name": "digits"}, "name": ""}, "/name"),
            ({"source": {"type": "builtin", "name": "digits"}, "name": 7}, "/name"),
        ],
    )
    def test_what_cannot_be_is_refused_where_it_stands(self, http, body, pointer):
        answer = http.post("/v1/datasets", json=body)

        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]

    @pytest.mark.parametrize(
        "source",
        [
            {"type": "huggingface", "repo": "a/b", "revision": "main", "split": "train"},
            {"type": "upload", "upload": "up_x"},
        ],
    )
    def test_sources_of_later_versions_are_not_available(self, http, source):
        answer = http.post("/v1/datasets", json={"name": "u", "source": source})

        assert (answer.status_code, answer.json()["code"]) == (422, "not_available")
        assert answer.json()["errors"][0]["pointer"] == "/source/type"


class TestUrl:
    def test_it_is_accepted_without_a_look_at_the_address(self, server, http, monkeypatch):
        looked_up, look_up = [], socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *rest, **more: looked_up.append(host) or look_up(host, *rest, **more)
        )
        source = {"type": "url", "url": "https://nowhere.example/data/my%20pets.tar.gz?signature=s", "labels": "none"}
        answer = http.post("/v1/datasets", json={"source": source})
        dataset = answer.json()

        assert (answer.status_code, dataset["status"], dataset["name"]) == (202, "processing", "my pets")
        assert dataset["source"] == {**source, "url": "https://nowhere.example/data/my%20pets.tar.gz?[hidden]"}
        assert "nowhere.example" not in looked_up
        assert server.hints.was_told("datasets")

    def test_what_opens_a_signed_link_is_shown_to_nobody(self, http):
        """It may open more than this one file, and every key of the project may look."""
        source = {"type": "url", "url": "https://nowhere.example/pets.zip?sig=geheim"}
        answers = [http.post("/v1/datasets", json={"source": source}, headers={"Idempotency-Key": "k"}) for _ in "ab"]
        answers += [http.get("/v1/datasets"), http.get(f"/v1/datasets/{answers[0].json()['id']}")]

        assert [answer.status_code for answer in answers] == [202, 202, 200, 200]
        assert not any("geheim" in answer.text for answer in answers)

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("http://example.com/x.zip", "only https"),
            ("file:///etc/passwd", "only https"),
            ("gopher://example.com/x", "only https"),
            ("https://127.0.0.1/x.zip", "no public address"),
            ("https://localhost/x.zip", "own machine"),
            ("https://169.254.169.254/latest/meta-data", "no public address"),
            ("https://[::1]/x.zip", "no public address"),
            ("https://2130706433/x.zip", "number"),
            ("https://me:secret@example.com/x.zip", "signed link"),
            ("https://example.com:8443/x.zip", "port 8443"),
            ("https://exa mple.com/x.zip", "percent-encode"),
            ("nonsense", "only https"),
        ],
    )
    def test_what_will_never_be_fetched_is_refused_at_once(self, http, url, words):
        answer = http.post("/v1/datasets", json={"source": {"type": "url", "url": url}})
        problem = answer.json()

        assert (answer.status_code, problem["code"]) == (422, "url_not_allowed")
        assert [error["pointer"] for error in problem["errors"]] == ["/source/url"]
        assert words in problem["detail"]
        assert "secret" not in answer.text

    def test_what_the_operator_allows_is_accepted(self, make_server, make_tenant):
        tenant = make_tenant(of=make_server(fetch_allow="10.1.0.0/16, store.internal", fetch_ports="443,9000"))

        def status(url):
            return tenant.http.post("/v1/datasets", json={"source": {"type": "url", "url": url}}).status_code

        assert (status("https://10.1.2.3:9000/x.zip"), status("https://store.internal/x.zip")) == (202, 202)
        assert (status("https://10.2.0.1:9000/x.zip"), status("http://10.1.2.3:9000/x.zip")) == (422, 422)


class TestUpload:
    def test_the_file_is_kept_for_the_ingest_worker(self, server, http, tenant, archive):
        answer = http.post("/v1/datasets", data={"name": "mine"}, files={"file": ("x.zip", archive)})
        dataset = answer.json()
        with server.database.read() as session:
            key = datasets.get(session, tenant.project_id, dataset["id"]).upload_key

        assert answer.status_code == 202
        assert (dataset["name"], dataset["status"]) == ("mine", "processing")
        assert dataset["source"]["sha256"] == hashlib.sha256(archive).hexdigest()
        assert b"".join(server.store.open(key)) == archive

    @pytest.mark.parametrize(
        ("filename", "name"),
        [("pets.tar.gz", "pets"), ("../../etc/x.zip", "x"), ("C:\\data\\my cats.zip", "my cats"), ("", "unnamed"),
         (".zip", ".zip"), ("ä" * 300 + ".zip", "ä" * 200)],
    )  # fmt: skip
    def test_without_a_name_it_has_its_files(self, http, archive, filename, name):
        body = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="'
            + filename.replace("\\", "\\\\").encode()
            + b'"\r\n\r\n'
            + archive
            + b"\r\n--b--\r\n"
        )
        answer = http.post("/v1/datasets", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})

        assert (answer.status_code, answer.json().get("name")) == (202, name), answer.text

    def test_the_same_file_sent_twice_with_one_key_makes_one(self, http, archive):
        headers = {"Idempotency-Key": "k"}
        first, second = (
            http.post("/v1/datasets", files={"file": ("x.zip", archive)}, headers=headers) for _ in range(2)
        )
        other = http.post("/v1/datasets", files={"file": ("x.zip", archive + b" ")}, headers=headers)

        assert first.json()["id"] == second.json()["id"]
        assert second.headers["Idempotent-Replayed"] == "true"
        assert other.json()["code"] == "idempotency_key_reused"

    def test_one_that_a_full_disk_refuses_can_be_sent_again_with_its_key(self, server, http, archive, monkeypatch):
        def full(key, _source):
            raise StorageFailed(f"The artefact store failed at {key}: the disk is full.")

        sent = {"headers": {"Idempotency-Key": "k-full"}, "files": {"file": ("a.zip", archive)}}
        with monkeypatch.context() as refusing:
            refusing.setattr(server.store, "put", full)
            refused = http.post("/v1/datasets", **sent)

        assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
        assert http.post("/v1/datasets", **sent).status_code == 202

    def test_it_says_whether_labels_are_looked_for(self, http, archive):
        said = http.post("/v1/datasets", data={"labels": "none"}, files={"file": ("x.zip", archive)})
        unsaid = http.post("/v1/datasets", files={"file": ("x.zip", archive)})
        wrong = http.post("/v1/datasets", data={"labels": "some"}, files={"file": ("x.zip", archive)})

        assert (said.json()["source"]["labels"], unsaid.json()["source"]["labels"]) == ("none", "auto")
        assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/labels")

    def test_parquet_is_kept_too(self, http):
        answer = http.post("/v1/datasets", files={"file": ("pets.parquet", b"PAR1" + b"\0" * 100 + b"PAR1")})

        assert (answer.status_code, answer.json()["name"]) == (202, "pets")

    def test_what_is_no_archive_is_415_at_once(self, http, server):
        answer = http.post("/v1/datasets", files={"file": ("x.zip", b"hello")})

        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
        assert http.get("/v1/datasets").json()["data"] == []
        assert list((server.settings.home / "incoming").iterdir()) == []

    def test_one_that_is_too_large_is_413(self, make_server, make_tenant):
        tenant = make_tenant(of=make_server(max_upload_bytes=1000))
        answer = tenant.http.post("/v1/datasets", files={"file": ("x.zip", b"PK\x03\x04" + b"x" * 2000)})
        far = tenant.http.post("/v1/datasets", files={"file": ("x.zip", b"PK\x03\x04" + b"x" * 6_000_000)})

        assert (answer.status_code, far.status_code) == (413, 413)
        assert "1,000" in answer.json()["detail"]


class TestRead:
    def test_a_ready_one_says_what_it_holds(self, http, tenant):
        broken = {"path": "train/a/x.png", "reason": "broken", "code": "image_unreadable"}
        from_before = {"path": "train/a/y.png", "reason": "broken"}  # rows of earlier versions have no code
        dataset_id = tenant.ready_dataset(rejected=[broken, from_before])
        dataset = http.get(f"/v1/datasets/{dataset_id}").json()

        assert dataset["status"] == "ready"
        assert dataset["classes"] == ["a", "b", "c"]
        assert dataset["splits"] == {"train": {"num_samples": 80}, "test": {"num_samples": 20}}
        assert dataset["rejected"] == [broken, {**from_before, "code": None}]

    def test_an_unlabelled_one_has_no_classes(self, http, tenant):
        dataset_id = tenant.ready_dataset(num_classes=None, classes=None)

        dataset = http.get(f"/v1/datasets/{dataset_id}").json()

        assert (dataset["status"], dataset["num_classes"], dataset["classes"]) == ("ready", None, None)

    def test_pages(self, http, tenant):
        made = [tenant.ready_dataset() for _ in range(3)]
        first = http.get("/v1/datasets?limit=2").json()
        rest = http.get(f"/v1/datasets?limit=2&after={first['data'][-1]['id']}").json()

        assert {each["id"] for each in first["data"] + rest["data"]} == set(made)
        assert (first["has_more"], rest["has_more"]) == (True, False)

    def test_one_that_is_deleted_is_gone(self, http, tenant):
        path = f"/v1/datasets/{tenant.ready_dataset()}"

        assert http.delete(path).status_code == 204
        assert http.get(path).status_code == 404
        assert http.delete(path).status_code == 404

    def test_an_upload_that_is_deleted_takes_its_file_with_it(self, server, http, archive):
        made = http.post("/v1/datasets", files={"file": ("x.zip", archive)}).json()
        http.delete(f"/v1/datasets/{made['id']}")

        assert list(server.store.list_prefix(f"uploads/{made['id']}")) == []
