"""Clients of S3 as people use them: boto3's transfer manager, the command line, PyArrow's file
system, pandas, Polars.

Usage: s3_clients.py FOREBAY DATA_DIR ENDPOINT
"""
import contextlib, hashlib, io, json, os, random, subprocess, sys, tempfile, threading, urllib.error, urllib.request

import boto3, pandas, polars, pyarrow as pa, pyarrow.dataset as pads, pyarrow.fs
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

FOREBAY, DATA, ENDPOINT = sys.argv[1:4]
told = json.loads(subprocess.check_output([FOREBAY, "env", "--json", "--data-dir", DATA]))
KEY, SECRET = told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"]
REGION, BUCKET = "us-east-1", "clients"
MB = 1024 * 1024
random.seed(7)
s3 = boto3.client("s3", endpoint_url=ENDPOINT, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
                  config=Config(s3={"addressing_style": "path"}))
work = tempfile.mkdtemp()


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        return
    raise AssertionError(f"{code} was to be raised")


def keys(prefix):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix, PaginationConfig={"PageSize": 7})
    return [one["Key"] for page in pages for one in page.get("Contents", [])]


def transfer_manager():
    data = random.randbytes(21 * MB + 17)
    path = os.path.join(work, "large")
    with open(path, "wb") as file:
        file.write(data)
    parts = TransferConfig(multipart_threshold=5 * MB, multipart_chunksize=5 * MB, max_concurrency=4)
    for algorithm in ["CRC32", "CRC32C", "SHA1", "SHA256", "CRC64NVME"]:
        key = f"transfer/{algorithm} ü+&"
        seen = []
        s3.upload_file(path, BUCKET, key, Config=parts, Callback=seen.append,
                       ExtraArgs={"ChecksumAlgorithm": algorithm, "Metadata": {"a": "b"}, "ContentType": "x/y", "Tagging": "t=1"})
        assert sum(seen) == len(data)
        head = s3.head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")
        assert head["ContentLength"] == len(data) and head["Metadata"] == {"a": "b"} and head[f"Checksum{algorithm}"], head
        back = io.BytesIO()
        s3.download_fileobj(BUCKET, key, back, Config=parts)
        assert back.getvalue() == data
        attributes = s3.get_object_attributes(Bucket=BUCKET, Key=key, ObjectAttributes=["ObjectParts", "Checksum", "ObjectSize"])
        assert [p["Size"] for p in attributes["ObjectParts"]["Parts"]] == [5 * MB] * 4 + [MB + 17], attributes
    # Copied in parts, with its own ranges.
    s3.copy({"Bucket": BUCKET, "Key": key}, BUCKET, "transfer/copy", Config=parts)
    assert hashlib.md5(s3.get_object(Bucket=BUCKET, Key="transfer/copy")["Body"].read()).digest() == hashlib.md5(data).digest()


def resumed_upload():
    """A client that died goes on: it asks which parts are there and sends the others."""
    pieces = [random.randbytes(5 * MB), random.randbytes(5 * MB), b"the end"]
    upload = {"Bucket": BUCKET, "Key": "resumed", "UploadId": s3.create_multipart_upload(Bucket=BUCKET, Key="resumed")["UploadId"]}
    s3.upload_part(**upload, PartNumber=1, Body=pieces[0])
    s3.upload_part(**upload, PartNumber=3, Body=pieces[2])
    assert keys("resumed") == []
    assert [u["Key"] for u in s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]] == ["resumed"]
    there = {p["PartNumber"]: p["ETag"] for p in s3.list_parts(**upload)["Parts"]}
    assert set(there) == {1, 3}
    there[2] = s3.upload_part(**upload, PartNumber=2, Body=pieces[1])["ETag"]
    done = {"Parts": [{"PartNumber": n, "ETag": there[n]} for n in sorted(there)]}
    first = s3.complete_multipart_upload(**upload, MultipartUpload=done)
    # The answer was lost: the same is told again, as long as the object is that one.
    assert s3.complete_multipart_upload(**upload, MultipartUpload=done)["ETag"] == first["ETag"]
    assert s3.get_object(Bucket=BUCKET, Key="resumed")["Body"].read() == b"".join(pieces)
    s3.put_object(Bucket=BUCKET, Key="resumed", Body=b"newer")
    refused("NoSuchUpload", s3.complete_multipart_upload, **upload, MultipartUpload=done)
    assert s3.get_object(Bucket=BUCKET, Key="resumed")["Body"].read() == b"newer"


