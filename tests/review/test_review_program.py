"""The program `review`: what it refuses, and readers on other machines by https and a password."""

import http.client
import re
import ssl
import subprocess

import numpy as np
import pytest
from answered import answered_root
from reading_room import opened_room, reviewing

from cxrpipe.config import ReviewConfig
from cxrpipe.errors import ConfigError
from cxrpipe.programs import review
from cxrpipe.review import server
from cxrpipe.runs.reading_lists import names
from cxrpipe.runs.root import ScoreRoot

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    probs = np.random.default_rng(0).random((2, 40))
    return answered_root(tmp_path_factory.mktemp("night") / "root", {"Mass": probs})


@pytest.fixture
def password(tmp_path):
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "own.pem"]
    subprocess.run(made, check=True, capture_output=True)
    return str(folder / "own.pem"), str(folder / "key.pem")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"host": "0.0.0.0"},
            "it needs --certificate and --password-file. Or keep",
        ),
        ({"host": "10.0.0.7", "certificate": "c", "key": "k"}, "it needs --password-file. Or keep 127.0.0.1"),
        (
            {"host": "::", "certificate": "c", "key": "k", "password_file": "p"},
            "say with --name which one readers open",
        ),
        ({"certificate": "c"}, "--certificate and --key go together"),
        ({"port": 70_000}, "--port must lie between 0 and 65535"),
        ({"sample": -1}, "--sample must be at least 0"),
    ],
)
def test_settings_that_would_open_the_room_to_others_are_refused(settings, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        ReviewConfig(source="scores", **settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_alone_needs_no_password(host):
    assert ReviewConfig(source="scores", host=host).is_local


def test_a_password_that_others_can_read_is_refused(password):
    password.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others; run: chmod 600"):
        server.read_password(str(password))


def test_a_short_password_is_refused(password):
    password.write_text("short")
    with pytest.raises(ConfigError, match="5 characters; expected at least 12"):
        server.read_password(str(password))


def test_a_port_that_is_taken_is_refused(root):
    with opened_room(root) as browser, pytest.raises(ConfigError, match="try another --port"):
        review.run(ReviewConfig(source=root, port=browser.port))


def test_a_root_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no complete run there"):
        review.run(ReviewConfig(source=str(tmp_path), port=0))


@pytest.mark.slow
def test_a_reading_list_is_drawn_kept_and_opened(root):
    for _ in range(2):
        with reviewing(root, "--port", "0", "--sample", "8", "--by", "random") as (address, _):
            (name,) = names(ScoreRoot.at(root))
            assert f"/studies?list={name}&sort=shuffled&descending=0&token=" in address


@pytest.mark.slow
def test_readers_on_other_machines_come_by_https_and_a_password(root, password, certificate):
    own, key = certificate
    arguments = ["--host", "0.0.0.0", "--name", "localhost", "--certificate", own, "--key", key]
    with reviewing(root, "--port", "0", *arguments, "--password-file", str(password)) as (address, _):
        port = int(re.fullmatch(r"https://localhost:(\d+)/", address)[1])

        def ask(method: str, path: str, body: str | None = None, **headers: str) -> http.client.HTTPResponse:
            trusting = ssl.create_default_context(cafile=own)
            connection = http.client.HTTPSConnection("localhost", port, context=trusting, timeout=60)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            answer.read()
            connection.close()
            return answer

        assert ask("GET", "/studies").status == 403
        assert ask("GET", "/studies", Host="127.0.0.1").status == 400  # not a name of --name
        answer = ask("POST", "/enter", f"password={PASSWORD}")
        assert answer.status == 303
        cookie = answer.getheader("set-cookie")
        assert cookie.startswith("__Host-")
        assert "secure" in cookie.lower()
        assert ask("GET", "/studies", Cookie=cookie.partition(";")[0]).status == 200
