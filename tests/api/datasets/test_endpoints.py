"""Dataset endpoints."""

import hashlib
import socket

import pytest

from core.errors import StorageFailed
from core.store import datasets
from core.store.ingest_leases import IngestLeaseToken
from core.store.tables import Dataset
from tests.api.conftest import small_spec
from tests.support.specs import DIGITS


@pytest.fixture
def archive(zip_of):
    return zip_of({"train/a/1.png": b"1", "train/b/1.png": b"2"})


class TestBuiltin:
    @pytest.mark.parametrize("name", ["digits", "mnist-5k", "mnist-300", "mnist-unlabeled"])
    def test_it_is_accepted_and_wakes_the_ingest_worker(self, server, http, name):
        response = http.post("/v1/datasets", json={"name": "mine", "source": {"type": "builtin", "name": name}})
        dataset = response.json()

        assert response.status_code == 202
        assert dataset["id"].startswith("ds_")
        assert (dataset["object"], dataset["name"], dataset["status"]) == ("dataset", "mine", "processing")
        assert (dataset["splits"], dataset["rejected"], dataset["error"]) == (None, [], None)
        assert http.get(f"/v1/datasets/{dataset['id']}").json() == dataset
        assert server.broker.was_sent("datasets")

    def test_its_license_is_returned_and_a_limiting_one_is_a_warning_of_the_estimate(self, tenant, http):
        source = {"type": "builtin", "name": "digits"}
        created = http.post("/v1/datasets", json={"source": source, "license": " CC-BY-NC-4.0 "}).json()
        dataset_id = tenant.ready_dataset()
        with tenant.database.write() as session:
            session.get(Dataset, dataset_id).license = "cc-by-nc-4.0"
        warnings = http.post("/v1/estimates", json=small_spec(dataset_id)).json()["warnings"]

        assert created["license"] == http.get(f"/v1/datasets/{created['id']}").json()["license"] == "cc-by-nc-4.0"
        assert ("noncommercial_license", "/dataset") in {(each["code"], each["field"]) for each in warnings}
        assert http.post("/v1/datasets", json={"source": source, "license": ""}).status_code == 422

    def test_the_progress_is_reported_while_it_is_processed(self, server, http):
        dataset_id = http.post("/v1/datasets", json=DIGITS).json()["id"]
        path, lease = f"/v1/datasets/{dataset_id}", IngestLeaseToken(dataset_id, 1)
        assert http.get(path).json()["progress"] == {"processed": 0, "total": None, "images_per_second": None}

        with server.database.write() as session:
            dataset = session.get(Dataset, dataset_id)
            dataset.worker_id, dataset.attempt = "wrk_test", 1
            session.flush()
            datasets.record_progress(session, lease, processed=70, total=1797, images_per_second=20.0)
        assert http.get(path).json()["progress"] == {"processed": 70, "total": 1797, "images_per_second": 20.0}

        with server.database.write() as session:
            datasets.fail(session, lease, {"code": "no_images", "message": "none"})
        assert http.get(path).json()["progress"] is None

    def test_the_default_name_is_the_source(self, http):
        response = http.post("/v1/datasets", json={"source": {"type": "builtin", "name": "digits"}})

        assert response.json()["name"] == "digits"

    def test_the_same_idempotency_key_creates_one_dataset(self, http):
        body, headers = {"source": {"type": "builtin", "name": "digits"}}, {"Idempotency-Key": "k"}
        first, second = (http.post("/v1/datasets", json=body, headers=headers) for _ in range(2))

        assert first.json()["id"] == second.json()["id"]
        assert second.status_code == 202

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({}, "/source"),
            ({"source": None}, "/source"),
            ({"source": {"type": "builtin"}}, "/source/name"),
            ({"source": {"type": "builtin", "name": "cifar"}}, "/source/name"),
            ({"source": {"type": "ftp"}}, "/source"),
            ({"source": {"type": "url"}}, "/source/url"),
            ({"source": {"type": "url", "url": ["nonsense"]}}, "/source/url"),
            ({"source": {"type": "url", "url": "https://example.com/" + "x" * 5000}}, "/source/url"),
            ({"source": {"type": "url", "url": "https://example.com/a", "labels": "some"}}, "/source/labels"),
            ({"source": {"type": "url", "url": "https://example.com/a", "splits": "some"}}, "/source/splits"),
            (
                {"source": {"type": "url", "url": "https://example.com/a", "splits": {"test": "a"}}},
                "/source/splits",
            ),
            ({"source": {"type": "url", "url": "https://example.com/a", "class_from": 1}}, "/source/class_from"),
            ({"source": {"type": "builtin", "name": "digits"}, "nmae": "x"}, "/nmae"),
            ({"source": {"type": "builtin", "name": "digits"}, "name": "x" * 201}, "/name"),
            ({"source": {"type": "builtin", "name": "digits"}, "name": ""}, "/name"),
            ({"source": {"type": "builtin", "name": "digits"}, "name": 7}, "/name"),
        ],
    )
    def test_an_invalid_request_names_the_field(self, http, body, pointer):
        response = http.post("/v1/datasets", json=body)

        assert response.status_code == 422
        assert [error["pointer"] for error in response.json()["errors"]] == [pointer]

    def test_a_dataset_of_the_hub_is_accepted_with_its_defaults(self, http):
        source = {"type": "huggingface", "repo": "uoft-cs/cifar10", "split": "train"}
        dataset = http.post("/v1/datasets", json={"source": source}).json()

        assert (dataset["status"], dataset["name"]) == ("processing", "cifar10")
        assert {**dataset["source"], **source} == dataset["source"]
        assert (dataset["source"]["revision"], dataset["source"]["config"]) == ("main", None)

    @pytest.mark.parametrize(
        ("field", "value"), [("repo", "../x"), ("repo", "a/b/c"), ("repo", "a b"), ("revision", "../..")]
    )
    def test_a_name_that_the_hub_cannot_have_is_refused(self, http, field, value):
        source = {"type": "huggingface", "repo": "a/b", field: value}
        response = http.post("/v1/datasets", json={"source": source})

        assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, f"/source/{field}")


