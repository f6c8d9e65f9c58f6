"""Servers that ask for certificates and credentials, as MLflow's own settings give them."""

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from darkroom.pipeline.stage import StageError
from darkroom.runs.lookup import open_existing
from darkroom.tracking.client import connect
from darkroom.tracking.store import Store, find_store

EXPERIMENT = {
    "experiment_id": "7",
    "name": "animals",
    "artifact_location": "mlflow-artifacts:/7",
    "lifecycle_stage": "active",
}
BASIC, TOKEN = f"Basic {base64.b64encode(b'someone:secret').decode()}", "Bearer secret-token"


class Handler(BaseHTTPRequestHandler):
    """Gives an experiment to users who are logged in."""

    accepted: tuple[str | None, ...] = (None,)

    def respond(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.respond(200)

    def do_GET(self) -> None:
        if self.headers["Authorization"] in self.accepted:
            self.respond(200, json.dumps({"experiment": EXPERIMENT}).encode())
        else:
            self.respond(401, b"who are you")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(context: ssl.SSLContext, accepted: tuple[str | None, ...] = (None,)) -> Iterator[str]:
    handler = type("AcceptingHandler", (Handler,), {"accepted": accepted})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    return tmp_path / "authority.pem"


def check_usable(address: str, root: Path) -> None:
    store = Store(address, "animals", root)
    assert connect(store)[1] == "7"
    with open_existing(store) as client:
        assert client.get_experiment_by_name("animals").experiment_id == "7"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> Path:
    monkeypatch.setenv("HOME", str(workspace))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "localhost")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    return workspace


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_private_certificate_is_trusted_as_mlflow_s_settings_say(
    context: ssl.SSLContext, certificate: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(context) as address:
        with pytest.raises(StageError) as caught:
            connect(Store(address, "animals", workspace))
        assert str(caught.value) == (
            f"the MLflow store {address} cannot be used (the server's certificate is not trusted); set "
            "MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of its authority, then `dvc repro` records the result "
            "without training again"
        )
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
            check_usable(address, workspace)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        check_usable(address, workspace)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(workspace / "absent.pem"))
        with pytest.raises(StageError, match=r"absent\.pem\); correct MLFLOW_TRACKING_SERVER_CERT_PATH or MLFLOW_"):
            connect(Store(address, "animals", workspace))


def test_a_client_s_certificate_is_sent(
    context: ssl.SSLContext,
    authority: trustme.CA,
    certificate: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("someone@localhost").private_key_and_cert_chain_pem.write_to_path(workspace / "client.pem")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
    with serve(context) as address:
        with pytest.raises(StageError, match="cannot be used"):
            connect(Store(address, "animals", workspace))
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(workspace / "client.pem"))
        check_usable(address, workspace)


@pytest.mark.parametrize(
    ("variables", "accepted"),
    [
        ({"MLFLOW_TRACKING_USERNAME": "someone", "MLFLOW_TRACKING_PASSWORD": "secret"}, BASIC),
        ({"MLFLOW_TRACKING_TOKEN": "secret-token"}, TOKEN),
        ({}, BASIC),
    ],
    ids=["user and password", "token", "file of credentials"],
)
def test_credentials_are_sent(
    context: ssl.SSLContext,
    certificate: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    accepted: str,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
    with serve(context, (accepted,)) as address:
        with pytest.raises(StageError, match="error code 401.*; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASS"):
            connect(Store(address, "animals", workspace))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        if not variables:
            (workspace / ".mlflow").mkdir()
            (workspace / ".mlflow/credentials").write_text(
                "[mlflow]\nmlflow_tracking_username = someone\nmlflow_tracking_password = secret\n"
            )
        check_usable(address, workspace)


def test_an_experiment_is_found_by_its_id(
    context: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    with serve(context) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert find_store().experiment == "animals"
