"""Two S3 servers and the same work, beside one another: what each spends on it.

Usage: s3_speed.py FOREBAY S3S_FS [ROUNDS]

The rounds alternate between the servers; the figures are medians. Forebay syncs every object
and its folder before it answers, s3s-fs leaves that to the kernel.
"""
import concurrent.futures, os, signal, socket, statistics, subprocess, sys, tempfile, time

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

OBJECTS, SMALL, LARGE = 1000, 64 * 1024, 256 * 1024 * 1024
THREADS = 8
TICKS = os.sysconf("SC_CLK_TCK")
TRANSFER = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20, max_concurrency=4)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server's process and a client of it."""

    def __init__(self, name, command, port, keys):
        self.name, self.figures = name, {}
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.endpoint = f"http://127.0.0.1:{port}"
        self.keys = keys

    def connect(self):
        access, secret = self.keys()
        self.s3 = boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id=access, aws_secret_access_key=secret,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, max_pool_connections=THREADS))
        for _ in range(100):
            try:
                self.s3.list_buckets()
                return
            except Exception:
                assert self.process.poll() is None, f"{self.name} ended"
                time.sleep(0.1)
        raise AssertionError(f"{self.name} does not answer")

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return sum(int(f) for f in fields[11:15]) / TICKS

    def peak(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def measure(self, phase, amount, work):
        cpu, wall = self.cpu(), time.monotonic()
        work()
        wall = time.monotonic() - wall
        self.figures.setdefault(phase, []).append((amount / max(self.cpu() - cpu, 1 / TICKS), wall))

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def round_of(server, bucket, small, large, folder):
    s3 = server.s3
    s3.create_bucket(Bucket=bucket)

    def each(call):
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(call, range(OBJECTS)))

    def put(n):
        s3.put_object(Bucket=bucket, Key=f"small/{n:04}", Body=small)

    def get(n):
        assert s3.get_object(Bucket=bucket, Key=f"small/{n:04}")["Body"].read() == small, "another object came back"

    up, down = os.path.join(folder, "up"), os.path.join(folder, "down")
    with open(up, "wb") as file:
        file.write(large)
    server.measure("PutObject 64 KiB", OBJECTS, lambda: each(put))
    server.measure("GetObject 64 KiB", OBJECTS, lambda: each(get))
    megabytes = LARGE / 1e6
    server.measure("upload 256 MiB, 8 MiB parts", megabytes, lambda: s3.upload_file(up, bucket, "large", Config=TRANSFER))
    server.measure("download 256 MiB by ranges", megabytes, lambda: s3.download_file(bucket, "large", down, Config=TRANSFER))
    with open(down, "rb") as file:
        assert file.read() == large, "another object came back"
    os.remove(down)


def main(forebay, s3s_fs, rounds=3):
    small, large = os.urandom(SMALL), os.urandom(LARGE)
    with tempfile.TemporaryDirectory(prefix="forebay-s3-") as folder:
        data, files = os.path.join(folder, "data"), os.path.join(folder, "files")
        os.mkdir(files)
        ours, theirs = free_port(), free_port()

        def keys():
            for _ in range(100):
                told = subprocess.run([forebay, "env", "--data-dir", data], capture_output=True, text=True)
                if told.returncode == 0:
                    lines = dict(line.removeprefix("export ").split("=", 1) for line in told.stdout.splitlines() if "=" in line)
                    return lines["AWS_ACCESS_KEY_ID"].strip("'"), lines["AWS_SECRET_ACCESS_KEY"].strip("'")
                time.sleep(0.1)
            raise AssertionError(told.stderr)

        servers = [
            Server("forebay", [forebay, "serve", "--data-dir", data, "--http", f"127.0.0.1:{ours}", "--mqtt", "127.0.0.1:0", "--mqtts", "127.0.0.1:0", "--mqtt-ws", "127.0.0.1:0"], ours, keys),
            Server("s3s-fs", [s3s_fs, "--host", "127.0.0.1", "--port", str(theirs), "--access-key", "bench", "--secret-key", "bench-secret", files], theirs, lambda: ("bench", "bench-secret")),
        ]
        try:
            for server in servers:
                server.connect()
            for n in range(rounds):
                for server in servers:
                    round_of(server, f"speed-{n}", small, large, folder)
            print(f"{'per server CPU second':30}{'forebay':>12}{'s3s-fs':>12}{'ratio':>8}    wall seconds")
            for phase in servers[0].figures:
                (a, wall_a), (b, wall_b) = ([statistics.median(column) for column in zip(*server.figures[phase])] for server in servers)
                print(f"{phase:30}{a:12.0f}{b:12.0f}{a / b:8.2f}    {wall_a:.2f} / {wall_b:.2f}")
            print(f"{'peak memory, MB':30}{servers[0].peak():12.0f}{servers[1].peak():12.0f}")
        finally:
            for server in servers:
                server.end()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