class TestBucket:
    @pytest.mark.parametrize(
        ("url", "status"),
        [
            ("s3://shared/pets.zip", 202),
            ("s3://shared/", 202),
            ("s3://team/images/pets/", 202),
            ("s3://team/images-private/pets.zip", 422),
            ("s3://team/", 422),
            ("s3://team/images/../private/pets.zip", 422),
            ("s3://sharedother/pets.zip", 422),
            ("s3://shared", 202),
        ],
    )
    def test_only_buckets_of_the_settings_are_read(self, make_server, make_tenant, url, status):
        if not hasattr(TestBucket, "server"):
            TestBucket.server = make_server(s3_sources=("shared", "team/images"))
        tenant = make_tenant(on=TestBucket.server)
        response = tenant.http.post("/v1/datasets", json={"source": {"type": "s3", "url": url}})

        assert response.status_code == status, response.text

    def test_without_the_setting_no_bucket_is_read(self, http):
        response = http.post("/v1/datasets", json={"source": {"type": "s3", "url": "s3://any/pets.zip"}})

        assert (response.status_code, response.json()["code"]) == (422, "url_not_allowed")


class TestUrl:
    def test_it_is_accepted_without_a_dns_query(self, server, http, monkeypatch):
        hosts, getaddrinfo = [], socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *rest, **more: hosts.append(host) or getaddrinfo(host, *rest, **more)
        )
        source = {"type": "url", "url": "https://nowhere.example/data/my%20pets.tar.gz?signature=s", "labels": "none"}
        response = http.post("/v1/datasets", json={"source": source})
        dataset = response.json()

        assert (response.status_code, dataset["status"], dataset["name"]) == (202, "processing", "my pets")
        hidden = {"url": "https://nowhere.example/data/my%20pets.tar.gz?[hidden]"}
        assert dataset["source"] == {**source, **hidden, "splits": "auto", "class_from": "auto"}
        assert "nowhere.example" not in hosts
        assert server.broker.was_sent("datasets")

    def test_the_query_of_a_signed_url_is_hidden(self, http):
        """The query may give access to more than this file, and every key of the project can read the dataset."""
        source = {"type": "url", "url": "https://nowhere.example/pets.zip?sig=hush"}
        responses = [http.post("/v1/datasets", json={"source": source}, headers={"Idempotency-Key": "k"}) for _ in "ab"]
        responses += [http.get("/v1/datasets"), http.get(f"/v1/datasets/{responses[0].json()['id']}")]

        assert [response.status_code for response in responses] == [202, 202, 200, 200]
        assert not any("hush" in response.text for response in responses)

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("http://example.com/x.zip", "only https"),
            ("file:///etc/passwd", "only https"),
            ("gopher://example.com/x", "only https"),
            ("https://127.0.0.1/x.zip", "not a public address"),
            ("https://localhost/x.zip", "own host"),
            ("https://169.254.169.254/latest/meta-data", "not a public address"),
            ("https://[::1]/x.zip", "not a public address"),
            ("https://2130706433/x.zip", "number"),
            ("https://me:secret@example.com/x.zip", "signed link"),
            ("https://example.com:8443/x.zip", "port 8443"),
            ("https://exa mple.com/x.zip", "percent-encode"),
            ("nonsense", "only https"),
        ],
    )
    def test_a_forbidden_url_is_rejected_at_once(self, http, url, words):
        response = http.post("/v1/datasets", json={"source": {"type": "url", "url": url}})
        problem = response.json()

        assert (response.status_code, problem["code"]) == (422, "url_not_allowed")
        assert [error["pointer"] for error in problem["errors"]] == ["/source/url"]
        assert words in problem["detail"]
        assert "secret" not in response.text

    def test_hosts_and_ports_allowed_by_the_operator_are_accepted(self, make_server, make_tenant):
        tenant = make_tenant(on=make_server(fetch_allow="10.1.0.0/16, store.internal", fetch_ports="443,9000"))

        def status(url):
            return tenant.http.post("/v1/datasets", json={"source": {"type": "url", "url": url}}).status_code

        assert (status("https://10.1.2.3:9000/x.zip"), status("https://store.internal/x.zip")) == (202, 202)
        assert (status("https://10.2.0.1:9000/x.zip"), status("http://10.1.2.3:9000/x.zip")) == (422, 422)


