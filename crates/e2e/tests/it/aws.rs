//! AWS's own clients: the article from its device to its forecast, the command line, the
//! device SDKs, other people's readers, and those who mean harm.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use e2e::Server;
use e2e::aws::{Metadata, Sdk, Tools, User, commands_of, repository, shared_client};

/// Readings that the station of the article publishes in the test.
const READINGS: usize = 500;
const BUCKET: &str = "pollution-lake";

fn example(name: &str) -> PathBuf {
    repository().join("examples").join(name)
}

/// A server, and folders for those who use it.
struct Place {
    folder: tempfile::TempDir,
    tools: Tools,
    server: Server,
}

impl Place {
    fn new(why: &str) -> Option<Place> {
        let tools = Tools::find(why)?;
        let folder = tempfile::tempdir().unwrap();
        // The walk's rules post to an endpoint of its own.
        let settings = ["--set", "rules.http_allowed=[\"127.0.0.1\"]"];
        let server = Server::start_with(&folder.path().join("plant"), &settings, &[]);
        Some(Place { folder, tools, server })
    }

    fn user(&self, name: &str) -> User {
        User::new(&self.tools, &self.server, &self.folder.path().join(name))
    }

    fn root_ca(&self) -> String {
        self.server.data_dir.join("ca/root-CA.crt").to_string_lossy().into_owned()
    }

    fn port(&self) -> String {
        self.server.mqtts.port().to_string()
    }

    /// A kit as the program makes it; its name must be the thing's.
    fn kit(&self, thing: &str) -> String {
        let kit = self.folder.path().join(thing).to_string_lossy().into_owned();
        self.server.forebay(&["device", "add", thing, "--kit", &kit, "--port", &self.port()]);
        kit
    }
}

/// What must be at the end of a program's output for it to have done all of its work.
#[track_caller]
fn ends_with(output: &str, word: &str) {
    assert!(output.contains(word), "no {word:?} in {output}");
}

/// The whole article against one server: things, stream, rule and job by boto3 alone; the
/// device by a kit and by certificates from boto3, on every SDK; the notebook on both SDKs and
/// both ways; and everything else that a user of AWS would point at the same address.
#[test]
fn the_articles_own_code_runs_against_one_server() {
    let Some(place) = Place::new("the article") else { return };
    let user = place.user("article");
    let published = devices_publish(&place, &user);
    let pipeline = example("article/pipeline.py");
    let collect = ["--name", "air", "collect", "--readings", &published.to_string()];
    ends_with(&user.python(Sdk::Today, &pipeline, &collect), "PIPELINE OK collect");

    let notebook = place.folder.path().join("notebook");
    place.server.forebay(&["notebook", &notebook.to_string_lossy()]);
    let Some(metadata) = Metadata::new(&notebook) else { return };
    std::thread::scope(|scope| {
        // These mostly sleep: the SDK's own waits are a minute and more.
        scope.spawn(|| the_notebook(&place, Sdk::Today, &notebook, &metadata));
        scope.spawn(|| {
            the_notebook(&place, Sdk::Of2021, &notebook, &metadata);
            the_walk(&place);
        });
        scope.spawn(|| our_notebook(&place, &notebook, &metadata));
        if !metadata.is_seen_by_all() {
            scope.spawn(|| the_notebook_through_the_proxy(&place, &notebook));
        }
        // And these work.
        scope.spawn(|| {
            the_lakes_readers(&place);
            control_plane(&place);
            clients_of_databases(&place);
        });
        scope.spawn(|| {
            the_page(&place, "article.md");
            the_page(&place, "article.it.md");
        });
    });
    let seen_by_all = metadata.is_seen_by_all();
    drop(metadata);
    if seen_by_all {
        the_notebook_through_the_proxy(&place, &notebook);
    }
}

