"""The example for nginx in ``deploy``, on sockets instead of ports, with a certificate of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from embeddings_gateway.config import ServerConfig
from tests.server import eventually, serving

ROOT = Path(__file__).parent.parent.parent
SERVED = """
[server]
host = "unix:gateway.sock"
socket_mode = "0600"
root_path = "/kept"

[models.m]
backend = "fake"
"""
PREFIXES = """
location /taken/ { proxy_pass http://embeddings_gateway/; }
location /kept/ { proxy_pass http://embeddings_gateway; }
"""
AROUND = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {example}
}}
"""
CHANGES = {
    "server 127.0.0.1:8000;": "server unix:{folder}/gateway.sock;",
    "listen 443 ssl": "listen unix:{folder}/nginx.sock ssl",
    "/etc/ssl/EMBEDDINGS.EXAMPLE.ORG": "{folder}/certificate",
    "location = /metrics": PREFIXES.replace("{", "{{").replace("}", "}}") + "location = /metrics",
}
KEY = {"authorization": "Bearer CHANGE-THIS-KEY"}


def certificate(folder):
    """Make a certificate and its key."""
    subject = ("-subj", "/CN=localhost", "-days", "2", "-nodes")
    files = ("-keyout", folder / "certificate.key", "-out", folder / "certificate.pem")
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    subprocess.run([*command, *subject, *files], check=True, capture_output=True)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory):
    """Return a client of a gateway behind nginx."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("nginx or openssl is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    example = (ROOT / "deploy/nginx.conf").read_text()
    for before, after in CHANGES.items():
        assert before in example
        example = example.replace(before, after.format(folder=folder))
    certificate(folder)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, user=user, example=example))
    command = [program, "-e", folder / "error.log", "-c", folder / "nginx.conf"]
    with serving(folder, SERVED):
        tested = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert tested.returncode == 0, tested.stderr
        process = subprocess.Popen(command)
        try:
            eventually((folder / "nginx.sock").exists)
            transport = httpx.HTTPTransport(uds=str(folder / "nginx.sock"), verify=False)
            with httpx.Client(transport=transport, base_url="https://localhost", timeout=60) as client:
                yield client
        finally:
            process.terminate()
            process.wait()


def test_the_limits_agree():
    """What the example says of bodies and times fits the gateway's defaults."""
    example, defaults = (ROOT / "deploy/nginx.conf").read_text(), ServerConfig()

    def number(name):
        return int(re.search(rf"\b{name} (\d+)[ms];", example)[1])

    assert number("client_max_body_size") << 20 == defaults.max_body_bytes
    assert number("client_body_timeout") == defaults.body_timeout_s
    assert number("keepalive_timeout") < defaults.idle_timeout_s
    assert number("proxy_read_timeout") > defaults.request_timeout_s


def test_requests(nginx):
    """Requests with a key are answered, also with large bodies, and errors pass unchanged."""
    large = {"model": "m", "input": ["a"] * 2000, "ignored": "b" * (2 << 20)}
    answer = nginx.post("/v1/embeddings", json=large, headers=KEY)
    assert (answer.status_code, len(answer.json()["data"])) == (200, 2000)
    assert answer.headers["x-embedding-space"]
    refused = nginx.post("/v1/embeddings", json={"model": "none", "input": "a"}, headers=KEY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


def test_keys(nginx):
    """Requests without a key are refused in the gateway's own form; balancers and browsers may ask without one."""
    for headers in ({}, {"authorization": "Bearer other"}, {"authorization": ""}):
        refused = nginx.post("/v1/embeddings", json={"model": "m", "input": "a"}, headers=headers)
        assert refused.status_code == 401
        assert refused.headers["content-type"] == "application/json"
        assert refused.json()["error"].keys() == {"message", "type", "param", "code"}
    assert nginx.get("/readyz").status_code == 200
    assert nginx.options("/v1/embeddings").status_code == 204
    assert nginx.get("/metrics", headers=KEY).status_code == 404


@pytest.mark.parametrize("prefix", ["/taken", "/kept"])
def test_a_prefix(nginx, prefix):
    """Under a prefix that the proxy takes away or leaves there is everything that the description's page needs."""
    for path in (f"{prefix}/docs", f"{prefix}/docs/"):
        page = nginx.get(path)
        links = [
            link for link in re.findall(r'(?:src=|href=|url: )"([^"]+)', page.text) if link[:5] != "data:"
        ]
        assert len(links) == 3
        for link in links:
            assert nginx.get(urljoin(str(page.url), link)).status_code == 200
    answer = nginx.post(f"{prefix}/v1/embeddings", json={"model": "m", "input": "a"}, headers=KEY)
    assert answer.status_code == 200