class TestUpload:
    def test_the_file_is_stored_for_the_ingest_worker(self, server, http, tenant, archive):
        response = http.post("/v1/datasets", data={"name": "mine"}, files={"file": ("x.zip", archive)})
        dataset = response.json()
        with server.database.read() as session:
            key = datasets.get(session, tenant.project_id, dataset["id"]).upload_key

        assert response.status_code == 202
        assert (dataset["name"], dataset["status"]) == ("mine", "processing")
        assert dataset["source"]["sha256"] == hashlib.sha256(archive).hexdigest()
        assert b"".join(server.store.open(key)) == archive

    @pytest.mark.parametrize(
        ("filename", "name"),
        [("pets.tar.gz", "pets"), ("../../etc/x.zip", "x"), ("C:\\data\\my cats.zip", "my cats"), ("", "unnamed"),
         (".zip", ".zip"), ("ä" * 300 + ".zip", "ä" * 200)],
    )  # fmt: skip
    def test_the_default_name_is_the_filename(self, http, archive, filename, name):
        body = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="'
            + filename.replace("\\", "\\\\").encode()
            + b'"\r\n\r\n'
            + archive
            + b"\r\n--b--\r\n"
        )
        response = http.post("/v1/datasets", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})

        assert (response.status_code, response.json().get("name")) == (202, name), response.text

    def test_the_same_file_and_idempotency_key_create_one_dataset(self, http, archive):
        headers = {"Idempotency-Key": "k"}
        first, second = (
            http.post("/v1/datasets", files={"file": ("x.zip", archive)}, headers=headers) for _ in range(2)
        )
        other = http.post("/v1/datasets", files={"file": ("x.zip", archive + b" ")}, headers=headers)

        assert first.json()["id"] == second.json()["id"]
        assert second.headers["Idempotent-Replayed"] == "true"
        assert other.json()["code"] == "idempotency_key_reused"

    def test_an_upload_that_failed_on_a_full_disk_can_be_repeated_with_its_key(
        self, server, http, archive, monkeypatch
    ):
        def full(key, _source):
            raise StorageFailed(f"The artifact store failed at {key}: the disk is full.")

        sent = {"headers": {"Idempotency-Key": "k-full"}, "files": {"file": ("a.zip", archive)}}
        with monkeypatch.context() as patch:
            patch.setattr(server.store, "put", full)
            rejected = http.post("/v1/datasets", **sent)

        assert (rejected.status_code, rejected.json()["code"]) == (503, "storage_unavailable")
        assert http.post("/v1/datasets", **sent).status_code == 202

    def test_the_labels_field_is_stored(self, http, archive):
        explicit = http.post("/v1/datasets", data={"labels": "none"}, files={"file": ("x.zip", archive)})
        default = http.post("/v1/datasets", files={"file": ("x.zip", archive)})
        wrong = http.post("/v1/datasets", data={"labels": "some"}, files={"file": ("x.zip", archive)})

        assert (explicit.json()["source"]["labels"], default.json()["source"]["labels"]) == ("none", "auto")
        assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/labels")

    @pytest.mark.parametrize(
        ("splits", "stored"),
        [
            ('{"train": "seg_train", "test": "./seg_test/"}', {"train": "seg_train", "test": "seg_test"}),
            ("train=seg_train", {"train": "seg_train", "test": None}),
            ("none", "none"),
        ],
    )
    def test_the_choice_of_the_folders_is_stored(self, http, archive, splits, stored):
        sent = {"splits": splits, "class_from": "parent"}
        response = http.post("/v1/datasets", data=sent, files={"file": ("x.zip", archive)})
        source = http.get(f"/v1/datasets/{response.json()['id']}").json()["source"]

        assert (source["splits"], source["class_from"], source["labels"]) == (stored, "parent", "auto")

    @pytest.mark.parametrize(
        ("sent", "pointer"),
        [
            ({"splits": "seg_train"}, "/splits"),
            ({"splits": "{"}, "/splits"),
            ({"splits": '{"train": "a", "extra": "b"}'}, "/splits"),
            ({"splits": '{"train": "../a"}'}, "/splits"),
            ({"splits": "train=a,train=b"}, "/splits"),
            ({"splits": "train=a,test=a"}, "/splits"),
            ({"splits": '{"train": 1}'}, "/splits"),
            ({"class_from": "grandparent"}, "/class_from"),
        ],
    )
    def test_a_wrong_choice_names_the_field(self, http, archive, sent, pointer):
        response = http.post("/v1/datasets", data=sent, files={"file": ("x.zip", archive)})

        assert response.status_code == 422
        assert [error["pointer"] for error in response.json()["errors"]] == [pointer]

    def test_parquet_is_accepted(self, http):
        response = http.post("/v1/datasets", files={"file": ("pets.parquet", b"PAR1" + b"\0" * 100 + b"PAR1")})

        assert (response.status_code, response.json()["name"]) == (202, "pets")

    def test_other_files_than_archives_are_415_at_once(self, http, server):
        response = http.post("/v1/datasets", files={"file": ("x.zip", b"hello")})

        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
        assert http.get("/v1/datasets").json()["data"] == []
        assert list((server.settings.home / "incoming").iterdir()) == []

    def test_a_file_that_is_too_large_is_413(self, make_server, make_tenant):
        tenant = make_tenant(on=make_server(max_upload_bytes=1000))
        response = tenant.http.post("/v1/datasets", files={"file": ("x.zip", b"PK\x03\x04" + b"x" * 2000)})
        far = tenant.http.post("/v1/datasets", files={"file": ("x.zip", b"PK\x03\x04" + b"x" * 6_000_000)})

        assert (response.status_code, far.status_code) == (413, 413)
        assert "1,000" in response.json()["detail"]