/// The stations: one with a kit of ours, one whose certificate boto3 made, and one on each
/// protocol version of the newer SDK. Answers how many readings they sent.
fn devices_publish(place: &Place, user: &User) -> usize {
    let port = place.port();
    let kit = user.folder.join("station-0").to_string_lossy().into_owned();
    let pipeline = example("article/pipeline.py");
    let root_ca = place.root_ca();
    let connect = ["--name", "air", "connect", &kit, "--root-ca", &root_ca, "--port", &port];
    let short = [&connect[..], &["--buffer-seconds", "2"]].concat();
    ends_with(&user.python(Sdk::Today, &pipeline, &short), "PIPELINE OK connect");

    let by_boto3 = ["--count", &READINGS.to_string(), "--interval", "4"];
    let device = example("article/device.js");
    let said = user.node(&device, &[&[kit.as_str()], &by_boto3[..]].concat());
    assert_eq!(said.lines().filter(|line| line.starts_with("acknowledged ")).count(), READINGS);

    let ours = place.kit("roof-1");
    let few = ["--topic", "air/roof-1", "--port", &port, "--count", "20"];
    user.node(&device, &[&[ours.as_str()], &few[..], &["--interval", "20"]].concat());
    // The newer SDK's readings have fewer columns, so they stay out of the article's table.
    for (program, word) in [("mqtt311.js", "DEVICE OK 3.1.1 20"), ("mqtt5.js", "DEVICE OK 5 20")] {
        let program = example("device-v2").join(program);
        let few = [&ours, "--topic", "roof/roof-1", "--port", &port, "--count", "20"];
        ends_with(&user.node(&program, &few), word);
    }
    over_websocket(place);
    let mut published = READINGS + 20;
    if let Some(device) = shared_client("device.js") {
        let count = 30;
        let file = |ending: &str| format!("{ours}/{ending}");
        // Below the SDK's own pace for messages from before the connection it would end early.
        let walker = place.user("article-device").with("ARTICLE_TOPIC", "air/roof-1");
        let walker = walker.with("ARTICLE_COUNT", &count.to_string());
        let args = [
            "--host-name=localhost".to_owned(),
            format!("--port={port}"),
            format!("--private-key={}", file("roof-1.private.key")),
            format!("--client-certificate={}", file("roof-1.cert.pem")),
            format!("--ca-certificate={}", file("root-CA.crt")),
            "--client-id=roof-1".to_owned(),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        walker.with("ARTICLE_DELAY_MS", "300").node(&device, &args);
        published += count;
    }
    published
}

/// Both SDKs without a certificate: they sign the request for a WebSocket.
fn over_websocket(place: &Place) {
    let (port, root_ca) = (place.server.mqtt_ws.port().to_string(), place.root_ca());
    // The older one knows no way to name a root for WebSockets.
    let user = place.user("browser").with("NODE_EXTRA_CA_CERTS", &root_ca);
    let few = [&root_ca, "--port", &port, "--topic", "roof/page", "--count", "20"];
    ends_with(&user.node(&example("device-v2/websocket.js"), &few), "DEVICE OK websocket 20");
    let older = repository().join("crates/e2e/tests/js/websocket_v1.js");
    ends_with(&user.node(&older, &[&port]), "WEBSOCKET V1 HOLDS");
    let shadows = repository().join("crates/e2e/tests/js/shadow_v1.js");
    ends_with(&user.node(&shadows, &[&port]), "SHADOW V1 HOLDS");
}

/// The notebook's user: only what `forebay notebook` wrote, and the article's constants. The
/// metadata file answers for the role, so the proxy is not needed.
fn notebook_user(place: &Place, name: &str, notebook: &Path) -> User {
    place.user(name).sourcing(&notebook.join("env")).with("ARTICLE_EPOCHS", "20")
}

/// The article's notebook, unmodified, on a notebook instance.
fn the_notebook(place: &Place, sdk: Sdk, notebook: &Path, metadata: &Metadata) {
    let Some(program) = shared_client("article_notebook.py") else { return };
    let user = notebook_user(place, &format!("notebook-{sdk:?}"), notebook)
        .with("ARTICLE_BUCKET", BUCKET)
        .with("HTTPS_PROXY", "");
    ends_with(&user.notebook(sdk, &program, metadata), "ARTICLE NOTEBOOK OK");
}

/// The same where no metadata file is: the call that names its own host goes through the
/// tunnel. Trains on the other data set, a day of 24 series.
fn the_notebook_through_the_proxy(place: &Place, notebook: &Path) {
    let programs = ["seed_lake.py", "article_notebook.py"].map(shared_client);
    let [Some(seed), Some(program)] = programs else { return };
    let user = notebook_user(place, "notebook-proxy", notebook).with("ARTICLE_BUCKET", "seeded");
    ends_with(&user.python(Sdk::Today, &seed, &[]), "seeded");
    ends_with(&user.python(Sdk::Today, &program, &[]), "ARTICLE NOTEBOOK OK");
}

/// Our own notebook, which is a documented example.
fn our_notebook(place: &Place, notebook: &Path, metadata: &Metadata) {
    let user = notebook_user(place, "notebook-ours", notebook);
    let said = user.notebook(Sdk::Today, &example("article/notebook.py"), metadata);
    ends_with(&said, "NOTEBOOK OK");
}

/// The walk over every operation of the control plane, in a bucket of its own with copies of
/// what it expects to find.
fn the_walk(place: &Place) {
    let Some(program) = shared_client("control_plane.py") else { return };
    let user = place.user("walk");
    let account =
        user.aws(&["sts", "get-caller-identity", "--query", "Account", "--output", "text"]);
    user.aws(&["s3", "mb", "s3://walk-lake"]);
    for prefix in ["raw", "model"] {
        let from = format!("s3://{BUCKET}/{prefix}/");
        user.aws(&["s3", "sync", &from, &format!("s3://walk-lake/{prefix}/"), "--quiet"]);
    }
    let user = user.with("ARTICLE_BUCKET", "walk-lake").with("ARTICLE_ACCOUNT", account.trim());
    let all_but_athena = ["iot", "firehose", "glue", "cloudwatch", "sagemaker"];
    ends_with(&user.python(Sdk::Today, &program, &all_but_athena), "CONTROL PLANE OK");

    // Its query asks a table of a database that it has just deleted: here it is again.
    let database = "pollution_db";
    user.aws(&["s3", "sync", "s3://walk-lake/raw/", "s3://walk-lake/later/output/", "--quiet"]);
    user.aws(&["glue", "create-database", "--database-input", &format!("Name={database}")]);
    let targets = r#"{"S3Targets":[{"Path":"s3://walk-lake/later/output/"}]}"#;
    let crawler = ["--name", "walk", "--role", "r", "--database-name", database];
    let finds = ["--table-prefix", "t_", "--targets", targets];
    user.aws(&[&["glue", "create-crawler"][..], &crawler, &finds].concat());
    user.aws(&["glue", "start-crawler", "--name", "walk"]);
    let state = ["--query", "Crawler.State", "--output", "text"];
    e2e::wait_for("the crawl", Duration::from_secs(60), || {
        user.aws(&[&["glue", "get-crawler", "--name", "walk"][..], &state].concat()).trim()
            == "READY"
    });
    ends_with(&user.python(Sdk::Today, &program, &["athena"]), "CONTROL PLANE OK");
}

/// awswrangler, pandas, PyArrow and DuckDB.
fn the_lakes_readers(place: &Place) {
    let user = place.user("readers");
    let output = format!("{BUCKET}/output/");
    ends_with(&user.python(Sdk::Today, &example("lake/readers.py"), &[&output]), "READERS OK");
    let where_it_is = ["--bucket", BUCKET, "--database", "air", "--table", "raw"];
    let args = [&where_it_is[..], &["--parquet", "output/"]].concat();
    ends_with(&user.python(Sdk::Today, &example("lake/wrangler.py"), &args), "WRANGLER OK");
}

/// PyAthena and SQLAlchemy.
fn clients_of_databases(place: &Place) {
    let program = repository().join("crates/e2e/tests/py/athena_clients.py");
    let said = place.user("databases").python(Sdk::Today, &program, &[]);
    ends_with(&said, "ATHENA CLIENTS OK");
}

/// What the answers of the control plane mean.
fn control_plane(place: &Place) {
    let program = repository().join("crates/e2e/tests/py/control_plane.py");
    let user = place.user("control").with("MQTTS_PORT", &place.port());
    let said = user.with("ROOT_CA", &place.root_ca()).python(Sdk::Today, &program, &[]);
    println!("{said}");
    ends_with(&said, "CONTROL PLANE HOLDS");
}

/// The article's console steps as a documented script of `aws` commands.
fn the_page(place: &Place, page: &str) {
    let user = place.user(page).with("PORT", &place.port());
    let script = user.folder.join("commands.sh");
    std::fs::write(&script, commands_of(&repository().join("docs").join(page))).unwrap();
    std::os::unix::fs::symlink(repository().join("examples"), user.folder.join("examples"))
        .unwrap();
    user.bash(&script);
}

/// Both languages give the same commands, but for the names of things.
#[test]
fn the_pages_in_both_languages_agree() {
    let [english, italian] = ["article.md", "article.it.md"]
        .map(|page| commands_of(&repository().join("docs").join(page)));
    let names = [
        ("NAME=inquinamento\n", "NAME=pollution\n"),
        ("stazione-1", "station-1"),
        ("secchio-inquinamento", "pollution-bucket"),
        ("confermate.txt", "acknowledged.txt"),
    ];
    let translated = names.iter().fold(italian, |text, (from, to)| text.replace(from, to));
    assert_eq!(translated, english);
}

/// Wrong keys, forged and stale signatures, tampered requests, climbing paths, bodies that are
/// too big or too deep.
#[test]
fn whoever_means_harm_gets_aws_errors_and_nothing_else() {
    let Some(place) = Place::new("hostile clients") else { return };
    let program = repository().join("crates/e2e/tests/py/hostile.py");
    let data_dir = place.server.data_dir.to_string_lossy().into_owned();
    let said = place.user("hostile").python(Sdk::Today, &program, &[&data_dir]);
    println!("{said}");
    ends_with(&said, "HOSTILE OK");
}

/// The kit's script as AWS hands it out: it runs the SDK's own example without changes, and
/// without a network, since the packages lie beside it.
#[test]
fn start_sh_of_a_kit_connects_as_it_is() {
    let Some(place) = Place::new("the kit's script") else { return };
    let kit = PathBuf::from(place.kit("roof-1"));
    std::os::unix::fs::symlink(place.tools.node_packages(), kit.join("node_modules")).unwrap();
    let mut tail = Command::new(e2e::binary())
        .args(["topic", "tail", "topic_2", "--count", "1", "--json", "--data-dir"])
        .arg(&place.server.data_dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut script = place
        .user("start")
        .command("bash")
        .arg(kit.join("start.sh"))
        .stdout(Stdio::piped())
        // Its own process group, so that its end takes the example along.
        .process_group(0)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(script.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "connect");
    let deadline = Instant::now() + Duration::from_secs(60);
    while tail.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "nothing arrived on topic_2");
        std::thread::sleep(Duration::from_millis(50));
    }
    let group = format!("kill -TERM -- -{}", script.id());
    assert!(Command::new("bash").args(["-c", &group]).status().unwrap().success());
    script.wait().unwrap();
    let mut message = String::new();
    tail.stdout.take().unwrap().read_to_string(&mut message).unwrap();
    assert!(message.contains("topic_2"), "{message}");
}