def conditions():
    """What table formats build their commits on."""
    winners = []

    def race(n):
        with contextlib.suppress(ClientError):
            s3.put_object(Bucket=BUCKET, Key="commit/1", Body=str(n), IfNoneMatch="*")
            winners.append(n)

    threads = [threading.Thread(target=race, args=[n]) for n in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    got = s3.get_object(Bucket=BUCKET, Key="commit/1")
    assert winners == [int(got["Body"].read())], winners
    newer = s3.put_object(Bucket=BUCKET, Key="commit/1", Body="x", IfMatch=got["ETag"])
    refused("PreconditionFailed", s3.put_object, Bucket=BUCKET, Key="commit/1", Body="y", IfMatch=got["ETag"])
    refused("PreconditionFailed", s3.delete_object, Bucket=BUCKET, Key="commit/1", IfMatch=got["ETag"])
    s3.delete_object(Bucket=BUCKET, Key="commit/1", IfMatch=newer["ETag"])
    refused("NoSuchKey", s3.get_object, Bucket=BUCKET, Key="commit/1")


def browser_form():
    form = s3.generate_presigned_post(BUCKET, "form/${filename}", Fields={"x-amz-meta-a": "b"}, Conditions=[
        ["starts-with", "$key", "form/"], {"x-amz-meta-a": "b"}, ["content-length-range", 1, 100]])

    def post(body, name="a.txt"):
        edge = "----edge"
        parts = [f'--{edge}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in form["fields"].items()]
        parts.append(f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: text/plain\r\n\r\n{body}\r\n--{edge}--\r\n')
        request = urllib.request.Request(form["url"], "".join(parts).encode(), {"Content-Type": f"multipart/form-data; boundary={edge}"})
        try:
            return urllib.request.urlopen(request).status
        except urllib.error.HTTPError as error:
            return error.code

    assert post("hello") == 204
    got = s3.get_object(Bucket=BUCKET, Key="form/a.txt")
    assert (got["Body"].read(), got["Metadata"]) == (b"hello", {"a": "b"})
    assert post("x" * 101) == 400
    form["fields"]["x-amz-meta-a"] = "c"
    assert post("hello") == 403
    form["fields"]["x-amz-meta-a"] = "b"
    form["fields"]["signature" if "signature" in form["fields"] else "x-amz-signature"] = "0" * 28
    assert post("hello") == 403
    assert keys("form/") == ["form/a.txt"]


def command_line():
    from awscli.clidriver import create_clidriver
    os.environ.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET, AWS_DEFAULT_REGION=REGION, AWS_ENDPOINT_URL=ENDPOINT,
                      AWS_CONFIG_FILE=os.path.join(work, "none"), AWS_PAGER="")

    def aws(*words, code=0):
        out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
        with contextlib.redirect_stdout(out):
            got = create_clidriver().main(list(words))
        text = out.buffer.getvalue().decode()
        assert got == code, (words, got, text)
        return text

    tree = os.path.join(work, "tree")
    names = ["a.txt", "b/c.txt", "b/ü ö.txt", "b/d/e+f.bin"]
    for name in names:
        os.makedirs(os.path.dirname(os.path.join(tree, name)), exist_ok=True)
        with open(os.path.join(tree, name), "w") as file:
            file.write(name)
    to = f"s3://{BUCKET}/tree"
    assert aws("s3", "sync", tree, to).count("upload:") == 4
    assert aws("s3", "sync", tree, to) == ""
    os.remove(os.path.join(tree, "a.txt"))
    assert aws("s3", "sync", tree, to, "--delete").startswith("delete:")
    assert "Total Objects: 3" in aws("s3", "ls", to, "--recursive", "--summarize")
    assert aws("s3", "ls", to + "/").split() == ["PRE", "b/"]
    back = os.path.join(work, "back")
    aws("s3", "cp", to, back, "--recursive", "--quiet")
    assert open(os.path.join(back, "b/ü ö.txt")).read() == "b/ü ö.txt"
    link = aws("s3", "presign", f"{to}/b/c.txt", "--expires-in", "60").strip()
    assert urllib.request.urlopen(link).read() == b"b/c.txt"
    aws("s3", "mv", f"{to}/b/c.txt", f"{to}/moved.txt")
    assert aws("s3", "cp", f"{to}/moved.txt", "-").strip() == "b/c.txt"
    aws("s3", "rm", to, "--recursive")
    aws("s3", "ls", to, code=1)
    assert json.loads(aws("s3api", "list-object-versions", "--bucket", BUCKET, "--prefix", "resumed"))["Versions"][0]["VersionId"] == "null"


def engines():
    host = ENDPOINT.split("://")[1]
    fs = pyarrow.fs.S3FileSystem(access_key=KEY, secret_key=SECRET, region=REGION, scheme="http", endpoint_override=host)
    table = pa.table({"n": list(range(5000)), "k": [["a b", "x/y", "ü"][i % 3] for i in range(5000)], "v": [i / 3 for i in range(5000)]})
    pads.write_dataset(table, f"{BUCKET}/arrow", filesystem=fs, format="parquet", partitioning=pads.partitioning(pa.schema([("k", pa.string())]), flavor="hive"))
    read = pads.dataset(f"{BUCKET}/arrow", filesystem=fs, partitioning="hive").to_table(filter=pads.field("k") == "x/y")
    assert read.num_rows == 1667 and sum(read["n"].to_pylist()) == sum(range(1, 5000, 3))
    frame = pandas.read_parquet(f"{BUCKET}/arrow", filesystem=fs)
    assert len(frame) == 5000 and frame.n.sum() == sum(range(5000))
    with fs.open_output_stream(f"{BUCKET}/arrow-stream") as out:
        for piece in range(12):
            out.write(bytes([piece]) * MB)
    with fs.open_input_file(f"{BUCKET}/arrow-stream") as file:
        file.seek(7 * MB - 1)
        assert file.size() == 12 * MB and file.read(2) == b"\x06\x07"
    fs.create_dir(f"{BUCKET}/made/deep")
    assert fs.get_file_info(f"{BUCKET}/made/deep").type == pyarrow.fs.FileType.Directory
    fs.copy_file(f"{BUCKET}/arrow-stream", f"{BUCKET}/made/copy")
    fs.move(f"{BUCKET}/made/copy", f"{BUCKET}/made/moved")
    assert sorted(f.base_name for f in fs.get_file_info(pyarrow.fs.FileSelector(f"{BUCKET}/made"))) == ["deep", "moved"]
    fs.delete_dir(f"{BUCKET}/made")
    assert fs.get_file_info(f"{BUCKET}/made").type == pyarrow.fs.FileType.NotFound and keys("made") == []
    options = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "aws_region": REGION, "aws_endpoint_url": ENDPOINT, "aws_allow_http": "true"}
    lazy = polars.scan_parquet(f"s3://{BUCKET}/arrow/**/*.parquet", storage_options=options, hive_partitioning=True)
    assert lazy.filter(polars.col("k") == "ü").select(polars.len()).collect().item() == 1666
    polars.from_arrow(table).write_parquet(f"s3://{BUCKET}/polars/one.parquet", storage_options=options)
    polars.from_arrow(table).lazy().sink_parquet(f"s3://{BUCKET}/polars/two.parquet", storage_options=options)
    assert polars.scan_parquet(f"s3://{BUCKET}/polars/", storage_options=options).select(polars.col("n").sum()).collect().item() == 2 * sum(range(5000))


def a_thousand_keys():
    """Two pages and a request that deletes as many as one may."""
    threads = [threading.Thread(target=lambda n=n: [s3.put_object(Bucket=BUCKET, Key=f"many/{i:04}", Body=b"") for i in range(n, 1000, 8)]) for n in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert len(s3.list_objects_v2(Bucket=BUCKET, Prefix="many/")["Contents"]) == 1000
    deleted = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": f"many/{i:04}"} for i in range(1000)]})
    assert len(deleted["Deleted"]) == 1000 and keys("many/") == []


s3.create_bucket(Bucket=BUCKET)
for step in (transfer_manager, resumed_upload, conditions, browser_form, command_line, engines, a_thousand_keys):
    step()
    print(f"{step.__name__} done")
print("CLIENTS AGREE")
