"""What an attacker or a broken client sends, and the error that AWS documents for it.

Every request is made by hand over a raw connection, signed by botocore where a signature is
wanted. After each, nothing may have been served, stored or told. Arguments: the data
directory of the server, whose secrets no answer may hold.
"""
import base64, datetime, hashlib, http.client, json, os, pathlib, re, sys, urllib.parse, zlib

import boto3
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

DATA_DIR = pathlib.Path(sys.argv[1]).resolve()
ENDPOINT = os.environ["AWS_ENDPOINT_URL"].rstrip("/")
HOST = urllib.parse.urlsplit(ENDPOINT).netloc
REGION = os.environ["AWS_DEFAULT_REGION"]
KEYS = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
BUCKET, KEY, BODY = "hostile-lake", "kept/secret.txt", b"what nobody without a key may read"
# Neither secrets nor places on this machine belong in an answer.
FORBIDDEN = [BODY, KEYS.secret_key.encode(), str(DATA_DIR).encode(), b"panicked", b"/src/", b".rs:"]
FORBIDDEN += [
    path.read_bytes().strip()
    for path in [DATA_DIR / "admin-token", DATA_DIR / "ca/root.private.key"]
    if path.exists()
]
cases = 0


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def code(self):
        """The error code, wherever this protocol puts it."""
        named = self.headers.get("x-amzn-errortype")
        if named:
            return named.split(":")[0].split("#")[-1]
        found = re.search(rb"<Code>([^<]*)</Code>", self.body)
        if found:
            return found.group(1).decode()
        try:
            told = json.loads(self.body)
            return str(told.get("__type") or told.get("code")).split("#")[-1].split(":")[0]
        except ValueError:
            return f"no error body: {self.body[:200]!r}"