/// A device of the article's SDK publishes at QoS 1 while the server is killed twice and comes
/// back. What was acknowledged is in the lake; only what was in flight may be there twice.
#[test]
fn a_device_that_reconnects_loses_nothing_acknowledged() {
    let Some(mut place) = Place::new("reconnecting devices") else { return };
    let (kit, port) = (place.kit("roof-1"), place.port());
    let delivery = ["--interval-secs", "1", "--prefix", "raw/"];
    place.server.forebay(&[&["stream", "create", "roof"][..], &delivery].concat());
    let rule = ["--sql", "SELECT * FROM 'air/roof-1'", "--stream", "roof"];
    place.server.forebay(&[&["rule", "create", "roof"][..], &rule].concat());

    let count: usize = 1500;
    let args = ["--topic", "air/roof-1", "--port", &port, "--count", &count.to_string()];
    let args = [&[kit.as_str()], &args[..], &["--interval", "4"]].concat();
    let user = place.user("device");
    let mut device = user
        .command("node")
        .arg(example("article/device.js"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let acknowledged = Arc::new(Mutex::new(Vec::<usize>::new()));
    let reader = {
        let (acknowledged, said) = (acknowledged.clone(), device.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                if let Some(number) = line.strip_prefix("acknowledged ") {
                    acknowledged.lock().unwrap().push(number.parse().unwrap());
                }
            }
        })
    };
    let so_far = || acknowledged.lock().unwrap().len();
    let mut at_kill = Vec::new();
    for quota in [200, 700] {
        e2e::wait_for("acknowledgements", Duration::from_secs(60), || so_far() >= quota);
        place.server.kill();
        at_kill.push(so_far());
        place.server.restart();
    }
    e2e::wait_for("the last acknowledgement", Duration::from_secs(120), || so_far() >= count);
    e2e::wait_for("the device's end", Duration::from_secs(30), || {
        device.try_wait().unwrap().is_some()
    });
    reader.join().unwrap();

    place.server.forebay(&["stream", "flush", "roof"]);
    let mut times: HashMap<usize, usize> = HashMap::new();
    for file in e2e::files_below(&place.server.data_dir.join("lake/lake/raw")) {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let records = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
        for record in records.map(Result::unwrap) {
            let number = record["reading"].as_u64().unwrap();
            *times.entry(usize::try_from(number).unwrap()).or_default() += 1;
        }
    }
    for number in acknowledged.lock().unwrap().iter() {
        assert!(times.contains_key(number), "reading {number} was acknowledged and is lost");
    }
    // A reading in flight at a kill is sent again, and AWS's QoS 1 then has it twice as well.
    let twice = times.values().filter(|times| **times > 1).count();
    assert!(times.values().all(|times| *times <= 1 + at_kill.len()), "{times:?}");
    println!("killed after {at_kill:?} acknowledgements; {twice} of {count} arrived twice");
    assert!(twice < count / 10, "{twice} of {count} arrived twice");
}
