"""Tokens of an OpenID Connect issuer: a real TLS server on loopback with discovery and keys."""

import base64
import hmac
import json
import time
from dataclasses import replace
from ipaddress import ip_address

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from api import oidc
from api.oidc import RETRY_SECONDS, IssuerKeys, TokenVerifier, make_downloader
from core.broker import Broker
from core.settings import Settings
from core.store import jobs
from core.token_errors import IssuerUnavailable, TokenExpired, TokenInvalid, TokenWithoutProject

HOST = "files.example"
AUDIENCE = "potstill"


class Issuer:
    """An issuer whose keys can be changed; ``paths`` are those that were requested."""

    def __init__(self, tls_server, authority, monkeypatch):
        self.keys = [ECKey.generate_key("P-256", {"kid": "one", "use": "sig"})]
        self.server = tls_server(self._answer)
        self.url = f"https://{HOST}:{self.server.port}"
        self.is_down = False

        def downloader(settings):
            found = make_downloader(settings)
            return type(found)(
                policy=found.policy,
                limits=found.limits,
                resolver=lambda _: [ip_address("127.0.0.1")],
                make_ssl_context=authority.trust,
            )

        monkeypatch.setattr(oidc, "make_downloader", downloader)

    @property
    def paths(self):
        return [request.split()[1].decode() for request in self.server.requests]

    def settings(self, **changes):
        values = {"oidc_issuer": self.url, "oidc_audience": (AUDIENCE,), "fetch_allow": (HOST,)}
        return {**values, "fetch_ports": (self.server.port,), **changes}

    def claims(self, **changes):
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "alice@example", "iat": now, "exp": now + 60}
        claims |= {"project": "prj_x", "scope": "openid write", **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, key=None, header=None, **changes):
        key = key or self.keys[0]
        header = {"alg": "ES256", **({"kid": key.kid} if key.kid else {}), **(header or {})}
        return jwt.encode(header, self.claims(**changes), key, algorithms=[header["alg"]])

    def _answer(self, connection, request):
        documents = {
            b"/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"},
            b"/keys": {"keys": [key.as_dict(private=False) for key in self.keys]},
        }
        document = None if self.is_down else documents.get(request.split()[1])
        body = json.dumps(document).encode()
        status = b"200 OK" if document else b"503 Unavailable"
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % (status, len(body)) + body)


@pytest.fixture
def issuer(tls_server, authority, monkeypatch):
    return Issuer(tls_server, authority, monkeypatch)


@pytest.fixture
def make_verifier(issuer, server, tmp_path):
    return lambda **changes: TokenVerifier(Settings(home=tmp_path, **issuer.settings(**changes)), server.database)


def test_a_token_gives_its_subject_access_to_its_project(issuer, make_verifier, tenant):
    verifier = make_verifier()
    caller = verifier.identify(issuer.token(project=tenant.project_id))

    assert (caller.subject, caller.project_id, caller.scopes) == ("alice@example", tenant.project_id, {"write"})
    assert caller.key_id == verifier.identify(issuer.token(project=tenant.project_id, scope="read")).key_id
    assert caller.key_id != verifier.identify(issuer.token(project=tenant.project_id, sub="bob")).key_id
    assert issuer.paths == ["/.well-known/openid-configuration", "/keys"]


def test_claims_map_to_project_and_scopes(issuer, make_verifier, tenant):
    verifier = make_verifier(
        oidc_project_claim="groups",
        oidc_projects={"team-a": tenant.project_id},
        oidc_scope_claim="realm.roles",
        oidc_scopes={"submit": "write", "boss": "admin"},
    )
    caller = verifier.identify(issuer.token(groups=["staff", "team-a"], realm={"roles": ["submit", "read"]}))

    assert (caller.project_id, caller.scopes) == (tenant.project_id, {"write"})
    with pytest.raises(TokenWithoutProject, match="claim groups"):
        verifier.identify(issuer.token(groups=["staff", tenant.project_id]))


def signed_by_hand(secret, claims):
    """Return a token with HS256; joserfc refuses to sign with a public key."""

    def encode(content):
        return base64.urlsafe_b64encode(content).rstrip(b"=")

    signed = encode(b'{"alg":"HS256","kid":"one"}') + b"." + encode(json.dumps(claims).encode())
    return (signed + b"." + encode(hmac.digest(secret, signed, "sha256"))).decode()


SHARED = OctKey.import_key(b"a shared secret of more than 32 bytes")