def send(method, path, headers, body=b""):
    """One request as it stands: nothing is added but Host and Content-Length."""
    connection = http.client.HTTPConnection(HOST, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
    for name, value in {"Host": HOST, **headers, "Content-Length": str(len(body))}.items():
        connection.putheader(name, value)
    try:
        connection.endheaders(body)
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before all of the body was sent: the answer still counts
    response = connection.getresponse()
    answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    connection.close()
    return answer


def signed(service, method, path, headers, body=b"", keys=KEYS, at=None, sign=SigV4Auth, **more):
    """The headers of an honest request, or one dated `at`."""
    request = AWSRequest(method=method, url=ENDPOINT + path, data=body, headers=dict(headers))
    if service == "s3":
        if "x-amz-content-sha256" not in request.headers:
            request.headers["x-amz-content-sha256"] = hashlib.sha256(body).hexdigest()
    signer = sign(keys, service, REGION, **more)
    if at is None:
        signer.add_auth(request)
    else:
        stamp = at.strftime("%Y%m%dT%H%M%SZ")
        request.context["timestamp"] = stamp
        request.headers["X-Amz-Date"] = stamp
        request.headers["Authorization"] = ""
        del request.headers["Authorization"]
        canonical = signer.canonical_request(request)
        text = signer.string_to_sign(request, canonical)
        signer._inject_signature_to_request(request, signer.signature(text, request))
    return dict(request.headers.items()), request.url


JSON = {
    "glue": ("/", {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AWSGlue.GetDatabases"}, b"{}"),
    "athena": ("/", {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonAthena.ListWorkGroups"}, b"{}"),
    "firehose": ("/", {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "Firehose_20150804.ListDeliveryStreams"}, b"{}"),
    "sagemaker": ("/", {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "SageMaker.ListModels"}, b"{}"),
    "logs": ("/", {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "Logs_20140328.DescribeLogGroups"}, b"{}"),
    "monitoring": ("/", {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "GraniteServiceVersion20100801.ListMetrics"}, b"{}"),
    "iot": ("/things/hostile", {"Content-Type": "application/json"}, b"{}"),
    "iotdata": ("/topics/hostile%2Fdata?qos=1", {}, b"{}"),
}
FORM = b"Action=GetCallerIdentity&Version=2011-06-15"
QUERY = {"sts": ("/", {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}, FORM)}
S3 = {"s3": (f"/{BUCKET}/{KEY}", {}, b"")}


def requests():
    for group in (JSON, QUERY, S3):
        for service, (path, headers, body) in group.items():
            yield service, "GET" if service == "s3" else "POST", path, headers, body


def by_protocol(service, json_code, query_code, s3_code):
    return {"sts": query_code, "s3": s3_code}.get(service, json_code)


def expect(what, answer, codes, statuses=range(400, 500)):
    """The answer is a refusal with one of AWS's codes, and holds nothing it must not."""
    global cases
    cases += 1
    codes = {codes} if isinstance(codes, str) else set(codes)
    told = f"{what}: {answer.status} {answer.code()} {answer.body[:300]!r}"
    assert answer.status in statuses, told
    assert answer.code() in codes, f"{told}; expected {sorted(codes)}"
    whole = answer.body + repr(answer.headers).encode()
    for secret in FORBIDDEN:
        assert secret not in whole, f"{what}: the answer tells what it must not"
    identity = answer.headers.get("x-amzn-requestid") or answer.headers.get("x-amz-request-id")
    assert identity, f"{what}: no request id"


def keys_and_signatures():
    wrong_id = Credentials("AKIAIOSFODNN7EXAMPLE", KEYS.secret_key)
    wrong_secret = Credentials(KEYS.access_key, "x" * 40)
    other_token = Credentials(KEYS.access_key, KEYS.secret_key, "not-a-token-of-ours")
    now = datetime.datetime.now(datetime.timezone.utc)
    signature = ("InvalidSignatureException", "SignatureDoesNotMatch", "SignatureDoesNotMatch")
    for service, method, path, headers, body in requests():
        def attempt(what, codes, mutate=lambda h, p, b: (h, p, b), **how):
            made, _ = signed(service, method, path, headers, body, **how)
            made, where, sent = mutate(made, path, body)
            expect(f"{service}, {what}", send(method, where, made, sent), by_protocol(service, *codes))

        # One port serves all, and without a scope a request that names no service is S3's.
        expect(f"{service}, no signature", send(method, path, headers, body),
               {"MissingAuthenticationTokenException", "MissingAuthenticationToken", "AccessDenied"})
        attempt("wrong key id", ("UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId"), keys=wrong_id)
        attempt("wrong secret", signature, keys=wrong_secret)
        attempt("foreign session token", ("UnrecognizedClientException", "InvalidClientTokenId", "InvalidToken"), keys=other_token)
        for what, at in (("an hour old", now - datetime.timedelta(hours=1)), ("from tomorrow", now + datetime.timedelta(days=1))):
            attempt(what, ("InvalidSignatureException", "SignatureDoesNotMatch", "RequestTimeTooSkewed"), at=at)
        flipped = lambda text: text[:-1] + ("0" if text[-1] != "0" else "1")
        attempt("last digit changed", signature, lambda h, p, b: ({**h, "Authorization": flipped(h["Authorization"])}, p, b))
        attempt("signature cut short", ("IncompleteSignatureException", "IncompleteSignature", "SignatureDoesNotMatch"),
                lambda h, p, b: ({**h, "Authorization": h["Authorization"][:-1]}, p, b))
        attempt("query added", signature, lambda h, p, b: (h, p + ("&" if "?" in p else "?") + "x=1", b))
        attempt("host changed", signature, lambda h, p, b: ({**h, "Host": "elsewhere.example"}, p, b))
        attempt("header added to the signed ones", signature,
                lambda h, p, b: ({**h, "Authorization": h["Authorization"].replace("SignedHeaders=", "SignedHeaders=accept;")}, p, b))
        if service != "s3":
            attempt("body changed", signature, lambda h, p, b: (h, p, b.replace(b"{}", b"{ }").replace(b"2011-06-15", b"2011-06-16")))
        if "X-Amz-Target" in headers:
            attempt("target changed", signature, lambda h, p, b: ({**h, "X-Amz-Target": h["X-Amz-Target"] + "s"}, p, b))
        broken = {"Authorization": "AWS4-HMAC-SHA256 nonsense", "X-Amz-Date": now.strftime("%Y%m%dT%H%M%SZ")}
        expect(f"{service}, broken header", send(method, path, {**headers, **broken}, body),
               {"IncompleteSignatureException", "IncompleteSignature", "AuthorizationHeaderMalformed"})


    # The commands of Forebay itself ask for their own token, which no client has.
    for path in ("/endpoints/any/invocations", "/forebay/call/anything"):
        answer = send("POST", path, {"Content-Type": "application/json"}, b"{}")
        assert answer.status in (401, 403), f"{path} without a token: {answer.status} {answer.body[:200]!r}"


def presigned_links():
    s3 = boto3.client("s3")
    from botocore.config import Config

    for version in ("s3", "s3v4"):
        signer = boto3.client("s3", config=Config(signature_version=version, s3={"addressing_style": "path"}))
        link = urllib.parse.urlsplit(signer.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": KEY}, ExpiresIn=60))
        path = f"{link.path}?{link.query}"
        assert send("GET", path, {}).body == BODY, f"{version}: an honest link is served"
        expect(f"{version} link, other key", send("GET", path.replace("secret.txt", "secret.txt2"), {}), "SignatureDoesNotMatch")
        expect(f"{version} link, other method", send("DELETE", path, {}), "SignatureDoesNotMatch")
        name = "Expires" if version == "s3" else "X-Amz-Expires"
        longer = re.sub(rf"{name}=(\d+)", lambda found: f"{name}={int(found[1]) + 1}", path)
        expect(f"{version} link, longer life", send("GET", longer, {}), "SignatureDoesNotMatch")
        signed_late = signer.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": KEY}, ExpiresIn=-60 if version == "s3" else 1)
        late = urllib.parse.urlsplit(signed_late)
        if version == "s3":
            expect("s3 link, run out", send("GET", f"{late.path}?{late.query}", {}), "AccessDenied")
        else:
            import time
            time.sleep(2.5)
            expect("s3v4 link, run out", send("GET", f"{late.path}?{late.query}", {}), "AccessDenied")
    assert s3.get_object(Bucket=BUCKET, Key=KEY)["Body"].read() == BODY


def bodies():
    """Sizes, depths and digests."""
    for service, (path, headers, _) in JSON.items():
        if service == "iotdata":
            continue
        big = b'{"x":"' + b"y" * (6 << 20) + b'"}'
        made, _ = signed(service, "POST", path, headers, big)
        too_large = {"RequestEntityTooLargeException", "RequestEntityTooLarge", "RequestTooLargeException"}
        # A full batch of records is that big in base64, so Firehose has to read it.
        too_large |= {"InvalidArgumentException"} if service == "firehose" else set()
        expect(f"{service}, 6 MiB of JSON", send("POST", path, made, big), too_large)
        deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        made, _ = signed(service, "POST", path, headers, deep)
        expect(f"{service}, 100,000 levels", send("POST", path, made, deep),
               {"SerializationException", "InvalidRequestException"})
        for what, text in (("no JSON", b'{"x"'), ("no UTF-8", b'{"x":"\xff"}'), ("a list", b"[]")):
            made, _ = signed(service, "POST", path, headers, text)
            expect(f"{service}, {what}", send("POST", path, made, text), {"SerializationException", "InvalidRequestException"})
    form = FORM + b"&X=" + b"y" * (6 << 20)
    path, headers, _ = QUERY["sts"]
    made, _ = signed("sts", "POST", path, headers, form)
    expect("sts, 6 MiB of form", send("POST", path, made, form), {"RequestEntityTooLarge", "RequestEntityTooLargeException", "RequestTooLarge"})
    unknown, _ = signed("sts", "POST", path, headers, b"Action=TakeOver&Version=2011-06-15")
    expect("sts, unknown action", send("POST", path, unknown, b"Action=TakeOver&Version=2011-06-15"), "InvalidAction")
    for service in ("glue", "athena", "firehose", "sagemaker", "logs", "monitoring"):
        path, headers, _ = JSON[service]
        headers = {**headers, "X-Amz-Target": headers["X-Amz-Target"].split(".")[0] + ".TakeOver"}
        made, _ = signed(service, "POST", path, headers, b"{}")
        expect(f"{service}, unknown operation", send("POST", path, made, b"{}"), "UnknownOperationException")

    where = f"/{BUCKET}/digest.txt"
    text = b"a body with a digest"
    wrong = hashlib.sha256(b"another body").hexdigest()
    made, _ = signed("s3", "PUT", where, {"x-amz-content-sha256": wrong}, text)
    expect("s3, body is not what was signed", send("PUT", where, made, text), "XAmzContentSHA256Mismatch")
    md5 = base64.b64encode(hashlib.md5(b"another body").digest()).decode()
    made, _ = signed("s3", "PUT", where, {"Content-MD5": md5}, text)
    expect("s3, wrong Content-MD5", send("PUT", where, made, text), "BadDigest")
    crc = base64.b64encode(zlib.crc32(b"another body").to_bytes(4, "big")).decode()
    made, _ = signed("s3", "PUT", where, {"x-amz-checksum-crc32": crc}, text)
    expect("s3, wrong CRC32", send("PUT", where, made, text), "BadDigest")
    stream = b"%x\r\n%s\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % (len(text), text, crc.encode())
    chunked = {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x-amz-trailer": "x-amz-checksum-crc32",
               "x-amz-decoded-content-length": str(len(text)), "Content-Encoding": "aws-chunked"}
    made, _ = signed("s3", "PUT", where, chunked, stream)
    expect("s3, wrong trailer", send("PUT", where, made, stream), "BadDigest")
    short = stream[: stream.index(text) + 4]
    made, _ = signed("s3", "PUT", where, chunked, short)
    expect("s3, cut chunk", send("PUT", where, made, short), {"IncompleteBody", "InvalidRequest", "MalformedTrailerError"})
    made, _ = signed("s3", "GET", where, {})
    expect("s3, nothing of it was kept", send("GET", where, made), "NoSuchKey")


def outside():
    """The files of the data directory that are not objects, and its parent's names."""
    files = {path: path.stat().st_size for path in (DATA_DIR / "ca").rglob("*") if path.is_file()}
    names = {path.name for path in DATA_DIR.parent.iterdir()} | {path.name for path in DATA_DIR.iterdir()}
    return files, names


def paths():
    """Keys that would climb out of the bucket, as text and encoded, to write and to read."""
    before = outside()
    token = (DATA_DIR / "admin-token").read_bytes() if (DATA_DIR / "admin-token").exists() else b"\0"
    climbs = ["../", "../../", "../../../", "a/../../../", "..%2f..%2f", "%2e%2e/%2e%2e/", "..\\..\\", "....//....//", "a/%00/../../"]
    targets = ["admin-token", "forebay.db", "ca/root.private.key", "evil.txt", "etc/passwd"]
    for climb in climbs:
        for target in targets:
            where = f"/{BUCKET}/{climb}{target}"
            for method, body in (("GET", b""), ("PUT", b"evil"), ("DELETE", b"")):
                made, _ = signed_as_is(method, where, body)
                answer = send(method, where, made, body)
                told = f"{method} {where}: {answer.status} {answer.body[:200]!r}"
                global cases
                cases += 1
                assert answer.status < 500, told
                assert token not in answer.body and b"PRIVATE KEY" not in answer.body, told
                assert b"root:" not in answer.body, told
    for bucket in ("..", "../ca", ".", "%2e%2e", "ca%2f..", "a" * 300, "UPPER", "-dash", "x" * 2):
        made, _ = signed_as_is("PUT", f"/{bucket}", b"")
        answer = send("PUT", f"/{bucket}", made)
        assert 400 <= answer.status < 500, f"bucket {bucket}: {answer.status} {answer.body[:200]!r}"
    assert outside() == before, "something was written outside the buckets"


def signed_as_is(method, where, body):
    """Signs a path as it goes over the wire; botocore would tidy it up."""
    request = AWSRequest(method=method, url=ENDPOINT + where, data=body, headers={})
    digest = hashlib.sha256(body).hexdigest()
    signer = SigV4Auth(KEYS, "s3", REGION)
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    request.context["timestamp"] = stamp
    request.headers["X-Amz-Date"] = stamp
    request.headers["x-amz-content-sha256"] = digest
    path = urllib.parse.quote(urllib.parse.unquote_to_bytes(where), safe="/-_.~")
    names = "host;x-amz-content-sha256;x-amz-date"
    canonical = f"{method}\n{path}\n\nhost:{HOST}\nx-amz-content-sha256:{digest}\nx-amz-date:{stamp}\n\n{names}\n{digest}"
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    scope = f"{KEYS.access_key}/{stamp[:8]}/{REGION}/s3/aws4_request"
    headers = dict(request.headers.items())
    headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature={signature}"
    return headers, where


def main():
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=BODY)
    made, where = signed_as_is("GET", f"/{BUCKET}/{KEY}", b"")
    assert send("GET", where, made).body == BODY, "the honest form of these requests is served"
    for step in (keys_and_signatures, presigned_links, bodies, paths):
        step()
        print(step.__name__, "done,", cases, "cases so far")
        assert s3.get_object(Bucket=BUCKET, Key=KEY)["Body"].read() == BODY
    names = [database["Name"] for database in boto3.client("glue").get_databases()["DatabaseList"]]
    things = [thing["thingName"] for thing in boto3.client("iot").list_things()["things"]]
    assert "hostile" not in things, "an unsigned call made a thing"
    print("HOSTILE OK", cases, len(names))


main()
