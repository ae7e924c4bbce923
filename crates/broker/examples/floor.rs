//! The least that a durable answer to one small message costs on this machine.
//!
//! It looks at its sockets every few milliseconds, reads each that is ready once, writes and syncs
//! one page for all of them, and answers each with a PUBACK: no protocol, no session, no log. So a
//! broker that reads and answers every connection by a call of its own cannot take less. For the
//! paced load of `forebay bench ingest`, which starts it in the place of rumqttd:
//!
//! ```text
//! cargo build --release -p broker --example floor
//! forebay bench ingest --load paced --idle 0 --rumqttd target/release/examples/floor
//! ```

use std::error::Error;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const TICK: Duration = Duration::from_millis(5);
const PAGE: usize = 4096;
const PAGES: u64 = 16 * 1024;
const LISTENER: Token = Token(usize::MAX);

fn main() -> Result<(), Box<dyn Error>> {
    let config = std::env::args().nth(2).ok_or("started as: floor -c FILE")?;
    let config = std::fs::read_to_string(config)?;
    // The line that says `listen = "127.0.0.1:PORT"`.
    let address = config.split('"').find(|part| part.starts_with("127.0.0.1:"));
    let mut listener = TcpListener::bind(address.ok_or("no address to listen on")?.parse()?)?;
    let file = zeros()?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut events, mut sockets) = (Events::with_capacity(1024), Vec::<TcpStream>::new());
    let (mut input, mut answers, mut at) = (vec![0; 64 * 1024], Vec::new(), 0);
    loop {
        std::thread::sleep(TICK);
        poll.poll(&mut events, None)?;
        for event in &events {
            let Token(seat) = event.token();
            if event.token() == LISTENER {
                while let Ok((mut socket, _)) = listener.accept() {
                    socket.set_nodelay(true)?;
                    let token = Token(sockets.len());
                    poll.registry().register(&mut socket, token, Interest::READABLE)?;
                    sockets.push(socket);
                }
                continue;
            }
            let bytes = match sockets[seat].read(&mut input) {
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => continue,
                read => read.unwrap_or(0),
            };
            let mut rest = &input[..bytes];
            while let [first, ..] = rest {
                match first >> 4 {
                    1 => sockets[seat].write_all(&[0x20, 2, 0, 0])?,
                    3 => answers.push((seat, puback(rest))),
                    _ => {}
                }
                rest = rest.get(length(rest)..).unwrap_or(&[]);
            }
        }
        if !answers.is_empty() {
            file.write_all_at(&[0; PAGE], at * PAGE as u64)?;
            file.sync_data()?;
            at = (at + 1) % PAGES;
        }
        for (seat, answer) in answers.drain(..) {
            sockets[seat].write_all(&answer)?;
        }
    }
}

/// A file of zeros, since syncing one that grows costs more.
fn zeros() -> Result<File, Box<dyn Error>> {
    let mut file = tempfile::tempfile_in(".")?;
    for _ in 0..PAGES {
        file.write_all(&[0; PAGE])?;
    }
    file.sync_all()?;
    Ok(file)
}

/// How long a packet of less than 16 KiB is.
fn length(packet: &[u8]) -> usize {
    match packet {
        [_, low, high, ..] if low & 0x80 != 0 => {
            3 + usize::from(low & 0x7f) + 128 * usize::from(*high)
        }
        [_, low, ..] => 2 + usize::from(*low),
        _ => 1,
    }
}

/// The answer to one PUBLISH of QoS 1 and less than 16 KiB.
fn puback(publish: &[u8]) -> [u8; 4] {
    let head = if publish[1] & 0x80 == 0 { 2 } else { 3 };
    let topic = usize::from(u16::from_be_bytes([publish[head], publish[head + 1]]));
    let id = head + 2 + topic;
    [0x40, 2, publish[id], publish[id + 1]]
}
