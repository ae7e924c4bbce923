"""Runs ceph's s3-tests against one Forebay and says what became of each test.

Usage: s3_tests.py FOREBAY CHECKOUT LOG [TEST ...]

Prints a line `NAME<tab>passed|failed|skipped` for each test named (without names: for all of the
suite's S3 tests); why a test failed goes to LOG. The suite is used as it lies in CHECKOUT.
"""
import json, os, shutil, signal, socket, subprocess, sys, tempfile, time, urllib.request

import boto3
import pytest

SUITE = "s3tests/functional/test_s3.py"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def started(forebay, data):
    """A server on a data directory, when it is ready, and its API's port."""
    http = free_port()
    command = [forebay, "serve", "--data-dir", data, "--http", f"127.0.0.1:{http}"]
    for listener in ["--mqtt", "--mqtts", "--mqtt-ws"]:
        command += [listener, f"127.0.0.1:{free_port()}"]
    with open(os.path.join(data, "stderr.txt"), "w") as stderr:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz")
            return server, http
        except OSError:
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)
    raise AssertionError("the server is not ready after a minute")


def configuration(forebay, data, http):
    """The suite's settings: its users are the account's two keys, since there is one account."""
    told = json.loads(subprocess.check_output([forebay, "env", "--json", "--data-dir", data]))
    root = (told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"])
    iam = boto3.client("iam", endpoint_url=f"http://127.0.0.1:{http}", region_name="us-east-1",
                       aws_access_key_id=root[0], aws_secret_access_key=root[1])
    second = iam.create_access_key()["AccessKey"]
    second = (second["AccessKeyId"], second["SecretAccessKey"])
    sts = boto3.client("sts", endpoint_url=f"http://127.0.0.1:{http}", region_name="us-east-1",
                       aws_access_key_id=root[0], aws_secret_access_key=root[1])
    account = sts.get_caller_identity()["Account"]

    # Tests count the buckets from none.
    s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{http}", region_name="us-east-1",
                      aws_access_key_id=root[0], aws_secret_access_key=root[1])
    for bucket in s3.list_buckets()["Buckets"]:
        s3.delete_bucket(Bucket=bucket["Name"])

    def user(name, key, more=""):
        return (f"[{name}]\ndisplay_name = root\nuser_id = {account}\nemail = {account}@example.com\n"
                f"access_key = {key[0]}\nsecret_key = {key[1]}\n{more}")

    return "\n".join([
        f"[DEFAULT]\nhost = 127.0.0.1\nport = {http}\nis_secure = False\nssl_verify = False\n",
        "[fixtures]\nbucket prefix = s3-tests-{random}-\niam name prefix = s3-tests-\niam path prefix = /s3-tests/\n",
        user("s3 main", root, "api_name = us-east-1\n"),
        user("s3 alt", second),
        user("s3 tenant", second, "tenant =\n"),
        user("iam", root),
        user("iam root", root),
        user("iam alt root", second),
    ])


class Outcomes:
    """Gathers what pytest reports of each test: the worst of set-up, call and tear-down."""

    def __init__(self):
        self.of, self.why = {}, []

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.split("::", 1)[1]
        if report.failed:
            self.of[name] = "failed"
            self.why.append(f"==== {name} ({report.when})\n{report.longreprtext}\n")
        elif report.skipped:
            self.of.setdefault(name, "skipped")
        elif report.when == "call":
            self.of.setdefault(name, "passed")


def main(forebay, checkout, log, *tests):
    data = tempfile.mkdtemp()
    server, http = started(forebay, data)
    outcomes = Outcomes()
    try:
        settings = os.path.join(data, "s3tests.conf")
        with open(settings, "w") as file:
            file.write(configuration(forebay, data, http))
        os.environ["S3TEST_CONF"] = settings
        os.chdir(checkout)
        sys.path.insert(0, checkout)
        named = [f"{SUITE}::{test}" for test in tests] or [SUITE]
        sys.stdout, stdout = open(os.devnull, "w"), sys.stdout
        pytest.main(["-p", "no:cacheprovider", "--tb=short", "-q", *named], plugins=[outcomes])
        sys.stdout = stdout
        assert server.poll() is None, "the server ended meanwhile"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
        with open(log, "w") as file:
            file.write("\n".join(outcomes.why))
            file.write("\n==== the server\n" + open(os.path.join(data, "stderr.txt")).read())
        shutil.rmtree(data)
    for name, outcome in sorted(outcomes.of.items()):
        print(f"{name}\t{outcome}")


if __name__ == "__main__":
    main(*sys.argv[1:4], *sys.argv[4:])