@pytest.mark.parametrize(
    ("make", "error", "detail"),
    [
        (lambda i: i.token(exp=int(time.time()) - 31), TokenExpired, "expired"),
        (lambda i: i.token(exp=None), TokenInvalid, "exp"),
        (lambda i: i.token(exp=1e300), TokenInvalid, "exp is not a date"),
        (lambda i: i.token(nbf=int(time.time()) + 60), TokenInvalid, "not yet valid"),
        (lambda i: i.token(aud=["another"]), TokenInvalid, "aud"),
        (lambda i: i.token(aud=None), TokenInvalid, "aud"),
        (lambda i: i.token(iss="https://evil.example"), TokenInvalid, "iss"),
        (lambda i: i.token(sub=None), TokenInvalid, "sub"),
        (lambda i: i.token(sub="s" * 256), TokenInvalid, "255 characters"),
        (lambda i: i.token()[:-6] + "AAAAAA", TokenInvalid, "signature"),
        (lambda i: i.token(pad="x" * 9000), TokenInvalid, "longer than"),
        (lambda i: i.token(ECKey.generate_key("P-256", {"kid": "one"})), TokenInvalid, "signature"),
        (lambda i: i.token(ECKey.generate_key("P-256", {"kid": "other"})), TokenInvalid, "does not publish"),
        (lambda i: i.token(ECKey.generate_key("P-384", {"kid": "one"}), {"alg": "ES384"}), TokenInvalid, "algorithm"),
        (lambda i: i.token(SHARED, {"alg": "HS256", "kid": "one"}), TokenInvalid, "algorithm"),
        # signed with the public key as if it were a shared secret
        (lambda i: signed_by_hand(i.keys[0].as_pem(private=False), i.claims()), TokenInvalid, "algorithm"),
        (lambda i: "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.", TokenInvalid, "algorithm"),
        (lambda i: "a.b.c", TokenInvalid, "form"),
        (lambda i: i.token(project="prj_unknown"), TokenWithoutProject, "names no project"),
        (lambda i: i.token(project=None), TokenWithoutProject, "names no project"),
        (lambda i: i.token(project="test"), TokenWithoutProject, "several projects"),  # the name of each test's project
    ],
)
@pytest.mark.filterwarnings("ignore")  # joserfc warns of the attacks that are tried here
def test_other_tokens_are_refused(issuer, make_verifier, make_tenant, make, error, detail):
    make_tenant(), make_tenant()
    with pytest.raises(error, match=detail):
        make_verifier().identify(make(issuer))


def test_clocks_may_differ_a_little(issuer, make_verifier, tenant):
    project, now = tenant.project_id, int(time.time())
    verifier = make_verifier(oidc_clock_skew_seconds=30)

    assert verifier.identify(issuer.token(project=project, exp=now - 10)).project_id == project
    assert verifier.identify(issuer.token(project=project, nbf=now + 10, iat=now + 10)).project_id == project


def test_a_rotated_key_works_at_once_and_unknown_keys_cause_no_flood(issuer, make_verifier, tenant, monkeypatch):
    verifier = make_verifier(oidc_jwks_url=f"{issuer.url}/keys", oidc_algorithms=("ES256", "RS256"))
    now = [0.0]
    monkeypatch.setattr(verifier._keys, "_clock", lambda: now[0])
    verifier.identify(issuer.token(project=tenant.project_id))

    issuer.keys = [RSAKey.generate_key(2048, {"kid": "two"})]
    now[0] += RETRY_SECONDS
    rotated = issuer.token(header={"alg": "RS256"}, project=tenant.project_id)
    assert verifier.identify(rotated).project_id == tenant.project_id
    for number in range(5):
        with pytest.raises(TokenInvalid):
            verifier.identify(issuer.token(ECKey.generate_key("P-256", {"kid": f"guess-{number}"})))
    assert issuer.paths == ["/keys"] * 2


def test_keys_are_used_while_the_issuer_is_down(issuer, tmp_path):
    now = [0.0]
    issuer_keys = IssuerKeys(
        Settings(home=tmp_path, **issuer.settings()),
        oidc.make_downloader(Settings(home=tmp_path, **issuer.settings())),
        clock=lambda: now[0],
    )
    issuer.is_down = True
    with pytest.raises(IssuerUnavailable, match="use an API key"):
        issuer_keys.get()

    issuer.is_down = False
    now[0] += RETRY_SECONDS
    assert len(issuer_keys.get().keys) == 1
    issuer.is_down = True
    now[0] += oidc.MAX_AGE_SECONDS
    assert len(issuer_keys.get().keys) == 1