class TestRead:
    def test_a_ready_dataset_is_described(self, http, tenant):
        broken = {"path": "train/a/x.png", "reason": "broken", "code": "image_unreadable"}
        old_row = {"path": "train/a/y.png", "reason": "broken"}  # rows of earlier versions have no code
        dataset_id = tenant.ready_dataset(rejected=[broken, old_row])
        dataset = http.get(f"/v1/datasets/{dataset_id}").json()

        assert dataset["status"] == "ready"
        assert dataset["classes"] == ["a", "b", "c"]
        assert dataset["splits"] == {"train": {"num_samples": 80}, "test": {"num_samples": 20}}
        assert dataset["rejected"] == [broken, {**old_row, "code": None}]

    def test_an_unlabeled_dataset_has_no_classes(self, http, tenant):
        dataset_id = tenant.ready_dataset(num_classes=None, classes=None)

        dataset = http.get(f"/v1/datasets/{dataset_id}").json()

        assert (dataset["status"], dataset["num_classes"], dataset["classes"]) == ("ready", None, None)

    def test_pages(self, http, tenant):
        ids = [tenant.ready_dataset() for _ in range(3)]
        first = http.get("/v1/datasets?limit=2").json()
        rest = http.get(f"/v1/datasets?limit=2&after={first['data'][-1]['id']}").json()

        assert {each["id"] for each in first["data"] + rest["data"]} == set(ids)
        assert (first["has_more"], rest["has_more"]) == (True, False)

    def test_a_deleted_dataset_is_404(self, http, tenant):
        path = f"/v1/datasets/{tenant.ready_dataset()}"

        assert http.delete(path).status_code == 204
        assert http.get(path).status_code == 404
        assert http.delete(path).status_code == 404

    def test_deleting_an_upload_deletes_its_file(self, server, http, archive):
        dataset = http.post("/v1/datasets", files={"file": ("x.zip", archive)}).json()
        http.delete(f"/v1/datasets/{dataset['id']}")

        assert list(server.store.list_prefix(f"uploads/{dataset['id']}")) == []