def test_the_issuer_must_be_reachable_by_the_rules_for_urls(issuer, make_verifier):
    with pytest.raises(IssuerUnavailable):
        make_verifier(fetch_allow=()).identify(issuer.token())  # its address is not public
    assert issuer.paths == []


class TestOverHttp:
    @pytest.fixture
    def secured(self, issuer, make_server, module_valkey):
        limits = {"quota_jobs": 1, "rate_jobs_per_minute": 3, "rate_wrong_keys_per_minute": 5}
        # Without an inspector, jobs are accepted after static checks.
        return make_server(Broker(module_valkey.url), broker_url=module_valkey.url, **issuer.settings(**limits))

    def test_jobs_limits_and_the_audit_log_work_as_with_a_key(self, issuer, secured, make_tenant, spec_of):
        tenant = make_tenant(on=secured)
        token = issuer.token(project=tenant.project_id, scope=["admin"])
        http = tenant.http
        http.headers["Authorization"], key = f"Bearer {token}", http.headers["Authorization"]
        dataset = tenant.ready_dataset()
        created = http.post("/v1/jobs", json=spec_of(dataset))
        answers = [http.post("/v1/jobs", json=spec_of(dataset)) for _ in range(3)]

        assert created.status_code == 201, created.text
        assert [(each.status_code, each.json()["code"]) for each in answers] == [
            *[(403, "quota_exceeded")] * 2,
            (429, "rate_limited"),
        ]
        job = created.json()["id"]
        assert [http.get(f"/v1/jobs/{job}").status_code for _ in range(2)] == [200, 200]
        with_key = http.post("/v1/jobs", json=spec_of(dataset), headers={"Authorization": key})
        assert with_key.json()["code"] == "quota_exceeded"  # its own rate
        (entry,) = http.get("/v1/audit-log", params={"action": "job.create"}).json()["data"]
        assert (entry["subject"], entry["object_id"], entry["key"][:4]) == ("alice@example", job, "sub_")
        assert http.post("/v1/api-keys", json={"name": "made with a token", "scopes": ["read"]}).status_code == 201

    def test_scopes_apply_and_pages_need_a_key(self, issuer, secured, make_tenant, spec_of):
        tenant = make_tenant(on=secured)
        headers = {"Authorization": f"Bearer {issuer.token(project=tenant.project_id, scope='read')}"}
        refused = httpx.post(f"{secured.url}/v1/jobs", json={}, headers=headers, trust_env=False)
        signed_in = httpx.post(
            f"{secured.url}/login",
            data={"key": headers["Authorization"].split()[1]},
            headers={"Origin": secured.url, "Sec-Fetch-Site": "same-origin"},
            trust_env=False,
        )

        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert signed_in.status_code in {401, 403}
        assert "set-cookie" not in signed_in.headers

    def test_refused_tokens_have_stable_codes(self, issuer, secured):
        def get(token):
            return httpx.get(f"{secured.url}/v1/jobs", headers={"Authorization": f"Bearer {token}"}, trust_env=False)

        expired = [get(issuer.token(exp=1)) for _ in range(7)]  # a valid signature is no guess
        invalid = [get(issuer.token(aud="x")) for _ in range(6)]

        assert {(each.status_code, each.json()["code"]) for each in expired} == {(401, "token_expired")}
        assert 'error="invalid_token"' in expired[0].headers["WWW-Authenticate"]
        assert [each.json()["code"] for each in invalid] == ["token_invalid"] * 5 + ["rate_limited"]

    def test_reads_of_a_stream_end_with_the_token(self, issuer, secured, make_tenant):
        tenant = make_tenant(on=secured)
        caller = secured.app.state.app_state.authenticator._verifier.identify(issuer.token(project=tenant.project_id))
        expired = replace(caller, expires_at=caller.expires_at.replace(year=2020))
        job = tenant.queued_job()
        with secured.database.read() as session:
            assert jobs.get_as_caller(session, caller, job).id == job
            with pytest.raises(TokenExpired):
                jobs.get_as_caller(session, expired, job)


def test_without_an_issuer_a_token_is_a_wrong_key(server):
    response = httpx.get(f"{server.url}/v1/jobs", headers={"Authorization": "Bearer a.b.c"}, trust_env=False)

    assert (response.status_code, response.json()["code"]) == (401, "not_authenticated")


def test_an_issuer_needs_an_audience():
    with pytest.raises(ValueError, match="POTSTILL_OIDC_AUDIENCE"):
        Settings(oidc_issuer="https://issuer.example")
